"""Many cells -> a table that can still be read: how many are in which state, and which need a look."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import get_args

import click

from harness.cli.output import print_rows, say
from harness.cli.plan import COLUMNS, DIGITS
from harness.results.grid import Cell, State

MANY = 1000
"""Above so many jobs, the formats for people count instead of listing."""

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
        click.echo()
        print_rows([c.as_row(metric) for c in restless[:_LISTED]], format_, columns=COLUMNS, digits=DIGITS)
    more = f" {len(restless) - _LISTED:,} of those are not listed." if len(restless) > _LISTED else ""
    say(
        f"{len(cells):,} jobs are too many to list: they are counted, and those that are neither done nor missing are "
        f"listed.{more} --format csv and json list every one."
    )
