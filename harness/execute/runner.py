"""Job -> Cell: everything around one training run. Locks, what is already done, what is stale, failures, observers."""

from __future__ import annotations

import contextlib
import traceback
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from harness.api import Cell, EpochRecord, Job, Reporter, RunResult, StoppedError
from harness.errors import HarnessError, JobLockedError, StoreError, one_line
from harness.execute.trackers import RunTrackers, open_trackers
from harness.results.grid import read_cell
from harness.results.profile import run_clock
from harness.results.protocols import keep_protocol
from harness.results.store import JobFolder
from harness.train.checkpoint import find_checkpoint, spare_of
from harness.train.clock import OFF
from harness.train.job import Trained, run_task
from harness.train.observer import Observer
from harness.train.options import RunOptions
from harness.train.schedule import learning_rate_peak
from harness.train.state import TrainingState
from harness.train.task import Built, Task, build_model
from harness.workspace import Workspace

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class JobRunner:
    """Carries out one job at a time; call it with a job.

    Attributes:
        workspace: The place of work.
        device: The device that trains.
        reporter: Receives the progress.
        options: The user's choices for training.
    """

    workspace: Workspace
    device: torch.device
    reporter: Reporter
    options: RunOptions = field(default_factory=RunOptions)

    def __call__(self, job: Job) -> Cell:
        """Train a job, unless it is done or another process works on it, and return its state.

        A job that fails is recorded and returned, not raised.

        Raises:
            StoreError: results can't be written; no other job could go on either.
            StoppedError: the user asked to stop.
        """
        folder = self.workspace.runs.of(job)
        self.reporter.job_started(job)
        try:
            lock = folder.acquire()
        except JobLockedError as error:
            cell = Cell(job, "running", detail=str(error))
        else:
            with lock:
                cell = self._run_locked(job, folder)
        self.reporter.job_finished(cell)
        return cell

    def _run_locked(self, job: Job, folder: JobFolder) -> Cell:
        earlier = folder.read_error()
        try:
            return self._run(job, folder)
        except (StoppedError, StoreError):
            raise
        except (Exception, SystemExit) as error:  # one job's failure, whatever it is, must not end the others
            sentence = _sentence(error)
            folder.fail(sentence, traceback.format_exc())
            if folder.read_error() == earlier:
                self._notice(
                    [f"{job}: it failed for the same reason as the last time. Mend that before you try again."]
                )
            return Cell(job, "failed", detail=sentence)

    def _run(self, job: Job, folder: JobFolder) -> Cell:
        workspace, catalog = self.workspace, self.workspace.catalog
        protocol = workspace.benchmark.protocol(job.protocol)
        task = Task(
            job=job,
            protocol=protocol,
            model=catalog.model(job.model),
            dataset=workspace.prepared(job.dataset, protocol),
            catalog=catalog,
            device=self.device,
            checkpoint=folder.checkpoint,
            options=self.options,
        )
        built = build_model(task)
        cell = read_cell(folder, built.fingerprint)
        if cell.state == "done":
            return cell
        self._clear(folder, cell, built.fingerprint)
        if cell.result is not None and _only_structure_differs(cell.result, task):
            self._notice([f"{job}: {_OTHER_STRUCTURE}"])
        keep_protocol(workspace.benchmark, workspace.runs, job.protocol)
        folder.begin(built.fingerprint, protocol_digest=protocol.digest)
        self._notice(catalog.notify("harness_run_started", job=job))
        place = workspace.runs.root / "tracking"
        with open_trackers(task, built, folder, place, self.reporter.notice) as trackers:
            trained = self._train(task, built, folder, trackers)
            folder.write_history(trained.history)
            folder.finish(trained.result, trained.logits, trained.labels)
            cell = read_cell(folder, built.fingerprint)
            trackers.run_finished(cell.result or trained.result, trained.history)
        self._notice(catalog.notify("harness_run_finished", job=job, result=cell.result or trained.result))
        return cell

    def _clear(self, folder: JobFolder, cell: Cell, fingerprint: str) -> None:
        """Set aside what the folder holds of another fingerprint, finished or half-way."""
        begun = folder.checkpoint.exists() or spare_of(folder.checkpoint).exists()
        half_way = begun and folder.recorded_fingerprint() != fingerprint
        if cell.state == "stale" or half_way:
            moved = folder.set_aside(folder.path)
            reason = cell.detail if cell.state == "stale" else "it was begun under another fingerprint"
            self._notice([f"{folder.job}: the earlier work was set aside in {moved}: {reason}."])

    def _train(self, task: Task, built: Built, folder: JobFolder, trackers: RunTrackers) -> Trained:
        found = find_checkpoint(folder.checkpoint, fingerprint=built.fingerprint)
        for path, _ in found.damaged:
            folder.set_aside(path)
        if found.reason:
            self._notice([f"{task.job}: {found.reason}"])
        clock = run_clock(task, built, folder, found, self.reporter) if self.options.profile else OFF
        try:
            return run_task(replace(task, clock=clock), built, found, _JobObserver(self, folder, trackers))
        finally:
            clock.close()

    def _notice(self, texts: list[str]) -> None:
        for text in texts:
            self.reporter.notice(text)


_OTHER_STRUCTURE = (
    "of all that its fingerprint covers, the model's structure alone differs from that of the earlier result. If you "
    "did not change the model, its extra_repr() or the names of its parts differ from process to process, and no "
    "result of it will ever count."
)


def _only_structure_differs(earlier: RunResult, task: Task) -> bool:
    """Return whether a stale result has the job's protocol, data, learning rate and plugin version."""
    owner = task.model.owner
    return (
        _origin(earlier) == (owner.distribution, owner.version)
        and earlier.protocol_digest == task.protocol.digest
        and earlier.lr_max == learning_rate_peak(task.protocol, task.model.spec)[0]
        and (earlier.executed or {}).get("data") == task.dataset.manifest.fingerprint
    )


def _origin(result: RunResult) -> tuple[str, str] | None:
    """Return the distribution and the version that a result's model came from; None if it does not say so."""
    with contextlib.suppress(LookupError, TypeError, AttributeError):  # a file of any content
        for plugin in result.environment["plugins"]:
            if f"model {result.job.model}" in plugin["gave"]:
                return plugin["distribution"], plugin["version"]
    return None


def _sentence(error: BaseException) -> str:
    """Say in a sentence why a job failed."""
    import torch

    if isinstance(error, HarnessError):
        return str(error)
    if isinstance(error, torch.OutOfMemoryError):
        first = str(error).partition(". ")[0]
        return (
            f"The device ran out of memory: {first}. Run fewer jobs on it at a time (--jobs-per-gpu), or end what else "
            "uses it. The same command resumes from the last checkpoint."
        )
    if isinstance(error, MemoryError):
        return "This machine ran out of memory. Run fewer jobs at a time (--jobs), or end what else uses it."
    return one_line(error)


class _JobObserver(Observer):
    """Passes the events of a run on to the history file, the observer hooks, the trackers and the reporter."""

    def __init__(self, runner: JobRunner, folder: JobFolder, trackers: RunTrackers) -> None:
        self._runner = runner
        self._reporter = runner.reporter
        self._folder = folder
        self._trackers = trackers

    def training_started(self, state: TrainingState) -> None:
        # A stop may have left an epoch too many or too few in the file; the checkpoint decides.
        if tuple(state.history) != self._folder.read_history():
            self._folder.write_history(state.history)

    def step_finished(self, state: TrainingState) -> None:
        step = state.step - 1
        self._reporter.step_finished(self._folder.job, state.epoch, step, state.steps, state.losses[step])

    def batch_evaluated(self) -> None:
        self._reporter.batch_evaluated(self._folder.job)

    def epoch_finished(self, state: TrainingState, record: EpochRecord) -> None:
        self._folder.append_history(record)
        catalog = self._runner.workspace.catalog
        for text in catalog.notify("harness_epoch_finished", job=self._folder.job, record=record):
            self._reporter.notice(text)
        if state.is_saved:
            self._trackers.epochs_saved(state.history)
        self._reporter.epoch_finished(self._folder.job, record)

    def should_stop(self) -> bool:
        return self._reporter.should_stop()
