"""Elements, scores and multiply-adds -> their associations, and warnings about how little few models can show.

All numbers are exact or seeded. A permutation test lists every assignment of the element to models where there are at
most 20,000 of them, which holds for the paper's eleven models. The test of a correlation lists every order of up to
seven models, and draws orders at random beyond that.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from harness.errors import CannotContinueError

if TYPE_CHECKING:
    import numpy as np

    Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

MOST_LISTED = 20_000
FEWEST_MODELS = 4
DRAWS = 10_000
LEVEL = 0.95
_SEED = 0
_SLACK = 1e-12  # statistics that differ by less are equal: they sum the same numbers in another order


@dataclass(frozen=True)
class Association:
    """The association of an element with the score.

    Attributes:
        element: Its name.
        models_with, models_without: Numbers of models.
        effect: Mean score with it minus mean score without it; None where all models or no model has it.
        p_value: Two-sided, of the permutation test of the effect.
        p_smallest: The smallest p-value that this split of the models can give.
        p_adjusted: Holm's p-value over all tested elements.
        lower, upper: 95 % interval of the effect by inverting the test; None for too few models.
        partial: Correlation with the score after removal of both their linear parts in log MACs.
        partial_p: Its two-sided permutation p-value, exact for up to seven models.
        same_as: Other elements that exactly the same models have, so that these models cannot tell them apart.
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
    """The association of multiply-adds with the score.

    Attributes:
        pearson, pearson_p: Correlation of the score with log10 MACs, and its two-sided permutation p-value.
        spearman, spearman_p: The same for ranks; equal models share their mean rank in both numbers.
        slope: Change of the score per tenfold MACs.
        spread: The largest MACs over the smallest.
        pareto: ``pareto_front``, by ascending MACs.
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
    draws: int = DRAWS,
) -> list[Association]:
    """Compare models with and without each element.

    Args:
        elements: True if a model has an element, by model and element.
        scores: The score by model.
        macs: Multiply-adds by model; the partial correlations are None if a model has none.
        draws: Number of random permutations where all are too many to list.

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
        row = Association(name, count, len(models) - count)
        if 0 < count < len(models):
            partial, partial_p = (None, None) if logs is None else _partial(y, has.astype(np.float64), logs, draws)
            same = tuple(other for other in names if other != name and (columns[other] == has).all())
            row = replace(_compare(row, y, has, draws), partial=partial, partial_p=partial_p, same_as=same)
        rows.append(row)
    return _holm(rows)


def confound(scores: Mapping[str, float], macs: Mapping[str, float], *, draws: int = DRAWS) -> Confound:
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
    r, p = _correlation(x, y, draws)
    # Spearman's rho is Pearson's r of the ranks. Its test permutes the same ranks, so that ties count in both.
    rho, rho_p = _correlation(stats.rankdata(x), stats.rankdata(y), draws)
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
    """Return the models that no other beats: at least equal in score and MACs, and better in one of them."""
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
    """Return sentences on what these comparisons cannot show, which call the elements by their ``titles``."""
    called = {row.element: (titles or {}).get(row.element, row.element) for row in rows}
    tested = [row for row in rows if row.effect is not None]
    untested = [called[row.element] for row in rows if row.effect is None]
    hopeless = [called[row.element] for row in tested if row.p_smallest is not None and row.p_smallest > 0.05]
    sentences = [
        f"{models} models that differ in many things at once are no experiment: a difference with an element is an "
        f"association, and with {len(tested)} elements tested {0.05 * len(tested):.1f} would pass p < 0.05 by chance."
    ]
    if untested:
        sentences.append(f"Nothing can be said of elements that all or none of the models have: {', '.join(untested)}.")
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


def _compare(row: Association, y: Floats, has: Any, draws: int) -> Association:
    """Add the effect, its two p-values, and its interval by inversion."""
    import numpy as np

    with_it, count = y[has], int(has.sum())
    effect = float(with_it.mean() - y[~has].mean())
    sets = _assignments(len(y), count, draws)
    inside = y[sets].sum(axis=1)
    difference = inside / count - (y.sum() - inside) / (len(y) - count)
    reach = np.abs(difference) >= abs(effect) - _SLACK
    extreme = np.abs(difference) >= np.abs(difference).max() - _SLACK
    if len(sets) == math.comb(len(y), count):
        p_value, smallest = float(reach.mean()), float(extreme.mean())
    else:
        p_value, smallest = float((1 + reach.sum()) / (1 + len(sets))), 1 / (1 + len(sets))
    lower, upper = _interval(y, np.flatnonzero(has), sets)
    return replace(row, effect=effect, p_value=p_value, p_smallest=smallest, lower=lower, upper=upper)


def _assignments(models: int, count: int, draws: int) -> Any:
    """Return every choice of ``count`` models, shape (choices, count), or a seeded sample of too many choices."""
    import numpy as np

    if math.comb(models, count) <= MOST_LISTED:
        return np.array(list(itertools.combinations(range(models), count)), dtype=np.intp)
    return np.random.default_rng(_SEED).permuted(np.tile(np.arange(models), (draws, 1)), axis=1)[:, :count]


def _interval(y: Floats, observed: Any, sets: Any) -> tuple[float | None, float | None]:
    """Return the interval of a shift between the two groups, by inverting two one-sided permutation tests.

    Swapping m models between the groups gives the observed difference at exactly one shift, the difference of the
    means of the swapped models (Garthwaite, Biometrics 52, 1996). The limits are order statistics of these shifts.
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
    rank = math.floor((1 - LEVEL) / 2 * total + 1e-9)
    if rank < 1:
        return None, None
    return float(shifts[rank - 1]), float(shifts[-rank])


def _partial(y: Floats, x: Floats, control: Floats, draws: int) -> tuple[float | None, float | None]:
    """Return the correlation of two vectors after a linear fit to ``control`` is subtracted, and its p-value."""
    import numpy as np

    if np.ptp(control) == 0:
        return None, None
    design = np.column_stack([np.ones(len(y)), control])
    left = [v - design @ np.linalg.lstsq(design, v, rcond=None)[0] for v in (x, y)]
    if min(float(np.ptp(v)) for v in left) < 1e-9:
        return None, None
    return _correlation(left[0], left[1], draws)


def _correlation(x: Floats, y: Floats, draws: int) -> tuple[float, float]:
    """Return Pearson's r and its two-sided permutation p-value; NaN and 1 for a constant vector.

    The p-value is the share of orders of the values with a correlation at least as far from 0. It is exact where all
    orders can be listed. Otherwise it is estimated from ``draws`` random orders and the observed one, so that it is
    never 0 (Phipson and Smyth, 2010).
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
    shuffled = np.random.default_rng(_SEED).permuted(np.tile(b, (draws, 1)), axis=1) @ a / scale
    return r, float((1 + (np.abs(shuffled) >= abs(r) - _SLACK).sum()) / (1 + draws))


def _holm(rows: list[Association]) -> list[Association]:
    """Add ``p_adjusted``, by Holm's step-down over the tested elements."""
    tested = sorted((row for row in rows if row.p_value is not None), key=lambda row: row.p_value or 0.0)
    adjusted: dict[str, float] = {}
    highest = 0.0
    for at, row in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - at) * (row.p_value or 0.0)))
        adjusted[row.element] = highest
    return [replace(row, p_adjusted=adjusted.get(row.element)) for row in rows]
