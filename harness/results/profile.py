"""``profile.json`` of a job: its time by phase, in total and by epoch."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.errors import StoreError
from harness.files import write_text_atomically
from harness.results.store import JobFolder
from harness.train.clock import HostWatch, Phase, Piece, RunClock, Watch

if TYPE_CHECKING:
    import torch

    from harness.api import Reporter
    from harness.train.checkpoint import Found
    from harness.train.task import Built, Task


SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The time of a job by phase, over all processes that worked on it with a profile.

    Attributes:
        fingerprint: Of the profiled attempt.
        device, device_name: The device that trained it.
        threads: CPU threads of the last process.
        batch_size, epochs, steps_per_epoch: The size of the whole training.
        pieces: The measurements of the epochs, in order.
        outside: Seconds by phase outside of epochs.
    """

    fingerprint: str
    device: str
    device_name: str
    threads: int
    batch_size: int
    epochs: int
    steps_per_epoch: int
    pieces: Sequence[Piece]
    outside: Mapping[str, float] = field(default_factory=dict)

    @property
    def phases(self) -> dict[str, float]:
        """Seconds by phase; they sum up to the wall-clock time."""
        parts = [self.outside, *(piece.seconds for piece in self.pieces)]
        return {phase.value: sum(part.get(phase, 0.0) for part in parts) for phase in Phase}

    @property
    def seconds(self) -> float:
        """The measured wall-clock time."""
        return sum(self.phases.values())

    @property
    def steps(self) -> int:
        """The number of measured training steps."""
        return sum(piece.steps for piece in self.pieces)

    @property
    def training_seconds(self) -> float:
        """Wall-clock time of these steps."""
        return sum(piece.training_seconds for piece in self.pieces)

    @property
    def images_per_second(self) -> float | None:
        """Training images through the step; None if no step was measured."""
        return _rate(self.steps * self.batch_size, self.training_seconds)

    @property
    def idle(self) -> float | None:
        """The device's idle share, over the epochs in which it was measured."""
        known = [(piece.idle, piece.training_seconds) for piece in self.pieces if piece.idle is not None]
        whole = sum(seconds for _, seconds in known)
        return sum(idle * seconds for idle, seconds in known) / whole if whole else None

    @property
    def host_waiting(self) -> float | None:
        """Seconds that the host waited for data, if the phases are the device's."""
        known = [piece.host_waiting for piece in self.pieces if piece.host_waiting is not None]
        return sum(known) if known else None


def write_profile(folder: JobFolder, profile: Profile) -> None:
    """Write a job's profile atomically, with one line per column by epoch. Raises StoreError."""
    phases, whole = profile.phases, profile.seconds or 1.0
    job = folder.job
    head = {
        "schema": SCHEMA,
        **job.as_dict(),
        "fingerprint": profile.fingerprint,
        "device": profile.device,
        "device_name": profile.device_name,
        "threads": profile.threads,
        "batch_size": profile.batch_size,
        "epochs": profile.epochs,
        "steps_per_epoch": profile.steps_per_epoch,
        "steps_profiled": profile.steps,
        "seconds": round(profile.seconds, 4),
        "images_per_second": _rounded(profile.images_per_second, 1),
        "device_idle": _rounded(profile.idle),
        **({"host_waiting": _rounded(profile.host_waiting)} if profile.host_waiting else {}),
        "phases": {
            name: {"seconds": round(seconds, 4), "share": round(seconds / whole, 4)} for name, seconds in phases.items()
        },
    }
    columns = ",\n".join(f"    {json.dumps(name)}: {json.dumps(values)}" for name, values in _columns(profile).items())
    text = json.dumps(head, indent=2).removesuffix("\n}")
    write_text_atomically(folder.profile, f'{text},\n  "by_epoch": {{\n{columns}\n  }}\n}}\n')


def read_profile(folder: JobFolder) -> Profile | None:
    """Return a job's profile, or None if there is none or it can't be read, since it is only a by-product."""
    try:
        content = json.loads(folder.profile.read_bytes())
        if content["schema"] != SCHEMA:
            return None
        pieces = _pieces(content["by_epoch"])
        within = {phase.value: sum(piece.seconds.get(phase, 0.0) for piece in pieces) for phase in Phase}
        return Profile(
            fingerprint=str(content["fingerprint"]),
            device=str(content["device"]),
            device_name=str(content["device_name"]),
            threads=int(content["threads"]),
            batch_size=int(content["batch_size"]),
            epochs=int(content["epochs"]),
            steps_per_epoch=int(content["steps_per_epoch"]),
            pieces=pieces,
            outside={
                phase.value: max(0.0, float(content["phases"][phase]["seconds"]) - within[phase]) for phase in Phase
            },
        )
    except (OSError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _columns(profile: Profile) -> dict[str, list[Any]]:
    pieces = profile.pieces
    return {
        "epoch": [piece.epoch for piece in pieces],
        "steps": [piece.steps for piece in pieces],
        "images_per_second": [
            _rounded(_rate(piece.steps * profile.batch_size, piece.training_seconds), 1) for piece in pieces
        ],
        "device_idle": [_rounded(piece.idle) for piece in pieces],
        **({"host_waiting": [_rounded(piece.host_waiting) for piece in pieces]} if profile.host_waiting else {}),
        **{
            phase.value: column
            for phase in Phase
            if any(column := [round(piece.seconds.get(phase, 0.0), 4) for piece in pieces])
        },
    }


def _pieces(columns: Mapping[str, list[Any]]) -> list[Piece]:
    return [
        Piece(
            epoch=int(epoch),
            steps=int(columns["steps"][row]),
            seconds={phase.value: float(columns[phase][row]) for phase in Phase if phase in columns},
            idle=columns["device_idle"][row],
            host_waiting=columns["host_waiting"][row] if "host_waiting" in columns else None,
        )
        for row, epoch in enumerate(columns["epoch"])
    ]


def _rate(images: int, seconds: float) -> float | None:
    return images / seconds if images and seconds else None


def _rounded(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else round(value, digits)


def watch_for(device: torch.device, threads: int) -> Watch:
    """Return the watch for a device. On Apple's MPS the phases are the host's, and idle time is not measured."""
    if device.type == "cuda":
        from harness.train.clock_cuda import CudaWatch

        return CudaWatch(device)
    return HostWatch(threads if device.type == "cpu" else None)


def run_clock(task: Task, built: Built, folder: JobFolder, found: Found, reporter: Reporter) -> RunClock:
    """Start the clock of a run.

    Args:
        task, built: The job, and its model.
        folder: The folder of the profile.
        found: The position that the run resumes from; with a checkpoint, the profile is continued, too.
        reporter: Receives the shares of the current epoch.
    """
    import torch

    from harness.machine import device_name

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
        with contextlib.suppress(StoreError):  # if the disk is full, the run itself reports it
            write_profile(folder, profile)

    return RunClock(
        watch_for(task.device, threads),
        tell=lambda shares: reporter.profiled(task.job, shares),
        save=save,
        pieces=earlier.pieces if earlier else (),
        outside=earlier.outside if earlier else None,
    )
