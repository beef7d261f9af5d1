"""``harness select``: small subsets of data sets that predict the score on all of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from harness.cli.leaderboard import measured_board
from harness.cli.options import ResultRequest, accuracies_option, anchors_option, format_option, result_options
from harness.cli.output import print_rows
from harness.cli.score import table_and_anchors
from harness.errors import WrongUseError

if TYPE_CHECKING:
    import pandas as pd

    from harness.score import Anchors, SubsetSearch

_COLUMNS = {
    "datasets": "data sets",
    "r2": "R^2",
    "q2": "Q^2",
    "spearman": "rho",
    "kendall": "tau",
    "spearman_left_out": "rho left out",
    "bootstrap": "wins %",
}
_SHOWN = 10


@click.command()
@click.option("--size", type=int, metavar="N", default=4, show_default=True, help="Data sets per subset.")
@click.option("--published", is_flag=True, help="Search on the published table.")
@click.option("--normalized", is_flag=True, help="Predict from normalised values instead of accuracies.")
@click.option(
    "--top", type=click.IntRange(min=1), metavar="N", help="Rows to print.  [default: 10; all in json and csv]"
)
@click.option(
    "--resamples",
    type=click.IntRange(min=0),
    metavar="N",
    default=1000,
    show_default=True,
    help="Bootstrap resamples.",
)
@result_options(anchors_option, accuracies_option)
@format_option
def select(
    size: int, published: bool, normalized: bool, top: int | None, resamples: int, request: ResultRequest, format_: str
) -> None:
    """Rank the subsets of data sets by how well they predict the score on all of them.

    The paper reports R^2. Q^2 predicts each model by the fit without it: with few models R^2 is high for almost any
    subset, and Q^2 shows how much of that survives. rho and tau compare rankings; 'wins' is the share of bootstrap
    resamples in which the subset has the best R^2.

    \b
    harness select --published
    harness select --accuracies mine.csv --size 3 --normalized
    """
    from harness.score import SearchSettings, search_subsets

    if published and (request.accuracies is not None or request.anchors):
        raise WrongUseError("--published has its own accuracies and anchors; leave --accuracies and --anchors out.")
    frame, anchors, note = _table(request, published=published)
    settings = SearchSettings(on="normalized" if normalized else "accuracy", resamples=resamples)
    found = search_subsets(frame, anchors, size=size, lam=request.lam, settings=settings)
    machine = format_ in ("json", "csv")
    print_rows(
        subset_rows(found, top or (None if machine else _SHOWN), people=not machine),
        format_,
        columns=_COLUMNS,
        digits=dict.fromkeys(_COLUMNS, 3) | {"bootstrap": 1},
    )
    click.echo(
        f"{len(found.table):,} subsets of {size} of {len(frame.columns)} data sets, {found.models} models, lambda "
        f"{found.lam:g}, anchors {found.anchors}, predicted from "
        f"{'normalised values' if normalized else 'accuracies'}.",
        err=True,
    )
    for sentence in (note, *found.warnings, *best_by_q2(found)):
        if sentence:
            click.echo(sentence, err=True)


def _table(request: ResultRequest, *, published: bool) -> tuple[pd.DataFrame, Anchors, str]:
    """Return the accuracies to search on, their anchors, and a sentence about them."""
    from harness.report.published import published_accuracies, published_anchors
    from harness.workspace.finished import collect

    workspace = request.open()
    benchmark = workspace.benchmark
    if published:
        frame = published_accuracies(benchmark)
        if request.suite is not None:
            frame = frame[[name for name in benchmark.suite(request.suite).datasets if name in frame.columns]]
        return frame, published_anchors(benchmark), ""
    if request.accuracies is not None:
        own = benchmark.protocol(benchmark.suite(request.suite).protocol).metric
        return table_and_anchors(workspace, request, workspace.catalog.metric(own).spec, fall_back=True)
    collected = collect(workspace, suite=request.suite)
    board = measured_board(workspace, collected, lam=request.lam, anchors_name=request.anchors)
    frame = board.accuracies
    gaps = [str(model) for model in frame.index[frame.isna().any(axis=1)]]
    return frame.dropna(), board.anchors, f"Left out, incomplete: {', '.join(gaps)}." if gaps else ""


def subset_rows(found: SubsetSearch, top: int | None, *, people: bool) -> list[dict[str, Any]]:
    """Return one row per subset, best R^2 first."""
    from harness.report.ranking import number

    rows = []
    for record in found.table.head(top or len(found.table)).to_dict("records"):
        row = {str(key): number(value) for key, value in record.items()}
        row["datasets"] = ", ".join(record["datasets"]) if people else list(record["datasets"])
        if people and row["bootstrap"] is not None:
            row["bootstrap"] *= 100
        rows.append(row | {"size": found.size, "models": found.models, "on": found.on})
    return rows


def best_by_q2(found: SubsetSearch) -> list[str]:
    """Name the subset with the best Q^2 if it is not the one with the best R^2."""
    q2 = found.table["q2"].fillna(-math.inf).to_numpy()
    at = int(q2.argmax())
    if at == 0 or math.isinf(q2[at]):
        return []
    best = found.table.iloc[at]
    first = found.table.iloc[0]
    return [
        f"By R^2 the best is {', '.join(first['datasets'])} (Q^2 {first['q2']:.2f}); by Q^2 it is "
        f"{', '.join(best['datasets'])} (R^2 {best['r2']:.3f}, Q^2 {best['q2']:.2f})."
    ]
