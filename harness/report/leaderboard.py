"""Results of one suite -> leaderboard: mean accuracies, anchors and the xScore, one row a model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import mean
from typing import TYPE_CHECKING, Any

from harness.api import RunResult
from harness.errors import CannotContinueError
from harness.registry import Benchmark, Suite
from harness.score import NORMALIZED_PREFIX, Anchors, score

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Leaderboard:
    """A suite's models, best first, and what a reader must know about them.

    Attributes:
        rows: One mapping a model, with the keys of the command-line contract first.
        anchors: What normalised the accuracies.
        notes: Sentences: what was left out, what is incomplete, who departs from the protocol.
    """

    rows: tuple[Mapping[str, Any], ...]
    anchors: Anchors
    notes: tuple[str, ...] = field(default=())


def build_leaderboard(benchmark: Benchmark, suite: Suite, results: Iterable[RunResult], *, lam: float) -> Leaderboard:
    """Score the models of a suite from their finished, current results.

    A cell's accuracy is the mean over its seeds. Models over the budget are left out, and models that lack a data set
    are shown as incomplete, without a score. A suite without fixed anchors is normalised by the extrema of its complete
    models, and the anchors' name says so: such scores change when a model is added.

    Args:
        benchmark: Gives the anchors and the metric.
        suite: The suite.
        results: Finished results under the suite's protocol, over any data sets.
        lam: The weight of the variance.

    Raises:
        CannotContinueError: there is nothing to score.
    """
    metric = benchmark.protocol(suite.protocol).metric
    counted: dict[tuple[str, str], list[RunResult]] = defaultdict(list)
    over: set[str] = set()
    for result in results:
        if result.over_budget:
            over.add(result.job.model)
        elif result.job.dataset in suite.datasets:
            counted[result.job.model, result.job.dataset].append(result)
    if not counted:
        raise CannotContinueError(
            f"There are no results to rank for the suite '{suite.name}' yet. "
            f"Run: harness run --all --suite {suite.name}"
        )
    frame = _accuracies(suite, counted, metric)
    anchors = _anchors(benchmark, suite, frame)
    table = score(frame, anchors, lam=lam)
    records: list[dict[str, Any]] = [dict(zip(table.columns, row, strict=True)) for row in table.to_numpy().tolist()]
    rows = tuple(
        _row({"model": model, **record}, suite, counted, frame)
        for model, record in zip(table.index, records, strict=True)
    )
    return Leaderboard(rows, anchors, tuple(_notes(rows, over, anchors, suite)))


def _accuracies(suite: Suite, counted: Mapping[tuple[str, str], list[RunResult]], metric: str) -> pd.DataFrame:
    import pandas as pd

    models = sorted({model for model, _ in counted})
    values = {
        dataset: [
            mean(result.metrics[metric] for result in counted[model, dataset]) if (model, dataset) in counted else None
            for model in models
        ]
        for dataset in suite.datasets
    }
    return pd.DataFrame(values, index=pd.Index(models, name="model"), dtype="float64")


def _anchors(benchmark: Benchmark, suite: Suite, frame: pd.DataFrame) -> Anchors:
    if suite.anchors is not None:
        table = benchmark.anchor_table(suite.anchors)
        return Anchors(name=table.name, minimum=table.minimum, maximum=table.maximum)
    complete = frame.dropna()
    if len(complete) < 2:
        raise CannotContinueError(
            f"The suite '{suite.name}' has no fixed anchors, so its scores are normalised by the best and the worst of "
            f"the models with a result on every data set; there {'is' if len(complete) == 1 else 'are'} "
            f"{len(complete)}, expected at least 2. Run more models, or see 'harness status --suite {suite.name}'."
        )
    return Anchors.from_table(f"measured on {suite.name}, {len(complete)} models", complete)


def _row(
    record: Mapping[str, Any], suite: Suite, counted: Mapping[tuple[str, str], list[RunResult]], frame: pd.DataFrame
) -> dict[str, Any]:
    model = record["model"]
    mine = [result for (name, _), results in counted.items() if name == model for result in results]
    exceptions = {result.lr_max for result in mine if result.lr_exception}
    return {
        "rank": _number(record["rank"]),
        "model": model,
        **{key: _number(record[key]) for key in ("xscore", "mean", "variance")},
        "normalized": {name: _number(record[f"{NORMALIZED_PREFIX}{name}"]) for name in suite.datasets},
        "accuracy": {name: _number(frame.at[model, name]) for name in suite.datasets},
        "lambda": record["lambda"],
        "anchors": record["anchors"],
        "seeds": {name: len(counted.get((model, name), [])) for name in suite.datasets},
        "parameters": max(result.parameters for result in mine),
        "lr_max": exceptions.pop() if exceptions else None,
        "status": record["status"],
        "missing": [name for name in suite.datasets if (model, name) not in counted],
    }


def _number(value: Any) -> float | int | None:
    """A plain number for JSON; None for what pandas holds as missing."""
    import pandas as pd

    if pd.isna(value):
        return None
    return int(value) if isinstance(value, int) else float(value)


def _notes(rows: Iterable[Mapping[str, Any]], over: set[str], anchors: Anchors, suite: Suite) -> Iterable[str]:
    if suite.anchors is None:
        yield (
            f"Normalised by the best and the worst accuracy {anchors.name}: scores change when a model is added, "
            "and are not comparable with those of another suite."
        )
    if over:
        yield f"Left out, over the budget: {', '.join(sorted(over))}."
    for row in rows:
        if row["missing"]:
            yield f"{row['model']} is incomplete: no result on {', '.join(row['missing'])}."
        if row["lr_max"] is not None:
            yield f"{row['model']} was trained with lr_max {row['lr_max']:g} instead of the protocol's general one."
        if len(set(row["seeds"].values()) - {0}) > 1:
            yield f"{row['model']} has different numbers of seeds: {dict(row['seeds'])}."
