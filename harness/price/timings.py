"""Timings of the parts of a job on a device, kept in a file of the user's cache folder. Imports no torch."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from harness import __version__
from harness.cache import Cache, cache_folder
from harness.fingerprint import hash_of
from harness.machine import Device, bound_cores, installed_version, thread_variables, torch_threads
from harness.registry import RULES, Protocol
from harness.train.save_timer import count_saves

SCHEMA = 1


@dataclass(frozen=True)
class Timing:
    """Seconds that the parts of a job take.

    Attributes:
        build: The model, before the job's own clock starts.
        setup: Everything that happens once: pipeline, optimiser, and the extra time of the first steps.
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
        """Return the time of a job: training of ``epochs`` x ``steps``, checkpoints, and ``test`` images once."""
        training = epochs * steps * self.step
        checkpoints = count_saves(epochs, steps * self.step)
        return self.setup + training + checkpoints * self.checkpoint + test * self.image

    def slower(self, factor: float) -> Timing:
        """Return the timing on a machine on which everything takes so many times as long."""
        return Timing(**{part: factor * seconds for part, seconds in asdict(self).items()})


def mean_timing(timings: Iterable[Timing]) -> Timing:
    """Return the mean of several timings, part by part."""
    rows = [asdict(timing) for timing in timings]
    return Timing(**{part: sum(row[part] for row in rows) / len(rows) for part in rows[0]})


def threads_per_job(jobs: int, given: int | None, timings: Timings) -> int:
    """Return the threads of each of several parallel jobs: those given, else torch's own number divided by the jobs.

    torch's number is cached, since importing torch takes seconds.
    """
    if given:
        return given
    name = "threads", sys.executable, installed_version("torch"), bound_cores(), sorted(thread_variables().items())
    found = timings.number(*name)
    if found is None:
        found = torch_threads()
        timings.put_number(found, *name)
        timings.save()
    return max(1, int(found) // jobs)


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """All that the speed of a step depends on.

    Attributes:
        architecture: The model's digest, which differs with the number of classes.
        memory_format: The layout in which the model trains.
        protocol: The protocol; its input size, batch size, augmentations and arithmetic matter.
        side: Side of the stored images, in pixels.
        device: The device.
        threads: CPU threads per job.
        jobs: Jobs at once on the device, which slow each other down.
    """

    architecture: str
    memory_format: str
    protocol: Protocol
    side: int
    device: Device
    threads: int
    jobs: int

    def key(self) -> str:
        """Return the hash under which timings are stored."""
        facts = {name: getattr(self.protocol, name) for name in ("input_size", "batch_size", "optimizer", "precision")}
        augmentations = msgspec.to_builtins(self.protocol.augmentations)
        where = [
            self.device.kind,
            self.device.name,
            self.threads,
            self.jobs,
            installed_version("torch"),
            __version__,
            RULES,
        ]
        return hash_of([SCHEMA, self.architecture, self.memory_format, facts, augmentations, self.side, where])


class Timings:
    """Measurements of this machine, remembered between commands."""

    def __init__(self, path: Path | None = None) -> None:
        self._cache = Cache(path or cache_folder() / "timings.json")

    def get(self, key: str) -> Timing | None:
        """Return the timing with a key, or None."""
        return self._cache.get(key, Timing)

    def put(self, key: str, timing: Timing) -> None:
        """Remember a timing."""
        self._cache.put(key, timing)

    def number(self, *key: object) -> float | None:
        """Return a plain number, such as multiply-adds or the seconds of the imports."""
        return self._cache.get(hash_of(list(key)), float)

    def put_number(self, value: float, *key: object) -> None:
        """Remember a plain number."""
        self._cache.put(hash_of(list(key)), value)

    def save(self) -> None:
        """Write new measurements to the file."""
        self._cache.save()
