"""How long the parts of a job take on a device, and a file in the user's cache folder that remembers it. No torch."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import platformdirs

from harness import __version__
from harness.errors import StoreError
from harness.files import write_text_atomically
from harness.fingerprint import hash_of
from harness.machine import Device, bound_cores, thread_variables, torch_threads
from harness.registry import RULES, Protocol
from harness.train.schedule import CHECKPOINT_PAUSE

SCHEMA = 1
_SAVE_EVERY = 300.0  # seconds between two checkpoints within an epoch


@dataclass(frozen=True)
class Timing:
    """Seconds that the parts of a job take.

    Attributes:
        build: The model, before the job's own clock starts.
        setup: Everything that happens once: pipeline, optimiser, and what first steps cost more than later ones.
        step: A training step: gathering, augmentation, forward, backward, optimiser.
        image: Evaluation of one test image.
        checkpoint: A checkpoint, flushed to the disk.
    """

    build: float
    setup: float
    step: float
    image: float
    checkpoint: float

    def seconds(self, *, steps: int, epochs: int, test: int) -> float:
        """What a job's result will say: training of ``epochs`` x ``steps``, checkpoints, ``test`` images once."""
        training = epochs * steps * self.step
        # Those within long epochs, those at the ends of epochs, and one before the test split is opened.
        checkpoints = training // _SAVE_EVERY + epoch_ends_saved(epochs, steps * self.step)
        return self.setup + training + checkpoints * self.checkpoint + test * self.image


def epoch_ends_saved(epochs: int, seconds: float) -> int:
    """At the ends of how many epochs, each of so many seconds, a run is saved: at the last one in any case.

    >>> [epoch_ends_saved(100, seconds) for seconds in (60, 6, 0.01)]
    [100, 50, 1]
    """
    return (epochs - 1) // math.ceil(CHECKPOINT_PAUSE / max(seconds, 1e-9)) + 1


def mean_timing(timings: Iterable[Timing]) -> Timing:
    """The mean of several timings of the same thing, part by part."""
    rows = [asdict(timing) for timing in timings]
    return Timing(**{part: sum(row[part] for row in rows) / len(rows) for part in rows[0]})


def threads_per_job(jobs: int, given: int | None, timings: Timings) -> int:
    """Threads for each of ``jobs`` at the same time: those given, else torch's own number divided by the jobs.

    torch's number is remembered, since asking for it takes the seconds of an import.
    """
    if given:
        return given
    name = "threads", sys.executable, version("torch"), bound_cores(), sorted(thread_variables().items())
    found = timings.number(*name)
    if found is None:
        found = torch_threads()
        timings.put_number(found, *name)
        timings.save()
    return max(1, int(found) // jobs)


def timing_key(
    *, architecture: str, memory_format: str, protocol: Protocol, side: int, device: Device, threads: int, jobs: int
) -> str:
    """Hash of all that the speed of a step depends on.

    Args:
        architecture: The model's digest, which differs with the number of classes.
        memory_format: The layout in which the model trains.
        protocol: Of which input size, batch size, augmentations and arithmetic matter, and no learning rate.
        side: Of the stored images, in pixels.
        device: Where it runs.
        threads: Of a job.
        jobs: At the same time on the device, which they slow down.
    """
    facts = {name: getattr(protocol, name) for name in ("input_size", "batch_size", "optimizer", "precision")}
    augmentations = msgspec.to_builtins(protocol.augmentations)
    where = [device.kind, device.name, threads, jobs, version("torch"), __version__, RULES]
    return hash_of([SCHEMA, architecture, memory_format, facts, augmentations, side, where])


class Timings:
    """What was measured on this machine, remembered between commands; a file that can't be read counts as empty."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or Path(platformdirs.user_cache_dir("xscore-harness")) / "timings.json"
        self._new: dict[str, Any] = {}
        self._known = self._read()

    def get(self, key: str) -> Timing | None:
        """Return what was measured under a key."""
        with contextlib.suppress(TypeError):
            return Timing(**self._known[key]) if key in self._known else None
        return None

    def put(self, key: str, timing: Timing) -> None:
        """Remember a timing."""
        self._new[key] = self._known[key] = asdict(timing)

    def number(self, *key: object) -> float | None:
        """Return a plain number, such as multiply-adds or the seconds of the imports."""
        found = self._known.get(hash_of(list(key)))
        return float(found) if isinstance(found, int | float) else None

    def put_number(self, value: float, *key: object) -> None:
        """Remember a plain number."""
        self._new[hash_of(list(key))] = self._known[hash_of(list(key))] = value

    def save(self) -> None:
        """Write what is new beside what other commands have written. A cache that can't be written costs time only."""
        if not self._new:
            return
        with contextlib.suppress(OSError, StoreError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_text_atomically(self._path, json.dumps(self._read() | self._new))
        self._new = {}

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}
