"""``harness run`` and ``harness status``: the grid of jobs, while and after it is trained."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from harness.api import Cell, ExecutorSpec, Job, Resources, StoppedError, StopSignal, Work
from harness.catalog import Catalog
from harness.cli.options import Request, format_option, selection_options, track_option
from harness.cli.output import print_rows, say
from harness.cli.plan import (
    COLUMNS,
    DIGITS,
    in_order,
    read_survey,
    setting_of,
    show_plan,
    training_images,
)
from harness.cli.progress import RunReporter, duration, say_profiles, stop_signal
from harness.cli.run_options import Execution, execution_options
from harness.errors import BudgetError, CannotContinueError
from harness.execute.run_one import LocalRunOne
from harness.execute.tracking import choose_trackers
from harness.garbage import gc_paused
from harness.plan import Plan, build_plan
from harness.registry import Benchmark
from harness.results.store import RunsFolder, executor_folder

if TYPE_CHECKING:
    from harness.workspace.survey import Survey

COMPILE_MODES = ("default", "reduce-overhead")  # those of harness.train.environment, which imports torch

_INTERRUPTED = 130
_LET_GO_SECONDS = 5.0


@click.command()
@selection_options
@execution_options
@click.option("--dry-run", is_flag=True, help="Show what would run and what is done, and stop.")
@click.option("--allow-over-budget", is_flag=True, help="Train models over the budget too; their results stay marked.")
@click.option("--profile", is_flag=True, help="Write where each job's time goes: profile.json, and a table at the end.")
@click.option(
    "--compile",
    "compile_mode",
    type=click.Choice(COMPILE_MODES),
    help="Train by torch.compile. Results say so: they agree with the others, but not bit for bit.  [default: off]",
)
@track_option
@format_option
def run(
    request: Request,
    execution: Execution,
    dry_run: bool,
    allow_over_budget: bool,
    profile: bool,
    compile_mode: str | None,
    track: tuple[str, ...],
    format_: str,
) -> int:
    """Train models on data sets under the frozen protocol.

    What is done stays done: run the same command again to go on after a stop, or to add what is missing. Results are in
    the folder given by --runs. Each job trains in a process that is not this one, so that a crash costs that job's last
    minutes alone. Exits with 1 if some jobs failed.

    \b
    harness run --all --suite pocket        11 models, 4 small data sets, minutes on a CPU
    harness run mynet                       your model on the default suite
    harness run mynet --seeds 3 --device cuda:1
    harness run --all --jobs auto --jobs-per-gpu 4
    harness run --all --executor slurm --executor-option partition=gpu
    harness run mynet --track mlflow        follow it in MLflow too
    harness run mynet --profile             see where its time goes
    """
    benchmark, catalog = request.load()
    chosen = build_plan(benchmark, catalog, request.selection)
    if dry_run:
        setting = setting_of(execution.asked, catalog)
        show_plan(benchmark, catalog, chosen, request, format_, setting=setting, timing=False)
        return 0
    tracking = choose_trackers(catalog, track, request.runs.root / "tracking")
    executor = catalog.executor(execution.executor).spec
    request.runs.check_writable()

    from harness.execute.forkserver import begin_imports
    from harness.execute.resources import resolve_resources
    from harness.workspace.survey import Surveyor

    asked = execution.asked
    if not (executor.remote or asked.in_process or all(_has_result(request, job) for job in chosen.jobs)):
        begin_imports(asked.device)
    with gc_paused():  # imports torch, unless one job trains on a CPU
        resources = resolve_resources(asked, executor, accelerator=chosen.protocol.accelerator)
    insisted = asked.device != "auto"
    if not executor.remote:
        _refuse_years_on_a_cpu(benchmark, catalog, chosen, request, resources, insisted=insisted)
    surveyor = Surveyor(benchmark, catalog, request.runs, request.data_root, remember=False)
    surveyor.check_data(chosen)
    survey = surveyor.survey(chosen)
    refused = _refusals(survey, allow_over_budget=allow_over_budget)
    if refused and set(refused) == set(chosen.models):
        raise BudgetError("\n".join(refused.values()))
    todo = [cell.job for cell in survey.cells if cell.state != "done" and cell.job.model not in refused]
    if len(todo) > 1 and resources.jobs != 1:
        todo = in_order(benchmark, catalog, chosen, survey, todo, request, asked, remote=executor.remote)
    stop = stop_signal()
    reporter = RunReporter(len(todo), chosen.protocol, stop)
    run_one = LocalRunOne(
        benchmark,
        RunsFolder(request.runs.root.absolute()),
        request.data_root.absolute(),
        frozenset(survey.over_budget),
        execution.checkpoint_every,
        insisted,
        tracking,
        profile,
        compile_mode,
    )
    work = Work(
        jobs=tuple(todo),
        run_one=run_one,
        resources=resources,
        reporter=reporter,
        folder=executor_folder(run_one.runs, executor.name),
    )
    stopped = bool(todo) and _carry_out(executor, work, stop, reporter)
    final = _final_cells(survey, refused, reporter.finished)
    print_rows([cell.as_row(chosen.protocol.metric) for cell in final], format_, columns=COLUMNS, digits=DIGITS)
    trained = sum(cell.state != "running" for cell in reporter.finished)
    if profile:
        say_profiles(run_one.runs, final, trained=trained)
    return _summarise(final, trained, stopped=stopped)


def _has_result(request: Request, job: Job) -> bool:
    return request.runs.of(job).result.exists()


def _refusals(survey: Survey, *, allow_over_budget: bool) -> dict[str, str]:
    refused = {name: f"Refused: {reason}" for name, reason in survey.broken.items()}
    for name, reason in survey.over_budget.items():
        if allow_over_budget:
            say(f"Note: {reason} Its results are marked and stay out of the leaderboard.")
        else:
            refused[name] = f"Refused: {reason} --allow-over-budget trains it all the same, marked for good."
    return refused


def _carry_out(executor: ExecutorSpec, work: Work, stop: StopSignal, reporter: RunReporter) -> bool:
    """Have the work done under signal handlers and a live display; return whether the user stopped it.

    Jobs that others were working on are looked at once more at the end. The process of a command that was just killed
    holds its job for as long as it takes to save the position.
    """
    try:
        # What an executor's libraries print is no data.
        with stop.installed(), contextlib.redirect_stdout(sys.stderr), reporter.live():
            outcomes = list(executor.execute(work))
            elsewhere = tuple(cell.job for cell in outcomes if cell.state == "running")
            if elsewhere and _any_free(work, elsewhere):
                list(executor.execute(replace(work, jobs=elsewhere)))
    except (StoppedError, KeyboardInterrupt):
        return True
    return False


def _any_free(work: Work, jobs: Sequence[Job]) -> bool:
    """Wait a moment for others to let go of one of these jobs."""
    patience = time.monotonic() + _LET_GO_SECONDS
    while time.monotonic() < patience and not work.reporter.should_stop():
        if any(work.run_one.look(job).state != "running" for job in jobs):
            return True
        time.sleep(_LET_GO_SECONDS / 20)
    return False


def _final_cells(survey: Survey, refused: dict[str, str], trained: Sequence[Cell]) -> list[Cell]:
    now = {cell.job: cell for cell in trained}
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
        command = " ".join(["harness", *sys.argv[1:]])
        say(f"Stopped. Everything finished is kept, and so is the half-way job. Go on with: {command}")
        return _INTERRUPTED
    return 1 if counts["failed"] else 0


def _refuse_years_on_a_cpu(
    benchmark: Benchmark, catalog: Catalog, plan: Plan, request: Request, resources: Resources, *, insisted: bool
) -> None:
    """Explain what a protocol made for an accelerator would cost on this CPU, unless the user named the device."""
    if not plan.protocol.accelerator or resources.devices[0] != "cpu" or insisted:
        return
    import torch

    from harness.machine import find_device
    from harness.price.estimate import Appraiser, Setting

    threads = resources.threads or torch.get_num_threads()
    setting = Setting(find_device("cpu"), len(resources.devices), threads)
    appraiser = Appraiser(benchmark, catalog, request.runs, request.data_root, setting)
    cells = read_survey(benchmark, catalog, plan, request).cells
    timed = appraiser.time_some(plan, cells, say)
    price = appraiser.price(plan, cells)
    images = training_images(benchmark, catalog, plan, [one.job for one in price.jobs])
    others = ", the other models scaled by their multiply-adds" if len(plan.models) > len(timed) else ""
    raise CannotContinueError(
        f"No CUDA device was found, and {plan.protocol.name} is made for one. The {len(price.jobs)} jobs of this plan "
        f"train on {images:,} images; by the steps of {' and '.join(timed)} that were timed on this CPU{others}, they "
        f"would take about {duration(price.finish)}. To insist, say --device cpu. "
        "To try everything in minutes: harness run --all --suite pocket"
    )
