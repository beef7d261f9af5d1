"""``harness plan``: the grid of jobs before it is trained, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from harness.api import Job
from harness.catalog import Catalog
from harness.cli.options import Request, format_option, selection_options
from harness.cli.output import print_rows
from harness.cli.progress import duration
from harness.plan import Plan, build_plan, dataset_facts
from harness.registry import Benchmark
from harness.results.grid import Cell

if TYPE_CHECKING:
    from harness.execute.survey import Survey

COLUMNS = {
    "model": "model",
    "dataset": "data set",
    "seed": "seed",
    "state": "state",
    "accuracy": "accuracy %",
    "seconds": "seconds",
    "detail": "",
}
DIGITS = {"accuracy": 2, "seconds": 1}


@click.command()
@selection_options
@format_option
def plan(request: Request, format_: str) -> None:
    """Show which jobs 'harness run' would carry out, and which are done.

    \b
    harness plan --all --suite pocket
    harness plan mynet --seeds 3
    """
    benchmark, catalog = request.load()
    show_plan(benchmark, catalog, build_plan(benchmark, catalog, request.selection), request, format_)


def read_survey(benchmark: Benchmark, catalog: Catalog, plan: Plan, request: Request) -> Survey:
    """Tell how a plan stands, from what earlier commands remember of the models."""
    from harness.execute.survey import Surveyor

    return Surveyor(benchmark, catalog, request.runs, request.data_root, remember=True).survey(plan)


def show_plan(benchmark: Benchmark, catalog: Catalog, plan: Plan, request: Request, format_: str) -> None:
    """Print the jobs of a plan and how each stands; sentences about the whole go to stderr."""
    survey = read_survey(benchmark, catalog, plan, request)
    rows = [cell.as_row(plan.protocol.metric) for cell in survey.cells]
    print_rows(rows, format_, columns=COLUMNS, digits=DIGITS)
    done = sum(cell.state == "done" for cell in survey.cells)
    images = training_images(benchmark, catalog, plan, [c.job for c in survey.cells if c.state != "done"])
    click.echo(
        f"{len(survey.cells)} jobs under {plan.protocol.name}: {done} done, {len(survey.cells) - done} to run, "
        f"{images:,} training images{time_left(survey.cells)}",
        err=True,
    )
    for sentence in (*survey.over_budget.values(), *survey.broken.values()):
        click.echo(f"Would be refused: {sentence}", err=True)


def training_images(benchmark: Benchmark, catalog: Catalog, plan: Plan, jobs: Sequence[Job]) -> int:
    """How many images the jobs train on: whole batches, times the epochs."""
    protocol = plan.protocol
    sizes = {name: dataset_facts(benchmark, catalog, name).train for name in plan.datasets}
    return sum(sizes[job.dataset] // protocol.batch_size * protocol.batch_size * protocol.epochs for job in jobs)


def time_left(cells: Sequence[Cell]) -> str:
    """Say how long the jobs that are not done would take at the mean of those that are; a full stop if none is."""
    times = [cell.result.seconds for cell in cells if cell.state == "done" and cell.result]
    missing = sum(cell.state != "done" for cell in cells)
    if not times or not missing:
        return "."
    return f"; about {duration(missing * sum(times) / len(times))} left at the pace of those done."
