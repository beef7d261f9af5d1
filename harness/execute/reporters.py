"""Reporters of processes without a terminal: a node of a cluster writes a log, a worker sends messages."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, SupportsFloat

from harness.api import Cell, EpochRecord, Job, LogReporter, Reporter, Shares, StopSignal

_STEP_SECONDS = 0.5  # between two messages about steps: each takes float(loss), which waits for the device


class PipeReporter(Reporter):
    """Sends each call to the parent process as (method, arguments); steps and batches at most twice a second."""

    def __init__(self, send: Callable[[tuple[str, tuple[Any, ...]]], None], stop: StopSignal) -> None:
        self._send = send
        self._stop = stop
        self._sent = 0.0

    def job_started(self, job: Job) -> None:
        """Send it."""
        self._send(("job_started", (job,)))

    def step_finished(self, job: Job, epoch: int, step: int, steps: int, loss: SupportsFloat) -> None:
        """Send it unless the last message is recent."""
        if self._due():
            self._send(("step_finished", (job, epoch, step, steps, float(loss))))

    def batch_evaluated(self, job: Job) -> None:
        """Send it unless the last message is recent."""
        if self._due():
            self._send(("batch_evaluated", (job,)))

    def epoch_finished(self, job: Job, record: EpochRecord) -> None:
        """Send it."""
        self._send(("epoch_finished", (job, record)))

    def profiled(self, job: Job, shares: Shares) -> None:
        """Send it."""
        self._send(("profiled", (job, shares)))

    def job_finished(self, cell: Cell) -> None:
        """Send it."""
        self._send(("job_finished", (cell,)))

    def notice(self, text: str) -> None:
        """Send it."""
        self._send(("notice", (text,)))

    def should_stop(self) -> bool:
        """Return whether the parent or a signal asked to stop."""
        return self._stop.wanted

    def _due(self) -> bool:
        now = time.monotonic()
        due = now - self._sent >= _STEP_SECONDS
        if due:
            self._sent = now
        return due


@contextlib.contextmanager
def logged(reporter: Reporter | None) -> Iterator[Reporter]:
    """Give the reporter, or for None one that writes a log and stops at signals."""
    if reporter is not None:
        yield reporter
        return
    stop = StopSignal()
    with stop.installed():
        yield LogReporter(stop)
