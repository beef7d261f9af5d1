"""``harness score`` and ``harness select``: xScores from accuracies, and the data sets that stand for all of them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from harness.api.jobs import STANDARD_BUDGET
from harness.cli.common_options import (
    DEFAULT_LAMBDA,
    ResultRequest,
    accuracies_option,
    anchors_option,
    format_option,
    metric_option,
    protocol_option,
    result_options,
)
from harness.cli.leaderboard import ablation_of, measured_board, print_board
from harness.cli.output import Command, print_rows, say
from harness.errors import CannotContinueError, WrongUseError
from harness.registry import Benchmark, Protocol
from harness.workspace.finished import collect

if TYPE_CHECKING:
    import pandas as pd

    from harness.api import MetricSpec
    from harness.report.rows import Leaderboard
    from harness.score import Anchors, SubsetSearch
    from harness.workspace import Workspace


@click.command(cls=Command)
@result_options(anchors_option, accuracies_option, metric_option, protocol_option)
@click.option("--make-anchors", metavar="NAME", help="Freeze the table's extrema as RUNS/anchors/NAME.toml.")
@click.option("--sensitivity", is_flag=True, help="Show the ranks at lambda 0 to 2, and every change of places.")
@format_option
def score(request: ResultRequest, make_anchors: str | None, sensitivity: bool, format_: str) -> None:
    """Compute xScores from finished runs, or from a CSV file of accuracies in percent.

    A file is scored over its own columns, or over a suite's with --suite. Values above 1 and below 0 are kept: a model
    may be better or worse than all models behind the anchors.

    \b
    harness score --accuracies mine.csv
    harness score --suite pocket --metric macro_f1
    harness score --suite pocket --make-anchors lab-2026
    harness score --suite pocket --anchors lab-2026 --sensitivity
    """
    if request.accuracies is not None:
        request.refuse_others("The {} of a file given with --accuracies is unknown")
    workspace = request.open()
    if make_anchors:
        _make_anchors(workspace, request, make_anchors)
        request = replace(request, anchors=request.anchors or make_anchors)
    notes: tuple[str, ...] = ()
    budget = None
    higher = percent = True
    if request.accuracies is not None:
        board = _board_of_file(workspace, request, _metric_of_file(workspace, request))
    else:
        collected = collect(workspace, suite=request.suite, metric=request.metric)
        board = measured_board(workspace, collected, lam=request.lam, anchors_name=request.anchors)
        budget = collected.budget
        notes = (f"Budget: {budget}.", *collected.notes)
        higher = collected.metric.higher_is_better
        percent = higher and collected.metric.name == collected.protocol.metric
    if sensitivity:
        _print_sensitivity(board, format_, higher=higher, percent=percent)
    else:
        print_board(board.models, format_, ablation=ablation_of(workspace.benchmark, request.suite), budget=budget)
    for note in (*notes, *board.notes):
        say(note)


def _metric_of_file(workspace: Workspace, request: ResultRequest) -> MetricSpec:
    benchmark = workspace.benchmark
    own = benchmark.protocol(benchmark.suite(request.suite).protocol).metric
    if request.metric is not None and request.metric != own:
        raise WrongUseError(
            f"A file given with --accuracies holds {own} in percent; --metric {request.metric} needs stored "
            "predictions. Leave --accuracies out to use finished runs."
        )
    return workspace.catalog.metric(own).spec


def _make_anchors(workspace: Workspace, request: ResultRequest, name: str) -> None:
    """Freeze the extrema of all complete models, and print the path."""
    from harness.report.anchor_files import OWN, anchor_file, freeze, write_anchors
    from harness.score import read_accuracies

    if name in workspace.benchmark.anchors:
        raise WrongUseError(
            f"The registry already has anchors named '{name}', which never change; choose another name."
        )
    path = anchor_file(workspace.runs.root, name)
    protocol: Protocol | None = None
    budget = STANDARD_BUDGET
    if request.accuracies is not None:
        frame = _suite_columns(read_accuracies(request.accuracies), workspace.benchmark, request)
        spec = _metric_of_file(workspace, request)
    else:
        collected = collect(workspace, suite=request.suite, metric=request.metric)
        board = measured_board(workspace, collected, lam=DEFAULT_LAMBDA, anchors_name=OWN)
        frame, spec, protocol = board.accuracies.dropna(), collected.metric, collected.protocol
        budget = collected.budget.name
    if len(frame) < 2:
        raise CannotContinueError(f"Anchors need at least two complete models; there are {len(frame)}.")
    frozen = freeze(name, frame, spec, protocol, budget)
    written = write_anchors(path, frozen)
    click.echo(
        f"{'Froze' if written else 'Found the same'} anchors '{name}' ({len(frame)} models, digest {frozen.digest}) "
        f"{'in' if written else 'already in'} {path}.",
        err=True,
    )


def _suite_columns(frame: pd.DataFrame, benchmark: Benchmark, request: ResultRequest) -> pd.DataFrame:
    """Return the columns of the named suite; without a suite, all columns."""
    if request.suite is None:
        return frame
    datasets = list(benchmark.suite(request.suite).datasets)
    absent = [name for name in datasets if name not in frame.columns]
    if absent:
        raise CannotContinueError(
            f"{request.accuracies}: the suite '{request.suite}' needs a column for: {', '.join(absent)}."
        )
    return frame[datasets]


def table_and_anchors(
    workspace: Workspace, request: ResultRequest, metric: MetricSpec, *, fall_back: bool = False
) -> tuple[pd.DataFrame, Anchors, str]:
    """Read the user's file of accuracies and find its anchors.

    The default anchors are the suite's fixed ones, and unknown data sets are refused; with ``fall_back``, a file of
    other data sets is normalised by its own extrema. Returns the table, the anchors, and a sentence about them.
    """
    from harness.report.anchor_files import OWN, find_anchors, own_anchors, registry_anchors
    from harness.score import read_accuracies

    benchmark, name, path = workspace.benchmark, request.anchors, request.accuracies
    assert path is not None  # callers checked
    default = benchmark.suite(request.suite).anchors
    # A user with anchors of their own may name data sets as they like.
    names_are_free = name or default is None or fall_back
    check = None if names_are_free else sorted({*benchmark.datasets, *workspace.catalog.datasets})
    frame = _suite_columns(read_accuracies(path, known=check), benchmark, request)
    if name is not None and name != OWN:
        found = find_anchors(name, benchmark, workspace.runs.root, metric=metric, suite=None)
        return frame, found, ""
    if name is None and default is not None:
        fixed = registry_anchors(benchmark.anchor_table(default))
        if not fall_back or set(frame.columns) <= set(fixed.datasets):
            fixed.require(frame.columns)
            return frame, fixed, ""
    own = own_anchors(frame, str(path), "Add models to the file, or use --anchors NAME.")
    return frame, own, f"Normalised by the file's own best and worst values ({own.name})."


def _board_of_file(workspace: Workspace, request: ResultRequest, metric: MetricSpec) -> Leaderboard:
    from harness.report.ranking import ScoreSettings, leaderboard_of_table

    frame, anchors, note = table_and_anchors(workspace, request, metric)
    sizes = {dataset: facts.test for dataset, facts in workspace.benchmark.datasets.items()}
    board = leaderboard_of_table(frame, anchors, ScoreSettings(request.lam, metric.name), sizes)
    over = f"Scored over the {len(frame.columns)} data sets of {request.accuracies}: {', '.join(frame.columns)}."
    return replace(board, notes=tuple(text for text in (over, note, *board.notes) if text))


def _print_sensitivity(board: Leaderboard, format_: str, *, higher: bool, percent: bool) -> None:
    """Print the ranks at several lambdas as columns, and every change of places as a sentence."""
    from harness.score import lambda_sensitivity

    frame = board.accuracies if higher else -board.accuracies
    found = lambda_sensitivity(frame, board.anchors, percent=percent)
    ranks = {str(model): {f"{lam:g}": int(rank) for lam, rank in row.items()} for model, row in found.ranks.iterrows()}
    unranked = {f"{lam:g}": None for lam in found.ranks}
    full = [row.as_row() | {"rank_by_lambda": ranks.get(row.model, unranked)} for row in board.models]
    if format_ in ("json", "csv"):
        print_rows(full, format_)
    else:
        columns = {"model": "model", "xscore": "xScore", "mean": "mean", "variance": "variance"}
        columns |= {f"rank_by_lambda.{lam:g}": f"rank at {lam:g}" for lam in found.ranks}
        print_rows(full, format_, columns=columns, digits=dict.fromkeys(("xscore", "mean", "variance"), 3))
    for change in found.crossings.to_dict("records"):
        say(f"At lambda {change['lambda']:.2f} {change['overtaking']} passes {change['overtaken']}.")
    if found.crossings.empty:
        say("No two models change places between lambda 0 and 2.")


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


@click.command(cls=Command)
@click.option("--size", type=int, metavar="N", default=4, show_default=True, help="Data sets per subset.")
@click.option("--published", is_flag=True, help="Search on the published table.")
@click.option("--normalized", is_flag=True, help="Predict from normalised values instead of accuracies.")
@click.option(
    "--top", type=click.IntRange(1, 1_000_000), metavar="N", help="Rows to print.  [default: 10; all in json and csv]"
)
@click.option(
    "--resamples",
    type=click.IntRange(0, 1_000_000),
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

    if published:
        request.refuse_others("--published uses the frozen {}")
    if request.accuracies is not None:
        request.refuse_others("The {} of a file given with --accuracies is unknown")
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
            say(sentence)


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
    note = " ".join([f"Budget: {collected.budget}.", *([f"Left out, incomplete: {', '.join(gaps)}."] if gaps else [])])
    return frame.dropna(), board.anchors, note


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
