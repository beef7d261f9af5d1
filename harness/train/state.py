"""The changing part of a run."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from torch import nn

from harness.api import EpochRecord


@dataclass
class TrainingState:
    """The changing part of a run. ``epoch`` and ``step`` name the step that comes next.

    Attributes:
        losses: float32 (steps,) on the device, of the current epoch.
        history: The finished epochs.
        epoch_seconds: Time spent on the current epoch, by earlier processes too, until the clock was last stopped.
        is_saved: Whether a checkpoint holds this position.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    losses: torch.Tensor
    epoch: int = 0
    step: int = 0
    history: list[EpochRecord] = field(default_factory=list)
    epoch_seconds: float = 0.0
    is_saved: bool = False
    _since: float = field(default=0.0, repr=False)

    @property
    def steps(self) -> int:
        """Steps in an epoch."""
        return len(self.losses)

    def start_clock(self) -> None:
        """Count the time from now on as the epoch's."""
        self._since = time.monotonic()

    def stop_clock(self) -> None:
        """Add the time since the start to the epoch's."""
        self.epoch_seconds += time.monotonic() - self._since
