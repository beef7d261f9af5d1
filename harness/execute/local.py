"""Executor plugin: one job after the other in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from harness.api import ExecutorSpec, Job, hookimpl

_Outcome = TypeVar("_Outcome")


def execute(jobs: Sequence[Job], run_one: Callable[[Job], _Outcome]) -> Iterator[_Outcome]:
    """Carry out the jobs in their order and yield each outcome as it comes."""
    for job in jobs:
        yield run_one(job)


@hookimpl
def harness_executors() -> list[ExecutorSpec]:
    """Offer the executor that needs nothing installed."""
    return [ExecutorSpec(name="local", title="One job after the other in this process", execute=execute)]
