"""The published table, scored in further ways, and the user's own models ranked among the published ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.errors import CannotContinueError
from harness.registry import Benchmark, Published, Suite
from harness.report.anchor_files import registry_anchors
from harness.report.ranking import ScoreSettings, number, score_rows
from harness.report.rows import BASELINE, MEASURED, PUBLISHED, BoardRow, Leaderboard, RowPublished
from harness.score import Anchors, as_runs, fit_subset, score, score_uncertainty

if TYPE_CHECKING:
    import pandas as pd

LAMBDAS = (0.25, 0.5, 1.0)
"""The values of the paper's Table 5."""

_AUTHORS = "the authors' scripts"


def published_accuracies(benchmark: Benchmark) -> pd.DataFrame:
    """Return the published table in percent (index model, columns data sets). Raises where the registry has none."""
    import pandas as pd

    table = _published(benchmark)
    return pd.DataFrame.from_dict(
        {model: list(row) for model, row in table.accuracy.items()}, orient="index", columns=list(table.datasets)
    ).rename_axis("model")


def published_anchors(benchmark: Benchmark) -> Anchors:
    """Return the anchors of the suite that covers the published table."""
    return registry_anchors(benchmark.anchor_table(full_suite(benchmark).anchors or ""))


def full_suite(benchmark: Benchmark) -> Suite:
    """Return the suite with fixed anchors and exactly the published data sets."""
    wanted = set(_published(benchmark).datasets)
    for suite in benchmark.suites.values():
        if set(suite.datasets) == wanted and suite.anchors:
            return suite
    raise CannotContinueError(f"{benchmark.path}: no suite covers the published data sets with fixed anchors.")


def build_published(
    benchmark: Benchmark, suite: Suite | None = None, *, lam: float, measured: Leaderboard | None = None
) -> Leaderboard:
    """Rank the published models, and the user's ``measured`` ones among them.

    ``xscore`` is over ``suite``, all published data sets for None. ``xscore4`` is Equations (1) to (3) on the
    registry's default suite only. ``xscore7_predicted`` is the regression of the full score on that suite's accuracies,
    fitted to the published models (y axis of Figure 2). Each row states its ``source``, ``published`` or ``measured``,
    and its protocol. A measured model whose name is also published gets the ending ``(measured)``.

    Raises CannotContinueError where the registry has no published table, or the table lacks a data set of the suite.
    """
    import pandas as pd

    published = published_accuracies(benchmark)
    suite = suite or full_suite(benchmark)
    _require_published(suite, published)
    anchors = published_anchors(benchmark)
    mine, mine_runs = _renamed(measured, published)
    accuracies = pd.concat([published, mine.reindex(columns=published.columns)])
    frame = accuracies[list(suite.datasets)]
    runs = pd.concat([as_runs(published), mine_runs]) if len(mine) else as_runs(published)
    runs = runs[runs["dataset"].isin(suite.datasets)]
    sizes = {name: benchmark.datasets[name].test for name in suite.datasets if name in benchmark.datasets}
    uncertainty = score_uncertainty(runs, anchors, sizes, lam=lam) if len(sizes) == len(suite.datasets) else None
    majority = {name: value for name, value in _published(benchmark).majority.items() if name in suite.datasets}
    settings = ScoreSettings(lam, benchmark.protocol(suite.protocol).metric)
    ranked = score_rows(
        frame, anchors, settings, uncertainty, majority if len(majority) == len(suite.datasets) else None
    )
    further = _further_scores(benchmark, suite, published, accuracies, lam)
    rows = tuple(replace(row, published=further[row.model]) for row in ranked)
    return Leaderboard(rows, anchors, tuple(_notes(benchmark, suite, rows)), frame, runs, uncertainty)


def _published(benchmark: Benchmark) -> Published:
    if benchmark.published is None:
        raise CannotContinueError(f"{benchmark.path} has no published table.")
    return benchmark.published


def _require_published(suite: Suite, published: pd.DataFrame) -> None:
    unknown = [name for name in suite.datasets if name not in published.columns]
    if unknown:
        raise CannotContinueError(
            f"The suite '{suite.name}' has data sets without published accuracies: {', '.join(unknown)}. "
            f"--published goes with the suites of {', '.join(published.columns)}."
        )


def _renamed(measured: Leaderboard | None, published: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the user's accuracies and runs, under names that no published model has."""
    if measured is None:
        return published.iloc[:0], as_runs(published).iloc[:0]
    names = {
        str(model): f"{model} ({MEASURED})" if model in published.index else str(model)
        for model in measured.accuracies.index
    }
    return measured.accuracies.rename(index=names), measured.runs.assign(model=measured.runs["model"].map(names))


def _further_scores(
    benchmark: Benchmark, suite: Suite, published: pd.DataFrame, accuracies: pd.DataFrame, lam: float
) -> dict[str, RowPublished]:
    """Return the further scores of Table 5 by model, and the baseline's, which are unknown.

    Models of ``accuracies`` that are not ``published`` are the user's own, trained under the suite's protocol.
    """
    anchors = published_anchors(benchmark)
    small, full = benchmark.suite(), full_suite(benchmark)
    by_lambda = {f"{value:g}": score(accuracies, anchors, lam=value)["xscore"] for value in LAMBDAS}
    few = score(accuracies[list(small.datasets)], anchors, lam=lam)["xscore"]
    regression = fit_subset(published[list(full.datasets)], anchors, small.datasets, lam=lam)
    predicted = regression.predict(accuracies)
    unknown = RowPublished(PUBLISHED, _AUTHORS, None, None, None, sizes=(len(small.datasets), len(full.datasets)))
    found = {
        str(name): replace(
            unknown,
            by_lambda={key: number(float(column[name])) for key, column in by_lambda.items()},
            small=number(float(few[name])),
            predicted=number(float(predicted[name])),
        )
        for name in accuracies.index
    }
    for name in accuracies.index.difference(published.index):
        found[str(name)] = replace(found[str(name)], source=MEASURED, protocol=suite.protocol)
    return {BASELINE: unknown, **found}


def _notes(benchmark: Benchmark, suite: Suite, rows: Sequence[BoardRow]) -> Iterable[str]:
    small, full = benchmark.suite(), full_suite(benchmark)
    measured = [row for row in rows if row.is_measured]
    if measured:
        yield (
            f"Rows marked '{MEASURED}' were trained under {suite.protocol}, the published ones by "
            "the authors' scripts, which depart from it; a difference between the two kinds may come "
            "from that and not from the model."
        )
    else:
        yield (
            "The published accuracies are single numbers of the authors' own scripts; intervals hold test-sampling "
            "noise only, and training with another seed moves a score by more than that."
        )
    yield (
        f"xscore{len(small.datasets)} is the score on {', '.join(small.datasets)} only; "
        f"xscore{len(full.datasets)}_predicted is a regression's estimate of the full score from their accuracies."
    )
    for row in rows:
        if row.missing and row.is_model:
            yield f"{row.model} is incomplete: no result on {', '.join(row.missing)}."
    if measured and all(row.missing for row in measured):
        yield f"To rank measured models on {len(small.datasets)} data sets: --published --suite {small.name}."
