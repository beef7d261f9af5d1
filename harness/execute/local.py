"""Executor plugin: this machine, in processes that live on, one for each device slot."""

from __future__ import annotations

from collections.abc import Iterator

from harness.api import Cell, ExecutorSpec, Work, hookimpl


def execute(work: Work) -> Iterator[Cell]:
    """Carry out the jobs in their order, as many at a time as there are devices, and yield each outcome as it comes.

    Training happens in processes of its own even where there is one job at a time: a crash in compiled code, a device
    that has gone into an unusable state or a hung job then ends that process, not the command.
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
    """Offer the executor that needs nothing installed."""
    return [ExecutorSpec(name="local", title="Processes on this machine, one for each device slot", execute=execute)]
