"""A profiled run: its clock, which tells the reporter how the present epoch goes and keeps ``profile.json``."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch

from harness.errors import StoreError
from harness.results.profile import Profile, read_profile, write_profile
from harness.results.store import JobFolder
from harness.train.profile import RunClock, watch_for
from harness.train.provenance import device_name

if TYPE_CHECKING:
    from harness.execute.runner import Reporter
    from harness.train.checkpoint import Found
    from harness.train.run import Built, Task


def run_clock(task: Task, built: Built, folder: JobFolder, found: Found, reporter: Reporter) -> RunClock:
    """Start the clock of a run.

    Args:
        task, built: The job, and its model.
        folder: Where the profile is kept.
        found: Where the run goes on from; if from a checkpoint, the profile goes on, too.
        reporter: Told how the present epoch goes.
    """
    threads = torch.get_num_threads()
    earlier = read_profile(folder) if found.checkpoint is not None else None
    if earlier is not None and earlier.fingerprint != built.fingerprint:
        earlier = None

    def save(clock: RunClock) -> None:
        profile = Profile(
            fingerprint=built.fingerprint,
            device=str(task.device),
            device_name=device_name(task.device) or "",
            threads=threads,
            batch_size=task.protocol.batch_size,
            epochs=task.protocol.epochs,
            steps_per_epoch=task.dataset.manifest.counts["train"] // task.protocol.batch_size,
            pieces=clock.pieces,
            outside=clock.outside.seconds,
        )
        with contextlib.suppress(StoreError):  # if the disk is full the run itself will say so
            write_profile(folder, profile)

    return RunClock(
        watch_for(task.device, threads),
        tell=lambda shares: reporter.profiled(task.job, shares),
        save=save,
        pieces=earlier.pieces if earlier else (),
        outside=earlier.outside if earlier else None,
    )
