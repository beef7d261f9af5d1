"""A worker process: it trains one job after another for its parent, so that libraries are imported once.

This module imports nothing heavy, for it is imported before the number of threads is limited.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, SupportsFloat, TypeAlias

from harness.api import Cell, EpochRecord, Job, Reporter, Shares, StoppedError, StopSignal, StoreError
from harness.machine import THREAD_VARIABLES, gc_paused

_Send: TypeAlias = Callable[[tuple[str, tuple[Any, ...]]], None]


@dataclass(frozen=True)
class Surroundings:
    """The parent's environment and folder. A forked process has those with which the fork server started."""

    environment: Mapping[str, str]
    folder: str


def main(connection: Connection, run_one: bytes, device: str, threads: int | None, surroundings: Surroundings) -> None:
    """Train the jobs that the parent sends, until it closes the connection.

    The parent sends a Job or "stop". This process sends calls of the reporter as (method, arguments), and at the end of
    each job ("ended", (cell, reusable)), ("stopped", ()) or ("cannot_write", (sentence,)).

    Args:
        connection: The connection to the parent.
        run_one: A pickled ``harness.api.RunOne``, unpickled once the threads are limited.
        device: The device to train on.
        threads: CPU threads; None leaves torch's own number.
        surroundings: The parent's environment and folder.
    """
    set_up_process(threads, surroundings)
    stop = StopSignal()
    jobs = _Inbox(connection, stop)

    def send(message: tuple[str, tuple[Any, ...]]) -> None:
        try:
            connection.send(message)
        except OSError:  # the parent has ended: save the position and end
            stop.wanted = True

    with stop.installed():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which sends "stop"
        train = _unpickle(run_one)
        send(("ready", ()))
        while (job := jobs.next()) is not None:
            if not _carry_out(job, partial(train, device=device, threads=threads), send, stop, on_gpu=device != "cpu"):
                break
    atexit._run_exitfuncs()  # a forked process skips these functions, and a library may use one to flush
    gc.freeze()  # else the interpreter visits every object of torch at its end, which takes a second


def _carry_out(job: Job, train: Callable[..., Cell], send: _Send, stop: StopSignal, *, on_gpu: bool) -> bool:
    """Train one job and send its outcome; return whether this process can train another one."""

    try:
        cell = train(job, reporter=PipeReporter(send, stop))
    except StoppedError:
        send(("stopped", ()))
        return False
    except StoreError as error:
        send(("cannot_write", (str(error),)))
        return False
    # A failure on a GPU may break the CUDA context for good, so the next job gets a fresh process.
    reusable = cell.state != "failed" or not on_gpu
    send(("ended", (cell, reusable)))
    return reusable


class _Inbox:
    """The parent's messages. A thread reads them, so that "stop" arrives while a job is training."""

    def __init__(self, connection: Connection, stop: StopSignal) -> None:
        self._connection = connection
        self._stop = stop
        self._jobs: list[Job | None] = []
        self._arrived = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def next(self) -> Job | None:
        """Wait for the next job and return it; None at the end."""
        with self._arrived:
            while not self._jobs:
                # Python handles signals in the main thread, between two waits.
                self._arrived.wait(timeout=0.5)
                if self._stop.wanted:
                    return None
            return self._jobs.pop(0)

    def _read(self) -> None:
        while True:
            try:
                message = self._connection.recv()
            except (EOFError, OSError):  # the parent has ended: save the position and end
                message = "stop"
            if message == "stop":
                self._stop.wanted = True
            with self._arrived:
                self._jobs.append(None if message == "stop" else message)
                self._arrived.notify()
            if message == "stop":
                return


def set_up_process(threads: int | None, surroundings: Surroundings) -> None:
    """Take over the parent's surroundings, limit the threads, and point stdout at stderr.

    The variables limit the threads of libraries that are imported afterwards. In a forked process torch is imported
    already, and ``run_one`` sets its number of threads.
    """
    os.environ.clear()
    os.environ.update(surroundings.environment)
    os.chdir(surroundings.folder)
    if threads is not None:
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    with contextlib.suppress(OSError, ValueError):
        os.dup2(sys.stderr.fileno(), 1)
    sys.stdout = sys.stderr


def _unpickle(run_one: bytes) -> Any:
    import pickle

    with gc_paused():
        import torch  # noqa: F401 - a failure of this import ends the process before the parent sends a job

    return pickle.loads(run_one)


def how_it_ended(code: int | None) -> str:
    """Return the end of a sentence about a process, from its exit code.

    >>> how_it_ended(3)
    'ended with exit code 3'
    """
    if code is None or code >= 0:
        return f"ended with exit code {code}"
    with contextlib.suppress(ValueError):
        name = signal.Signals(-code).name
        hint = " (the system does that when memory runs out)" if name == "SIGKILL" else ""
        hint = " (a crash in compiled code)" if name in ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE") else hint
        return f"was killed by {name}{hint}"
    return f"was killed by signal {-code}"


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
