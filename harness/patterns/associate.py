"""Elements, scores and multiply-adds -> what they have to do with each other, and how little few models can show.

Everything here is exact or seeded. A permutation test lists every assignment of the element to models where there are
at most 20,000 of them, which holds for the paper's eleven models. The test of a correlation lists every order of the
models likewise (up to seven models), and draws orders at random beyond that.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from harness.errors import CannotContinueError

if TYPE_CHECKING:
    import numpy as np

    Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

MOST_LISTED = 20_000
FEWEST_MODELS = 4
_SLACK = 1e-12  # two statistics that differ by less are equal: they are sums of the same numbers in another order


@dataclass(frozen=True)
class Association:
    """What an element has to do with the score.

    Attributes:
        element: Its name.
        models_with, models_without: How many models have it and have it not.
        effect: Mean score with it minus mean score without; None where all models are alike.
        p_value: Two-sided, of the permutation test of that difference; None likewise.
        p_smallest: The smallest p-value that this split of the models could give at all.
        p_adjusted: Holm's, over all elements that can be tested.
        lower, upper: 95 % interval of the effect by inverting the test; None where there are too few models for one.
        partial: Correlation with the score after both are freed of their linear part in log MACs.
        partial_p: Its two-sided permutation p-value, exact for up to seven models.
        same_as: Other elements that exactly the same models have: no data of these models can tell them apart.
    """

    element: str
    models_with: int
    models_without: int
    effect: float | None = None
    p_value: float | None = None
    p_smallest: float | None = None
    p_adjusted: float | None = None
    lower: float | None = None
    upper: float | None = None
    partial: float | None = None
    partial_p: float | None = None
    same_as: tuple[str, ...] = ()


@dataclass(frozen=True)
class Confound:
    """What multiply-adds have to do with the score.

    Attributes:
        pearson, pearson_p: Correlation of the score with log10 MACs, and its two-sided permutation p-value.
        spearman, spearman_p: The same of the ranks; models that are equal share their mean rank in both numbers.
        slope: Points of score for each tenfold of MACs.
        spread: The largest MACs over the smallest.
        pareto: Models that no other beats in score with as few or fewer MACs, by ascending MACs.
    """

    pearson: float
    pearson_p: float
    spearman: float
    spearman_p: float
    slope: float
    spread: float
    pareto: tuple[str, ...]


def associate(
    elements: Mapping[str, Mapping[str, bool]],
    scores: Mapping[str, float],
    macs: Mapping[str, float],
    *,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> list[Association]:
    """Compare models with and without each element.

    Args:
        elements: Whether a model has an element, by model and element.
        scores: The score by model.
        macs: Multiply-adds by model; a model without them makes the partial correlations None.
        level: Of the intervals.
        draws: Random permutations where all are too many to list.
        seed: Of those.

    Raises:
        CannotContinueError: fewer than four models have both elements and a score.
    """
    import numpy as np

    models = [model for model in scores if model in elements]
    if len(models) < FEWEST_MODELS:
        raise CannotContinueError(
            f"{len(models)} models have both a score and detected elements; comparing needs at least {FEWEST_MODELS}."
        )
    y = np.array([scores[model] for model in models], dtype=np.float64)
    compute = [macs.get(model) for model in models]
    logs = None if None in compute else np.log10(np.array(compute, dtype=np.float64))
    names = list(elements[models[0]])
    columns = {name: np.array([elements[model][name] for model in models], dtype=bool) for name in names}
    rows = []
    for name, has in columns.items():
        count = int(has.sum())
        if not 0 < count < len(models):
            rows.append(Association(name, count, len(models) - count))
            continue
        effect, p_value, smallest, lower, upper = _compare(y, has, level, draws, seed)
        partial, partial_p = (None, None) if logs is None else _partial(y, has.astype(np.float64), logs, draws, seed)
        same = tuple(o for o in names if o != name and (columns[o] == has).all())
        rows.append(
            Association(
                name,
                count,
                len(models) - count,
                effect,
                p_value,
                smallest,
                None,
                lower,
                upper,
                partial,
                partial_p,
                same,
            )
        )
    return _holm(rows)


def confound(scores: Mapping[str, float], macs: Mapping[str, float], *, draws: int = 10_000, seed: int = 0) -> Confound:
    """Compare the score with the logarithm of the multiply-adds. Raises CannotContinueError for too few models."""
    import numpy as np
    from scipy import stats

    models = [model for model in scores if model in macs]
    if len(models) < FEWEST_MODELS:
        raise CannotContinueError(
            f"{len(models)} models have both a score and MACs; comparing needs at least {FEWEST_MODELS}."
        )
    y = np.array([scores[model] for model in models], dtype=np.float64)
    cost = np.array([macs[model] for model in models], dtype=np.float64)
    x = np.log10(cost)
    r, p = _correlation(x, y, draws, seed)
    # Spearman's rho is Pearson's r of the ranks. Its test permutes the same ranks, so that ties count in both.
    rho, rho_p = _correlation(stats.rankdata(x), stats.rankdata(y), draws, seed)
    return Confound(
        pearson=r,
        pearson_p=p,
        spearman=rho,
        spearman_p=rho_p,
        slope=float(np.polyfit(x, y, 1)[0]) if np.ptp(x) > 0 else math.nan,
        spread=float(cost.max() / cost.min()),
        pareto=pareto_front(scores, macs),
    )


def pareto_front(scores: Mapping[str, float], macs: Mapping[str, float]) -> tuple[str, ...]:
    """Models that no other beats: none has at least their score for at most their MACs, and one of the two better."""
    models = [model for model in scores if model in macs]

    def beaten(model: str) -> bool:
        return any(
            scores[o] >= scores[model]
            and macs[o] <= macs[model]
            and (scores[o] > scores[model] or macs[o] < macs[model])
            for o in models
        )

    return tuple(sorted((m for m in models if not beaten(m)), key=lambda m: macs[m]))


def warnings(models: int, rows: Sequence[Association], titles: Mapping[str, str] | None = None) -> list[str]:
    """Say plainly what these comparisons cannot show, calling the elements by their ``titles``."""
    called = {row.element: (titles or {}).get(row.element, row.element) for row in rows}
    tested = [row for row in rows if row.effect is not None]
    untested = [called[row.element] for row in rows if row.effect is None]
    hopeless = [called[row.element] for row in tested if row.p_smallest is not None and row.p_smallest > 0.05]
    sentences = [
        f"{models} models that differ in many things at once are no experiment: a difference beside an element is an "
        f"association, and with {len(tested)} elements tested {0.05 * len(tested):.1f} would pass p < 0.05 by chance."
    ]
    if untested:
        sentences.append(f"Nothing can be said of what all or none of the models have: {', '.join(untested)}.")
    if hopeless:
        sentences.append(
            f"Too few models have, or lack, {', '.join(hopeless)}: even the most extreme outcome would not "
            "reach p < 0.05."
        )
    groups = sorted(
        {tuple(sorted(called[name] for name in (row.element, *row.same_as))) for row in tested if row.same_as}
    )
    sentences += [f"The same models have {' and '.join(group)}: they cannot be told apart." for group in groups]
    return sentences


def _compare(
    y: Floats, has: Any, level: float, draws: int, seed: int
) -> tuple[float, float, float, float | None, float | None]:
    """Effect, two-sided p-value, the smallest possible p-value, and the interval by inversion."""
    import numpy as np

    with_it, count = y[has], int(has.sum())
    effect = float(with_it.mean() - y[~has].mean())
    sets = _assignments(len(y), count, draws, seed)
    inside = y[sets].sum(axis=1)
    difference = inside / count - (y.sum() - inside) / (len(y) - count)
    reach = np.abs(difference) >= abs(effect) - _SLACK
    listed = len(sets) == math.comb(len(y), count)
    p_value = float(reach.mean()) if listed else float((1 + reach.sum()) / (1 + len(sets)))
    smallest = (
        float((np.abs(difference) >= np.abs(difference).max() - _SLACK).mean()) if listed else 1 / (1 + len(sets))
    )
    lower, upper = _interval(y, np.flatnonzero(has), sets, level)
    return effect, p_value, smallest, lower, upper


def _assignments(models: int, count: int, draws: int, seed: int) -> Any:
    """Every way to give an element to ``count`` models (ways, count); a seeded sample where these are too many."""
    import numpy as np

    if math.comb(models, count) <= MOST_LISTED:
        return np.array(list(itertools.combinations(range(models), count)), dtype=np.intp)
    return np.random.default_rng(seed).permuted(np.tile(np.arange(models), (draws, 1)), axis=1)[:, :count]


def _interval(y: Floats, observed: Any, sets: Any, level: float) -> tuple[float | None, float | None]:
    """Interval of a shift between the two groups, by inverting two one-sided permutation tests.

    Swapping m models between the groups reaches the observed difference exactly at one shift, the difference of the
    means of those swapped (Garthwaite, Biometrics 52, 1996). The limits are order statistics of these shifts.
    """
    import numpy as np

    mine = np.zeros(len(y), dtype=bool)
    mine[observed] = True
    member = np.zeros((len(sets), len(y)), dtype=bool)
    np.put_along_axis(member, sets, values=True, axis=1)
    out, into = mine & ~member, member & ~mine
    swapped = out.sum(axis=1)
    moved = swapped > 0
    shifts = np.sort((out @ y - into @ y)[moved] / swapped[moved])
    total = len(shifts) + 1
    rank = math.floor((1 - level) / 2 * total + 1e-9)
    if rank < 1:
        return None, None
    return float(shifts[rank - 1]), float(shifts[-rank])


def _partial(y: Floats, x: Floats, control: Floats, draws: int, seed: int) -> tuple[float | None, float | None]:
    """Correlation of what is left of two vectors after a straight line in a third, and its permutation p-value."""
    import numpy as np

    if np.ptp(control) == 0:
        return None, None
    design = np.column_stack([np.ones(len(y)), control])
    left = [v - design @ np.linalg.lstsq(design, v, rcond=None)[0] for v in (x, y)]
    if min(float(np.ptp(v)) for v in left) < 1e-9:
        return None, None
    return _correlation(left[0], left[1], draws, seed)


def _correlation(x: Floats, y: Floats, draws: int, seed: int) -> tuple[float, float]:
    """Pearson's r and its two-sided permutation p-value; NaN and 1 where one is constant.

    The p-value is exact where all orders of the values can be listed: the share of orders with a correlation at least
    as far from 0. Beyond that it is estimated from ``draws`` random orders, the observed order counted with them, so
    that it is never 0 (Phipson and Smyth, 2010).
    """
    import numpy as np

    a, b = x - x.mean(), y - y.mean()
    scale = math.sqrt(float(a @ a) * float(b @ b))
    if scale == 0:
        return math.nan, 1.0
    r = float(a @ b) / scale
    if math.factorial(len(b)) <= MOST_LISTED:
        orders = b[np.array(list(itertools.permutations(range(len(b)))), dtype=np.intp)]
        return r, float((np.abs(orders @ a) / scale >= abs(r) - _SLACK).mean())
    shuffled = np.random.default_rng(seed).permuted(np.tile(b, (draws, 1)), axis=1) @ a / scale
    return r, float((1 + (np.abs(shuffled) >= abs(r) - _SLACK).sum()) / (1 + draws))


def _holm(rows: list[Association]) -> list[Association]:
    """Fill in ``p_adjusted``: Holm's step-down over the elements that were tested."""
    from dataclasses import replace

    tested = sorted((row for row in rows if row.p_value is not None), key=lambda row: row.p_value or 0.0)
    adjusted: dict[str, float] = {}
    highest = 0.0
    for at, row in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - at) * (row.p_value or 0.0)))
        adjusted[row.element] = highest
    return [replace(row, p_adjusted=adjusted.get(row.element)) for row in rows]
