"""Jobs -> worker processes that live on, one for each device slot. One that dies costs its own job's last minutes.

Each worker has a pipe of its own. A shared queue would be simpler, but a process that is killed while it holds the
queue's lock stops all others for ever.
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
_ATTEMPTS = 2  # a job whose process died once may have been unlucky; twice, it is the job
_STOP_SECONDS = 60.0  # for a worker to end its step and save, before it is ended
_START_SECONDS = 600.0  # for a worker to import its libraries, on a busy machine and from a slow disk


@dataclass
class _Worker:
    """One process, its pipe and what it is doing."""

    process: BaseProcess
    connection: Any  # Connection, and PipeConnection on Windows
    device: str
    ready: bool = False
    job: Job | None = None
    heard: float = field(default_factory=time.monotonic)
    ended_for: str = ""

    def end(self, reason: str) -> None:
        """End the process at once."""
        self.ended_for = reason
        self.process.kill()


class Pool:
    """Carries out the jobs of a Work in worker processes."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._run_one = pickle.dumps(work.run_one)
        # Never forked from this process: a copy of torch's threads and of a CUDA context does not work.
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
                self._heed_stop()
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
            there.close()  # so that the end of the process is the end of the pipe
            self._workers.append(_Worker(process, here, device))

    def _busy(self) -> int:
        return sum(one.job is not None for one in self._workers)

    def _assign(self, one: _Worker) -> None:
        one.job = self._pending.popleft()
        one.heard = time.monotonic()
        with contextlib.suppress(OSError):  # it has just died; its pipe will say so
            one.connection.send(one.job)

    def _listen(self) -> Iterator[Cell]:
        """Wait a moment for what workers say, pass it on, and yield the jobs that have ended."""
        by_connection = {one.connection: one for one in self._workers}
        for connection in wait(list(by_connection), timeout=_POLL_SECONDS):
            one = by_connection[connection]  # only connections were waited for
            try:
                name, arguments = one.connection.recv()
            except (EOFError, OSError, pickle.UnpicklingError):
                yield from self._bury(one)
                continue
            one.heard = time.monotonic()
            yield from self._understand(one, name, arguments)

    def _understand(self, one: _Worker, name: str, arguments: tuple[Any, ...]) -> Iterator[Cell]:
        match name:
            case "ready":
                one.ready, self._failed_starts = True, 0
            case "ended":
                cell, fit = arguments
                one.job = None
                if not fit:
                    self._retire(one)
                yield cell
            case "stopped":
                # Asked by this process, or by a signal to the worker alone; then its job goes on elsewhere.
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

    def _bury(self, one: _Worker) -> Iterator[Cell]:
        """Deal with a worker that has died."""
        one.process.join(timeout=5)
        reason = one.ended_for or how_it_ended(one.process.exitcode)
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
                    "What it wrote stands above. 'harness run --in-process' trains without such processes."
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
            silent = now - one.heard
            if not one.ready and silent > _START_SECONDS:
                one.end(f"did not start within {_START_SECONDS:.0f} seconds and was ended")
            elif limit is not None and one.job is not None and silent > limit:
                one.end(f"made no progress for {limit:.0f} seconds and was ended")
            elif self._stop_sent and one.job is not None and now - self._stop_sent > _STOP_SECONDS:
                one.end("did not stop when asked and was ended")

    def _heed_stop(self) -> None:
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
        """End all workers: idle ones by themselves, others by force after a moment to save their position."""
        for one in self._workers:
            one.connection.close()
        patience = time.monotonic() + _STOP_SECONDS
        for one in self._workers:
            one.process.join(timeout=max(0.0, patience - time.monotonic()))
            if one.process.is_alive():
                one.process.kill()
        self._workers.clear()
