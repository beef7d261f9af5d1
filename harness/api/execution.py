"""The API of executors: the work, the resources, and the object that trains a job."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Protocol, SupportsFloat

from harness.api.jobs import Cell, EpochRecord, Job, Shares
from harness.api.specs import require_callable, require_name, require_texts


class RunOne(Protocol):
    """Trains one job in the process that calls it. Picklable: any machine with the harness can call it."""

    def __call__(
        self, job: Job, /, *, device: str = "auto", threads: int | None = None, reporter: Reporter | None = None
    ) -> Cell:
        """Train a job, unless it is done or another process works on it, and return its state afterwards.

        Args:
            job: The job. If it fails, the reason is recorded on disk and in what is returned; nothing is raised.
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` ..., looked up on the machine that trains.
            threads: CPU threads; None leaves torch's own number.
            reporter: Receives the progress; None writes lines to stderr and stops at SIGINT, SIGTERM and SIGHUP.

        Raises:
            StoreError: results can't be written, by this job or any other.
            StoppedError: the reporter asked to stop; the position is saved.
        """
        ...

    def look(self, job: Job, /) -> Cell:
        """Return a job's state on disk, without training."""
        ...

    def fail(self, job: Job, reason: str, /) -> Cell:
        """Record a failure that the job's own process could not record, and return the job's state.

        A job that is done stays done, and a job of another process stays running.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Resources:
    """The devices, threads and limits that jobs may use.

    Attributes:
        devices: One device name per job that may run at once on this machine, so its length is their number. A remote
            executor gets the one name that the user gave, such as ``auto``.
        jobs: The number of jobs that may run at once; None if the user set no limit.
        jobs_per_gpu: The number of jobs that share one GPU.
        threads: CPU threads per job; None leaves torch's own number.
        timeout: Seconds without progress after which a job counts as hung; None for no limit.
        needs_gpu: Whether jobs need a machine with a GPU.
        in_process: Train in the calling process, one job after the other, for a debugger.
        detach: Submit and return, if the executor can.
        options: The executor's own settings, as the user typed them.
    """

    devices: tuple[str, ...] = ("auto",)
    jobs: int | None = None
    jobs_per_gpu: int = 1
    threads: int | None = None
    timeout: float | None = None
    needs_gpu: bool = False
    in_process: bool = False
    detach: bool = False
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Work:
    """The jobs that an executor carries out.

    Attributes:
        jobs: In the order in which they should start.
        run_one: Trains one of them, reads its state, or records that it failed.
        resources: The devices, threads and limits of the jobs.
        reporter: Receives the progress. An executor asks ``reporter.should_stop()`` at least every few seconds. It
            calls ``job_started`` and ``job_finished`` for the jobs that it runs without passing the reporter on.
        folder: The folder for the executor's own files, beside the results. The executor creates it.
    """

    jobs: tuple[Job, ...]
    run_one: RunOne
    resources: Resources
    reporter: Reporter
    folder: Path


@dataclass(frozen=True, kw_only=True)
class ExecutorSpec:
    """A way to carry out jobs: on this machine, or on a cluster.

    Attributes:
        name: The value of ``harness run --executor``.
        title: A description in a few words.
        execute: ``execute(work)`` calls ``work.run_one(job)`` once per job, on any machine, and yields what it returned
            as each job ends. It raises ``StoppedError`` once it has stopped because ``reporter.should_stop()`` was
            true, ``CannotContinueError`` if its engine is missing, ``WrongUseError`` for an impossible option, and
            ``StoreError`` if results can't be written.
        remote: Whether jobs run on other machines than the command.
        options: The executor's own settings by name, with a line of help for each.
        waiting: ``waiting(folder)`` returns the jobs that the executor's queue holds, with a few words on each, for
            ``harness status``. The folder is ``Work.folder``, and may be absent. None if there is no queue.
    """

    name: str
    title: str
    execute: Callable[[Work], Iterable[Cell]]
    remote: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    waiting: Callable[[Path], Mapping[Job, str]] | None = None

    def __post_init__(self) -> None:
        require_name("executor", self.name)
        require_callable("executor", self.name, "execute", self.execute)
        if self.waiting is not None:
            require_callable("executor", self.name, "waiting", self.waiting)
        require_texts("executor", self.name, title=self.title)


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
