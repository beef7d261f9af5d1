"""What jobs cost -> hours, finish time, disk and energy; and in which order they finish soonest. Arithmetic only."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from harness.api import Job

Basis: TypeAlias = Literal["runs", "timed", "scaled"]

_FLOAT = 4  # bytes
_TRAINED = 3
"""Copies of the weights in a checkpoint of a run in progress: themselves, and Adam's two averages of the same size."""
_FINISHED = 1 + _TRAINED
"""Copies that a finished run keeps: the final weights, and the spare that is the last checkpoint before them."""


@dataclass(frozen=True, kw_only=True)
class JobPrice:
    """What a job that is not done yet will take.

    Attributes:
        job: The job.
        seconds: What its result will say; None where nothing is known.
        basis: ``"runs"``, finished runs of this model on this data set; ``"timed"``, a few steps of it; ``"scaled"``,
            other models, by multiply-adds.
        overhead: Seconds before the job's own clock starts: building the model.
        left: The share that is still to be trained, below 1 for a job that goes on from a checkpoint.
        weights: Trainable parameters; 0 where the model does not build.
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
        """Seconds from now until the job would have ended; 0 where nothing is known."""
        return 0.0 if self.seconds is None else self.overhead + self.left * self.seconds

    def as_columns(self) -> dict[str, Any]:
        """Return what the rows of ``harness plan`` gain."""
        return {
            "estimated_seconds": self.seconds,
            "estimated_from": self.basis,
            "remaining_seconds": None if self.seconds is None else self.remaining,
        }


@dataclass(frozen=True, kw_only=True)
class Price:
    """What a plan costs.

    Attributes:
        jobs: Those that are not done.
        start_up: Seconds before the first job starts.
        at_once: Jobs at the same time.
        watts: Assumed power while jobs run.
        data_bytes: Disk that data sets which are not prepared will take, downloads included.
        unprepared: Their names.
        notes: Sentences about what the numbers rest on.
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
        """Jobs of which nothing is known."""
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
        """Disk that the jobs need at most: what each leaves, and the checkpoints of those in progress."""
        left = sum(_FINISHED * _FLOAT * one.weights + one.predictions for one in self.jobs)
        largest = sorted((one.weights for one in self.jobs), reverse=True)[: self.at_once]
        # In progress there are a checkpoint, its spare, and for an instant the one that is being written.
        return left + sum((3 * _TRAINED - _FINISHED) * _FLOAT * weights for weights in largest)


def makespan(seconds: Sequence[float], workers: int) -> float:
    """When the last of several workers ends, if the longest job left is always given to the first that is free.

    >>> makespan([3, 2, 2], 2)
    4.0
    """
    ends = [0.0] * max(1, workers)
    for one in sorted(seconds, reverse=True):
        heapq.heapreplace(ends, ends[0] + one)
    return max(ends)


def longest_first(jobs: Sequence[Job], expected: Mapping[Job, float]) -> tuple[Job, ...]:
    """Order jobs so that several workers end at about the same time; equals, and the unknown last, keep their order.

    Seed by seed all the same, so that one full screening is there before any repetition starts: workers go from one
    seed to the next without a pause, and only the last jobs of all decide when the last worker ends.
    """
    return tuple(sorted(jobs, key=lambda job: (job.seed, -expected.get(job, 0.0))))
