"""The published table, scored: every lambda, the four-set score, the regression's prediction; and a user's own models
in their place among the published ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.errors import CannotContinueError
from harness.registry import Benchmark, Published, Suite
from harness.report.leaderboard import Leaderboard, number, score_rows
from harness.report.scale import registry_anchors
from harness.score import Anchors, as_runs, fit_subset, score, score_uncertainty

if TYPE_CHECKING:
    import pandas as pd

LAMBDAS = (0.25, 0.5, 1.0)
"""Those of the paper's Table 5."""

PUBLISHED, MEASURED = "published", "measured"


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
    """Rank the published models, and a user's among them.

    ``xscore`` is over ``suite``, all published data sets for None. ``xscore4`` is Equations (1) to (3) on the
    registry's default suite alone; ``xscore7_predicted`` is the regression of the full score on that suite's
    accuracies, fitted to the published models (Figure 2's y axis). Each row says whether it is ``published`` or
    ``measured`` here, and under which protocol; a measured model whose name is also published gets the ending
    ``(measured)``.

    Raises CannotContinueError where the registry has no published table, or a suite's data set is not in it.
    """
    import pandas as pd

    published = published_accuracies(benchmark)
    full = full_suite(benchmark)
    suite = suite or full
    unknown = [name for name in suite.datasets if name not in published.columns]
    if unknown:
        raise CannotContinueError(
            f"The suite '{suite.name}' has data sets without published accuracies: {', '.join(unknown)}. "
            f"--published goes with the suites of {', '.join(published.columns)}."
        )
    anchors = published_anchors(benchmark)
    small = benchmark.suite()
    mine, mine_runs = _renamed(measured, published)
    frame = pd.concat([published, mine.reindex(columns=published.columns)])[list(suite.datasets)]
    runs = pd.concat([as_runs(published), mine_runs]) if len(mine) else as_runs(published)
    runs = runs[runs["dataset"].isin(suite.datasets)]
    sizes = {name: benchmark.datasets[name].test for name in suite.datasets if name in benchmark.datasets}
    uncertain = score_uncertainty(runs, anchors, sizes, lam=lam) if len(sizes) == len(suite.datasets) else None
    majority = {name: value for name, value in _published(benchmark).majority.items() if name in suite.datasets}
    rows = score_rows(
        frame,
        anchors,
        lam=lam,
        metric=benchmark.protocol(suite.protocol).metric,
        uncertainty=uncertain,
        baseline=majority if len(majority) == len(suite.datasets) else None,
    )
    everything = pd.concat([published, mine.reindex(columns=published.columns)])
    extra = _columns(everything, published, anchors, small, full, lam)
    protocol = benchmark.protocol(suite.protocol)
    for row in rows:
        is_mine = row["model"] in mine.index
        row["source"] = MEASURED if is_mine else PUBLISHED
        row["protocol"] = protocol.name if is_mine else "the authors' scripts"
        row.update(extra.get(row["model"], dict.fromkeys(next(iter(extra.values())))))
    notes = [
        "The published accuracies are single numbers of the authors' own scripts; intervals hold test-sampling noise "
        "alone, and training with another seed moves a score by more than that."
        if not len(mine)
        else f"Rows marked '{MEASURED}' were trained under {protocol.name}, the published ones by the authors' "
        "scripts, which depart from it; a difference between the two kinds may come from that and not from the model.",
        f"xscore{len(small.datasets)} is the score on {', '.join(small.datasets)} alone; "
        f"xscore{len(full.datasets)}_predicted is a regression's guess of the full score from their accuracies.",
        *(f"{row['model']} is incomplete: no result on {', '.join(row['missing'])}."
          for row in rows if row["missing"] and row["kind"] == "model"),
    ]  # fmt: skip
    if len(mine) and all(row["missing"] for row in rows if row["source"] == MEASURED):
        notes.append(f"To rank measured models on {len(small.datasets)} data sets: --published --suite {small.name}.")
    return Leaderboard(tuple(rows), anchors, tuple(notes), frame, runs, uncertain)


def _published(benchmark: Benchmark) -> Published:
    if benchmark.published is None:
        raise CannotContinueError(f"{benchmark.path} has no published table.")
    return benchmark.published


def _renamed(measured: Leaderboard | None, published: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a user's accuracies and runs, under names that no published model has."""
    if measured is None:
        return published.iloc[:0], as_runs(published).iloc[:0]
    names = {
        str(model): f"{model} ({MEASURED})" if model in published.index else str(model)
        for model in measured.accuracies.index
    }
    return measured.accuracies.rename(index=names), measured.runs.assign(model=measured.runs["model"].map(names))


def _columns(
    everything: pd.DataFrame, published: pd.DataFrame, anchors: Anchors, small: Suite, full: Suite, lam: float
) -> dict[str, dict[str, Any]]:
    """Table 5's further columns by model."""
    by_lambda = {f"{value:g}": score(everything, anchors, lam=value)["xscore"] for value in LAMBDAS}
    few = score(everything[list(small.datasets)], anchors, lam=lam)["xscore"]
    model = fit_subset(published[list(full.datasets)], anchors, small.datasets, lam=lam)
    guess = model.predict(everything)
    return {
        str(name): {
            "xscore_by_lambda": {key: number(float(column[name])) for key, column in by_lambda.items()},
            f"xscore{len(small.datasets)}": number(float(few[name])),
            str(guess.name): number(float(guess[name])),
        }
        for name in everything.index
    }
