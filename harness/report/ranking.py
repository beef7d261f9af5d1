"""Results of a suite, or a table of accuracies -> leaderboard: xScores, rank intervals and ties, one row per model."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import compress
from statistics import fmean
from typing import TYPE_CHECKING, Any

from harness.api import RunResult
from harness.errors import CannotContinueError, WrongUseError
from harness.registry import Benchmark, Suite
from harness.report.anchor_files import own_anchors, suite_anchors
from harness.report.rows import BASELINE, BASELINE_KIND, MODEL_KIND, BoardRow, Leaderboard, RowTraining, RowUncertainty
from harness.results.grid import is_comparable
from harness.score import (
    DEFAULT_LAMBDA,
    NORMALIZED_PREFIX,
    Anchors,
    ScoreUncertainty,
    UncertaintySettings,
    as_runs,
    score,
    score_uncertainty,
)

if TYPE_CHECKING:
    import pandas as pd

# Beyond this many models a quarter of the usual draws is used, which moves the ends of intervals by about 1 %.
_MANY_MODELS = 2000


@dataclass(frozen=True)
class ScoreSettings:
    """Settings that turn values of a metric into scores.

    Attributes:
        lam: Weight of the variance.
        metric: Name of the metric; empty for the protocol's own.
        higher_is_better: The metric's direction.
        percent: False drops the check that values lie between 0 and 100.
    """

    lam: float = DEFAULT_LAMBDA
    metric: str = ""
    higher_is_better: bool = True
    percent: bool = True

    @property
    def sign(self) -> float:
        """The factor that makes larger values better."""
        return 1.0 if self.higher_is_better else -1.0


@dataclass(frozen=True)
class Measurements:
    """Finished results and what is known beside them.

    Attributes:
        results: Finished results under one protocol and budget, over any data sets.
        values: The metric's value of each result; None takes it from the results.
        test_sizes: Number of test images by data set; None for a leaderboard without intervals.
        baseline: The metric's value of the majority class by data set; adds a row without a rank.
    """

    results: Sequence[RunResult]
    values: Sequence[float] | None = None
    test_sizes: Mapping[str, int] | None = None
    baseline: Mapping[str, float] | None = None


@dataclass(frozen=True)
class _Counted:
    """The results that count, their values, and the models that are over the budget."""

    results: Sequence[RunResult]
    values: Sequence[float]
    over: Sequence[str]


def build_leaderboard(
    benchmark: Benchmark,
    suite: Suite,
    measured: Measurements,
    settings: ScoreSettings,
    anchors: Anchors | None = None,
) -> Leaderboard:
    """Score the models of a suite from their finished, current results.

    A cell's accuracy is the mean over its seeds. Models over the budget are left out, and models that lack a data set
    are shown as incomplete, without a score. Without ``anchors`` the suite's fixed ones count. If it has none, the
    extrema of its complete models are the scale, and the name of the anchors shows it: such scores change when a model
    is added. Only the protocol's own metric has intervals.

    Raises:
        WrongUseError: results of different protocol digests or budgets.
        CannotContinueError: there is nothing to score.
    """
    own_metric = benchmark.protocol(suite.protocol).metric
    metric = settings.metric or own_metric
    own = metric == own_metric
    settings = replace(settings, metric=metric, percent=own and settings.higher_is_better)
    counted = _count(suite, measured, metric)
    runs = _runs(counted)
    frame = _means(runs, suite.datasets)
    fixed = anchors or suite_anchors(benchmark, suite, metric)
    scale = fixed or own_anchors(
        settings.sign * frame,
        f"The suite '{suite.name}'{'' if own else ' under this metric'}",
        f"Run more models, or see 'harness status --suite {suite.name}'.",
    )
    uncertainty = None
    if own and measured.test_sizes is not None:
        draws = UncertaintySettings(draws=4000 if len(frame) <= _MANY_MODELS else 1000)
        uncertainty = score_uncertainty(runs, scale, measured.test_sizes, lam=settings.lam, settings=draws)
    training = _training(counted.results, suite)
    rows = [
        replace(row, training=training.get(row.model, RowTraining()))
        for row in score_rows(frame, scale, settings, uncertainty, measured.baseline)
    ]
    notes = [
        *([] if fixed else [_own_scale_note(scale)]),
        *_notes(rows, counted.over),
        *_deviations(measured.results),
        *(uncertainty.notes if uncertainty else ()),
    ]
    if not own:
        notes.append(f"Intervals and ties are computed for {own_metric} only; there are none for {metric}.")
    return Leaderboard(tuple(rows), scale, tuple(notes), frame, runs, uncertainty)


def leaderboard_of_table(
    frame: pd.DataFrame, anchors: Anchors, settings: ScoreSettings, test_sizes: Mapping[str, int] | None = None
) -> Leaderboard:
    """Score a table of accuracies in percent (index model, columns data sets), one seed per cell.

    Raises what ``score`` and ``score_uncertainty`` raise.
    """
    runs = as_runs(frame)
    uncertainty = None
    if test_sizes is not None and set(frame.columns) <= set(test_sizes):
        uncertainty = score_uncertainty(runs, anchors, test_sizes, lam=settings.lam)
    rows = score_rows(frame, anchors, settings, uncertainty)
    return Leaderboard(tuple(rows), anchors, uncertainty.notes if uncertainty else (), frame, runs, uncertainty)


def score_rows(
    frame: pd.DataFrame,
    anchors: Anchors,
    settings: ScoreSettings,
    uncertainty: ScoreUncertainty | None = None,
    baseline: Mapping[str, float] | None = None,
) -> list[BoardRow]:
    """Score a table (index model, columns data sets) and return the rows, best first.

    Args:
        frame: The metric's values in its own direction.
        anchors: The scale of the values, times -1 where lower is better.
        settings: Lambda and the metric.
        uncertainty: Intervals and ties, if known.
        baseline: The majority class's values by data set; adds the last row, without a rank.
    """
    import pandas as pd

    names = [str(name) for name in frame.columns]
    scored = _records(score(settings.sign * frame, anchors, lam=settings.lam, percent=settings.percent))
    if baseline is not None:
        values = dict.fromkeys(names) | dict(baseline)
        last = pd.DataFrame([[values[name] for name in names]], index=[BASELINE], columns=names, dtype="float64")
        record = _records(score(settings.sign * last, anchors, lam=settings.lam, percent=False))[0]
        scored.append(record | {"rank": None})
        frame = pd.concat([frame, last])
    accuracies = {
        str(model): dict(zip(names, map(number, row), strict=True))
        for model, row in zip(frame.index, frame.to_numpy().tolist(), strict=True)
    }
    known = {} if uncertainty is None else _row_uncertainties(uncertainty)
    if baseline is not None:
        known[BASELINE] = RowUncertainty()
    rows = [_row(record, accuracies[record["model"]], known.get(record["model"]), settings.metric) for record in scored]
    return rows if baseline is None else [_above(row, baseline) for row in rows]


def _row(
    record: Mapping[str, Any], accuracy: Mapping[str, float | None], uncertainty: RowUncertainty | None, metric: str
) -> BoardRow:
    return BoardRow(
        rank=record["rank"],
        model=record["model"],
        xscore=record["xscore"],
        mean=record["mean"],
        variance=record["variance"],
        normalized={name: record[f"{NORMALIZED_PREFIX}{name}"] for name in accuracy},
        accuracy=accuracy,
        lam=record["lambda"],
        anchors=record["anchors"],
        metric=metric,
        kind=BASELINE_KIND if record["model"] == BASELINE else MODEL_KIND,
        status=record["status"],
        missing=[name for name, value in accuracy.items() if value is None],
        uncertainty=uncertainty,
    )


def _above(row: BoardRow, baseline: Mapping[str, float]) -> BoardRow:
    above = {
        name: None if value is None or name not in baseline else value - baseline[name]
        for name, value in row.accuracy.items()
    }
    return replace(row, above_baseline=above)


def _row_uncertainties(uncertainty: ScoreUncertainty) -> dict[str, RowUncertainty]:
    names = [field.name for field in fields(RowUncertainty)]
    return {row["model"]: RowUncertainty(**{name: row[name] for name in names}) for row in _records(uncertainty.table)}


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return one dictionary per row, with the index as ``model`` and None for missing values."""
    columns = {str(name): [number(v) for v in table[name].tolist()] for name in table.columns}
    models = [str(model) for model in table.index]
    return [
        {"model": model, **dict(zip(columns, cells, strict=True))}
        for model, cells in zip(models, zip(*columns.values(), strict=True), strict=True)
    ]


def number(value: Any) -> Any:
    """Turn NaN and pandas' missing value into None, and leave everything else as it is."""
    if type(value).__name__ == "NAType" or (isinstance(value, float) and value != value):
        return None
    return value


def _count(suite: Suite, measured: Measurements, metric: str) -> _Counted:
    """Choose the results that count.

    A result that deviates from the protocol does not count, and its model is incomplete then.
    """
    results = measured.results
    digests = sorted({result.protocol_digest for result in results})
    if len(digests) > 1:
        raise WrongUseError(
            f"These results were made under {len(digests)} different protocols (digests {', '.join(digests)}); "
            "scores across protocols do not go into one table."
        )
    budgets = sorted({result.job.budget for result in results})
    if len(budgets) > 1:
        raise WrongUseError(
            f"These results were made at {len(budgets)} different budgets ({', '.join(budgets)}); scores across "
            "budgets do not go into one table."
        )
    over = {result.job.model for result in results if result.over_budget}
    counts = [
        result.job.dataset in suite.datasets and result.job.model not in over and not result.deviations
        for result in results
    ]
    kept = list(compress(results, counts))
    if not kept:
        raise CannotContinueError(
            f"There are no results to rank for the suite '{suite.name}' yet. "
            + "".join(f"{sentence} " for sentence in _deviations(results))
            + f"Run: harness run --all --suite {suite.name}"
        )
    values = (
        [result.metrics[metric] for result in kept]
        if measured.values is None
        else list(compress(measured.values, counts))
    )
    return _Counted(kept, values, sorted(over))


def _runs(counted: _Counted) -> pd.DataFrame:
    import pandas as pd

    jobs = [result.job for result in counted.results]
    return pd.DataFrame(
        {
            "model": [job.model for job in jobs],
            "dataset": [job.dataset for job in jobs],
            "seed": [job.seed for job in jobs],
            "accuracy": counted.values,
        }
    )


def _means(runs: pd.DataFrame, datasets: Sequence[str]) -> pd.DataFrame:
    """Average over seeds, without the checks for percent, since a metric may take any value."""
    means = runs.groupby(["model", "dataset"], sort=True)["accuracy"].mean().unstack("dataset")
    return means.reindex(columns=list(datasets)).rename_axis(columns=None).astype("float64")


def _training(counted: Sequence[RunResult], suite: Suite) -> dict[str, RowTraining]:
    by_model: dict[str, list[RunResult]] = defaultdict(list)
    for result in counted:
        by_model[result.job.model].append(result)
    none = dict.fromkeys(suite.datasets, 0)
    return {
        model: RowTraining(
            seeds=none | Counter([result.job.dataset for result in results]),
            parameters=max(result.parameters for result in results),
            lr_max=max((result.lr_max for result in results if result.lr_exception), default=None),
            seconds=fmean(result.seconds for result in results),
            not_comparable_on=sorted({result.job.dataset for result in results if not is_comparable(result)}),
        )
        for model, results in by_model.items()
    }


def _own_scale_note(anchors: Anchors) -> str:
    return (
        f"Normalised by the best and the worst accuracy ({anchors.name}): scores change when a model is added, "
        "and are not comparable with those of another suite."
    )


def _notes(rows: Iterable[BoardRow], over: Sequence[str]) -> Iterable[str]:
    if over:
        yield f"Left out, over the budget: {', '.join(over)}."
    for row in rows:
        if not row.is_model:
            continue
        if row.missing:
            yield f"{row.model} is incomplete: no result on {', '.join(row.missing)}."
        if row.training is not None:
            yield from _training_notes(row.model, row.training)


def _training_notes(model: str, training: RowTraining) -> Iterable[str]:
    if training.lr_max is not None:
        yield f"{model} was trained with lr_max {training.lr_max:g} instead of the protocol's general one."
    if training.not_comparable_on:
        yield (
            f"{model} is not comparable: it was trained on {', '.join(training.not_comparable_on)} with "
            "a device whose arithmetic differs from that of the others."
        )
    if len(set(training.seeds.values()) - {0}) > 1:
        yield f"{model} has different numbers of seeds: {dict(training.seeds)}."


def _deviations(results: Iterable[RunResult]) -> Iterable[str]:
    for result in results:
        if result.deviations:
            yield (
                f"Left out, not trained by the protocol: {result.job}: {'; '.join(result.deviations)}. "
                "'harness verify' shows more."
            )
