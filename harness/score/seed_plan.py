"""Intervals and ties -> the further training runs that would separate two models, by data set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from harness.errors import CannotContinueError, WrongUseError, unknown_name
from harness.score.noise import score_variance
from harness.score.uncertainty import ScoreUncertainty

if TYPE_CHECKING:
    import numpy as np

    Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

DEFAULT_POWER = 0.8
MOST_SEEDS = 1000


@dataclass(frozen=True)
class SeedPlan:
    """The further seeds that separate ``a`` from ``b``; each seed is one more run of *both* models.

    Attributes:
        difference: Corrected score of ``a`` minus that of ``b``.
        error: Its standard error now.
        error_needed: The standard error at which the difference is significant with the requested probability.
        error_floor: The standard error with endless seeds on the same test images.
        separated: Whether the two are separate already.
        possible: Whether they are separate, or ``plan`` separates them.
        single: Further seeds by data set, if all are on that one; None where no number is enough.
        plan: The cheapest mix over data sets; empty where none is needed or none is enough.
        reason: The result as a sentence.
    """

    a: str
    b: str
    difference: float
    error: float
    error_needed: float
    error_floor: float
    separated: bool
    possible: bool
    single: Mapping[str, int | None] = field(hash=False)
    plan: Mapping[str, int] = field(hash=False)
    reason: str


def seeds_needed(
    uncertainty: ScoreUncertainty, a: str, b: str, *, power: float = DEFAULT_POWER, most: int = MOST_SEEDS
) -> SeedPlan:
    """Compute how many more seeds, and on which data sets, separate models ``a`` and ``b``.

    The observed difference and seed variances are taken as the true ones. Both are estimates, so the result is a plan
    and not a promise. Two models are separate where their difference exceeds ``uncertainty.critical`` standard errors,
    the rule of the groups. An experiment that expects exactly that difference succeeds every other time, hence
    ``power``. At most ``most`` further seeds are considered.

    Raises ``WrongUseError`` for an unknown model, twice the same model or an impossible ``power``, and
    ``CannotContinueError`` for an incomplete model or a data set with unknown seed noise.
    """
    from statistics import NormalDist

    import numpy as np

    pair = _pair(uncertainty, a, b)
    if not 0.5 <= power < 1:
        raise WrongUseError(f"The power is {power:g}; it must be at least 0.5 and below 1 (0.8 is usual).")
    names = uncertainty.cells.datasets
    corrected = uncertainty.table["corrected"]
    difference = float(corrected[a] - corrected[b])
    now, floor = pair.error(np.zeros(len(names))), pair.error(np.full(len(names), np.inf))
    needed = abs(difference) / (uncertainty.critical + NormalDist().inv_cdf(power))
    separated = abs(difference) > uncertainty.critical * now
    single: dict[str, int | None] = dict.fromkeys(names, 0 if separated else None)
    plan: dict[str, int] = {}
    if separated:
        reason = f"'{a}' and '{b}' are separate already: they differ by {abs(difference) / now:.1f} standard errors."
    elif floor < needed:
        single = {name: pair.single(at, needed, most) for at, name in enumerate(names)}
        plan = {name: int(n) for name, n in zip(names, pair.mix(needed, most), strict=True) if n}
        reason = f"Separating '{a}' and '{b}' would take more than {most} further seeds of each."
        if plan:
            reason = (
                f"Train '{a}' and '{b}' with more seeds: {', '.join(f'{n} on {name}' for name, n in plan.items())}. "
                f"If the observed difference is the true one, that separates them with probability {power:.0%}."
            )
    else:
        reason = (
            f"No number of seeds would separate '{a}' and '{b}': the test sets are too small. They differ by "
            f"{abs(difference):.3f}; with endless seeds the standard error would still be {floor:.3f}, "
            f"and {needed:.3f} is needed."
        )
    return SeedPlan(a, b, difference, now, needed, floor, separated, separated or bool(plan), single, plan, reason)


@dataclass(frozen=True)
class _Pair:
    """Counts, and variances and weights on the normalised scale, as arrays (2, data sets) of two models."""

    seeds: Floats
    sampling: Floats
    seed_variance: Floats
    weights: Floats
    lam: float

    def error(self, extra: Floats) -> float:
        """Return the standard error of the difference of scores with ``extra`` (data sets,) more seeds of both."""
        import numpy as np

        spread = np.sqrt(self.sampling + self.seed_variance / (self.seeds + extra))
        return math.sqrt(float(score_variance(self.weights, spread, self.lam).sum()))

    def single(self, at: int, needed: float, most: int) -> int | None:
        """Return the fewest further seeds on one data set that reach the error ``needed``; None for none."""
        import numpy as np

        extra = np.zeros(self.seeds.shape[1])
        low, high = 0, most
        extra[at] = high
        if self.error(extra) > needed:
            return None
        while high - low > 1:
            extra[at] = middle = (low + high) // 2
            low, high = (low, middle) if self.error(extra) <= needed else (middle, high)
        return high

    def mix(self, needed: float, most: int) -> Floats:
        """Return the seeds (data sets,), added one by one where each helps most; zeros if ``most`` are not enough.

        Each further seed on a data set helps less than the one before, so the best next one is optimal.
        """
        import numpy as np

        count = self.seeds.shape[1]
        extra = np.zeros(count)
        for _ in range(most):
            extra[min(range(count), key=lambda at: self.error(extra + np.eye(count)[at]))] += 1
            if self.error(extra) <= needed:
                return extra
        return np.zeros(count)


def _pair(uncertainty: ScoreUncertainty, a: str, b: str) -> _Pair:
    import numpy as np

    cells = uncertainty.cells
    for name in (a, b):
        if name not in cells.models:
            raise WrongUseError(unknown_name("model", name, cells.models))
    if a == b:
        raise WrongUseError(f"Name two different models; both are '{a}'.")
    rows = [cells.models.index(a), cells.models.index(b)]
    for row in rows:
        gaps = [dataset for dataset, n in zip(cells.datasets, cells.seeds[row], strict=True) if n == 0]
        if gaps:
            raise CannotContinueError(
                f"'{cells.models[row]}' has no score yet; accuracies are missing for: {', '.join(gaps)}. Run it there."
            )
    fewest = cells.degrees[rows].min(axis=0)
    blind = [dataset for dataset, degrees in zip(cells.datasets, fewest, strict=True) if degrees == 0]
    if blind:
        raise CannotContinueError(
            f"The seed noise is unknown on {', '.join(blind)}, so the number of seeds cannot be computed. "
            "Train there with a second seed first."
        )
    anchors = uncertainty.anchors
    unit = np.array([anchors.maximum[dataset] - anchors.minimum[dataset] for dataset in cells.datasets])
    return _Pair(
        seeds=cells.seeds[rows],
        sampling=cells.sampling[rows] / unit**2,
        seed_variance=cells.seed_variance[rows] / unit**2,
        weights=uncertainty.weights[rows] * unit,
        lam=uncertainty.lam,
    )
