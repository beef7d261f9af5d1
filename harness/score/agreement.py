"""How far two rankings agree: Spearman's rho and Kendall's tau, with ties."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Floats = np.ndarray[Any, np.dtype[np.float64]]


def spearman(one: Floats, other: Floats) -> float:
    """Spearman's rho of two vectors (n,): Pearson's correlation of their ranks, ties at their mean rank.

    NaN where one of them is constant.
    """
    a, b = _centred_ranks(one), _centred_ranks(other)
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale > 0 else math.nan


def kendall(one: Floats, other: Floats) -> float:
    """Kendall's tau-b of two vectors (n,), over all pairs: time grows with n squared, memory with n.

    NaN where one of them is constant.
    """
    import numpy as np

    agree = pairs_one = pairs_other = 0
    for i in range(len(one) - 1):
        a = np.sign(one[i + 1 :] - one[i])
        b = np.sign(other[i + 1 :] - other[i])
        agree += int(a @ b)
        pairs_one += int(np.count_nonzero(a))
        pairs_other += int(np.count_nonzero(b))
    scale = math.sqrt(pairs_one * pairs_other)
    return agree / scale if scale > 0 else math.nan


def _centred_ranks(values: Floats) -> Floats:
    import numpy as np

    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    ranks = (last - (count - 1) / 2)[group]
    centred: Floats = ranks - ranks.mean()
    return centred
