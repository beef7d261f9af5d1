"""The state of a run between two steps, on disk: replaced atomically and loadable without unpickling code.

The previous checkpoint stays as a spare. A damaged checkpoint then costs the time between two checkpoints instead of
the whole run. After the end, the spare is the last position from which ``harness verify --replay`` can repeat training.
"""

from __future__ import annotations

import pickle
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from harness.api import EpochRecord
from harness.errors import HarnessError
from harness.files import write_atomically

SCHEMA = 4
"""Schema 1 has no ``witnessed``; schema 3 packs the tensors of a run in progress. All of them are still read."""

_PACKED = ("weights", "optimizer")  # in schema 3


class DamagedCheckpointError(HarnessError):
    """A checkpoint can't be read, or belongs to something else."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Everything that a run needs to resume; its random numbers are functions of the position.

    Attributes:
        fingerprint: The job's; a checkpoint of another job is not used.
        epoch, step: The next step; ``epoch`` equals the number of epochs once training has ended.
        weights: The model's state dict.
        optimizer: The optimiser's state dict; None once training has ended.
        losses: float32, the losses of the current epoch's steps so far.
        history: Finished epochs.
        started: When the job was first started, UTC.
        seconds: Wall-clock time spent so far.
        epoch_seconds: Of these, time spent in the steps of the current epoch.
        test_reads: Number of times that the test split was opened.
        interruptions: Time and position of every resume.
        witnessed: The record so far, from ``RunRecorder.state``; None from a harness that kept none.
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
    witnessed: dict[str, Any] | None = None


@dataclass(frozen=True)
class Found:
    """The place to resume from: a checkpoint, or nothing.

    Attributes:
        checkpoint: None to start anew.
        damaged: Unusable files, each with the reason; the caller sets them aside.
    """

    checkpoint: Checkpoint | None
    damaged: tuple[tuple[Path, str], ...] = ()

    @property
    def reason(self) -> str:
        """A sentence about the damaged files and the consequence; empty if there are none."""
        if not self.damaged:
            return ""
        files = " ".join(f"{sentence}." for _, sentence in self.damaged)
        if self.checkpoint is None:
            return f"A checkpoint was damaged and set aside; training started again. {files}"
        place = f"epoch {self.checkpoint.epoch + 1}, step {self.checkpoint.step + 1}"
        return f"A checkpoint was damaged and set aside; training resumed from the spare at {place}. {files}"


def spare_of(path: Path) -> Path:
    """Return the path of the spare of the checkpoint at ``path``."""
    return path.with_name(f"{path.stem}.spare{path.suffix}")


def save_checkpoint(path: Path, checkpoint: Checkpoint, *, roll: bool = True) -> None:
    """Write a checkpoint file; the one that was there becomes the spare.

    Args:
        path: The file.
        checkpoint: The run's state.
        roll: False keeps the spare as it is, for a change of the bookkeeping at the same position.

    Raises:
        StoreError: the disk is full; the old files are then still there.
    """
    content = {
        "schema": SCHEMA,
        **{name: getattr(checkpoint, name) for name in checkpoint.__dataclass_fields__},
        "history": [asdict(record) for record in checkpoint.history],
        "interruptions": list(checkpoint.interruptions),
    }
    write_atomically(path, lambda file: torch.save(content, file), spare=spare_of(path) if roll else None)


def find_checkpoint(path: Path, *, fingerprint: str) -> Found:
    """Return the newest usable state of a job: the checkpoint, else its spare, else nothing."""
    damaged = []
    for file in (path, spare_of(path)):
        try:
            checkpoint = load_checkpoint(file, fingerprint=fingerprint)
        except DamagedCheckpointError as error:
            damaged.append((file, str(error)))
        else:
            if checkpoint is not None:
                return Found(checkpoint, tuple(damaged))
    return Found(None, tuple(damaged))


def load_checkpoint(path: Path, *, fingerprint: str) -> Checkpoint | None:
    """Read a checkpoint file to the CPU; None if there is none.

    Raises:
        DamagedCheckpointError: it can't be read, or is another job's.
    """
    try:
        _check_bytes(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except (zipfile.BadZipFile, OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DamagedCheckpointError(f"{path} can't be read: {reason}") from error
    try:
        if (schema := content.pop("schema")) not in range(1, SCHEMA + 1):
            raise DamagedCheckpointError(f"{path} was written by another version of harness (schema {schema})")
        if schema == 3 and content["optimizer"] is not None:
            content |= {name: _unpack(content[name]["tree"], content[name]["tensors"]) for name in _PACKED}
        content["history"] = tuple(EpochRecord(**record) for record in content["history"])
        content["interruptions"] = tuple(content["interruptions"])
        checkpoint = Checkpoint(**content)
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise DamagedCheckpointError(f"{path} lacks something: {error}") from error
    if checkpoint.fingerprint != fingerprint:
        raise DamagedCheckpointError(f"{path} belongs to another job: fingerprint {checkpoint.fingerprint}")
    return checkpoint


def _unpack(tree: Any, tensors: list[torch.Tensor]) -> Any:
    """Return a nested value of schema 3 with its tensors in their places.

    Args:
        tree: Dicts, lists and tuples. A tensor is the tuple (mark, index into ``tensors``, start, shape, strides).
        tensors: One-dimensional, one per type and device.
    """
    if isinstance(tree, dict):
        return {key: _unpack(value, tensors) for key, value in tree.items()}
    if isinstance(tree, tuple) and tree[:1] == ("packed tensor",):
        _, index, start, shape, strides = tree
        return tensors[index].as_strided(shape, strides, start).clone()  # a clone keeps the strides
    if isinstance(tree, list | tuple):
        return type(tree)(_unpack(value, tensors) for value in tree)
    return tree


def _check_bytes(path: Path) -> None:
    """Compare every record with its checksum, which torch writes but does not look at. Raises zipfile.BadZipFile."""
    with zipfile.ZipFile(path) as archive:
        if (name := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"{name} is not what was written")
