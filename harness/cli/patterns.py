"""``harness patterns``: the architectural elements of models, and their association with the score."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from harness.cli.common_options import ResultRequest, complete_models, format_option, result_options
from harness.cli.leaderboard import measured_board
from harness.cli.output import Command, emit, print_rows
from harness.errors import CannotContinueError, PluginError

if TYPE_CHECKING:
    from harness.patterns.associate import Association
    from harness.patterns.describe import Described
    from harness.registry import Benchmark
    from harness.workspace import Workspace

_ASSOCIATION = {
    "element": "element",
    "models_with": "with",
    "models_without": "without",
    "effect": "effect",
    "interval": "95 % interval",
    "p_value": "p",
    "p_smallest": "smallest p",
    "p_adjusted": "p (Holm)",
    "partial": "r given MACs",
    "partial_p": "p",
}


@click.command(cls=Command)
@click.argument("models", metavar="[MODEL]...", nargs=-1, shell_complete=complete_models)
@result_options()
@click.option("--association", is_flag=True, help="Print the elements' association with the score (json, csv too).")
@format_option
def patterns(models: tuple[str, ...], request: ResultRequest, association: bool, format_: str) -> None:
    """Show the architectural elements of the paper's Table 6 that a model has, judged by its operations.

    Examines every installed model unless some are named. Without names, it also compares the scores of models with and
    without each element, and relates scores to multiply-adds, which differ far more than the paper says.

    \b
    harness patterns mynet
    harness patterns
    harness patterns --suite pocket --association --format json
    """
    if request.suite is None:
        request.refuse_others("Without --suite the scores are the published ones, of the frozen {}")
    workspace = request.open()
    benchmark, catalog = workspace.benchmark, workspace.catalog
    from harness.patterns.describe import describe_models

    described, failures = describe_models(catalog, models or catalog.models, benchmark.counting)
    for failure in failures:
        click.echo(failure, err=True)
    if not described:
        raise PluginError("No model could be examined; the reasons are above.")
    for one in described:
        if one.note:
            click.echo(f"{one.model}: the multiply-adds could not be counted: {one.note}", err=True)
    people = format_ not in ("json", "csv")
    if people or not association:
        _print_elements(described, format_)
    if association or (people and not models):
        scores, source = _scores(workspace, request)
        if people:
            emit()
        macs = compute_of(benchmark, described) if request.suite is None else compute_of(None, described)
        _print_association(described, scores, macs, source, format_)


def element_rows(described: list[Described]) -> list[dict[str, Any]]:
    """Return one row per model: its elements with counts and examples, its parameters and multiply-adds."""
    return [
        {
            "model": one.model,
            "parameters": one.parameters,
            "macs": one.macs,
            "elements": one.present,
            "count": {name: element.count for name, element in one.elements.items()},
            "example": {name: element.example for name, element in one.elements.items() if element.present},
        }
        for one in described
    ]


def _print_elements(described: list[Described], format_: str) -> None:
    rows = element_rows(described)
    if format_ in ("json", "csv"):
        print_rows(rows, format_)
        return
    # Twelve elements across do not fit a terminal; models across do, up to about a dozen.
    names = {name: element.title for one in described for name, element in one.elements.items()}
    table: list[dict[str, Any]] = [
        {"element": title, **{one.model: "x" if one.elements[name].present else "" for one in described}}
        for name, title in names.items()
    ]
    table.append({"element": "parameters, M", **{one.model: f"{one.parameters / 1e6:.2f}" for one in described}})
    macs = {one.model: "-" if one.macs is None else f"{one.macs / 1e6:,.0f}" for one in described}
    table.append({"element": "MACs, M", **macs})
    print_rows(table, format_)


def _scores(workspace: Workspace, request: ResultRequest) -> tuple[dict[str, float], str]:
    from harness.report.published import build_published
    from harness.workspace.finished import collect

    if request.suite is None:
        board = build_published(workspace.benchmark, lam=request.lam)
        source = (
            "Scores and MACs: as published for the authors' own variants, some of which are over the budget. The "
            "elements are those of the installed models."
        )
    else:
        collected = collect(workspace, suite=request.suite)
        board = measured_board(workspace, collected, lam=request.lam)
        source = (
            f"Scores: measured here on the suite '{request.suite}' at the budget {collected.budget.name} "
            f"({board.anchors.name})."
        )
    return board.scores, source


def compute_of(benchmark: Benchmark | None, described: list[Described]) -> dict[str, float]:
    """Return multiply-adds by model: those of the published variants if a benchmark is given, else the counted."""
    counted = {one.model: float(one.macs) for one in described if one.macs is not None}
    if benchmark is None or benchmark.published is None or not benchmark.published.macs:
        return counted
    return {model: float(macs) for model, macs in benchmark.published.macs.items()}


def association_rows(
    described: list[Described], scores: dict[str, float], macs: dict[str, float]
) -> tuple[list[dict[str, Any]], list[Association]]:
    """Return one row per element, and the same as objects."""
    from dataclasses import asdict

    from harness.patterns.associate import associate

    found = associate({one.model: one.present for one in described}, scores, macs)
    return [asdict(row) for row in found], found


def _print_association(
    described: list[Described], scores: dict[str, float], macs: dict[str, float], source: str, format_: str
) -> None:
    from harness.patterns.associate import confound, warnings

    rows, found = association_rows(described, scores, macs)
    titles = {name: element.title for one in described for name, element in one.elements.items()}
    if format_ in ("json", "csv"):
        print_rows(rows, format_)
    else:
        shown = [
            row | {"element": titles[row["element"]], "interval": interval_text(row["lower"], row["upper"])}
            for row in rows
        ]
        digits = dict.fromkeys(("p_value", "p_smallest", "p_adjusted", "partial_p"), 3)
        print_rows(shown, format_, columns=_ASSOCIATION, digits=digits)
    both = [one.model for one in described if one.model in scores]
    click.echo(source, err=True)
    try:
        cost = confound(scores, macs)
    except CannotContinueError as error:
        click.echo(str(error), err=True)
    else:
        click.echo(confound_sentence(cost), err=True)
    for sentence in warnings(len(both), found, titles):
        click.echo(sentence, err=True)


def interval_text(lower: float | None, upper: float | None) -> str | None:
    """Format an interval with two digits; return None if there is none."""
    return None if lower is None or upper is None else f"{lower:.2f} to {upper:.2f}"


def confound_sentence(cost: Any) -> str:
    """Return sentences about the association of multiply-adds with the score."""
    return (
        f"MACs differ {cost.spread:.0f}-fold at about equal parameters. Score against log MACs: r = {cost.pearson:.2f} "
        f"(p = {cost.pearson_p:.3f}); by ranks: rho = {cost.spearman:.2f} (p = {cost.spearman_p:.3f}). "
        f"No model that is as cheap scores higher than: {', '.join(cost.pareto)}."
    )
