"""How sure a score is: runs with several seeds and test-set sizes in, intervals for scores and ranks and ties out.

What is estimated. The target is the xScore of a model's *expected* accuracies: expected over training seeds and over
draws of a test set of the same kind, scaled by the anchors, which are constants.

What is assumed.

- An observed accuracy is the expected one plus two independent, roughly normal errors, independent between data sets:
  the training seed's, and that of the draw of test images, which is binomial.
- All seeds of a model are tested on the same images, so averaging over seeds shrinks the first error alone. Cautiously
  the whole binomial variance counts as shared (``shared=1``).
- Seed noise on a data set is equally large for all models (``pooled=True``); otherwise each model speaks for itself,
  and intervals get wider.
- Errors of different models count as independent. They share the test images, which helps a comparison; ignoring that
  makes ties too frequent rather than too rare.

What follows. Noise in the accuracies adds its mean variance to V, so that the plain xScore is too low by lambda times
that, on average. The score itself stays as it is defined; its interval is centred on the corrected value. Poorly known
seed variances widen intervals by the quantile of Student's t at Satterthwaite's (1946) degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from harness.errors import WrongUseError
from harness.score.anchors import Anchors
from harness.score.noise import Cells, estimate_cells
from harness.score.propagation import corrected_scores, denoised, deviation_quantiles, score_variance, score_weights
from harness.score.ties import group_letters, rank_bounds, tied_groups
from harness.score.xscore import COMPLETE, DEFAULT_LAMBDA, check_lambda, score

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

SEEDS_AND_SAMPLING = "seeds and sampling"
SEEDS_IN_PART = "sampling, and seeds on some data sets"
SAMPLING_ALONE = "sampling alone"

# Groups are sets of models; beyond this many, rank intervals say the same in a form that can be read.
MOST_GROUPED_MODELS = 200


@dataclass(frozen=True)
class ScoreUncertainty:
    """Intervals and ties at ``level``.

    ``table`` has one row a model, in the order of ``score``, with columns ``rank``, ``xscore`` and ``status`` (as
    there), ``corrected`` (without the bias from noise in V: the interval is laid around it), ``standard_error``,
    ``lower``, ``upper``, ``degrees`` (of freedom behind the standard error), ``rank_lower``, ``rank_upper``, ``groups``
    (letters; models that share one cannot be told apart), ``noise`` (which noise is accounted for) and ``seeds``
    (fewest in any cell). Score intervals hold for each model by itself, rank intervals and groups for all models at
    once; rank intervals are therefore wide, and right more often than ``level``. Incomplete models have none of it.

    ``groups`` holds the models of each letter. ``noise`` has one row a data set: ``test_size``, ``seed_sd`` (percent,
    root mean square over models; NaN where unknown), ``sampling_sd`` (likewise), ``degrees``. ``notes`` are sentences
    that belong beside the table. ``cells``, ``weights`` (of each accuracy in the score, per percent) and ``critical``
    (a difference over its standard error beyond which two models differ) serve ``seeds_needed``.
    """

    table: pd.DataFrame
    groups: tuple[tuple[str, ...], ...]
    noise: pd.DataFrame
    notes: tuple[str, ...]
    level: float
    lam: float
    anchors: Anchors
    cells: Cells = field(repr=False)
    weights: Floats = field(repr=False)
    critical: float


def score_uncertainty(
    runs: pd.DataFrame,
    anchors: Anchors,
    test_sizes: Mapping[str, int],
    *,
    lam: float = DEFAULT_LAMBDA,
    level: float = 0.95,
    draws: int = 4000,
    seed: int = 0,
    pooled: bool = True,
    shared: float = 1.0,
) -> ScoreUncertainty:
    """Propagate seed noise and test-sampling noise through the anchors to the xScore.

    ``runs`` has one row a run: ``model``, ``dataset``, ``seed``, ``accuracy`` (percent); ``as_runs`` makes it from a
    table of single runs. ``test_sizes`` counts the test images by data set. Score intervals come from a parametric
    bootstrap with ``draws`` draws, fixed by ``seed``, around bias-corrected parameters: percentiles of the simulated
    deviations, laid around the corrected score. (The other way round, the pivotal form, covers worse: V is nearly a
    noncentral chi-square, whose spread grows with its value, and percentiles follow such a change of scale.)

    Rank intervals and groups come from the studentised range (Tukey and Kramer), so that of models with equal scores
    *all* share a group with probability ``level``. Where no cell of a data set has two seeds its seed noise is unknown:
    sampling noise alone is counted, and ``noise`` and ``notes`` say so; such intervals are too narrow.

    Raises ``WrongUseError`` for impossible options, ``CannotContinueError`` for bad runs or missing anchors.
    """
    import numpy as np
    import pandas as pd
    from scipy import stats

    lam = check_lambda(lam)
    if not 0.5 <= level < 1:
        raise WrongUseError(f"The level is {level:g}; it must be at least 0.5 and below 1 (0.95 is usual).")
    if draws < 100:
        raise WrongUseError(f"{draws} draws are too few for an interval; use at least 100 (4000 is usual).")
    cells = estimate_cells(runs, test_sizes, pooled=pooled, shared=shared)
    plain = score(pd.DataFrame(cells.mean, index=list(cells.models), columns=list(cells.datasets)), anchors, lam=lam)
    scale = np.array([anchors.maximum[dataset] - anchors.minimum[dataset] for dataset in cells.datasets])
    values = (cells.mean - np.array([anchors.minimum[dataset] for dataset in cells.datasets])) / scale
    spread = np.sqrt(cells.variance()) / scale
    world = denoised(values, spread)
    weights = score_weights(world, lam)
    error = np.sqrt(score_variance(weights, spread, lam))
    degrees = _degrees(weights / scale, cells, error)
    low, high = deviation_quantiles(world, spread, lam, level, draws, np.random.default_rng(seed))
    tail = (1 + level) / 2
    stretch = stats.t.ppf(tail, degrees) / stats.norm.ppf(tail)
    corrected = corrected_scores(values, spread, lam)
    complete = ~np.isnan(error)
    critical = math.nan
    if complete.sum() > 1:
        fewest = float(degrees[complete].min())
        critical = float(stats.studentized_range.ppf(level, int(complete.sum()), fewest)) / math.sqrt(2)
    table = pd.DataFrame(
        {
            "corrected": corrected,
            "standard_error": error,
            "lower": corrected + stretch * low,
            "upper": corrected + stretch * high,
            "degrees": np.where(complete, degrees, np.nan),
        },
        index=pd.Index(cells.models, name="model"),
    )
    table = plain[["rank", "xscore", "status"]].join(table)
    groups = _add_ties(table, critical)
    table["noise"], table["seeds"] = _noise_labels(cells, table.index)
    return ScoreUncertainty(
        table=table,
        groups=groups,
        noise=_noise_table(cells, test_sizes),
        notes=_notes(cells, table, groups),
        level=level,
        lam=lam,
        anchors=anchors,
        cells=cells,
        weights=weights / scale,
        critical=critical,
    )


def _degrees(weights: Floats, cells: Cells, error: Floats) -> Floats:
    """Satterthwaite's degrees of freedom (models,): infinite where no estimated seed variance enters."""
    import numpy as np

    known = cells.degrees > 0
    part = np.where(known, weights**2 * cells.seed_variance / np.maximum(cells.seeds, 1), 0.0)
    loss = (part**2 / np.where(known, cells.degrees, 1)).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(loss > 0, np.maximum(error**4 / loss, 1.0), np.inf)


def _add_ties(table: pd.DataFrame, critical: float) -> tuple[tuple[str, ...], ...]:
    """Add ``rank_lower``, ``rank_upper`` and ``groups`` to the table; complete models come first in it."""
    import numpy as np
    import pandas as pd

    complete = table["status"] == COMPLETE
    for column in ("rank_lower", "rank_upper"):
        table[column] = pd.array([pd.NA] * len(table), dtype="Int64")
    table["groups"] = ""
    if not complete.any():
        return ()
    estimates = table.loc[complete, "corrected"].to_numpy(dtype=np.float64)
    errors = table.loc[complete, "standard_error"].to_numpy(dtype=np.float64)
    rank = table.loc[complete, "rank"].to_numpy(dtype=np.int64)
    ratio = 0.0 if math.isnan(critical) else critical
    best, worst = rank_bounds(estimates, errors, ratio)
    # The rank is that of the plain score. The correction may reorder close models; an interval shall hold its rank.
    table.loc[complete, "rank_lower"] = np.minimum(best, rank)
    table.loc[complete, "rank_upper"] = np.maximum(worst, rank)
    if len(estimates) > MOST_GROUPED_MODELS:
        return ()
    positions = tied_groups(estimates, errors, ratio)
    table.loc[complete, "groups"] = group_letters(positions, len(estimates))
    names = [str(model) for model in table.index]
    return tuple(tuple(names[at] for at in group) for group in positions)


def _noise_labels(cells: Cells, models: pd.Index[Any]) -> tuple[list[str], list[int]]:
    """For each model, which noise is accounted for, and the fewest seeds in any of its cells."""
    known = (cells.degrees > 0).sum(axis=1)
    label = {0: SAMPLING_ALONE, len(cells.datasets): SEEDS_AND_SAMPLING}
    labels = {model: label.get(int(n), SEEDS_IN_PART) for model, n in zip(cells.models, known, strict=True)}
    fewest = dict(zip(cells.models, cells.seeds.min(axis=1).astype(int).tolist(), strict=True))
    return [labels[str(model)] for model in models], [fewest[str(model)] for model in models]


def _noise_table(cells: Cells, test_sizes: Mapping[str, int]) -> pd.DataFrame:
    import numpy as np
    import pandas as pd

    known = cells.degrees > 0
    count = known.sum(axis=0)
    seed_variance = np.where(known, cells.seed_variance, 0.0).sum(axis=0) / np.maximum(count, 1)
    there = cells.seeds > 0
    sampling = np.where(there, cells.sampling, 0.0).sum(axis=0) / there.sum(axis=0)
    return pd.DataFrame(
        {
            "test_size": [int(test_sizes[dataset]) for dataset in cells.datasets],
            "seed_sd": np.sqrt(np.where(count > 0, seed_variance, np.nan)),
            "sampling_sd": np.sqrt(sampling),
            "degrees": cells.degrees.max(axis=0).astype(int),
        },
        index=pd.Index(cells.datasets, name="dataset"),
    )


def _notes(cells: Cells, table: pd.DataFrame, groups: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    notes = []
    blind = [dataset for dataset, d in zip(cells.datasets, cells.degrees.max(axis=0), strict=True) if d == 0]
    if len(blind) == len(cells.datasets):
        notes.append(
            "One seed a cell: the intervals hold test-sampling noise alone. Training again with another seed would "
            "move the scores by more than they say."
        )
    elif blind:
        notes.append(
            f"No model has a second seed on {', '.join(blind)}: there the intervals hold test-sampling noise alone."
        )
    few = [d for d, n in zip(cells.datasets, cells.degrees.max(axis=0), strict=True) if 0 < n < 5]
    if few:
        notes.append(f"Seed noise is estimated from very few repeated runs on {', '.join(few)}; intervals are wide.")
    if not groups and (table["status"] == COMPLETE).sum() > MOST_GROUPED_MODELS:
        notes.append(f"Groups are not listed for more than {MOST_GROUPED_MODELS} models; rank intervals show the ties.")
    return tuple(notes)
