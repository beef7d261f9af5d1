"""Observers of a run: one base class with empty methods, so that each observer writes only the ones that it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from harness.api import EpochRecord
    from harness.train.feeder import Batch
    from harness.train.pipeline import Stage
    from harness.train.state import TrainingState


class Observer:
    """Base class of the observers. Every method is called in the training process and must be quick."""

    def training_started(self, state: TrainingState) -> None:
        """Training starts or resumes; ``state.history`` holds the finished epochs."""

    def epoch_started(self, state: TrainingState) -> None:
        """An epoch starts, or resumes at ``state.step``."""

    def batch_awaited(self, state: TrainingState) -> None:
        """The loop asks for the next batch."""

    def step_started(self, state: TrainingState, batch: Batch) -> None:
        """The batch of step ``state.step`` is on the device."""

    def stage_applied(self, stage: Stage, before: torch.Tensor, after: torch.Tensor) -> None:
        """A stage of the input pipeline turned images (N, 3, H, W) into others."""

    def loss_computed(
        self, state: TrainingState, logits: torch.Tensor, targets: torch.Tensor, loss: torch.Tensor
    ) -> None:
        """The loss of logits and targets (N, C) is about to be differentiated; all gradients are empty."""

    def step_finished(self, state: TrainingState) -> None:
        """A step ended; ``state.step`` already names the next. Reading a loss waits for the device: do it rarely."""

    def epoch_finished(self, state: TrainingState, record: EpochRecord) -> None:
        """An epoch ended. Unless ``state.is_saved``, a killed run repeats it, in another number of seconds."""

    def batch_evaluated(self) -> None:
        """A batch of the test split was evaluated."""

    def should_stop(self) -> bool:
        """Return True to stop the run after this step, or after this batch of the test split."""
        return False


class Observers(Observer):
    """Several observers as one; each event reaches them in their order."""

    def __init__(self, *observers: Observer) -> None:
        self._all = observers

    def training_started(self, state: TrainingState) -> None:
        """Pass on."""
        for one in self._all:
            one.training_started(state)

    def epoch_started(self, state: TrainingState) -> None:
        """Pass on."""
        for one in self._all:
            one.epoch_started(state)

    def batch_awaited(self, state: TrainingState) -> None:
        """Pass on."""
        for one in self._all:
            one.batch_awaited(state)

    def step_started(self, state: TrainingState, batch: Batch) -> None:
        """Pass on."""
        for one in self._all:
            one.step_started(state, batch)

    def stage_applied(self, stage: Stage, before: torch.Tensor, after: torch.Tensor) -> None:
        """Pass on."""
        for one in self._all:
            one.stage_applied(stage, before, after)

    def loss_computed(
        self, state: TrainingState, logits: torch.Tensor, targets: torch.Tensor, loss: torch.Tensor
    ) -> None:
        """Pass on."""
        for one in self._all:
            one.loss_computed(state, logits, targets, loss)

    def step_finished(self, state: TrainingState) -> None:
        """Pass on."""
        for one in self._all:
            one.step_finished(state)

    def epoch_finished(self, state: TrainingState, record: EpochRecord) -> None:
        """Pass on."""
        for one in self._all:
            one.epoch_finished(state, record)

    def batch_evaluated(self) -> None:
        """Pass on."""
        for one in self._all:
            one.batch_evaluated()

    def should_stop(self) -> bool:
        """Return True if any observer wants to stop."""
        return any(one.should_stop() for one in self._all)
