"""Runs with several seeds and test-set sizes -> intervals of scores and ranks, and ties.

Target. The xScore of a model's *expected* accuracies, over training seeds and over draws of a test set of the same
kind, scaled by the anchors, which are constants.

Assumptions.

- An observed accuracy is the expected one plus two roughly normal errors, independent of each other and between data
  sets: one from the training seed, one from the draw of test images, which is binomial.
- All seeds of a model are tested on the same images, so averaging over seeds shrinks only the first error. To be
  cautious, the whole binomial variance counts as shared (``shared=1``).
- Seed noise on a data set is equally large for all models (``pooled=True``). Without this each model is judged by its
  own seeds, and intervals get wider.
- Errors of different models are independent. In fact models share the test images, so ties are too frequent rather than
  too rare.

Consequences. Noise in the accuracies adds its mean variance to V, so that the plain xScore is too low by lambda times
that, on average. The score keeps its definition, and its interval is centred on the corrected value. Poorly known seed
variances widen intervals by the quantile of Student's t at Satterthwaite's (1946) degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from harness.score.noise import (
    Cells,
    UncertaintySettings,
    corrected_scores,
    denoised,
    deviation_quantiles,
    estimate_cells,
    score_variance,
    score_weights,
)
from harness.score.xscore import COMPLETE, DEFAULT_LAMBDA, Anchors, check_lambda, score

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
    Ints: TypeAlias = np.ndarray[Any, np.dtype[np.intp]]

SEEDS_AND_SAMPLING = "seeds and sampling"
SEEDS_IN_PART = "sampling, and seeds on some data sets"
SAMPLING_ALONE = "sampling alone"

# Groups of more models are unreadable, and rank intervals show the ties.
MOST_GROUPED_MODELS = 200
# Doubles in one block of pairs.
_BLOCK_DOUBLES = 100_000
_USUAL = UncertaintySettings()


@dataclass(frozen=True)
class ScoreUncertainty:
    """Intervals and ties at ``level``.

    ``table`` has one row per model, in the order of ``score``, with the columns ``rank``, ``xscore`` and ``status``
    of ``score``, and: ``corrected`` (the score without the bias from noise in V, the centre of the interval),
    ``standard_error``, ``lower``, ``upper``, ``degrees`` (of freedom of the standard error), ``rank_lower``,
    ``rank_upper``, ``groups`` (letters; models that share one cannot be told apart), ``noise`` (the counted kinds) and
    ``seeds`` (fewest in any cell). Score intervals hold for each model by itself, rank intervals and groups for all
    models at once; so rank intervals are wide, and right more often than ``level``. Incomplete models have no values.

    ``groups`` holds the models of each letter. ``noise`` has one row per data set: ``test_size``, ``seed_sd`` (percent,
    root mean square over models; NaN where unknown), ``sampling_sd`` (likewise), ``degrees``. ``notes`` are sentences
    for readers of the table. ``seeds_needed`` uses ``cells``, ``weights`` (of each accuracy in the score, per percent)
    and ``critical`` (the ratio of a difference to its standard error beyond which two models differ).
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
    settings: UncertaintySettings = _USUAL,
) -> ScoreUncertainty:
    """Propagate seed noise and test-sampling noise through the anchors to the xScore.

    ``runs`` has one row per run: ``model``, ``dataset``, ``seed``, ``accuracy`` (percent); ``as_runs`` makes it from a
    table of single runs. ``test_sizes`` counts the test images by data set. Score intervals come from a parametric
    bootstrap around bias-corrected parameters: percentiles of the simulated deviations, added to the corrected score.
    (The pivotal form, which subtracts them, covers worse: V is nearly a noncentral chi-square, whose spread grows with
    its value, and percentiles follow such a change of scale.)

    Rank intervals and groups come from the studentised range (Tukey and Kramer), so that of models with equal scores
    *all* share a group with probability ``level``. Where no cell of a data set has two seeds its seed noise is unknown.
    Then only sampling noise is counted and intervals are too narrow, as ``noise`` and ``notes`` state.

    Raises ``WrongUseError`` for an impossible lambda or test-set size, ``CannotContinueError`` for bad runs or missing
    anchors.
    """
    import numpy as np
    import pandas as pd
    from scipy import stats

    lam = check_lambda(lam)
    cells = estimate_cells(runs, test_sizes, settings)
    plain = score(pd.DataFrame(cells.mean, index=list(cells.models), columns=list(cells.datasets)), anchors, lam=lam)
    scale = np.array([anchors.maximum[dataset] - anchors.minimum[dataset] for dataset in cells.datasets])
    values = (cells.mean - np.array([anchors.minimum[dataset] for dataset in cells.datasets])) / scale
    spread = np.sqrt(cells.variance()) / scale
    true = denoised(values, spread)
    weights = score_weights(true, lam)
    error = np.sqrt(score_variance(weights, spread, lam))
    degrees = _degrees(weights / scale, cells, error)
    low, high = deviation_quantiles(true, spread, lam, settings)
    tail = (1 + settings.level) / 2
    stretch = stats.t.ppf(tail, degrees) / stats.norm.ppf(tail)
    corrected = corrected_scores(values, spread, lam)
    complete = ~np.isnan(error)
    critical = _critical_ratio(degrees[complete], settings.level)
    columns = {
        "corrected": corrected,
        "standard_error": error,
        "lower": corrected + stretch * low,
        "upper": corrected + stretch * high,
        "degrees": np.where(complete, degrees, np.nan),
    }
    table = plain[["rank", "xscore", "status"]].join(pd.DataFrame(columns, index=pd.Index(cells.models, name="model")))
    groups = _add_ties(table, critical)
    table["noise"], table["seeds"] = _noise_labels(cells, table.index)
    noise, notes = _noise_table(cells, test_sizes), _notes(cells, table, groups)
    return ScoreUncertainty(
        table, groups, noise, notes, settings.level, lam, anchors, cells, weights=weights / scale, critical=critical
    )


def _critical_ratio(degrees: Floats, level: float) -> float:
    """Return the ratio to the standard error beyond which two of the models differ; NaN for a single model."""
    from scipy import stats

    if len(degrees) < 2:
        return math.nan
    return float(stats.studentized_range.ppf(level, len(degrees), float(degrees.min()))) / math.sqrt(2)


def _degrees(weights: Floats, cells: Cells, error: Floats) -> Floats:
    """Return Satterthwaite's degrees of freedom (models,), infinite where no estimated seed variance enters."""
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
    # The rank is the plain score's. The correction may reorder close models, but an interval must contain its rank.
    table.loc[complete, "rank_lower"] = np.minimum(best, rank)
    table.loc[complete, "rank_upper"] = np.maximum(worst, rank)
    if len(estimates) > MOST_GROUPED_MODELS:
        return ()
    positions = tied_groups(estimates, errors, ratio)
    table.loc[complete, "groups"] = group_letters(positions, len(estimates))
    names = [str(model) for model in table.index]
    return tuple(tuple(names[at] for at in group) for group in positions)


def _noise_labels(cells: Cells, models: pd.Index[Any]) -> tuple[list[str], list[int]]:
    """Return the counted kinds of noise and the fewest seeds in any cell, for each model."""
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
            "One seed per cell: the intervals hold test-sampling noise only. Training again with another seed would "
            "move the scores further."
        )
    elif blind:
        notes.append(
            f"No model has a second seed on {', '.join(blind)}: there the intervals hold test-sampling noise only."
        )
    few = [d for d, n in zip(cells.datasets, cells.degrees.max(axis=0), strict=True) if 0 < n < 5]
    if few:
        notes.append(f"Seed noise is estimated from very few repeated runs on {', '.join(few)}; intervals are wide.")
    if not groups and (table["status"] == COMPLETE).sum() > MOST_GROUPED_MODELS:
        notes.append(f"Groups are not listed for more than {MOST_GROUPED_MODELS} models; rank intervals show the ties.")
    return tuple(notes)


def rank_bounds(estimates: Floats, errors: Floats, critical: float) -> tuple[Ints, Ints]:
    """Return the best and worst rank (models,) that the significant differences of each model allow; 1 is best.

    Two models differ where ``|difference| > critical * sqrt(error_1^2 + error_2^2)``. The significantly better models
    rank above a model, the significantly worse ones below it. All intervals hold if all pairs are judged correctly.
    """
    import numpy as np

    models = len(estimates)
    best, worst = np.empty(models, dtype=np.intp), np.empty(models, dtype=np.intp)
    square = (critical * errors) ** 2
    block = max(1, _BLOCK_DOUBLES // models)
    for start in range(0, models, block):
        part = slice(start, start + block)
        # Signed squares are compared, because for 10,000 models the roots would take half of the time.
        ahead = estimates[None, :] - estimates[part, None]
        ahead *= np.abs(ahead)
        margin = square[None, :] + square[part, None]
        best[part] = 1 + np.count_nonzero(ahead > margin, axis=1)
        worst[part] = models - np.count_nonzero(ahead < -margin, axis=1)
    return best, worst


def tied_groups(estimates: Floats, errors: Floats, critical: float) -> tuple[tuple[int, ...], ...]:
    """Return the maximal sets of models in which no two differ, as positions, in descending estimate.

    Ties are not transitive, so a model may belong to several sets. A model without a tie is a set by itself.
    """
    import numpy as np

    order = np.argsort(-estimates, kind="stable")
    values, square = estimates[order], errors[order] ** 2
    tied = np.abs(values[:, None] - values[None, :]) <= critical * np.sqrt(square[:, None] + square[None, :])
    np.fill_diagonal(tied, False)
    neighbours = [sum(1 << int(j) for j in np.flatnonzero(row)) for row in tied]
    cliques = sorted(_members(clique) for clique in _maximal_cliques(neighbours))
    return tuple(tuple(int(order[at]) for at in clique) for clique in cliques)


def group_letters(groups: Sequence[Sequence[int]], models: int) -> list[str]:
    """Return the letters of each model's groups, such as ``"a"`` or ``"a, b"``; ``aa`` and ``ab`` follow ``z``."""
    letters: list[list[str]] = [[] for _ in range(models)]
    for at, group in enumerate(groups):
        for model in group:
            letters[model].append(_letter(at))
    return [", ".join(of_model) for of_model in letters]


def _letter(number: int) -> str:
    text = ""
    number += 1
    while number:
        number, digit = divmod(number - 1, 26)
        text = chr(ord("a") + digit) + text
    return text


def _members(bits: int) -> tuple[int, ...]:
    return tuple(at for at in range(bits.bit_length()) if bits >> at & 1)


def _maximal_cliques(neighbours: Sequence[int]) -> list[int]:
    """Find all maximal cliques by Bron and Kerbosch (1973) with a pivot; sets are the bits of an integer."""
    found: list[int] = []
    waiting = [(0, (1 << len(neighbours)) - 1, 0)]
    while waiting:
        clique, candidates, excluded = waiting.pop()
        if not candidates and not excluded:
            found.append(clique)
            continue
        pivot = max(_members(candidates | excluded), key=lambda at: (candidates & neighbours[at]).bit_count())
        for vertex in _members(candidates & ~neighbours[pivot]):
            bit = 1 << vertex
            waiting.append((clique | bit, candidates & neighbours[vertex], excluded & neighbours[vertex]))
            candidates &= ~bit
            excluded |= bit
    return found
