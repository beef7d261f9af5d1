"""A pool of worker processes, one per device. A worker that dies costs the minutes since its job's last checkpoint.

Each worker has its own pipe. A shared queue would be simpler, but a process that is killed while it holds the queue's
lock blocks all others for good.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.api import CannotContinueError, Cell, Job, StoppedError, StoreError, Work
from harness.execute import worker
from harness.execute.forkserver import process_context
from harness.execute.worker import how_it_ended

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

_POLL_SECONDS = 0.1
_ATTEMPTS = 2  # one death may be bad luck; after a second one, the job itself is the likely cause
_STOP_SECONDS = 60.0  # in which a worker may end its step and save, before it is killed
_START_SECONDS = 600.0  # in which a worker may import its libraries, on a busy machine and from a slow disk


@dataclass
class _Worker:
    """One process, its pipe and its current job."""

    process: BaseProcess
    connection: Any  # a Connection; a PipeConnection on Windows
    device: str
    ready: bool = False
    job: Job | None = None
    last_message: float = field(default_factory=time.monotonic)
    killed_because: str = ""

    def kill(self, reason: str) -> None:
        """Kill the process."""
        self.killed_because = reason
        self.process.kill()


class Pool:
    """Carries out the jobs of a Work in worker processes."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._run_one = pickle.dumps(work.run_one)
        # Workers are not forked from this process, for a fork can't copy torch's threads and a CUDA context.
        self._context = process_context(work.resources.devices)
        self._pending = deque(work.jobs)
        self._attempts: Counter[Job] = Counter()
        self._workers: list[_Worker] = []
        self._free_devices = list(work.resources.devices)
        self._failed_starts = 0
        self._stop_sent: float | None = None
        self._stopped = False

    def carry_out(self) -> Iterator[Cell]:
        """Yield each job's outcome as it comes.

        Raises:
            StoppedError: the user asked to stop; every job's position is saved.
            StoreError: results can't be written.
            CannotContinueError: worker processes do not start.
        """
        try:
            while self._pending or any(one.job for one in self._workers):
                self._pass_on_stop()
                if self._stop_sent and not any(one.job for one in self._workers):
                    break
                self._start_workers()
                for one in self._workers:
                    if one.ready and one.job is None and self._pending and not self._stop_sent:
                        self._assign(one)
                yield from self._listen()
                self._end_hung()
            if self._pending or self._stopped:
                raise StoppedError
        except KeyboardInterrupt:  # the second Ctrl-C
            for one in self._workers:
                one.process.kill()
            raise
        finally:
            self._close()

    def _start_workers(self) -> None:
        while self._free_devices and len(self._workers) < len(self._pending) + self._busy() and not self._stop_sent:
            device = self._free_devices.pop(0)
            here, there = self._context.Pipe()
            surroundings = worker.Surroundings(dict(os.environ), str(Path.cwd()))
            arguments = (there, self._run_one, device, self._work.resources.threads, surroundings)
            process = self._context.Process(target=worker.main, args=arguments, name="harness worker", daemon=False)
            process.start()
            there.close()  # so that the pipe ends with the process
            self._workers.append(_Worker(process, here, device))

    def _busy(self) -> int:
        return sum(one.job is not None for one in self._workers)

    def _assign(self, one: _Worker) -> None:
        one.job = self._pending.popleft()
        one.last_message = time.monotonic()
        with contextlib.suppress(OSError):  # it has just died, which its pipe will show
            one.connection.send(one.job)

    def _listen(self) -> Iterator[Cell]:
        """Wait a moment for messages of workers, pass them on, and yield the outcomes of jobs that have ended."""
        by_connection = {one.connection: one for one in self._workers}
        for connection in wait(list(by_connection), timeout=_POLL_SECONDS):
            one = by_connection[connection]
            try:
                name, arguments = one.connection.recv()
            except (EOFError, OSError, pickle.UnpicklingError):
                yield from self._replace(one)
                continue
            one.last_message = time.monotonic()
            yield from self._handle(one, name, arguments)

    def _handle(self, one: _Worker, name: str, arguments: tuple[Any, ...]) -> Iterator[Cell]:
        match name:
            case "ready":
                one.ready, self._failed_starts = True, 0
            case "ended":
                cell, reusable = arguments
                one.job = None
                if not reusable:
                    self._retire(one)
                yield cell
            case "stopped":
                # Without a request of this process, a signal has stopped the worker alone: another one resumes its job.
                if self._stop_sent:
                    self._stopped = True
                elif one.job is not None:
                    yield from self._try_again(one.job, "was asked by a signal to stop")
                one.job = None
                self._retire(one)
            case "cannot_write":
                raise StoreError(arguments[0])
            case _:
                getattr(self._work.reporter, name)(*arguments)

    def _replace(self, one: _Worker) -> Iterator[Cell]:
        """Deal with a worker that has died: its device and its job are free for another one."""
        one.process.join(timeout=5)
        reason = one.killed_because or how_it_ended(one.process.exitcode)
        job, started = one.job, one.ready
        self._retire(one)
        if job is not None:
            if self._stop_sent:
                self._stopped = True
            else:
                yield from self._try_again(job, reason)
        elif not started and not self._stop_sent:
            self._failed_starts += 1
            if self._failed_starts >= _ATTEMPTS:
                raise CannotContinueError(
                    f"A process for training {reason} before it could start, {self._failed_starts} times in a row. "
                    "Its messages are above. 'harness run --in-process' trains without such processes."
                )

    def _try_again(self, job: Job, reason: str) -> Iterator[Cell]:
        self._attempts[job] += 1
        if self._attempts[job] < _ATTEMPTS:
            self._work.reporter.notice(
                f"{job}: the process that trained it {reason}. It goes on from its last checkpoint in a fresh process."
            )
            self._pending.appendleft(job)
            return
        sentence = f"The process that trained it {reason}, {_ATTEMPTS} times in a row."
        cell = self._work.run_one.fail(job, sentence)
        self._work.reporter.job_finished(cell)
        yield cell

    def _end_hung(self) -> None:
        limit = self._work.resources.timeout
        now = time.monotonic()
        for one in self._workers:
            silent = now - one.last_message
            if not one.ready and silent > _START_SECONDS:
                one.kill(f"did not start within {_START_SECONDS:.0f} seconds and was ended")
            elif limit is not None and one.job is not None and silent > limit:
                one.kill(f"made no progress for {limit:.0f} seconds and was ended")
            elif self._stop_sent and one.job is not None and now - self._stop_sent > _STOP_SECONDS:
                one.kill("did not stop when asked and was ended")

    def _pass_on_stop(self) -> None:
        if self._stop_sent is None and self._work.reporter.should_stop():
            self._stop_sent = time.monotonic()
            for one in self._workers:
                with contextlib.suppress(OSError):
                    one.connection.send("stop")

    def _retire(self, one: _Worker) -> None:
        self._workers.remove(one)
        self._free_devices.insert(0, one.device)
        one.connection.close()

    def _close(self) -> None:
        """Close the pipes, at which workers save and end, and kill those that take too long."""
        for one in self._workers:
            one.connection.close()
        patience = time.monotonic() + _STOP_SECONDS
        for one in self._workers:
            one.process.join(timeout=max(0.0, patience - time.monotonic()))
            if one.process.is_alive():
                one.process.kill()
        self._workers.clear()
