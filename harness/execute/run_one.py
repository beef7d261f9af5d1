"""What travels to the processes that train: all that a job needs but the catalog, which each process discovers."""

from __future__ import annotations

import contextlib
import sys
import traceback
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.api import Cell, Job
from harness.catalog import Catalog, discover
from harness.errors import CannotContinueError, JobLockedError
from harness.execute.tracking import Tracking
from harness.registry import Benchmark
from harness.results.grid import read_cell
from harness.results.store import RunsFolder

if TYPE_CHECKING:
    from harness.api import Reporter


@dataclass(frozen=True)
class LocalRunOne:
    """Trains one job in the process that calls it (see ``harness.api.RunOne``). Light to import and to pickle.

    Attributes:
        benchmark: The frozen benchmark.
        runs: Where results go, an absolute path.
        data_root: Where prepared data sets are, an absolute path.
        over_budget: Models that are over the budget and run at the user's insistence.
        save_every: Seconds between checkpoints within an epoch.
        insisted: Whether the user named the device, so that a CPU is accepted for a protocol made for an accelerator.
        tracking: The trackers that follow each run.
        profile: Whether to write down where each run's time goes.
        compile_mode: How to compile models (``harness.train.environment``); None for not at all.
    """

    benchmark: Benchmark
    runs: RunsFolder
    data_root: Path
    over_budget: frozenset[str]
    save_every: float
    insisted: bool = True
    tracking: Tracking = field(default_factory=Tracking)
    profile: bool = False
    compile_mode: str | None = None

    @cached_property
    def catalog(self) -> Catalog:
        """What is installed where this is called."""
        return discover()

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def __call__(
        self, job: Job, /, *, device: str = "auto", threads: int | None = None, reporter: Reporter | None = None
    ) -> Cell:
        """Train a job; what a plugin prints to stdout goes to stderr, for stdout belongs to the data."""
        import torch

        from harness.execute.reporters import logged
        from harness.execute.runner import JobRunner

        if threads is not None:
            torch.set_num_threads(threads)
        with contextlib.redirect_stdout(sys.stderr), logged(reporter) as told:
            try:
                found = self._device(job, device)
            except CannotContinueError as error:
                return self.fail(job, str(error))
            return JobRunner(
                self.benchmark,
                self.catalog,
                self.runs,
                self.data_root,
                found,
                self.over_budget,
                told,
                self.save_every,
                self.tracking,
                self.profile,
                self.compile_mode,
            )(job)

    def look(self, job: Job) -> Cell:
        """Return how a job stands on disk; a result counts if it is of what the folder says was begun."""
        folder = self.runs.of(job)
        return read_cell(folder, folder.recorded_fingerprint())

    def fail(self, job: Job, sentence: str) -> Cell:
        """Record that a job failed, unless another process works on it or has finished it."""
        folder = self.runs.of(job)
        try:
            with folder.acquire():
                if (cell := self.look(job)).state == "done":
                    return cell
                active = sys.exc_info()[0] is not None
                folder.fail(sentence, traceback.format_exc() if active else "The process that trained has ended.")
        except JobLockedError as error:
            return Cell(job, "running", detail=str(error))
        return Cell(job, "failed", detail=sentence)

    def _device(self, job: Job, name: str) -> Any:
        from harness.machine import resolve_device

        device = resolve_device(name)
        if device.type == "cpu" and not self.insisted and self.benchmark.protocol(job.protocol).accelerator:
            raise CannotContinueError(
                f"The machine that was to train this job has no CUDA device, and {job.protocol} is made for one. "
                "Ask for a GPU, or insist with --device cpu."
            )
        return device
