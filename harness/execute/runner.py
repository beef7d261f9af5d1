"""Job -> Cell: everything around one training run. Locks, what is already done, what is stale, failures, observers."""

from __future__ import annotations

import traceback
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Protocol as Interface

from harness.api import EpochRecord, Job
from harness.catalog import Catalog
from harness.data.prepare import prepare_embedded
from harness.errors import HarnessError, JobLockedError, StoreError
from harness.registry import Benchmark
from harness.results.grid import Cell, read_cell
from harness.results.store import JobFolder, RunsFolder
from harness.train.checkpoint import DamagedCheckpointError
from harness.train.loop import StoppedError
from harness.train.run import Built, Task, Trained, build_model, run_task

if TYPE_CHECKING:
    import torch


class Reporter(Interface):
    """What tells people how a run goes. Its methods are called in the process that trains."""

    def job_started(self, job: Job) -> None:
        """A job is about to start or go on."""

    def step_finished(self, epoch: int, step: int, steps: int, loss: torch.Tensor) -> None:
        """A training step has ended."""

    def epoch_finished(self, record: EpochRecord) -> None:
        """An epoch has ended."""

    def should_stop(self) -> bool:
        """Whether the user wants to stop."""

    def job_finished(self, cell: Cell) -> None:
        """A job has ended, well or not."""

    def notice(self, text: str) -> None:
        """Something that a user should know has happened."""


@dataclass(frozen=True)
class JobRunner:
    """Carries out one job at a time; call it with a job.

    Attributes:
        benchmark, catalog: Where names are looked up.
        runs: Where results go.
        data_root: Where prepared data sets are.
        device: Where training happens.
        over_budget: Models that are over the budget and run at the user's insistence; their results say so.
        reporter: Told how it goes.
        save_every: Seconds between checkpoints within an epoch.
    """

    benchmark: Benchmark
    catalog: Catalog
    runs: RunsFolder
    data_root: Path
    device: torch.device
    over_budget: Collection[str]
    reporter: Reporter
    save_every: float = 300.0

    def __call__(self, job: Job) -> Cell:
        """Train a job, unless it is done or another process works on it, and return how it stands then.

        A job that fails is recorded and returned, not raised.

        Raises:
            StoreError: results can't be written; no other job could go on either.
            StoppedError: the user asked to stop.
        """
        folder = self.runs.of(job)
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
        try:
            return self._run(job, folder)
        except (StoppedError, StoreError):
            raise
        except Exception as error:  # one job's failure, whatever it is, must not end the others
            sentence = str(error) if isinstance(error, HarnessError) else f"{type(error).__name__}: {error}"
            folder.fail(sentence, traceback.format_exc())
            return Cell(job, "failed", detail=sentence)

    def _run(self, job: Job, folder: JobFolder) -> Cell:
        protocol = self.benchmark.protocol(job.protocol)
        task = Task(
            job=job,
            protocol=protocol,
            model=self.catalog.model(job.model),
            dataset=prepare_embedded(self.catalog.dataset(job.dataset), self.data_root, protocol.input_size),
            catalog=self.catalog,
            device=self.device,
            checkpoint=folder.checkpoint,
            over_budget=job.model in self.over_budget,
            save_every=self.save_every,
        )
        built = build_model(task)
        cell = read_cell(folder, built.fingerprint)
        if cell.state == "done":
            return cell
        self._clear(folder, cell, built.fingerprint)
        folder.begin(built.fingerprint, protocol_digest=protocol.digest)
        self._tell(self.catalog.notify("harness_run_started", job=job))
        trained = self._train(task, built, folder)
        folder.write_history(trained.history)
        folder.finish(trained.result, trained.logits, trained.labels)
        self._tell(self.catalog.notify("harness_run_finished", job=job, result=trained.result))
        return read_cell(folder, built.fingerprint)

    def _clear(self, folder: JobFolder, cell: Cell, fingerprint: str) -> None:
        """Set aside what the folder holds of another fingerprint, finished or half-way."""
        half_way = folder.checkpoint.exists() and folder.recorded_fingerprint() != fingerprint
        if cell.state == "stale" or half_way:
            moved = folder.set_aside(folder.path)
            reason = cell.detail if cell.state == "stale" else "it was begun under another fingerprint"
            self._tell([f"{folder.job}: the earlier work was set aside in {moved}: {reason}."])

    def _train(self, task: Task, built: Built, folder: JobFolder) -> Trained:
        watcher = _JobWatcher(self, folder)
        try:
            return run_task(task, built, watcher)
        except DamagedCheckpointError as error:
            moved = folder.set_aside(folder.checkpoint)
            text = f"The checkpoint was damaged and set aside in {moved}; training started again. {error}"
            self._tell([f"{task.job}: {text}"])
            folder.write_history(())
            task = replace(task, notes=(*task.notes, text))
            return run_task(task, build_model(task), watcher)

    def _tell(self, texts: list[str]) -> None:
        for text in texts:
            self.reporter.notice(text)


@dataclass(frozen=True)
class _JobWatcher:
    """Passes on what happens in a run to the history file, the observers and the reporter."""

    runner: JobRunner
    folder: JobFolder

    def step_finished(self, epoch: int, step: int, steps: int, loss: torch.Tensor) -> None:
        self.runner.reporter.step_finished(epoch, step, steps, loss)

    def epoch_finished(self, record: EpochRecord) -> None:
        self.folder.append_history(record)
        failures = self.runner.catalog.notify("harness_epoch_finished", job=self.folder.job, record=record)
        for text in failures:
            self.runner.reporter.notice(text)
        self.runner.reporter.epoch_finished(record)

    def should_stop(self) -> bool:
        return self.runner.reporter.should_stop()
