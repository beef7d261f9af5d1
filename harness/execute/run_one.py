"""Job -> Cell in the process that trains it. The value travels to workers and clusters by pickle."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.api import Cell, Job, LogReporter, Reporter, StopSignal
from harness.errors import CannotContinueError, JobLockedError
from harness.results.grid import read_cell
from harness.train.options import RunOptions
from harness.workspace import Workspace

if TYPE_CHECKING:
    from harness.api import Reporter


@dataclass(frozen=True)
class LocalRunOne:
    """Trains one job in the process that calls it (see ``harness.api.RunOne``). Light to import and to pickle.

    Attributes:
        workspace: The place of work, with absolute paths.
        options: The user's choices for training.
    """

    workspace: Workspace
    options: RunOptions

    def __call__(
        self, job: Job, /, *, device: str = "auto", threads: int | None = None, reporter: Reporter | None = None
    ) -> Cell:
        """Train a job; output of plugins to stdout goes to stderr, since stdout holds the command's data."""
        import torch

        from harness.execute.runner import JobRunner

        if threads is not None:
            torch.set_num_threads(threads)
        with contextlib.redirect_stdout(sys.stderr), logged(reporter) as told:
            try:
                found = self._device(job, device)
            except CannotContinueError as error:
                return self.fail(job, str(error))
            return JobRunner(self.workspace, found, told, self.options)(job)

    def look(self, job: Job) -> Cell:
        """Return a job's state on disk; a result counts if its fingerprint is the one that the folder records."""
        folder = self.workspace.runs.of(job)
        return read_cell(folder, folder.recorded_fingerprint())

    def fail(self, job: Job, sentence: str) -> Cell:
        """Record that a job failed, unless another process trains it or has finished it."""
        folder = self.workspace.runs.of(job)
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
        if (
            device.type == "cpu"
            and not self.options.accept_cpu
            and self.workspace.benchmark.protocol(job.protocol).accelerator
        ):
            raise CannotContinueError(
                f"The machine that was to train this job has no CUDA device, and {job.protocol} is made for one. "
                "Ask for a GPU, or insist with --device cpu."
            )
        return device


@contextlib.contextmanager
def logged(reporter: Reporter | None) -> Iterator[Reporter]:
    """Give the reporter, or for None one that writes a log and stops at signals."""
    if reporter is not None:
        yield reporter
        return
    stop = StopSignal()
    with stop.installed():
        yield LogReporter(stop)
