"""The state of a run between two steps, on disk: replaced atomically and loadable without unpickling code."""

from __future__ import annotations

import pickle
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from harness.api import EpochRecord
from harness.errors import HarnessError
from harness.files import write_atomically

SCHEMA = 1


class DamagedCheckpointError(HarnessError):
    """A checkpoint can't be read, or belongs to something else."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Everything that a run needs to go on, its random numbers being functions of the position.

    Attributes:
        fingerprint: The job's; a checkpoint of another one is not used.
        epoch, step: The step that comes next; ``epoch`` equals the number of epochs once training has ended.
        weights: The model's state dict.
        optimizer: The optimiser's state dict; None once training has ended.
        losses: float32, the losses of the current epoch's steps so far.
        history: Finished epochs.
        started: When the job was first started, UTC.
        seconds: Wall-clock time spent so far.
        epoch_seconds: Of these, time spent in the steps of the current epoch.
        test_reads: How often the test split has been opened.
        interruptions: When and where the run went on after a stop.
    """

    fingerprint: str
    epoch: int
    step: int
    weights: dict[str, torch.Tensor]
    optimizer: dict[str, Any] | None
    losses: torch.Tensor
    history: tuple[EpochRecord, ...]
    started: str
    seconds: float
    epoch_seconds: float
    test_reads: int
    interruptions: tuple[dict[str, Any], ...]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write or replace a checkpoint file. Raises StoreError if the disk is full; the old file is then still there."""
    content = {
        "schema": SCHEMA,
        **{name: getattr(checkpoint, name) for name in checkpoint.__dataclass_fields__},
        "history": [asdict(record) for record in checkpoint.history],
        "interruptions": list(checkpoint.interruptions),
    }
    write_atomically(path, lambda file: torch.save(content, file))


def load_checkpoint(path: Path, *, fingerprint: str) -> Checkpoint | None:
    """Read a checkpoint file to the CPU; None if there is none.

    Raises:
        DamagedCheckpointError: it can't be read, or is another job's.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DamagedCheckpointError(f"{path} can't be read: {reason}") from error
    try:
        if content.pop("schema") != SCHEMA:
            raise DamagedCheckpointError(f"{path} was written by another version of harness")
        content["history"] = tuple(EpochRecord(**record) for record in content["history"])
        content["interruptions"] = tuple(content["interruptions"])
        checkpoint = Checkpoint(**content)
    except (AttributeError, KeyError, TypeError) as error:
        raise DamagedCheckpointError(f"{path} lacks something: {error}") from error
    if checkpoint.fingerprint != fingerprint:
        raise DamagedCheckpointError(f"{path} belongs to another job: fingerprint {checkpoint.fingerprint}")
    return checkpoint
