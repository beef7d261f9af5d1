"""Who is told how a run goes where no terminal is: a log file of a cluster's job, and the parent of a worker."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, SupportsFloat

from harness.execute.signals import StopSignal

if TYPE_CHECKING:
    from harness.api import Cell, EpochRecord, Job, Reporter, Shares

_LINE_SECONDS = 30.0  # between two lines about one job's epochs
_STEP_SECONDS = 0.5  # between two messages about steps: each makes a float of a loss, which waits for the device


class LogReporter:
    """Writes a line to stderr at a job's start and end, at notices, and now and then in between."""

    def __init__(self, stop: StopSignal) -> None:
        self._stop = stop
        self._written = 0.0
        self._shares = ""

    def job_started(self, job: Job) -> None:
        """A job is about to start or go on."""
        self._shares = ""
        _write(f"{job}: started")

    def step_finished(self, job: Job, epoch: int, step: int, steps: int, loss: SupportsFloat) -> None:
        """A training step has ended."""

    def batch_evaluated(self, job: Job) -> None:
        """A batch of the test split has been evaluated."""

    def epoch_finished(self, job: Job, record: EpochRecord) -> None:
        """An epoch has ended."""
        now = time.monotonic()
        if now - self._written >= _LINE_SECONDS:
            self._written = now
            speed = f"{record.images_per_second:.0f} images/s{self._shares}"
            _write(f"{job}: epoch {record.epoch + 1}, loss {record.loss:.3f}, {speed}")

    def profiled(self, job: Job, shares: Shares) -> None:
        """An epoch's time is spent like this; the line about the epoch says so, too."""
        self._shares = f", {shares}"

    def should_stop(self) -> bool:
        """Whether a signal asked to stop."""
        return self._stop.wanted

    def job_finished(self, cell: Cell) -> None:
        """A job has ended, well or not."""
        _write(f"{cell.job}: {cell.state}{f': {cell.detail}' if cell.detail else ''}")

    def notice(self, text: str) -> None:
        """Something that a user should know has happened."""
        _write(f"Note: {text}")


class PipeReporter:
    """Sends what happens to the parent process as (method, arguments); steps at most twice a second."""

    def __init__(self, send: Callable[[tuple[str, tuple[Any, ...]]], None], stop: StopSignal) -> None:
        self._send = send
        self._stop = stop
        self._sent = 0.0

    def job_started(self, job: Job) -> None:
        """A job is about to start or go on."""
        self._send(("job_started", (job,)))

    def step_finished(self, job: Job, epoch: int, step: int, steps: int, loss: SupportsFloat) -> None:
        """A training step has ended."""
        if self._due():
            self._send(("step_finished", (job, epoch, step, steps, float(loss))))

    def batch_evaluated(self, job: Job) -> None:
        """A batch of the test split has been evaluated."""
        if self._due():
            self._send(("batch_evaluated", (job,)))

    def epoch_finished(self, job: Job, record: EpochRecord) -> None:
        """An epoch has ended."""
        self._send(("epoch_finished", (job, record)))

    def profiled(self, job: Job, shares: Shares) -> None:
        """An epoch's time is spent like this; told about once a second."""
        self._send(("profiled", (job, shares)))

    def should_stop(self) -> bool:
        """Whether the parent or a signal asked to stop."""
        return self._stop.wanted

    def job_finished(self, cell: Cell) -> None:
        """A job has ended, well or not."""
        self._send(("job_finished", (cell,)))

    def notice(self, text: str) -> None:
        """Something that a user should know has happened."""
        self._send(("notice", (text,)))

    def _due(self) -> bool:
        now = time.monotonic()
        due = now - self._sent >= _STEP_SECONDS
        if due:
            self._sent = now
        return due


@contextlib.contextmanager
def logged(reporter: Reporter | None) -> Iterator[Reporter]:
    """Give the reporter, or one that writes a log and heeds signals for the time."""
    if reporter is not None:
        yield reporter
        return
    stop = StopSignal()
    with stop.installed():
        yield LogReporter(stop)


def _write(line: str) -> None:
    with contextlib.suppress(OSError):  # a log that can't be written must not end a run
        print(line, file=sys.stderr, flush=True)
