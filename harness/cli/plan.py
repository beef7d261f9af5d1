"""``harness plan``: the jobs of a run and their estimated cost."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import click

from harness.api import Cell, Job
from harness.api.jobs import STANDARD_BUDGET
from harness.catalog import Catalog
from harness.cli.common_options import Request, format_option, selection_options
from harness.cli.output import Command, print_rows, say, shown
from harness.cli.progress import duration
from harness.cli.run_options import executor_option, place_options
from harness.execute.resources import ResourceRequest
from harness.machine import free_bytes, gigabytes
from harness.plan import Plan, build_plan
from harness.price.estimate import Estimator, Setting
from harness.price.price import longest_first
from harness.workspace.survey import Survey, left_out, survey_plan

if TYPE_CHECKING:
    from harness.price.price import Price
    from harness.workspace import Workspace

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
_BASES = {"runs": "finished runs", "timed": "timed", "scaled": "scaled", None: ""}
_FIRST_SECONDS = 1.0
_LINE_SECONDS = 10.0  # between two lines of progress without a terminal


def _number(_: click.Context, parameter: click.Parameter, given: float | None) -> float | None:
    if given is not None and math.isnan(given):
        raise click.BadParameter("nan is no number.", param=parameter)
    return given


@click.command(cls=Command)
@selection_options
@place_options
@executor_option
@click.option(
    "--watts",
    type=click.FloatRange(0, 1e9),
    callback=_number,
    metavar="W",
    help="Power that the machine draws while training.",
)
@click.option("--quick", is_flag=True, help="Time nothing: estimate from finished runs and earlier timings.")
@click.option("--fresh", is_flag=True, help="Repeat all timings, for instance after a change of hardware.")
@format_option
def plan(
    request: Request, resources: ResourceRequest, executor: str, watts: float | None, quick: bool, fresh: bool,
    format_: str,
) -> None:  # fmt: skip
    """Show the jobs of 'harness run': which are done, and the estimated cost of the others.

    Estimates come from finished runs on this machine, else from a few real training steps of each model on each data
    set, which are timed once and remembered.

    \b
    harness plan --all --suite pocket
    harness plan mynet --seeds 3 --jobs 2
    """
    workspace = request.open()
    chosen = build_plan(workspace.benchmark, workspace.catalog, request.selection)
    if workspace.catalog.executor(executor).spec.remote:
        say(f"The estimates are for this machine; the executor '{executor}' runs the jobs on others.")
    setting = setting_of(resources, workspace.catalog, watts=watts)
    show_plan(workspace, chosen, Estimator(workspace, setting, fresh=fresh), format_, timing=not quick)


def show_plan(workspace: Workspace, plan: Plan, estimator: Estimator, format_: str, *, timing: bool) -> None:
    """Print the jobs of a plan with their states and prices; the totals go to stderr.

    Args:
        workspace: The place of work.
        plan: The jobs.
        estimator: Prices them.
        format_: The format of the rows.
        timing: Whether to time models without an estimate.
    """
    # Finished runs of other seeds are evidence for the time of a job, too.
    with _ProgressLine(estimator.setting) as line:
        survey = survey_plan(workspace, with_other_seeds(workspace, plan), say=line.say)
        if timing:
            estimator.time_missing(plan, survey.cells, line.say_timing)
    price = estimator.price(plan, survey.cells)
    cells = survey.cells[: len(plan.jobs)]
    _print_cells(plan, cells, price, format_)
    done = sum(cell.state == "done" for cell in cells)
    among = "" if plan.suite.budget == STANDARD_BUDGET else f", budget {plan.suite.budget}"
    images = training_images(workspace, plan, [c.job for c in cells if c.state != "done"])
    say(
        f"{len(cells)} jobs under {plan.protocol.name}{among}: {done} done, {len(cells) - done} to run, "
        f"{images:,} training images."
    )
    for sentence in (*price_sentences(price, estimator.setting, workspace), *price.notes):
        say(sentence)
    for sentence in left_out(workspace, plan.suite):
        say(sentence)
    for sentence in (*survey.over_budget.values(), *survey.broken.values()):
        say(f"Would be refused: {sentence}")


def _print_cells(plan: Plan, cells: Sequence[Cell], price: Price, format_: str) -> None:
    by_job = {one.job: one for one in price.jobs}
    nothing = dict.fromkeys(("estimated_seconds", "estimated_from", "remaining_seconds"))
    rows = [
        cell.as_row(plan.protocol.metric) | (by_job[cell.job].as_columns() if cell.job in by_job else nothing)
        for cell in cells
    ]
    if format_ not in ("json", "csv"):
        for row in rows:
            row["expected"], row["basis"] = _expected(row["remaining_seconds"]), _BASES[row["estimated_from"]]
    shown = {name: title for name, title in COLUMNS.items() if name != "detail"}
    print_rows(rows, format_, columns=shown | {"expected": "expected", "basis": "from", "detail": ""}, digits=DIGITS)


def setting_of(asked: ResourceRequest, catalog: Catalog, *, watts: float | None = None) -> Setting:
    """Turn a request for resources of this machine into the setting of prices, without importing torch if possible.

    Raises:
        WrongUseError: the options contradict each other.
        CannotContinueError: this machine has no such device.
    """
    from harness.execute.resources import resolve_resources
    from harness.machine import find_device
    from harness.price.timings import Timings, threads_per_job

    device = find_device(asked.device)
    plain = asked.jobs is None or (asked.jobs.isdecimal() and int(asked.jobs) > 0)
    if device.kind == "cpu" and asked.jobs_per_gpu is None and plain:
        jobs = int(asked.jobs or 1)
        return Setting(device, jobs, threads_per_job(jobs, asked.threads, Timings()), watts)
    here = replace(asked, detach=False, in_process=False, executor_options=())
    resources = resolve_resources(here, catalog.executor("local").spec, accelerator=False)
    threads = resources.threads or threads_per_job(1, None, Timings())
    return Setting(device, len(resources.devices), threads, watts, devices=len(set(resources.devices)))


def in_order(
    workspace: Workspace, plan: Plan, survey: Survey, todo: Sequence[Job], asked: ResourceRequest
) -> list[Job]:
    """Order jobs, longest first within each seed, by earlier timings on these resources; nothing is timed."""
    estimator = Estimator(workspace, setting_of(asked, workspace.catalog))
    return list(longest_first(todo, estimator.expected_seconds(plan, survey.cells)))


def with_other_seeds(workspace: Workspace, plan: Plan) -> Plan:
    """Append the jobs on disk of a plan's models and data sets to the plan."""
    planned = set(plan.jobs)
    on_disk = [
        job
        for job in workspace.runs.jobs(plan.protocol.name, plan.suite.budget)
        if job.model in plan.models and job.dataset in plan.datasets and job not in planned
    ]
    return replace(plan, jobs=(*plan.jobs, *on_disk))


def price_sentences(price: Price, setting: Setting, workspace: Workspace) -> list[str]:
    """Return sentences about a plan's cost: time, end, disk and energy."""
    if not price.jobs:
        return []
    threads = f"{setting.threads} thread{'s' if setting.threads > 1 else ''}"
    where = f"{setting.device}, {threads} per job"
    if len(price.unknown) == len(price.jobs):
        return [f"There is no estimate yet on {where}; 'harness plan' without --quick times a few steps."]
    known = [one for one in price.jobs if one.seconds is not None]
    longest = max(known, key=lambda one: one.remaining)
    but = f" without the {len(price.unknown)} that have no estimate" if price.unknown else ""
    sentences = [
        f"Time on {where}: {duration(price.seconds)} of work{but}, the longest job {duration(longest.remaining)} "
        f"({longest.job}); with --jobs {setting.jobs} about {duration(price.finish)}, "
        f"which would end {_clock(price.finish)}."
    ]
    free = f"{gigabytes(free_bytes(workspace.runs.root))} are free at {shown(workspace.runs.root)}"
    disk = f"Disk: up to {gigabytes(price.runs_bytes)} for the runs; {free}."
    if price.unprepared:
        disk += (
            f" Data sets that are not prepared take up to {gigabytes(price.data_bytes)} more under "
            f"{workspace.data}: {', '.join(price.unprepared)}."
        )
    sentences.append(disk)
    stated = "from --watts" if setting.watts else "an assumption; set yours with --watts"
    sentences.append(
        f"Energy: about {price.kilowatt_hours:.3g} kWh, if the machine draws {price.watts:g} W ({stated})."
    )
    return sentences


def training_images(workspace: Workspace, plan: Plan, jobs: Sequence[Job]) -> int:
    """Return the number of images that the jobs train on: whole batches, times the epochs."""
    protocol = plan.protocol
    sizes = {name: workspace.facts(name).train for name in plan.datasets}
    return sum(sizes[job.dataset] // protocol.batch_size * protocol.batch_size * protocol.epochs for job in jobs)


def time_left(cells: Sequence[Cell]) -> str:
    """Return the estimated time left, from the mean of the finished jobs ("." if there are none)."""
    times = [cell.result.seconds for cell in cells if cell.state == "done" and cell.result]
    missing = sum(cell.state != "done" for cell in cells)
    if not times or not missing:
        return "."
    return f"; about {duration(missing * sum(times) / len(times))} left at the pace of the finished jobs."


def _expected(seconds: float | None) -> str:
    return "" if seconds is None else duration(seconds)


def _clock(seconds: float) -> str:
    """Return the local time after so many seconds, in words."""
    now = datetime.now().astimezone()
    if seconds > 3.15e9:
        return "after a century"
    end = now + timedelta(seconds=seconds)
    if end.date() == now.date():
        return f"at {end:%H:%M}"
    return f"on {end:%Y-%m-%d} at {end:%H:%M}"


class _ProgressLine:
    """The progress on stderr, as a context: one changing line on a terminal, else a line every ten seconds."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._explained = False
        self._text = ""
        self._width = 0
        self._live = sys.stderr.isatty()
        self._over = threading.Event()

    def __enter__(self) -> _ProgressLine:
        if not self._live:
            threading.Thread(target=self._repeat, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._end()

    def say_timing(self, text: str) -> None:
        """Show a line of progress, after a sentence that explains the timings."""
        if not self._explained:
            self._explained = True
            self._end()
            say(f"Timing a few training steps on {self._setting.device}; they are remembered, and --quick skips this.")
        self.say(text)

    def say(self, text: str) -> None:
        """Show a line of progress."""
        if self._live:
            click.echo("\r" + text.ljust(self._width), err=True, nl=False)
            self._width = max(self._width, len(text))
        elif "could not" in text:
            say(text)
        else:
            self._text = text

    def _repeat(self) -> None:
        """Write the last text again and again, so that a long step is not taken for a standstill."""
        pause = _FIRST_SECONDS
        while not self._over.wait(pause):
            if self._text:
                say(self._text)
                pause = _LINE_SECONDS

    def _end(self) -> None:
        if self._width:
            say("")
            self._width = 0
