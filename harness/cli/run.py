"""``harness run``: train the grid of jobs."""

from __future__ import annotations

import shlex
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click

from harness.api import Cell, ExecutorSpec, Job, Resources, StoppedError, StopSignal, Work
from harness.cli.common_options import Request, format_option, selection_options
from harness.cli.output import Command, print_rows, say
from harness.cli.plan import COLUMNS, DIGITS, in_order, setting_of, show_plan, training_images
from harness.cli.progress import RunReporter, duration, say_profiles, stop_signal
from harness.cli.run_options import executor_option, resource_options, training_options
from harness.errors import BudgetError, CannotContinueError, HarnessError, without_passwords
from harness.execute.outcomes import checked_outcomes
from harness.execute.resources import ResourceRequest, resolve_resources
from harness.execute.run_one import LocalRunOne
from harness.execute.trackers import check_trackers
from harness.machine import find_device, gc_paused
from harness.plan import Plan, build_plan
from harness.price.estimate import Estimator, Setting
from harness.processes import begin_imports
from harness.results.store import executor_folder
from harness.train.options import RunOptions
from harness.workspace.survey import Survey, check_data, survey_plan

if TYPE_CHECKING:
    from harness.catalog import Offer
    from harness.workspace import Workspace

_INTERRUPTED = 130
_LET_GO_SECONDS = 5.0


@click.command(cls=Command)
@selection_options
@resource_options
@executor_option
@training_options
@click.option("--dry-run", is_flag=True, help="Show which jobs would run and which are done, and exit.")
@click.option("--allow-over-budget", is_flag=True, help="Also train models over the budget; their results are marked.")
@format_option
def run(
    request: Request, resources: ResourceRequest, executor: str, options: RunOptions, dry_run: bool,
    allow_over_budget: bool, format_: str,
) -> int:  # fmt: skip
    """Train models on data sets under the frozen protocol.

    Finished jobs are not repeated: run the same command again to resume after a stop, or to train missing jobs.
    Results are in the folder given by --runs. Each job trains in its own process, so a crash costs only that job's
    last minutes. Exits with 1 unless every job is done, here or by another command, or handed over by
    --detach.

    \b
    harness run --all --suite pocket        11 models, 4 small data sets, minutes on a CPU
    harness run mynet                       your model on the default suite
    harness run mynet --seeds 3 --device cuda:1
    harness run --all --jobs auto --jobs-per-gpu 4
    harness run --all --executor slurm --executor-option partition=gpu
    harness run mynet --track mlflow        also log it to MLflow
    harness run mynet --profile             measure its time by phase
    """
    workspace = request.open()
    chosen = build_plan(workspace.benchmark, workspace.catalog, request.selection)
    if dry_run:
        estimator = Estimator(workspace, setting_of(resources, workspace.catalog))
        show_plan(workspace, chosen, estimator, format_, timing=False)
        return 0
    options = replace(
        options,
        trackers=check_trackers(workspace.catalog, options.trackers),
        accept_cpu=resources.device != "auto",
    )
    grid = _Grid(workspace, chosen, resources, workspace.catalog.executor(executor))
    survey = grid.look()
    refused = _refusals(survey, allow_over_budget=allow_over_budget)
    if refused and set(refused) == set(chosen.models):
        raise BudgetError("\n".join(refused.values()))
    todo = grid.in_order(survey, [c.job for c in survey.cells if c.state != "done" and c.job.model not in refused])
    stop = stop_signal()
    reporter = RunReporter(len(todo), chosen.protocol, stop)
    options = replace(options, over_budget=frozenset(survey.over_budget))
    carried = _Carried()
    if todo:
        carried = _carry_out(grid.executor, grid.work(todo, options, reporter), stop, reporter)
    finished = {cell.job: cell for cell in (*carried.outcomes, *reporter.finished)}
    if carried.failure and not finished:
        raise carried.failure
    final = _final_cells(survey, refused, finished)
    print_rows([cell.as_row(chosen.protocol.metric) for cell in final], format_, columns=COLUMNS, digits=DIGITS)
    trained = sum(cell.state != "running" for cell in finished.values())
    if options.profile:
        say_profiles(workspace.runs, final, trained=trained)
    code = _summarise(final, trained, stopped=carried.stopped)
    if resources.detach and not (refused or carried.stopped):
        code = 0  # the jobs are in the hands of the executor's queue
    if carried.failure:
        raise carried.failure
    return code


@dataclass(frozen=True)
class _Carried:
    """The end of an executor's work: the outcomes that it gave, whether the user stopped it, and its failure."""

    outcomes: Sequence[Cell] = ()
    stopped: bool = False
    failure: HarnessError | None = None


class _Grid:
    """The jobs of one command, with their workspace, resources and executor."""

    def __init__(self, workspace: Workspace, plan: Plan, asked: ResourceRequest, executor: Offer[ExecutorSpec]) -> None:
        """Resolve the resources.

        Raises:
            WrongUseError, CannotContinueError: the machine lacks a requested resource, or would take years.
            StoreError: results can't be written.
        """
        workspace.runs.check_writable()
        self.executor = executor
        self._plan = plan
        self._asked = asked
        finished = all(workspace.runs.of(job).result.exists() for job in plan.jobs)
        if not (asked.in_process or finished):
            begin_imports()
        with gc_paused():  # torch is imported here
            self._resources = resolve_resources(asked, executor.spec, accelerator=plan.protocol.accelerator)
        if not executor.spec.remote:
            _refuse_years_on_a_cpu(workspace, plan, self._resources, insisted=asked.device != "auto")
        self._workspace = workspace.with_fresh_models(apart=not asked.in_process)

    def look(self) -> Survey:
        """Return the state of every job. Raises HarnessError where a data set is not prepared."""
        check_data(self._workspace, self._plan)
        return survey_plan(self._workspace, self._plan)

    def in_order(self, survey: Survey, todo: list[Job]) -> list[Job]:
        """Order the jobs of a run, longest first within each seed, by earlier timings; nothing is timed."""
        if len(todo) <= 1 or self._resources.jobs == 1:
            return todo
        # Other machines are unknown here, so this one's processor gives the order.
        asked = ResourceRequest(device="cpu") if self.executor.spec.remote else self._asked
        return in_order(self._workspace, self._plan, survey, todo, asked)

    def work(self, todo: Sequence[Job], options: RunOptions, reporter: RunReporter) -> Work:
        """Return the work for the executor."""
        run_one = LocalRunOne(self._workspace.absolute(), options)
        return Work(
            jobs=tuple(todo),
            run_one=run_one,
            resources=self._resources,
            reporter=reporter,
            folder=executor_folder(run_one.workspace.runs, self.executor.spec.name),
        )


def _refusals(survey: Survey, *, allow_over_budget: bool) -> dict[str, str]:
    refused = {name: f"Refused: {reason}" for name, reason in survey.broken.items()}
    for name, reason in survey.over_budget.items():
        if allow_over_budget:
            say(f"Note: {reason} Its results are marked and stay out of the leaderboard.")
        else:
            refused[name] = f"Refused: {reason} --allow-over-budget trains it, and marks its results."
    return refused


def _carry_out(executor: Offer[ExecutorSpec], work: Work, stop: StopSignal, reporter: RunReporter) -> _Carried:
    """Execute the work under signal handlers and a live display.

    Jobs of other commands are tried once more at the end: a command that was just killed holds its job until the
    checkpoint is saved.
    """
    outcomes: list[Cell] = []
    try:
        with stop.installed(), reporter.live():
            for cell in checked_outcomes(executor, work):
                outcomes.append(cell)
            elsewhere = tuple(cell.job for cell in outcomes if cell.state == "running")
            if elsewhere and _any_free(work, elsewhere):
                for cell in checked_outcomes(executor, replace(work, jobs=elsewhere)):
                    outcomes.append(cell)
    except (StoppedError, KeyboardInterrupt):
        return _Carried(outcomes, stopped=True)
    except HarnessError as error:
        return _Carried(outcomes, failure=error)
    return _Carried(outcomes)


def _any_free(work: Work, jobs: Sequence[Job]) -> bool:
    """Wait a moment for other processes to release one of these jobs."""
    patience = time.monotonic() + _LET_GO_SECONDS
    while time.monotonic() < patience and not work.reporter.should_stop():
        if any(work.run_one.look(job).state != "running" for job in jobs):
            return True
        time.sleep(_LET_GO_SECONDS / 20)
    return False


def _final_cells(survey: Survey, refused: Mapping[str, str], now: Mapping[Job, Cell]) -> list[Cell]:
    cells = []
    for cell in survey.cells:
        if cell.job.model in refused and cell.state != "done":
            cells.append(Cell(cell.job, "failed", detail=refused[cell.job.model]))
        else:
            cells.append(now.get(cell.job, cell))
    return cells


def _summarise(cells: Sequence[Cell], trained: int, *, stopped: bool) -> int:
    counts = Counter(cell.state for cell in cells)
    states = ", ".join(
        f"{counts[state]} {state}" for state in ("done", "running", "failed", "stale", "missing") if counts[state]
    )
    say(f"{len(cells)} jobs: {states}; {trained} carried out by this command.")
    if stopped:
        command = without_passwords(shlex.join(["harness", *sys.argv[1:]]))
        say(f"Stopped. Finished jobs are kept, and so is the job in progress. Resume with: {command}")
        return _INTERRUPTED
    return 0 if counts["done"] + counts["running"] == len(cells) else 1


def _refuse_years_on_a_cpu(workspace: Workspace, plan: Plan, resources: Resources, *, insisted: bool) -> None:
    """Refuse a protocol made for an accelerator on a CPU, with an estimate, unless the user named the device."""
    if not plan.protocol.accelerator or resources.devices[0] != "cpu" or insisted:
        return
    import torch

    threads = resources.threads or torch.get_num_threads()
    estimator = Estimator(workspace, Setting(find_device("cpu"), len(resources.devices), threads))
    cells = survey_plan(workspace, plan).cells
    timed = estimator.time_some(plan, cells, say)
    price = estimator.price(plan, cells)
    images = training_images(workspace, plan, [one.job for one in price.jobs])
    others = ", the other models scaled by their multiply-adds" if len(plan.models) > len(timed) else ""
    raise CannotContinueError(
        f"No CUDA device was found, and {plan.protocol.name} is made for one. The {len(price.jobs)} jobs of this plan "
        f"train on {images:,} images and would take about {duration(price.finish)} on this CPU, estimated from timed "
        f"steps of {' and '.join(timed)}{others}. To train here, use --device cpu. "
        "To try everything in minutes: harness run --all --suite pocket"
    )
