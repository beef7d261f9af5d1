"""Reporters: they receive the progress of jobs, and return the user's wish to stop."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import SupportsFloat

from harness.api.jobs import Cell, EpochRecord, Job, Shares

# A closed terminal and a request of a cluster or a container count like Ctrl-C. Windows has no SIGHUP.
_STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
_LINE_SECONDS = 30.0  # between two lines about one job's epochs


class Reporter:
    """Receives the progress of jobs. Every method is empty: a subclass overrides those that it needs.

    Several jobs may run at once, so every call names its job.
    """

    def job_started(self, job: Job) -> None:
        """A job is about to start or to resume."""

    def step_finished(self, job: Job, epoch: int, step: int, steps: int, loss: SupportsFloat) -> None:
        """A training step has ended. ``float(loss)`` may wait for the device, so take it rarely."""

    def batch_evaluated(self, job: Job) -> None:
        """A batch of the test split has been evaluated."""

    def epoch_finished(self, job: Job, record: EpochRecord) -> None:
        """An epoch has ended."""

    def profiled(self, job: Job, shares: Shares) -> None:
        """The current epoch has used its time like this, in a run with a profile: once per second, and at its end."""

    def job_finished(self, cell: Cell) -> None:
        """A job has ended, well or not."""

    def notice(self, text: str) -> None:
        """Something has happened that the user should know."""

    def should_stop(self) -> bool:
        """Return whether the user wants to stop."""
        return False


class StopSignal:
    """Turns the first Ctrl-C (or SIGTERM, or SIGHUP) into a wish to stop after the current step.

    Attributes:
        wanted: Whether to stop. Other code may set it, too.
    """

    def __init__(self, *, say: Callable[[str], object] | None = None, again: type[BaseException] | None = None) -> None:
        """Create it without a handler.

        Args:
            say: Called with the signal's name at the first signal.
            again: Raised at the second signal; None ignores that signal.
        """
        self.wanted = False
        self._say = say
        self._again = again

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals during the block. A signal that is ignored stays ignored, which nohup relies on."""
        if threading.current_thread() is not threading.main_thread():  # Python handles signals only there
            yield
            return
        numbers = [getattr(signal, name) for name in _STOP_SIGNALS if hasattr(signal, name)]
        handled = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._handle) for number in handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.wanted and self._again is not None:
            raise self._again
        if not self.wanted and self._say is not None:
            with contextlib.suppress(OSError):  # SIGHUP means that the terminal has closed
                self._say(signal.Signals(number).name)
        self.wanted = True


class LogReporter(Reporter):
    """Writes lines for a log file to stderr: at a job's start and end, at notices, and every half minute in between."""

    def __init__(self, stop: StopSignal) -> None:
        """Write lines until ``stop`` is wanted."""
        self._stop = stop
        self._written = 0.0
        self._shares = ""

    def job_started(self, job: Job) -> None:
        """Write a line."""
        self._shares = ""
        _write(f"{job}: started")

    def epoch_finished(self, job: Job, record: EpochRecord) -> None:
        """Write a line unless the last one is recent."""
        now = time.monotonic()
        if now - self._written >= _LINE_SECONDS:
            self._written = now
            speed = f"{record.images_per_second:.0f} images/s{self._shares}"
            _write(f"{job}: epoch {record.epoch + 1}, loss {record.loss:.3f}, {speed}")

    def profiled(self, job: Job, shares: Shares) -> None:
        """Keep the shares for the next line about an epoch."""
        self._shares = f", {shares}"

    def job_finished(self, cell: Cell) -> None:
        """Write a line."""
        _write(f"{cell.job}: {cell.state}{f': {cell.detail}' if cell.detail else ''}")

    def notice(self, text: str) -> None:
        """Write a line."""
        _write(f"Note: {text}")

    def should_stop(self) -> bool:
        """Return whether a signal asked to stop."""
        return self._stop.wanted


def _write(line: str) -> None:
    with contextlib.suppress(OSError):  # a log that can't be written must not end a run
        print(line, file=sys.stderr, flush=True)
