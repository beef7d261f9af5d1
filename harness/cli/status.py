"""``harness status``: the grid of jobs and their states."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import click

from harness.api import Cell, Job, State
from harness.catalog import Catalog
from harness.cli.common_options import Request, format_option, selection_options
from harness.cli.output import Command, emit, print_rows, say
from harness.cli.plan import COLUMNS, DIGITS, time_left, with_other_seeds
from harness.errors import HarnessError
from harness.guard import guarded
from harness.machine import gc_paused
from harness.plan import build_plan
from harness.results.store import RunsFolder, executor_folder
from harness.workspace.survey import left_out, survey_plan


@click.command(cls=Command)
@selection_options
@format_option
def status(request: Request, format_: str) -> None:
    """Show the state of every job of a suite: done, running, failed, stale or missing.

    Covers every installed model unless some are named, and every seed with results. Of more than 1,000 jobs, the
    formats for people count the states by model and data set, and list the jobs that are neither done nor missing.

    \b
    harness status --suite pocket
    harness status mynet --format json
    """
    workspace = request.open()
    selection = replace(request.selection, all_models=request.selection.all_models or not request.selection.models)
    chosen = build_plan(workspace.benchmark, workspace.catalog, selection)
    with gc_paused():
        cells = survey_plan(workspace, with_other_seeds(workspace, chosen), brief=True).cells
    cells = _with_queues(workspace.catalog, workspace.runs, cells)
    metric = chosen.protocol.metric
    if len(cells) > MANY and format_ not in ("json", "csv"):
        print_overview(cells, metric, format_)
    else:
        print_rows([cell.as_row(metric) for cell in cells], format_, columns=COLUMNS, digits=DIGITS)
    counts = Counter(cell.state for cell in cells)
    say(", ".join(f"{count} {state}" for state, count in sorted(counts.items())) + time_left(cells))
    for sentence in left_out(workspace, chosen.suite):
        say(sentence)


def _with_queues(catalog: Catalog, runs: RunsFolder, cells: Sequence[Cell]) -> tuple[Cell, ...]:
    """Add to the unfinished jobs their state in the queue, if an executor has one."""
    queued: dict[Job, str] = {}
    for name, offer in catalog.executors.items():
        folder = executor_folder(runs, name)
        if offer.spec.waiting is None or not folder.is_dir():
            continue
        try:
            with guarded():
                queued |= dict(offer.spec.waiting(folder))
        except HarnessError as error:
            say(f"Note: the queue of the executor '{name}' is unknown. {error}")
    if not queued:
        return tuple(cells)
    return tuple(
        replace(cell, detail=", ".join(filter(None, (cell.detail, queued[cell.job]))))
        if cell.job in queued and cell.state != "done"
        else cell
        for cell in cells
    )


MANY = 1000
"""Number of jobs above which the formats for people count instead of listing."""


_STATES: tuple[State, ...] = get_args(State)


_LISTED = 100


_QUIET = ("done", "missing")


def print_overview(cells: Sequence[Cell], metric: str, format_: str) -> None:
    """Print the number of jobs in each state by model and data set, and list those that are neither done nor missing.

    Args:
        cells: Every job, in any order.
        metric: What is averaged over the seeds that are done, in percent.
        format_: ``table``, ``markdown`` or ``latex``.
    """
    groups: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[cell.job.model, cell.job.dataset].append(cell)
    rows = []
    for (model, dataset), mine in groups.items():
        counts = Counter(cell.state for cell in mine)
        found = [cell.result.metrics[metric] for cell in mine if cell.state == "done" and cell.result]
        accuracy = sum(found) / len(found) if found else None
        by_state: dict[str, int] = {state: counts[state] for state in _STATES}
        rows.append({"model": model, "dataset": dataset, **by_state, "accuracy": accuracy})
    titles: dict[str, str] = {state: state for state in _STATES}
    columns = {"model": "model", "dataset": "data set", **titles, "accuracy": "mean accuracy %"}
    print_rows(rows, format_, columns=columns, digits={"accuracy": 2})
    restless = [cell for cell in cells if cell.state not in _QUIET]
    if restless:
        emit()
        print_rows([c.as_row(metric) for c in restless[:_LISTED]], format_, columns=COLUMNS, digits=DIGITS)
    more = f" {len(restless) - _LISTED:,} more are not listed." if len(restless) > _LISTED else ""
    say(
        f"{len(cells):,} jobs are too many to list: the table counts them, and lists those that are neither done nor "
        f"missing.{more} --format csv and json list all."
    )
