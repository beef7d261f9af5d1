"""A job of the benchmark's grid, its records and its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

STANDARD_BUDGET = "2.5M"
"""The budget where none is named: of suites, and of all registries and results from before budgets had names."""


@dataclass(frozen=True, order=True, slots=True)
class Job:
    """A model to be trained on a data set under a protocol from a seed, among the models of a budget."""

    protocol: str
    model: str
    dataset: str
    seed: int
    budget: str = STANDARD_BUDGET

    def __str__(self) -> str:
        among = "" if self.budget == STANDARD_BUDGET else f", budget {self.budget}"
        return f"{self.model} on {self.dataset}, seed {self.seed}{among}"

    def as_dict(self) -> dict[str, str | int]:
        """Return its five values by name, as files and trackers record them."""
        return {
            "protocol": self.protocol,
            "model": self.model,
            "dataset": self.dataset,
            "seed": self.seed,
            "budget": self.budget,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochRecord:
    """The record of one epoch of training.

    Attributes:
        epoch: Counted from 0.
        lr: The learning rate that the optimiser used.
        loss: Mean training loss over its steps.
        images_per_second: Training images through the step, evaluation and checkpoints not counted.
        seconds: Wall-clock time of its steps.
    """

    epoch: int
    lr: float
    loss: float
    images_per_second: float
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """The result of a finished job: the content of its ``result.json``.

    Attributes:
        job: The job.
        fingerprint: Hash of everything that determines the numbers (see ``harness.fingerprint``).
        protocol_digest: Hash of the protocol that was executed.
        metrics: Values by metric name; ``top1`` in percent is always there.
        parameters: Trainable parameters as trained, head included.
        over_budget: Whether the model was over the parameter budget and trained because the user asked
            (--allow-over-budget).
        lr_max: The learning-rate peak that was used.
        lr_exception: The declarer of a peak other than the protocol's general one: ``"protocol"`` or ``"model"``.
        weights_sha256: Hash of the final weights' names, shapes and bytes.
        test_reads: Number of times that the test split was opened: 1.
        seconds: Wall-clock time from start to result, without interruptions.
        started, finished: UTC, ISO 8601.
        interruptions: The time and the position of each resume after a stop.
        notes: Remarks for readers, such as a damaged checkpoint that was set aside.
        environment: Versions, device, threads, flags and the origin of each plugin.
        executed: The settings of the training as observed, by name; None if an earlier harness did not observe them.
        executed_digest: Hash of ``executed``, equal for every run of the job that followed the protocol.
        deviations: A sentence for each setting that differed from the protocol; such a result does not count.
        initial_weights_sha256: Hash of the weights that ``build`` made from the seed; None in older results.
    """

    job: Job
    fingerprint: str
    protocol_digest: str
    metrics: Mapping[str, float]
    parameters: int
    over_budget: bool
    lr_max: float
    lr_exception: str | None
    weights_sha256: str
    test_reads: int
    seconds: float
    started: str
    finished: str
    interruptions: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    executed: Mapping[str, Any] | None = None
    executed_digest: str | None = None
    deviations: Sequence[str] = ()
    initial_weights_sha256: str | None = None


class StoppedError(Exception):
    """The user asked to stop, and the jobs in progress are saved. Executors raise it once they have stopped."""


State: TypeAlias = Literal["done", "running", "failed", "stale", "missing"]


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the benchmark's grid: a job and its state, which is also the outcome of training it.

    Attributes:
        job: The job.
        state: ``stale`` is a result, finished or half-way, that no longer belongs to this job: the model, the data, the
            protocol or a version changed, or its file is damaged.
        result: The result, of a job that is done or stale.
        detail: The reason why a job failed or is stale, or a remark.
        fingerprint: Hash of everything that determines the job's numbers; None if it is unknown.
    """

    job: Job
    state: State
    result: RunResult | None = None
    detail: str = ""
    fingerprint: str | None = None

    def as_row(self, metric: str = "top1") -> dict[str, Any]:
        """Return the row that ``run`` and ``status`` print; ``accuracy`` in percent, None unless done."""
        done = self.result if self.state == "done" else None
        return {
            "model": self.job.model,
            "dataset": self.job.dataset,
            "seed": self.job.seed,
            "state": self.state,
            "accuracy": done.metrics.get(metric) if done else None,
            "seconds": done.seconds if done else None,
            "fingerprint": done.fingerprint if done else self.fingerprint,
            "budget": self.job.budget,
            "over_budget": done.over_budget if done else None,
            "detail": self.detail,
        }


@dataclass(frozen=True)
class Shares:
    """The shares of an epoch's time so far, in 0..1 of its training steps, for a live display.

    Attributes:
        epoch: Counted from 0.
        waiting, augmentation: Shares of these phases.
        idle: The device's idle share; None if it has not been measured.
    """

    epoch: int
    waiting: float
    augmentation: float
    idle: float | None

    def __str__(self) -> str:
        idle = "" if self.idle is None else f", device idle {percent(self.idle)}"
        return f"data {percent(self.waiting)}, augment {percent(self.augmentation)}{idle}"


def percent(share: float) -> str:
    """Format a share in 0..1 as whole percent.

    >>> percent(0.061)
    '6 %'
    """
    return f"{100 * share:.0f} %"
