"""A table -> R^2 and leave-one-out Q^2 of the least-squares fit on every subset of its columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np

    Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
    Ints: TypeAlias = np.ndarray[Any, np.dtype[np.intp]]

# A column of length 1 whose part beyond its predecessors is shorter than this adds no direction.
_RANK_TOLERANCE = 1e-9
# A point whose leverage reaches 1 determines its own fitted value, and without it the fit is undetermined.
_LEVERAGE_TOLERANCE = 1e-9
# Doubles in one block of fits, which fits the processor's cache.
_BLOCK_DOUBLES = 60_000


@dataclass(frozen=True)
class SubsetFits:
    """One entry per subset, in the requested order.

    ``r2``: share of the variance explained, in the sample. ``q2``: the same for predictions of each point by the fit
    without it, NaN where that fit is undetermined. ``rank``: independent columns beside the intercept.
    """

    r2: Floats
    q2: Floats
    rank: Ints


def combinations(columns: int, size: int) -> Ints:
    """Return all subsets of ``size`` of ``columns`` column numbers, (subsets, size), in lexicographic order."""
    import itertools

    import numpy as np

    flat = itertools.chain.from_iterable(itertools.combinations(range(columns), size))
    return np.fromiter(flat, dtype=np.intp).reshape(-1, size)


def fit_subsets(table: Floats, target: Floats, subsets: Ints) -> SubsetFits:
    """Fit ``target`` (points,) on columns of ``table`` (points, columns) by least squares with an intercept.

    ``subsets`` (subsets, size) holds column numbers. ``target`` must vary. The columns of each subset are
    orthogonalised by modified Gram-Schmidt, in blocks of subsets. With orthonormal columns q the leverages
    are ``h_i = 1/n + sum_c q_ic^2`` and leaving point i out changes its residual to ``e_i / (1 - h_i)``
    (Allen's PRESS), so that ``Q^2 = 1 - PRESS / sum (y - mean y)^2`` costs no refits. Dependent columns drop out.
    """
    import numpy as np

    points, size = len(table), subsets.shape[1]
    centred = table - table.mean(axis=0)
    length = np.sqrt((centred**2).sum(axis=0))
    # A column that is constant up to rounding must not be scaled to unit length.
    constant = length <= 1e-12 * np.maximum(1.0, np.abs(table).max(axis=0)) * np.sqrt(points)
    units = np.where(constant, 0.0, centred / np.where(constant, 1.0, length)).T
    y = target - target.mean()
    total = float(y @ y)
    r2, q2 = np.empty(len(subsets)), np.empty(len(subsets))
    rank = np.empty(len(subsets), dtype=np.intp)
    block = max(1, _BLOCK_DOUBLES // (points * size))
    for start in range(0, len(subsets), block):
        part = slice(start, start + block)
        residual, leverage, rank[part] = _orthogonal_fits(units, y, subsets[part])
        free = 1.0 - leverage
        # As many coefficients as points, or a coefficient for one point only, leave nothing to test on.
        testable = (free > _LEVERAGE_TOLERANCE).all(axis=0) & (rank[part] + 1 < points)
        r2[part] = np.where(rank[part] + 1 < points, 1.0 - (residual**2).sum(axis=0) / total, 1.0)
        press = ((residual / np.where(free > _LEVERAGE_TOLERANCE, free, 1.0)) ** 2).sum(axis=0)
        q2[part] = np.where(testable, 1.0 - press / total, np.nan)
    return SubsetFits(r2, q2, rank)


def _orthogonal_fits(units: Floats, y: Floats, subsets: Ints) -> tuple[Floats, Floats, Ints]:
    """Return residuals (points, subsets), leverages (points, subsets) and ranks (subsets,) of one block.

    The subsets are the last axis, so that every operation runs over contiguous memory.
    """
    import numpy as np

    points = len(y)
    columns = np.ascontiguousarray(units[subsets].transpose(1, 2, 0))
    residual = np.repeat(y[:, None], len(subsets), axis=1)
    leverage = np.full((points, len(subsets)), 1.0 / points)
    rank = np.zeros(len(subsets), dtype=np.intp)
    for c in range(subsets.shape[1]):
        q = columns[c]
        length = np.sqrt(np.einsum("ns,ns->s", q, q))
        independent = length > _RANK_TOLERANCE
        q *= np.where(independent, 1.0 / np.where(independent, length, 1.0), 0.0)
        rank += independent
        leverage += q * q
        residual -= np.einsum("ns,ns->s", q, residual) * q
        for other in columns[c + 1 :]:
            other -= np.einsum("ns,ns->s", q, other) * q
    return residual, leverage, rank
