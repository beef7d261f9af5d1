"""How a run looks to people: bars on a terminal, plain lines elsewhere. Everything goes to stderr."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import torch
    from rich.progress import Progress

    from harness.api import EpochRecord, Job
    from harness.registry import Protocol
    from harness.results.grid import Cell

_LOSS_SECONDS = 0.5  # reading a loss waits for the device
_LINE_SECONDS = 30.0  # between two lines about one job's epochs


class StopSignal:
    """Turns the first Ctrl-C (or SIGTERM) into a wish to stop after the current step, and the second into an end."""

    def __init__(self) -> None:
        self.wanted = False

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals for a while."""
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True
        click.echo("\nStopping after this step; press Ctrl-C again to stop at once.", err=True)


class RunReporter:
    """Tells people how a run goes, on a terminal by two bars and elsewhere by a line a job.

    ``finished`` holds the jobs that have ended, so that a stop loses none of them.
    """

    def __init__(self, total: int, protocol: Protocol, stop: StopSignal) -> None:
        self._total = total
        self._epochs = protocol.epochs
        self._metric = protocol.metric
        self._stop = stop
        self.finished: list[Cell] = []
        self._trained_seconds: list[float] = []
        self._job_began = self._loss_read = self._line_written = 0.0
        self._job: Job | None = None
        self._loss = 0.0
        self._rate = 0.0
        self._progress = _bars() if sys.stderr.isatty() else None
        if self._progress:
            self._overall = self._progress.add_task("all jobs", total=total, detail="")
            self._current = self._progress.add_task("", total=1, detail="", visible=False)

    def live(self) -> AbstractContextManager[Any]:
        """Show the bars for a while."""
        return self._progress if self._progress else nullcontext()

    def job_started(self, job: Job) -> None:
        """A job is about to start or go on."""
        self._job, self._job_began, self._rate = job, time.monotonic(), 0.0
        self._line_written = self._job_began
        if self._progress:
            self._progress.reset(self._current, description=str(job), total=1, visible=True, detail="starting")

    def step_finished(self, epoch: int, step: int, steps: int, loss: torch.Tensor) -> None:
        """A training step has ended."""
        if not self._progress:
            return
        now = time.monotonic()
        if now - self._loss_read >= _LOSS_SECONDS:
            self._loss, self._loss_read = loss.item(), now
            speed = f", {self._rate:.0f} images/s" if self._rate else ""
            detail = f"epoch {epoch + 1} of {self._epochs}, loss {self._loss:.3f}{speed}"
            self._progress.update(
                self._current, completed=epoch * steps + step + 1, total=self._epochs * steps, detail=detail
            )

    def epoch_finished(self, record: EpochRecord) -> None:
        """An epoch has ended."""
        self._rate = record.images_per_second
        now = time.monotonic()
        if not self._progress and now - self._line_written >= _LINE_SECONDS:
            self._line_written = now
            self._write(
                f"        {self._job}: epoch {record.epoch + 1} of {self._epochs}, loss {record.loss:.3f}, "
                f"{record.images_per_second:.0f} images/s"
            )

    def should_stop(self) -> bool:
        """Whether Ctrl-C was pressed."""
        return self._stop.wanted

    def job_finished(self, cell: Cell) -> None:
        """A job has ended, well or not."""
        self.finished.append(cell)
        self._trained_seconds.append(time.monotonic() - self._job_began)
        if cell.result is not None and cell.state == "done":
            outcome = f"{cell.result.metrics[self._metric]:.2f} % in {cell.result.seconds:.1f} s"
        else:
            outcome = f"{cell.state}: {cell.detail}"
        left = self._time_left()
        if self._progress:
            self._progress.update(self._overall, completed=len(self.finished), detail=left)
            self._progress.update(self._current, visible=False)
            self._write(f"{cell.job}: {outcome}")
        else:
            count = f"[{len(self.finished):>{len(str(self._total))}}/{self._total}]"
            self._write(f"{count} {cell.job}: {outcome}{left and ', ' + left}")

    def notice(self, text: str) -> None:
        """Something that a user should know has happened."""
        self._write(f"Note: {text}")

    def _write(self, line: str) -> None:
        if self._progress:
            self._progress.console.print(line, highlight=False, markup=False)
        else:
            click.echo(line, err=True)

    def _time_left(self) -> str:
        remaining = self._total - len(self.finished)
        if not remaining:
            return ""
        mean = sum(self._trained_seconds) / len(self._trained_seconds)
        return f"{duration(mean * remaining)} left"


def duration(seconds: float) -> str:
    """Say a time span as people do.

    >>> [duration(s) for s in (8, 200, 9000, 500_000, 90_000_000)]
    ['8 s', '3 min', '2.5 h', '5.8 days', '2.9 years']
    """
    for limit, unit, size in ((90, "s", 1), (5400, "min", 60), (172_800, "h", 3600), (63_115_200, "days", 86_400)):
        if seconds < limit:
            value = seconds / size
            return f"{value:.0f} {unit}" if unit in ("s", "min") else f"{value:.1f} {unit}"
    return f"{seconds / 31_557_600:.1f} years"


def _bars() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[detail]}"),
        console=Console(stderr=True),
    )
