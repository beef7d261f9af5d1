"""Results of one suite, or a table of accuracies -> leaderboard: xScores, rank intervals and ties, one row a model."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from statistics import fmean
from typing import TYPE_CHECKING, Any

from harness.api import MetricSpec, RunResult
from harness.errors import CannotContinueError, WrongUseError
from harness.registry import Benchmark, Suite
from harness.report.scale import own_anchors, suite_anchors
from harness.results.grid import is_comparable
from harness.score import NORMALIZED_PREFIX, Anchors, ScoreUncertainty, as_runs, score, score_uncertainty

if TYPE_CHECKING:
    import pandas as pd

BASELINE = "majority class"
"""The row of a model that never looks at the image."""

MODEL_KIND, BASELINE_KIND = "model", "baseline"

# Beyond this many models intervals come from a quarter of the usual draws, which moves their ends by about 1 %.
_MANY_MODELS = 2000


@dataclass(frozen=True)
class Leaderboard:
    """Models, best first, and what a reader must know about them.

    Attributes:
        rows: One mapping a model, with the keys of the command-line contract first.
        anchors: What normalised the accuracies.
        notes: Sentences: what was left out, what is incomplete, who departs from the protocol.
        accuracies: Mean over seeds, index model, columns data sets; in the metric's own direction.
        runs: One row a run: model, dataset, seed, accuracy (the metric's value).
        uncertainty: Intervals and ties; None where the metric has no known sampling noise.
    """

    rows: tuple[Mapping[str, Any], ...]
    anchors: Anchors
    notes: tuple[str, ...]
    accuracies: pd.DataFrame = field(repr=False)
    runs: pd.DataFrame = field(repr=False)
    uncertainty: ScoreUncertainty | None = field(default=None, repr=False)


def build_leaderboard(
    benchmark: Benchmark,
    suite: Suite,
    results: Iterable[RunResult],
    *,
    lam: float,
    metric: MetricSpec | None = None,
    values: Sequence[float] | None = None,
    anchors: Anchors | None = None,
    test_sizes: Mapping[str, int] | None = None,
    baseline: Mapping[str, float] | None = None,
) -> Leaderboard:
    """Score the models of a suite from their finished, current results.

    A cell's accuracy is the mean over its seeds. Models over the budget are left out, and models that lack a data set
    are shown as incomplete, without a score. A suite without fixed anchors is normalised by the extrema of its complete
    models, and the anchors' name says so: such scores change when a model is added.

    Args:
        benchmark: Gives the anchors and the protocol's own metric.
        suite: The suite.
        results: Finished results under the suite's protocol, over any data sets.
        lam: The weight of the variance.
        metric: Another metric than the protocol's own.
        values: Its value for each result, where the results themselves do not hold it.
        anchors: Other anchors than the suite's.
        test_sizes: Number of test images by data set; with it, and for the protocol's own metric, there are intervals.
        baseline: The metric's value by data set of a model that never looks; adds a row without a rank.

    Raises:
        WrongUseError: results of different protocol digests.
        CannotContinueError: there is nothing to score.
    """
    protocol = benchmark.protocol(suite.protocol)
    own = metric is None or metric.name == protocol.metric
    name = metric.name if metric else protocol.metric
    kept, kept_values, over = _sort_out(suite, list(results), values, name)
    if not kept:
        raise CannotContinueError(
            f"There are no results to rank for the suite '{suite.name}' yet. "
            + "".join(f"{sentence} " for sentence in _deviations(results))
            + f"Run: harness run --all --suite {suite.name}"
        )
    runs = _runs(kept, kept_values)
    frame = _means(runs, suite.datasets)
    sign = 1.0 if metric is None or metric.higher_is_better else -1.0
    fixed = anchors or (suite_anchors(benchmark, suite, metric, protocol.metric) if metric else None)
    if fixed is None and own and suite.anchors is not None:
        table = benchmark.anchor_table(suite.anchors)
        fixed = Anchors(name=table.name, minimum=table.minimum, maximum=table.maximum)
    scale = fixed or own_anchors(
        sign * frame,
        f"The suite '{suite.name}'{'' if own else ' under this metric'}",
        f"Run more models, or see 'harness status --suite {suite.name}'.",
    )
    uncertain = None
    if own and test_sizes is not None:
        draws = 4000 if len(frame) <= _MANY_MODELS else 1000
        uncertain = score_uncertainty(runs, scale, test_sizes, lam=lam, draws=draws)
    rows = score_rows(
        frame, scale, lam=lam, metric=name, sign=sign, percent=own, uncertainty=uncertain, baseline=baseline
    )
    facts = _facts(kept, suite)
    rows = [{**row, **facts.get(row["model"], _NO_FACTS)} for row in rows]
    notes = [
        *_notes(rows, over, scale, own_scale=fixed is None),
        *_deviations(results),
        *(uncertain.notes if uncertain else ()),
    ]
    if not own:
        notes.append(f"Intervals and ties are worked out for {protocol.metric} alone; there are none for {name}.")
    return Leaderboard(tuple(rows), scale, tuple(notes), frame, runs, uncertain)


def score_rows(
    frame: pd.DataFrame,
    anchors: Anchors,
    *,
    lam: float,
    metric: str,
    sign: float = 1.0,
    percent: bool = True,
    uncertainty: ScoreUncertainty | None = None,
    baseline: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Score a table (index model, columns data sets) and return the contract's rows, best first.

    Args:
        frame: The metric's values in its own direction.
        anchors: The scale, for ``sign`` times the values.
        lam: The weight of the variance.
        metric: The metric's name.
        sign: -1 where lower is better.
        percent: Whether values must lie in 0 to 100.
        uncertainty: Intervals and ties, if known.
        baseline: Values by data set of a model that never looks; adds a last row of kind ``baseline``.
    """
    import pandas as pd

    names = [str(name) for name in frame.columns]
    scored = _records(score(sign * frame, anchors, lam=lam, percent=percent and sign > 0))
    if baseline is not None:
        absent = dict.fromkeys(names) | dict(baseline)
        never = pd.DataFrame([[absent[name] for name in names]], index=[BASELINE], columns=names, dtype="float64")
        last = _records(score(sign * never, anchors, lam=lam, percent=False))[0] | {"rank": None}
        scored.append(last)
        frame = pd.concat([frame, never])
    raw = {
        str(m): dict(zip(names, row, strict=True))
        for m, row in zip(frame.index, frame.to_numpy().tolist(), strict=True)
    }
    sure = {} if uncertainty is None else {str(r["model"]): r for r in _records(uncertainty.table)}
    return [_row(record, names, raw[record["model"]], metric, sure.get(record["model"]), baseline) for record in scored]


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return plain dictionaries with the index as ``model``; missing values are None."""
    columns = {str(name): [number(v) for v in table[name].tolist()] for name in table.columns}
    models = [str(model) for model in table.index]
    return [
        {"model": model, **dict(zip(columns, cells, strict=True))}
        for model, cells in zip(models, zip(*columns.values(), strict=True), strict=True)
    ]


def _row(
    record: Mapping[str, Any],
    datasets: Sequence[str],
    raw: Mapping[str, float],
    metric: str,
    sure: Mapping[str, Any] | None,
    baseline: Mapping[str, float] | None,
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "rank": record["rank"],
        "model": record["model"],
        **{key: record[key] for key in ("xscore", "mean", "variance")},
        "normalized": {name: record[f"{NORMALIZED_PREFIX}{name}"] for name in datasets},
        "accuracy": {name: number(raw[name]) for name in datasets},
        "lambda": record["lambda"],
        "anchors": record["anchors"],
        "metric": metric,
        "kind": BASELINE_KIND if record["model"] == BASELINE else MODEL_KIND,
        "status": record["status"],
        "missing": [name for name in datasets if number(raw[name]) is None],
    }
    if sure is not None or record["model"] == BASELINE:
        known = sure or {}
        row |= {key: known.get(key) for key in ("corrected", "standard_error", "lower", "upper")}
        row |= {key: known.get(key) for key in ("rank_lower", "rank_upper", "groups", "noise")}
    if baseline is not None:
        row["above_baseline"] = {
            name: None if number(raw[name]) is None or name not in baseline else raw[name] - baseline[name]
            for name in datasets
        }
    return row


def number(value: Any) -> Any:
    """NaN and pandas' missing value become None; everything else stays."""
    if type(value).__name__ == "NAType" or (isinstance(value, float) and value != value):
        return None
    return value


def _sort_out(
    suite: Suite, results: Sequence[RunResult], values: Sequence[float] | None, metric: str
) -> tuple[list[RunResult], list[float], set[str]]:
    """Return the results that count, their values, and the models that are over the budget.

    A result whose training departed from the protocol does not count; its model is incomplete then.
    """
    digests = sorted({result.protocol_digest for result in results})
    if len(digests) > 1:
        raise WrongUseError(
            f"These results were made under {len(digests)} different protocols (digests {', '.join(digests)}); "
            "scores across protocols do not go into one table."
        )
    over = {result.job.model for result in results if result.over_budget}
    wanted = set(suite.datasets)
    counts = [
        result.job.dataset in wanted and result.job.model not in over and not result.deviations for result in results
    ]
    kept = list(compress(results, counts))
    found = [result.metrics[metric] for result in kept] if values is None else list(compress(values, counts))
    return kept, found, over


def _runs(kept: Sequence[RunResult], values: Sequence[float]) -> pd.DataFrame:
    import pandas as pd

    jobs = [result.job for result in kept]
    return pd.DataFrame(
        {
            "model": [job.model for job in jobs],
            "dataset": [job.dataset for job in jobs],
            "seed": [job.seed for job in jobs],
            "accuracy": values,
        }
    )


def _means(runs: pd.DataFrame, datasets: Sequence[str]) -> pd.DataFrame:
    """Average over seeds, without the checks for percent, since a metric may be anything."""
    means = runs.groupby(["model", "dataset"], sort=True)["accuracy"].mean().unstack("dataset")
    return means.reindex(columns=list(datasets)).rename_axis(columns=None).astype("float64")


_NO_FACTS: Mapping[str, Any] = {
    "seeds": {},
    "parameters": None,
    "lr_max": None,
    "seconds": None,
    "not_comparable_on": (),
}


def _facts(kept: Sequence[RunResult], suite: Suite) -> dict[str, dict[str, Any]]:
    """What else belongs beside a model's score: seeds by data set, parameters, a departing learning rate, time."""
    mine: dict[str, list[RunResult]] = defaultdict(list)
    for result in kept:
        mine[result.job.model].append(result)
    facts = {}
    none = dict.fromkeys(suite.datasets, 0)
    for model, results in mine.items():
        seeds = none | Counter([result.job.dataset for result in results])
        exceptions = {result.lr_max for result in results if result.lr_exception}
        facts[model] = {
            "seeds": seeds,
            "parameters": max(result.parameters for result in results),
            "lr_max": max(exceptions) if exceptions else None,
            "seconds": fmean(result.seconds for result in results),
            "not_comparable_on": sorted({result.job.dataset for result in results if not is_comparable(result)}),
        }
    return facts


def _notes(rows: Iterable[Mapping[str, Any]], over: set[str], anchors: Anchors, *, own_scale: bool) -> Iterable[str]:
    if own_scale:
        yield (
            f"Normalised by the best and the worst accuracy ({anchors.name}): scores change when a model is added, "
            "and are not comparable with those of another suite."
        )
    if over:
        yield f"Left out, over the budget: {', '.join(sorted(over))}."
    for row in rows:
        if row["kind"] != MODEL_KIND:
            continue
        if row["missing"]:
            yield f"{row['model']} is incomplete: no result on {', '.join(row['missing'])}."
        if row["lr_max"] is not None:
            yield f"{row['model']} was trained with lr_max {row['lr_max']:g} instead of the protocol's general one."
        if row["not_comparable_on"]:
            yield (
                f"{row['model']} is not comparable: it was trained on {', '.join(row['not_comparable_on'])} with "
                "a device whose arithmetic differs from that of the others."
            )
        if len(set(row["seeds"].values()) - {0}) > 1:
            yield f"{row['model']} has different numbers of seeds: {dict(row['seeds'])}."


def _deviations(results: Iterable[RunResult]) -> Iterable[str]:
    for result in results:
        if result.deviations:
            yield (
                f"Left out, not trained by the protocol: {result.job}: {'; '.join(result.deviations)}. "
                "'harness verify' shows more."
            )


def leaderboard_of_table(
    frame: pd.DataFrame, anchors: Anchors, *, lam: float, metric: str, test_sizes: Mapping[str, int] | None = None
) -> Leaderboard:
    """Score a table of accuracies in percent (index model, columns data sets), one seed a cell.

    Raises what ``score`` and ``score_uncertainty`` raise.
    """
    runs = as_runs(frame)
    known = test_sizes is not None and set(frame.columns) <= set(test_sizes)
    uncertain = score_uncertainty(runs, anchors, test_sizes or {}, lam=lam) if known else None
    rows = score_rows(frame, anchors, lam=lam, metric=metric, uncertainty=uncertain)
    notes = uncertain.notes if uncertain else ()
    return Leaderboard(tuple(rows), anchors, notes, frame, runs, uncertain)
