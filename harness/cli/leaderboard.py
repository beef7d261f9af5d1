"""``harness leaderboard``: rank models by xScore."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import click

from harness.api.jobs import STANDARD_BUDGET
from harness.cli.common_options import (
    ResultRequest,
    anchors_option,
    complete_models,
    format_option,
    metric_option,
    protocol_option,
    result_options,
)
from harness.cli.output import Command, print_rows, say
from harness.errors import CannotContinueError, WrongUseError
from harness.registry import Benchmark, Budget

if TYPE_CHECKING:
    from harness.report.rows import BoardRow, Leaderboard
    from harness.workspace import Workspace
    from harness.workspace.finished import Collected


@click.command(cls=Command)
@result_options(metric_option, anchors_option, protocol_option)
@click.option("--published", is_flag=True, help="Show the published table, with your finished models in it.")
@click.option(
    "--baseline/--no-baseline", default=None, help="Show the majority-class row.  [default: not in json, csv]"
)
@click.option(
    "--separate",
    nargs=2,
    metavar="MODEL MODEL",
    shell_complete=complete_models,
    help="Show how many more seeds, on which data set, would separate these two.",
)
@format_option
def leaderboard(
    request: ResultRequest, published: bool, baseline: bool | None, separate: tuple[str, str] | None, format_: str
) -> None:
    """Rank the installed models by xScore: the mean of normalised accuracies minus lambda times their variance.

    Only finished and current results count; 'harness status' shows the others. Each rank has the interval that the
    noise allows; models that share a letter cannot be separated. With --published and no --suite, the score covers all
    published data sets.

    \b
    harness leaderboard --suite pocket
    harness leaderboard --published
    harness leaderboard --suite pocket --separate mynet mobilenet
    harness leaderboard --lambda 1 --format latex
    """
    from harness.data.prepare import known_leaks
    from harness.workspace.finished import collect

    if published:
        request.refuse_others("--published uses the frozen {}")
    workspace = request.open()
    if published and (request.metric or request.anchors):
        raise WrongUseError("--published uses top-1 and the published anchors; leave --metric and --anchors out.")
    if published:
        board = published_board(workspace, request.suite, request.lam)
        budget = None  # the published models are the authors' own variants, some of them larger
        notes: Iterable[str] = board.notes
    else:
        collected = collect(workspace, suite=request.suite, metric=request.metric, brief=True)
        board = measured_board(workspace, collected, lam=request.lam, anchors_name=request.anchors)
        budget = collected.budget
        notes = (f"Budget: {budget}.", *collected.notes, *board.notes)
    if separate:
        _print_seeds(board, *separate, format_)
        return
    shown = format_ not in ("json", "csv") if baseline is None else baseline
    rows = [row for row in board.rows if shown or row.is_model]
    names = list(board.rows[0].accuracy) if board.rows else []
    benchmark = workspace.benchmark
    input_size = benchmark.protocol(benchmark.suite(request.suite).protocol).input_size
    leaks = known_leaks(workspace.catalog, names, workspace.data, input_size)
    print_board(rows, format_, leaking=leaks, ablation=ablation_of(benchmark, request.suite), budget=budget)
    for note in (*notes, *(f"* {name}: {sentence}." for name, sentence in leaks.items())):
        say(note)


def ablation_of(benchmark: Benchmark, suite: str | None) -> str:
    """Return the name of the user's own protocol that a suite uses, or an empty text."""
    name = benchmark.suite(suite).protocol
    return name if name in benchmark.ablations else ""


def _print_seeds(board: Leaderboard, one: str, other: str, format_: str) -> None:
    """Print the seeds that separate two models: one row per data set, and a sentence on stderr."""
    from harness.score import seeds_needed

    if board.uncertainty is None:
        raise CannotContinueError("The noise of this metric is unknown, so the seeds needed cannot be computed.")
    plan = seeds_needed(board.uncertainty, one, other)
    rows = [
        {
            "model": one,
            "other": other,
            "dataset": name,
            "seeds_alone": needed,
            "seeds_in_plan": plan.plan.get(name, 0),
            "separated": plan.separated,
            "possible": plan.possible,
            "difference": plan.difference,
            "error": plan.error,
            "error_needed": plan.error_needed,
            "error_floor": plan.error_floor,
        }
        for name, needed in plan.single.items()
    ]
    columns = {"dataset": "data set", "seeds_alone": "more seeds, only here", "seeds_in_plan": "cheapest plan"}
    print_rows(rows, format_, columns=columns)
    say(plan.reason)


def measured_board(
    workspace: Workspace, collected: Collected, *, lam: float, anchors_name: str | None = None
) -> Leaderboard:
    """Rank a suite's finished results and the majority-class baseline.

    Raises:
        CannotContinueError: nothing is finished, or too little to rank.
    """
    from harness.report.anchor_files import OWN, find_anchors
    from harness.report.ranking import Measurements, ScoreSettings, build_leaderboard
    from harness.results.predictions import baseline_values

    collected.require_results()
    anchors = None
    if anchors_name and anchors_name != OWN:
        anchors = find_anchors(
            anchors_name,
            workspace.benchmark,
            workspace.runs.root,
            metric=collected.metric,
            suite=collected.suite,
        )
    chosen = collected.suite
    if anchors_name == OWN:
        import msgspec

        chosen = msgspec.structs.replace(chosen, anchors=None)
    jobs = [result.job for result in collected.results]
    measured = Measurements(
        collected.results,
        values=collected.values,
        test_sizes={name: workspace.facts(name).test for name in chosen.datasets},
        baseline=baseline_values(collected.runs, jobs, workspace.catalog.metric(collected.metric.name)),
    )
    settings = ScoreSettings(lam, collected.metric.name, higher_is_better=collected.metric.higher_is_better)
    try:
        return build_leaderboard(workspace.benchmark, chosen, measured, settings, anchors)
    except CannotContinueError as error:
        # Results that are not counted are often the reason why there is too little to rank.
        raise CannotContinueError(" ".join([str(error), *collected.notes])) from error


def published_board(workspace: Workspace, suite: str | None, lam: float) -> Leaderboard:
    """Rank the published models together with the user's finished ones."""
    from harness.report.published import build_published, full_suite
    from harness.report.ranking import Measurements, ScoreSettings, build_leaderboard
    from harness.workspace.finished import collect

    benchmark = workspace.benchmark
    chosen = benchmark.suite(suite) if suite else full_suite(benchmark)
    collected = collect(workspace, suite=full_suite(benchmark).name)
    measured = None
    if any(not result.over_budget for result in collected.results):
        measured = build_leaderboard(
            benchmark, full_suite(benchmark), Measurements(collected.results), ScoreSettings(lam)
        )
    return build_published(benchmark, chosen, lam=lam, measured=measured)


def print_board(
    rows: Sequence[BoardRow],
    format_: str,
    *,
    leaking: Iterable[str] = (),
    ablation: str = "",
    budget: Budget | None = None,
) -> None:
    """Print a leaderboard: everything in json and csv, ``board_columns`` in the formats for people.

    An asterisk marks data sets that are known to share images between train and test. Scores under a user's own
    protocol, or at another budget than the standard one, are marked in each row or in the heading, so that a copied
    table keeps the mark.
    """
    from harness.report.rows import board_columns

    if format_ in ("json", "csv"):
        own = ({"budget": budget.name} if budget else {}) | ({"ablation": ablation} if ablation else {})
        print_rows([row.as_row() | own for row in rows], format_)
        return
    columns = board_columns(rows, "command", {name: f"{name.replace('_', ' ')} *" for name in leaking})
    titles = {column.key: column.title for column in columns}
    if ablation:
        titles["xscore"] += " (ablation)"
    if budget and budget.name != STANDARD_BUDGET:
        titles["xscore"] += f" ({budget.name})"
    shown = [{column.key: column.cell(row) for column in columns} for row in rows]
    print_rows(shown, format_, columns=titles, digits={column.key: column.digits for column in columns})
