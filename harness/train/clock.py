"""The profile of a run: a clock that the loop's events and torch's hooks drive, and one that does nothing.

A clock only reads the time. It draws no random number and changes no tensor, so a run ends in the same bits with either
of them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING
from typing import Protocol as Interface

from harness.api import Shares
from harness.train.observer import Observer

if TYPE_CHECKING:
    import torch

    from harness.api import EpochRecord
    from harness.train.feeder import Batch
    from harness.train.state import TrainingState


class Phase(StrEnum):
    """The activity of a run; it is in exactly one phase at any time."""

    START = "start"  # open and hash the training images, move the model to the device, read a checkpoint
    WAITING = "waiting"  # for a batch of stored images and labels to be on the device
    AUGMENTATION = "augmentation"  # the input pipeline: to float, augmentations, resizing, normalisation, layout
    FORWARD = "forward"  # the model, the loss
    BACKWARD = "backward"
    OPTIMIZER = "optimizer"
    EVALUATION = "evaluation"  # open and hash the test images, the test pass
    CHECKPOINT = "checkpoint"
    PROFILING = "profiling"  # what measuring the idle share itself costs; on CUDA alone
    OTHER = "other"  # bookkeeping: records, observers, trackers, progress, hash of the weights, provenance


TRAINING = (Phase.WAITING, Phase.AUGMENTATION, Phase.FORWARD, Phase.BACKWARD, Phase.OPTIMIZER, Phase.OTHER)
"""The phases that make up an epoch's training steps."""
_TELL_SECONDS = 1.0  # between two reports about the current epoch


@dataclass
class Piece:
    """An epoch, or the part of one that one process trained; with ``epoch`` None, all that is outside of epochs.

    Attributes:
        epoch: Counted from 0.
        steps: Training steps that were measured.
        seconds: By phase. They sum up to the wall-clock time.
        idle: The device's idle share in the training steps; None where it was not measured.
        host_waiting: Seconds that the host waited for data, where ``seconds`` are the device's.
    """

    epoch: int | None
    steps: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    idle: float | None = None
    host_waiting: float | None = None

    def add(self, phase: str, seconds: float) -> None:
        """Add to a phase."""
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds

    @property
    def training_seconds(self) -> float:
        """Time of the training steps: everything but checkpoints and the cost of measuring."""
        return sum(self.seconds.get(phase, 0.0) for phase in TRAINING)


def shares_of(piece: Piece) -> Shares:
    """Return an epoch's shares for a line of a live display."""
    whole = piece.training_seconds or 1.0
    waiting, augmentation = (piece.seconds.get(phase, 0.0) for phase in (Phase.WAITING, Phase.AUGMENTATION))
    return Shares(piece.epoch or 0, waiting / whole, augmentation / whole, piece.idle)


class Clock(Observer):
    """The clock of a run that is not profiled: it does nothing."""

    def enter(self, phase: Phase) -> None:
        """Begin a phase; the present one ends."""

    @contextlib.contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        """Spend a while in a phase, then return to ``Phase.OTHER``."""
        self.enter(phase)
        yield
        self.enter(Phase.OTHER)

    @contextlib.contextmanager
    def attached(self, state: TrainingState) -> Iterator[None]:
        """Observe the forward passes of a model and the steps of its optimiser."""
        yield

    def close(self) -> None:
        """End the account; the run has ended, finished or not."""


OFF = Clock()
"""The clock of every run without ``--profile``; it holds nothing."""


class Watch(Interface):
    """Takes the time of phases on one kind of device."""

    def now(self) -> float:
        """Seconds on the host's clock."""

    def lap(self, phase: Phase, piece: Piece) -> None:
        """End a phase: add it to the piece, now or once the device reaches this point."""

    def settle(self) -> None:
        """Wait until all laps have been added."""

    def window_due(self, piece: Piece, left: int) -> bool:
        """Return True to have ``turn_window`` called after this step; ``left`` steps remain in the epoch."""

    def turn_window(self, piece: Piece) -> None:
        """Begin, or end, the window in which the device's work is recorded."""

    def close(self) -> None:
        """Release what is held, wherever the run stopped."""


class HostWatch:
    """Takes the time on the host, which is the device's time on a CPU.

    The idle share of the training steps is 1 - CPU seconds of the process / (seconds x threads). A thread that spins
    while it waits for another counts as busy.
    """

    def __init__(
        self,
        threads: int | None,
        *,
        now: Callable[[], float] = time.perf_counter,
        cpu_now: Callable[[], float] = time.process_time,
    ) -> None:
        """Begin.

        Args:
            threads: Number of computing threads; None where CPU time does not show the device's work.
            now, cpu_now: The clocks, in seconds; a test gives its own.
        """
        self._threads = threads
        self._now = now
        self._cpu_now = cpu_now
        self._then = now()
        self._cpu_then = cpu_now()
        self._busy = 0.0
        self._piece: Piece | None = None

    def now(self) -> float:
        """Seconds on the host's clock."""
        return self._now()

    def lap(self, phase: Phase, piece: Piece) -> None:
        """Add the time since the last lap."""
        now, cpu = self._now(), self._cpu_now()
        piece.add(phase, now - self._then)
        if phase in TRAINING and self._threads and piece.epoch is not None:
            if piece is not self._piece:
                self._piece, self._busy = piece, 0.0
            self._busy += cpu - self._cpu_then
            capacity = self._threads * piece.training_seconds
            piece.idle = min(1.0, max(0.0, 1 - self._busy / capacity)) if capacity else None
        self._then, self._cpu_then = now, cpu

    def settle(self) -> None:
        """All laps have been added."""

    def window_due(self, piece: Piece, left: int) -> bool:
        """Never: the idle share comes from the CPU time."""
        return False

    def turn_window(self, piece: Piece) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing is held."""


class RunClock(Clock):
    """The clock of a profiled run; resumes from the measurements of earlier processes.

    Attributes:
        outside: The time outside epochs.
        pieces: The epochs, in order; a stopped epoch has one piece per process.
    """

    def __init__(
        self,
        watch: Watch,
        *,
        tell: Callable[[Shares], object],
        save: Callable[[RunClock], object],
        pieces: Sequence[Piece] = (),
        outside: Mapping[str, float] | None = None,
    ) -> None:
        """Begin with ``Phase.START``.

        Args:
            watch: Takes the time.
            tell: Receives the current epoch's shares, about once a second and at its end.
            save: Called when there is something new to keep.
            pieces, outside: Measurements of earlier processes of the run.
        """
        self.pieces = list(pieces)
        self.outside = Piece(None, seconds=dict(outside or {}))
        self._watch = watch
        self._tell = tell
        self._save = save
        self._present = self.outside
        self._phase = Phase.START
        self._left = 0
        self._told = watch.now()

    def enter(self, phase: Phase) -> None:
        """End the present phase and begin another."""
        self._watch.lap(self._phase, self._present)
        self._phase = phase

    @contextlib.contextmanager
    def attached(self, state: TrainingState) -> Iterator[None]:
        """Observe the forward passes of a model and the steps of its optimiser."""
        handles = [
            state.module.register_forward_pre_hook(lambda *_: self.enter(Phase.FORWARD)),
            state.optimizer.register_step_pre_hook(lambda *_: self.enter(Phase.OPTIMIZER)),
            state.optimizer.register_step_post_hook(lambda *_: self.enter(Phase.OTHER)),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def epoch_started(self, state: TrainingState) -> None:
        """Begin an epoch's account; measurements beyond this position are dropped, since it is trained again."""
        self.enter(Phase.OTHER)
        self._watch.settle()
        half = [piece for piece in self.pieces if piece.epoch == state.epoch]
        self.pieces = [piece for piece in self.pieces if piece.epoch is not None and piece.epoch < state.epoch]
        if sum(piece.steps for piece in half) <= state.step:
            self.pieces += half
        self._present = Piece(state.epoch)
        self.pieces.append(self._present)
        self._left = state.steps - state.step

    def batch_awaited(self, state: TrainingState) -> None:
        """Begin to wait."""
        self.enter(Phase.WAITING)

    def step_started(self, state: TrainingState, batch: Batch) -> None:
        """Begin the input pipeline."""
        self.enter(Phase.AUGMENTATION)

    def loss_computed(
        self, state: TrainingState, logits: torch.Tensor, targets: torch.Tensor, loss: torch.Tensor
    ) -> None:
        """Begin the backward pass."""
        self.enter(Phase.BACKWARD)

    def step_finished(self, state: TrainingState) -> None:
        """Count a step, and report the epoch's shares about once a second."""
        self._present.steps += 1
        self._left -= 1
        if self._watch.window_due(self._present, self._left):
            with self.during(Phase.PROFILING):
                self._watch.turn_window(self._present)
        now = self._watch.now()
        if now - self._told >= _TELL_SECONDS:
            self._told = now
            self._tell(shares_of(self._present))

    def epoch_finished(self, state: TrainingState, record: EpochRecord) -> None:
        """End the epoch's account, report it and save it. A clock of a device that works on its own waits here."""
        self.enter(Phase.OTHER)
        self._watch.settle()
        self._told = self._watch.now()
        self._tell(shares_of(self._present))
        self._present = self.outside
        self._save(self)

    def close(self) -> None:
        """End the account and have it saved; an epoch that was stopped in stays as far as it got."""
        with contextlib.suppress(RuntimeError):  # of a device that has failed: that error is on its way already
            self.enter(Phase.OTHER)
        self._watch.settle()
        self._watch.close()
        for piece in self.pieces:
            if not piece.steps:  # it failed in its first step
                for phase, seconds in piece.seconds.items():
                    self.outside.add(phase, seconds)
        self.pieces = [piece for piece in self.pieces if piece.steps]
        self._save(self)
