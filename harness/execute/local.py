"""Executor plugin: worker processes on this machine, one per device."""

from __future__ import annotations

from collections.abc import Iterator

from harness.api import Cell, ExecutorSpec, Work, hookimpl


def execute(work: Work) -> Iterator[Cell]:
    """Carry out the jobs in their order, one per device at once, and yield each outcome as it comes.

    Even a single job trains in a worker process: a crash in compiled code, a broken device or a hung job then ends the
    worker and not the command.
    """
    resources = work.resources
    if resources.in_process:
        for job in work.jobs:
            yield work.run_one(job, device=resources.devices[0], threads=resources.threads, reporter=work.reporter)
        return
    # The one executor that uses more than harness.api: its worker processes are the core's own. The import waits until
    # here because every command imports this module, and few start workers.
    from harness.execute.pool import Pool

    yield from Pool(work).carry_out()


@hookimpl
def harness_executors() -> list[ExecutorSpec]:
    """Register the executor, which needs nothing installed."""
    return [ExecutorSpec(name="local", title="Processes on this machine, one per device", execute=execute)]
