"""Worker processes, one per device and job. One that dies costs the minutes since its job's last checkpoint.

Each job has a process of its own, because all that a model's code changes in torch would otherwise change the next job,
too. Each process has its own pipe. A shared queue would be simpler, but a process that is killed while it holds the
queue's lock blocks all others for good.
"""

from __future__ import annotations

import contextlib
import pickle
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from harness.api import CannotContinueError, Cell, Job, StoppedError, StoreError, Work
from harness.execute import worker
from harness.processes import AwakeClock, Surroundings, how_it_ended, start_process

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

_POLL_SECONDS = 0.1
_ATTEMPTS = 2  # one death may be bad luck; after a second one, the job itself is the likely cause
_STOP_SECONDS = 60.0  # in which a worker may end its step and save, before it is killed
_START_SECONDS = 600.0  # in which a worker may import its libraries, on a busy machine and from a slow disk
_EXIT_SECONDS = 10.0  # in which a worker may end after its job


@dataclass
class _Worker:
    """One process, its pipe and its job; times are those of the pool's clock."""

    process: BaseProcess
    connection: Any  # a Connection; a PipeConnection on Windows
    device: str
    job: Job | None  # None once the job has ended
    last_message: float
    ready: bool = False
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
        self._pending = deque(work.jobs)
        self._attempts: Counter[Job] = Counter()
        self._workers: list[_Worker] = []
        self._free_devices = list(work.resources.devices)
        self._failed_starts = 0
        self._clock = AwakeClock()
        self._said: set[str] = set()
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
                if self._stop_sent is not None and not any(one.job for one in self._workers):
                    break
                self._start_workers()
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
        while self._free_devices and self._pending and self._stop_sent is None:
            device, job = self._free_devices.pop(0), self._pending.popleft()
            here, there = Pipe()
            assignment = worker.Assignment(self._run_one, job, device, self._work.resources.threads)
            process = start_process(
                self._work.resources.devices, worker.main, there, assignment, Surroundings.here(), say=self._say_once
            )
            there.close()  # so that the pipe ends with the process
            self._workers.append(_Worker(process, here, device, job, self._clock.seconds()))

    def _say_once(self, sentence: str) -> None:
        if sentence not in self._said:
            self._said.add(sentence)
            self._work.reporter.notice(sentence)

    def _listen(self) -> Iterator[Cell]:
        """Wait a moment for messages of workers, pass them on, and yield the outcomes of jobs that have ended."""
        # A process that a plugin leaves behind may keep the pipe open, so the worker's end is waited for as well.
        ready = wait([end for one in self._workers for end in (one.connection, one.process.sentinel)], _POLL_SECONDS)
        for one in list(self._workers):
            if one.connection not in ready and one.process.sentinel not in ready:
                continue
            try:
                if not one.connection.poll():
                    raise EOFError
                name, arguments = one.connection.recv()
            except (EOFError, OSError, pickle.UnpicklingError):
                yield from self._replace(one)
                continue
            one.last_message = self._clock.seconds()
            yield from self._handle(one, name, arguments)

    def _handle(self, one: _Worker, name: str, arguments: tuple[Any, ...]) -> Iterator[Cell]:
        match name:
            case "ready":
                one.ready, self._failed_starts = True, 0
            case "ended":
                one.job = None
                yield arguments[0]
            case "stopped":
                # Without a request of this process, a signal has stopped the worker alone: another one resumes its job.
                job, one.job = one.job, None
                if self._stop_sent is not None:
                    self._stopped = True
                elif job is not None:
                    yield from self._try_again(job, "was asked by a signal to stop")
            case "cannot_write":
                raise StoreError(arguments[0])
            case _:
                getattr(self._work.reporter, name)(*arguments)

    def _replace(self, one: _Worker) -> Iterator[Cell]:
        """Deal with a worker that has ended: its device, and the job that it has left, are free for another one."""
        one.process.join(timeout=5)
        reason = one.killed_because or how_it_ended(one.process.exitcode)
        self._workers.remove(one)
        self._free_devices.insert(0, one.device)
        one.connection.close()
        if one.job is None:
            return
        if self._stop_sent is not None:
            self._stopped = True
        elif one.ready:
            yield from self._try_again(one.job, reason)
        else:
            self._pending.appendleft(one.job)
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
        now = self._clock.seconds()
        for one in self._workers:
            silent = now - one.last_message
            if one.job is None:
                if silent > _EXIT_SECONDS:
                    one.process.kill()
            elif not one.ready and silent > _START_SECONDS:
                one.kill(f"did not start within {_START_SECONDS:.0f} seconds and was ended")
            elif one.ready and limit is not None and silent > limit:
                one.kill(f"made no progress for {limit:.0f} seconds and was ended")
            elif self._stop_sent is not None and now - self._stop_sent > _STOP_SECONDS:
                one.kill("did not stop when asked and was ended")

    def _pass_on_stop(self) -> None:
        if self._stop_sent is None and self._work.reporter.should_stop():
            self._stop_sent = self._clock.seconds()
            for one in self._workers:
                with contextlib.suppress(OSError):
                    one.connection.send("stop")

    def _close(self) -> None:
        """Close the pipes, at which workers save and end, and kill those that take too long."""
        for one in self._workers:
            one.connection.close()
        began = self._clock.seconds()
        for one in self._workers:
            patience = began + (_EXIT_SECONDS if one.job is None else _STOP_SECONDS)
            while one.process.is_alive() and self._clock.seconds() < patience:
                one.process.join(timeout=_POLL_SECONDS)
            if one.process.is_alive():
                one.process.kill()
        self._workers.clear()
