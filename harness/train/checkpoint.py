"""The state of a run between two steps, on disk: replaced atomically and loadable without unpickling code.

The previous checkpoint stays as a spare. A damaged checkpoint then costs the time between two checkpoints instead of
the whole run. After the end, the spare is the last position from which ``harness verify --replay`` can repeat training.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn

from harness.api import EpochRecord
from harness.errors import HarnessError, TrainingError, one_line
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
        weights: The model's state dict: tensors, and plain values where a module has an extra state.
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
    weights: dict[str, Any]
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
    content = _content(checkpoint)
    write_atomically(path, lambda file: torch.save(content, file), spare=spare_of(path) if roll else None)


def read_back(checkpoint: Checkpoint) -> Checkpoint:
    """Return a checkpoint as it would come back from a file; nothing is written to disk.

    Raises:
        DamagedCheckpointError: it would be stored and could not be read.
        Exception: it can't be stored.
    """
    file = io.BytesIO()
    torch.save(_content(checkpoint), file)
    return _read(file, "the checkpoint", fingerprint=checkpoint.fingerprint)


def _content(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        **{name: getattr(checkpoint, name) for name in checkpoint.__dataclass_fields__},
        "history": [asdict(record) for record in checkpoint.history],
        "interruptions": list(checkpoint.interruptions),
    }


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
        with path.open("rb") as file:
            return _read(file, str(path), fingerprint=fingerprint)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DamagedCheckpointError(f"{path} can't be read: {one_line(error)}") from error


def _read(file: BinaryIO, name: str, *, fingerprint: str) -> Checkpoint:
    try:
        _check_bytes(file)
        file.seek(0)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DamagedCheckpointError(f"{name} can't be read: {reason}") from error
    try:
        if (schema := content.pop("schema")) not in range(1, SCHEMA + 1):
            raise DamagedCheckpointError(f"{name} was written by another version of harness (schema {schema})")
        if schema == 3 and content["optimizer"] is not None:
            content |= {key: _unpack(content[key]["tree"], content[key]["tensors"]) for key in _PACKED}
        content["history"] = tuple(EpochRecord(**record) for record in content["history"])
        content["interruptions"] = tuple(content["interruptions"])
        checkpoint = Checkpoint(**content)
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise DamagedCheckpointError(f"{name} lacks something: {error}") from error
    if checkpoint.fingerprint != fingerprint:
        raise DamagedCheckpointError(f"{name} belongs to another job: fingerprint {checkpoint.fingerprint}")
    return checkpoint


def load_weights(module: nn.Module, weights: Mapping[str, Any], images: torch.Tensor) -> None:
    """Load a state dict into a fresh build, all of it and nothing else.

    Args:
        module: Changed in place. If it lacks something it computes once first, for a model may make a buffer in its
            first forward pass.
        weights: The state dict.
        images: Inputs for that pass, float32 (N, 3, H, W).

    Raises:
        TrainingError: the state dict is not of this model.
    """
    try:
        if module.state_dict().keys() != weights.keys():
            module.train()
            with torch.no_grad():
                module(images)
        module.load_state_dict(dict(weights))
    except Exception as error:  # the methods are the plugin's, too
        raise TrainingError(f"The weights do not fit a fresh build of the model: {one_line(error)}.") from error


def state_hash(weights: Mapping[str, Any]) -> str:
    """SHA-256 over the names, types, shapes and bytes of a state dict, whatever the device and the layout.

    An extra state, which is no tensor, counts by its values.

    Raises:
        TypeError: it holds something else than tensors, numbers, texts, and dicts and lists of these.
    """
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        if isinstance(value, torch.Tensor):
            _add_tensor(digest, name, value)
        else:
            _add_value(digest, name, value)
    return digest.hexdigest()


def _add_tensor(digest: Any, name: str, value: torch.Tensor) -> None:
    plain = value.detach().cpu()
    plain = (plain if plain.layout == torch.strided else plain.to_dense()).resolve_conj().resolve_neg()
    digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
    digest.update(plain.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _add_value(digest: Any, name: str, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        _add_tensor(digest, name, value)
    elif isinstance(value, Mapping):
        for key in sorted(value, key=repr):
            _add_value(digest, f"{name}.{key!r}", value[key])
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            _add_value(digest, f"{name}.{index}", inner)
    elif isinstance(value, str | bytes | int | float | complex | None):
        digest.update(f"{name} {value!r}\n".encode())
    else:
        raise TypeError(f"'{name}' in the state dict is a {type(value).__name__}, expected tensors and plain values")


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


def _check_bytes(file: BinaryIO) -> None:
    """Compare every record with its checksum, which torch writes but does not look at. Raises zipfile.BadZipFile."""
    with zipfile.ZipFile(file) as archive:
        if (name := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"{name} is not what was written")
