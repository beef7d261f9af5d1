"""A worker process: it trains one job for its parent and ends, so that no job meets what another one changed.

This module imports nothing heavy, for it is imported before the number of threads is limited.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, SupportsFloat, TypeAlias

from harness.api import Cell, EpochRecord, Job, Reporter, Shares, StoppedError, StopSignal, StoreError
from harness.machine import gc_paused
from harness.processes import Surroundings, end_process

_Send: TypeAlias = Callable[[tuple[str, tuple[Any, ...]]], None]


@dataclass(frozen=True)
class Assignment:
    """The work of one process.

    Attributes:
        run_one: A pickled ``harness.api.RunOne``, unpickled once the threads are limited.
        job: The job.
        device: The device to train on.
        threads: CPU threads; None leaves torch's own number.
    """

    run_one: bytes
    job: Job
    device: str
    threads: int | None


def main(connection: Connection, assignment: Assignment, surroundings: Surroundings) -> None:
    """Train a job, and end this process.

    This process sends ("ready", ()), then calls of the reporter as (method, arguments), and at last ("ended", (cell,)),
    ("stopped", ()) or ("cannot_write", (sentence,)). The parent sends "stop", or closes the connection, to stop it.

    Args:
        connection: The connection to the parent.
        assignment: The job, and the means to train it.
        surroundings: The parent's environment and folder.
    """
    try:
        surroundings.take_over(assignment.threads)
        _train(connection, assignment)
    except BaseException:
        traceback.print_exc()
        end_process(1)
    end_process(0)


def _train(connection: Connection, assignment: Assignment) -> None:
    stop = StopSignal()

    def send(message: tuple[str, tuple[Any, ...]]) -> None:
        try:
            connection.send(message)
        except OSError:  # the parent has ended: save the position and end
            stop.wanted = True

    with stop.installed():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which sends "stop"
        train = _unpickle(assignment.run_one)
        threading.Thread(target=_listen, args=(connection, stop), daemon=True).start()
        send(("ready", ()))
        reporter = PipeReporter(send, stop)
        try:
            if stop.wanted:
                raise StoppedError
            cell: Cell = train(assignment.job, device=assignment.device, threads=assignment.threads, reporter=reporter)
            send(("ended", (cell,)))
        except StoppedError:
            send(("stopped", ()))
        except StoreError as error:
            send(("cannot_write", (str(error),)))


def _listen(connection: Connection, stop: StopSignal) -> None:
    """Wait for "stop" while the job is training, or for the end of the parent."""
    with contextlib.suppress(EOFError, OSError):
        connection.recv()
    stop.wanted = True


def _unpickle(run_one: bytes) -> Any:
    import pickle

    with gc_paused():
        import torch  # noqa: F401 - a failure of this import ends the process before it is ready

    return pickle.loads(run_one)


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
