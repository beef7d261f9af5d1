"""The price of jobs: hours, finish time, disk, energy, and the order in which they finish soonest.

Models that were not timed themselves are scaled from the timed ones by multiply-adds.
"""

from __future__ import annotations

import contextlib
import heapq
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from harness.api import Job, ModelSpec
from harness.catalog import Offer
from harness.errors import HarnessError
from harness.models import Architecture, build_module, call_with_model
from harness.price.timings import Timing, Timings, mean_timing

Basis: TypeAlias = Literal["runs", "timed", "scaled"]

_SECONDS_PER_MAC = 1e-10  # per training step and thread; orders jobs if nothing was ever timed
_FLOAT = 4  # bytes
_TRAINED = 3
"""Copies of the weights in a checkpoint of a run in progress: the weights and Adam's two averages."""
_FINISHED = 1 + _TRAINED
"""Copies in a finished run: the final weights, and the spare, which is the checkpoint before them."""


@dataclass(frozen=True, kw_only=True)
class JobPrice:
    """The estimated cost of a job that is not done.

    Attributes:
        job: The job.
        seconds: Estimate of the seconds in its result; None if there is none.
        basis: ``"runs"``, finished runs of this model on this data set; ``"timed"``, a few steps of it; ``"scaled"``,
            other models, by multiply-adds.
        overhead: Seconds before the job's own clock starts: building the model.
        left: The share that is still to be trained, below 1 for a job that resumes from a checkpoint.
        weights: Trainable parameters; 0 if the model does not build.
        predictions: Bytes of test logits and labels.
    """

    job: Job
    seconds: float | None
    basis: Basis | None
    overhead: float = 0.0
    left: float = 1.0
    weights: int = 0
    predictions: int = 0

    @property
    def remaining(self) -> float:
        """Estimated seconds until the job ends; 0 without an estimate."""
        return 0.0 if self.seconds is None else self.overhead + self.left * self.seconds

    def as_columns(self) -> dict[str, Any]:
        """Return the job's further columns in ``harness plan``."""
        return {
            "estimated_seconds": self.seconds,
            "estimated_from": self.basis,
            "remaining_seconds": None if self.seconds is None else self.remaining,
        }


@dataclass(frozen=True, kw_only=True)
class Price:
    """The estimated cost of a plan.

    Attributes:
        jobs: The jobs that are not done.
        start_up: Seconds before the first job starts.
        at_once: Number of parallel jobs.
        watts: Assumed power while jobs run.
        data_bytes: Disk for data sets that are not prepared, downloads included.
        unprepared: Their names.
        notes: Sentences about the basis of the numbers.
    """

    jobs: tuple[JobPrice, ...]
    start_up: float
    at_once: int
    watts: float
    data_bytes: int = 0
    unprepared: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def unknown(self) -> tuple[JobPrice, ...]:
        """The jobs without an estimate."""
        return tuple(one for one in self.jobs if one.seconds is None)

    @property
    def seconds(self) -> float:
        """The jobs' remaining seconds, one after the other."""
        return sum(one.remaining for one in self.jobs)

    @property
    def finish(self) -> float:
        """Seconds from the start until the last job has ended."""
        return (self.start_up if self.jobs else 0.0) + makespan([one.remaining for one in self.jobs], self.at_once)

    @property
    def kilowatt_hours(self) -> float:
        """Energy until the last job has ended, at the assumed power."""
        return self.finish * self.watts / 3.6e6

    @property
    def runs_bytes(self) -> int:
        """Largest disk space of the jobs: the files of each, and the checkpoints of those in progress."""
        left = sum(_FINISHED * _FLOAT * one.weights + one.predictions for one in self.jobs)
        largest = sorted((one.weights for one in self.jobs), reverse=True)[: self.at_once]
        # A job in progress has a checkpoint, its spare, and briefly the one that is being written.
        return left + sum((3 * _TRAINED - _FINISHED) * _FLOAT * weights for weights in largest)


def makespan(seconds: Sequence[float], workers: int) -> float:
    """Return the end of the last of several workers, if the first free worker always gets the longest job left.

    >>> makespan([3, 2, 2], 2)
    4.0
    """
    ends = [0.0] * max(1, workers)
    for one in sorted(seconds, reverse=True):
        heapq.heapreplace(ends, ends[0] + one)
    return max(ends)


def longest_first(jobs: Sequence[Job], expected: Mapping[Job, float]) -> tuple[Job, ...]:
    """Order jobs by seed, then longest first, so that parallel workers end together; ties keep their order.

    Jobs without an estimate come last in their seed. The first seed of every job comes before any second one, so that
    one full screening is complete early. Workers pass from one seed to the next without a pause, so this costs no time.
    """
    return tuple(sorted(jobs, key=lambda job: (job.seed, -expected.get(job, 0.0))))


@dataclass(frozen=True)
class Workload:
    """A (model, data set) of a plan, with all that its time depends on.

    Attributes:
        model, dataset: Names.
        architecture: The model at the data set's number of classes.
        classes: That number.
        side: Side of the stored images, in pixels.
        train, test: Numbers of images.
        key: From ``Conditions.key``.
        jobs: Number of jobs that share the device, and slow each other down.
        alone: The key of the same with one job at a time.
    """

    model: str
    dataset: str
    architecture: Architecture
    classes: int
    side: int
    train: int
    test: int
    key: str
    jobs: int = 1
    alone: str = ""


@dataclass(frozen=True)
class Rates:
    """Rates that price a case that was not timed itself.

    Attributes:
        by_model: A timing of each model that was timed on any data set; the size of the head hardly matters.
        per_mac: Seconds of a training step per multiply-add and image; None if there is nothing to scale from.
        parts: The parts that do not depend on the model, as a mean over the timed ones.
        batch: Images per training step.
        macs_of: Multiply-adds per image; None if the model can't be traced.
    """

    by_model: Mapping[str, Timing]
    per_mac: float | None
    parts: Timing
    batch: int
    macs_of: Callable[[Workload], float | None]

    def timing(self, case: Workload) -> tuple[Timing, Basis] | None:
        """Return the timing of a case and its basis; None without an estimate."""
        if case.model in self.by_model:
            return self.by_model[case.model], "timed"
        macs = self.macs_of(case) if self.per_mac is not None else None
        if macs is None or self.per_mac is None:
            return None
        # A training step is a forward pass and about two more backwards.
        image = self.per_mac * macs
        return replace(self.parts, step=image * self.batch, image=image / 3), "scaled"


def find_rates(
    cases: Mapping[tuple[str, str], Workload], timed: Mapping[tuple[str, str], Timing | None], *, batch: int,
    macs_of: Callable[[Workload], float | None], nominal: bool,
) -> Rates:  # fmt: skip
    """Return rates that scale from the timed cases to the others.

    Args:
        cases: All cases, by model and data set.
        timed: The timing of each, if there is one.
        batch: Images per training step.
        macs_of: Counts multiply-adds, which takes a moment; called only if a model was not timed anywhere.
        nominal: Whether to return numbers in proportion, not in seconds, if nothing was timed.
    """
    nothing = Timing(0.0, 0.0, 0.0, 0.0, 0.0)
    by_model = {cases[name].model: timing for name, timing in timed.items() if timing}
    if all(case.model in by_model for case in cases.values()) or not (by_model or nominal):
        return Rates(by_model, None, nothing, batch, macs_of)
    ratios, timings = [], []
    for name, timing in timed.items():
        macs = macs_of(cases[name]) if timing else None
        if timing and macs:
            ratios.append(timing.step / macs / batch)
            timings.append(timing)
    if not ratios:
        return Rates(by_model, _SECONDS_PER_MAC if nominal else None, nothing, batch, macs_of)
    return Rates(by_model, statistics.median(ratios), mean_timing(timings), batch, macs_of)


def count_products(timings: Timings, model: Offer[ModelSpec], classes: int, digest: str, resolution: int) -> float:
    """Return the multiply-adds of an image's products, counted once per machine; 0 if the model refuses an image.

    Args:
        timings: The cache of the number.
        model, classes: The model to build and count, if the cache lacks it.
        digest: Of the model's architecture at this class count.
        resolution: Side of the image, in pixels.
    """
    name = "products", digest, resolution
    found = timings.number(*name)
    if found is None:
        found = 0.0  # if the model raises: it then keeps its place in the order
        with contextlib.suppress(HarnessError):
            found = call_with_model(_products, model, classes, resolution)
        timings.put_number(found, *name)
    return found


def _products(model: Offer[ModelSpec], classes: int, resolution: int) -> float:
    from harness.macs import estimate_macs

    return float(estimate_macs(build_module(model, classes), resolution))
