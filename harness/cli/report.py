"""``harness report``: write the results of a suite as one page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.common_options import ResultRequest, UserPath, protocol_option, result_options
from harness.cli.leaderboard import ablation_of, measured_board, published_board
from harness.cli.output import Command, say
from harness.errors import CannotContinueError, HarnessError, WrongUseError
from harness.files import absolute_path
from harness.protocol_file import describe_ablation

if TYPE_CHECKING:
    from harness.api import RunResult
    from harness.catalog import Catalog
    from harness.registry import Benchmark, Suite
    from harness.report.content import PageContent, Patterns
    from harness.report.rows import Leaderboard
    from harness.workspace import Workspace


@click.command(cls=Command)
@click.argument("out", type=UserPath(dir_okay=False))
@result_options(protocol_option)
@click.option("--published", is_flag=True, help="Show only the published benchmark, even if there are finished runs.")
@click.option(
    "--figures",
    type=UserPath(file_okay=False),
    metavar="DIR",
    help="Also write every figure as PNG, SVG and PDF.",
)
@click.option("--no-patterns", is_flag=True, help="Leave out the architectural patterns, which build every model.")
def report(out: Path, request: ResultRequest, published: bool, figures: Path | None, no_patterns: bool) -> None:
    """Write one self-contained page about a suite: leaderboard, figures, patterns and methods.

    The page is one HTML file that needs no network and no server. Without finished runs it shows the published
    benchmark.

    \b
    harness report report.html --suite pocket
    harness report paper.html --published --figures figures/
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise WrongUseError(f"{out} does not end in .html; the report is an HTML page.")
    if published:
        request.refuse_others("--published uses the frozen {}")
    place, beside = absolute_path(out), absolute_path(figures or "")  # building models may change the folder
    from harness.report.figures import altair
    from harness.report.page import build_figures, page_size, write_figures, write_page

    altair()  # fail before minutes of work if it is not installed
    content = gather(request, published=published, patterns=not no_patterns)
    drawn = build_figures(content)
    write_page(place, content, drawn)
    say(f"Wrote {out} ({page_size(place.read_text(encoding='utf-8'))}).")
    if figures is not None:
        paths = write_figures(beside, drawn)
        say(f"Wrote {len(paths)} files to {figures}.")


def gather(request: ResultRequest, *, published: bool, patterns: bool) -> PageContent:
    """Collect everything that the page shows."""
    from harness.data.prepare import known_leaks
    from harness.report.content import PageContent, describe_methods, gather_confusions, gather_histories
    from harness.report.published import published_accuracies, published_anchors
    from harness.score import search_subsets

    workspace, lam = request.open(), request.lam
    benchmark, catalog = workspace.benchmark, workspace.catalog
    table = search = None
    if benchmark.published is not None:
        # The published table uses the registry's own protocol and budget, also beside results of others.
        other = request.protocol or request.budget
        frozen = replace(request, protocol=None, budget=None).open() if other else workspace
        table = published_board(frozen, None, lam)
        search = search_subsets(published_accuracies(benchmark), published_anchors(benchmark), lam=lam)
    chosen, board, results, notes = _subject(workspace, request, table, published=published)
    measured = bool(results)
    protocol = benchmark.protocol(chosen.protocol)
    own = describe_ablation(benchmark, protocol)
    leaks = known_leaks(catalog, chosen.datasets, workspace.data, protocol.input_size)
    titles = {name: _title(catalog, name) + (" *" if name in leaks else "") for name in chosen.datasets}
    classes = {name: catalog.datasets[name].spec.classes for name in chosen.datasets if name in catalog.datasets}
    confusions, problems = gather_confusions(workspace.runs, results, classes)
    how, deviations = describe_methods(benchmark, chosen, board, results)
    leakage = "; ".join(f"{titles[name]}: {sentence}" for name, sentence in leaks.items())
    how = [*how, ("Known leakage", leakage or "none; 'harness audit' looks for it")]
    return PageContent(
        title=f"{'Ablation, not the frozen benchmark' if own else 'xScore report'}: {chosen.title}",
        lead=_lead(
            measured=measured,
            models=len(board.models),
            sets=len(titles),
            protocol="a protocol of the user's own" if own else "one frozen protocol",
        ),
        titles=titles,
        board=board,
        measured=measured,
        published=table,
        proxy=benchmark.published.proxy if benchmark.published else "",
        search=search,
        patterns=_patterns(benchmark, catalog, board, measured=measured) if patterns else None,
        histories=gather_histories(workspace.runs, results),
        confusions=confusions,
        methods=how,
        deviations=[*own, *deviations, *problems],
        notes=[*own, *notes],
    )


def _subject(
    workspace: Workspace, request: ResultRequest, table: Leaderboard | None, *, published: bool
) -> tuple[Suite, Leaderboard, tuple[RunResult, ...], tuple[str, ...]]:
    """Return the suite, the board, the results and the notes of the page: the user's own if there are any.

    Raises:
        CannotContinueError: the suite that the user named has no results, or there is no published table either.
    """
    from harness.report.published import full_suite
    from harness.workspace.finished import collect

    found = None if published else collect(workspace, suite=request.suite)
    named = request.suite or request.budget or ablation_of(workspace.benchmark, request.suite)
    if found is not None and named:
        found.require_results()
    if found is not None and found.results:
        board = measured_board(workspace, found, lam=request.lam)
        return found.suite, board, found.results, (*found.notes, *board.notes)
    if table is None:
        raise CannotContinueError("There is nothing to report: no finished runs, and no published table.")
    return full_suite(workspace.benchmark), table, (), tuple(table.notes)


def _title(catalog: Catalog, name: str) -> str:
    title = catalog.datasets[name].spec.title if name in catalog.datasets else ""
    return title or name.replace("_", " ")


def _lead(*, measured: bool, models: int, sets: int, protocol: str) -> str:
    if measured:
        return (
            f"{models} small vision models, trained from scratch under {protocol} on {sets} data sets, and scored for "
            "being good everywhere."
        )
    return f"The published accuracies of {models} small vision models on {sets} data sets, scored again and examined."


def _patterns(benchmark: Benchmark, catalog: Catalog, board: Leaderboard, *, measured: bool) -> Patterns | None:
    from harness.cli.patterns import compute_of
    from harness.patterns.describe import describe_models
    from harness.report.content import gather_patterns

    names = [row.model for row in board.models if row.model in catalog.models]
    try:
        described, failures = describe_models(catalog, names, benchmark.counting)
    except HarnessError as error:
        say(f"Without patterns: {error}")
        return None
    for failure in failures:
        say(failure)
    return gather_patterns(described, board.scores, compute_of(None if measured else benchmark, described))
