"""Executor plugin: Ray, on a running cluster or on a temporary local one."""

from __future__ import annotations

import logging
import os
import pickle
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

from harness.api import (
    CannotContinueError,
    Cell,
    ExecutorSpec,
    Job,
    StoppedError,
    StoreError,
    Work,
    hookimpl,
)

_OPTIONS = {
    "address": "a running cluster, such as auto or ray://head:10001 (default $RAY_ADDRESS, else a temporary local one)",
    "resources": "custom resources per job, such as a100=0.5; commas between several",
}
_POLL_SECONDS = 0.5
_STOP_SECONDS = 60.0


def execute(work: Work) -> Iterator[Cell]:
    """Submit every job to Ray and yield each outcome as it comes.

    Raises:
        CannotContinueError: Ray is missing or does not answer.
        StoreError: results can't be written.
        StoppedError: the user asked to stop; every job's position is saved.
    """
    ray = _connect(work)
    try:
        yield from _carry_out(ray, work)
    finally:
        ray.shutdown()


def _connect(work: Work) -> Any:
    try:
        import ray
    except ImportError:
        raise CannotContinueError("The executor 'ray' needs Ray. Run: pip install 'xscore-harness[ray]'") from None
    resources = work.resources
    address = resources.options.get("address") or os.environ.get("RAY_ADDRESS")
    try:
        if address:
            _knock(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
        else:
            jobs = resources.jobs or max(1, (os.cpu_count() or 1) // (resources.threads or 1))
            ray.init(
                address="local",
                num_cpus=jobs * (resources.threads or 1),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
    except (OSError, RuntimeError, ValueError) as error:
        place = f"at {address}" if address else "on this machine"
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise CannotContinueError(f"Ray does not answer {place}: {reason}") from error
    return ray


def _knock(address: str) -> None:
    """Connect to an address and close again, because Ray takes minutes to give up. Raises OSError."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


def _carry_out(ray: Any, work: Work) -> Iterator[Cell]:
    resources = work.resources
    threads = resources.threads or 1
    # Ray replaces a worker that dies once; after a second death the job is recorded as failed.
    remote = ray.remote(
        num_cpus=threads,
        num_gpus=1 / resources.jobs_per_gpu if resources.needs_gpu else 0,
        resources=_custom(resources.options.get("resources", "")),
        max_retries=1,
        max_calls=1,  # so that no job meets what another one's code has changed in the process
        retry_exceptions=False,
    )(_training(_working_folders()))
    waiting = list(work.jobs)
    running: dict[Any, Job] = {}
    limit = resources.jobs or len(waiting)
    while waiting or running:
        if work.reporter.should_stop():
            _stop(ray, running)
            raise StoppedError
        while waiting and len(running) < limit:
            job = waiting.pop(0)
            content = pickle.dumps((work.run_one, job))
            running[remote.remote(content, resources.devices[0], threads)] = job
            work.reporter.job_started(job)
        done, _ = ray.wait(list(running), num_returns=1, timeout=_POLL_SECONDS)
        for reference in done:
            outcome = _outcome(ray, work, reference, running.pop(reference))
            work.reporter.job_finished(outcome)
            yield outcome


def _working_folders() -> frozenset[str]:
    """Return the folder that Ray puts first on the path of its workers although this process does not search it."""
    return frozenset({str(Path.cwd())} - set(sys.path))


def _training(left_out: frozenset[str]) -> Callable[[bytes, str, int], Cell]:
    """Return the function of a Ray worker. Ray sends its code, for it is no function of a module.

    So nothing is imported before the path is put right: a user's ``timm/`` in the working folder, or another checkout's
    ``harness/``, would be imported in place of the installed one.
    """

    def train(content: bytes, device: str, threads: int) -> Cell:
        import pickle
        import sys

        sys.path[:] = [entry for entry in sys.path if entry not in left_out]
        run_one, job = pickle.loads(content)
        cell: Cell = run_one(job, device=device, threads=threads)
        return cell

    return train


def _outcome(ray: Any, work: Work, reference: Any, job: Job) -> Cell:
    try:
        cell: Cell = ray.get(reference)
        return cell
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, StoreError):
            raise StoreError(str(cause)) from error
        return work.run_one.fail(job, f"{type(cause).__name__}: {cause}")
    except ray.exceptions.RayError as error:
        found = work.run_one.look(job)
        if found.state == "done":
            return found
        first = (str(error).splitlines() or [""])[0]
        return work.run_one.fail(job, f"Its Ray worker died twice ({type(error).__name__}: {first}).")


def _stop(ray: Any, running: dict[Any, Job]) -> None:
    """Let every job save its position, which it does at the end of its step, and end."""
    for reference in running:
        ray.cancel(reference, force=False)
    left = list(running)
    # The waits are counted, for a clock runs on while this process and its workers are stopped.
    for _ in range(round(_STOP_SECONDS / _POLL_SECONDS) + len(running)):
        if left:
            _, left = ray.wait(left, num_returns=1, timeout=_POLL_SECONDS)


def _custom(text: str) -> dict[str, float]:
    found = {}
    for part in filter(None, text.split(",")):
        name, _, amount = part.partition("=")
        found[name.strip()] = float(amount or 1)
    return found


@hookimpl
def harness_executors() -> list[ExecutorSpec]:
    """Register the executor. ``execute`` finds out whether Ray is there."""
    return [
        ExecutorSpec(
            name="ray",
            title="Ray, a running cluster or a temporary local one: pip install 'xscore-harness[ray]'",
            execute=execute,
            remote=True,
            options=MappingProxyType(_OPTIONS),
        )
    ]
