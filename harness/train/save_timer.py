"""The times at which a run in progress is saved. Light to import, because prices count checkpoints by it, too."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from harness.api import StoppedError

if TYPE_CHECKING:
    from harness.train.state import TrainingState

SAVE_EVERY: Final = 300.0
"""Seconds between two checkpoints within an epoch, unless the user sets another interval."""
EPOCH_PAUSE = 10.0  # repeating less training than that costs about as much as a checkpoint does
"""The end of an epoch is saved if the last checkpoint, or the start, is at least so many seconds ago."""


class SaveTimer:
    """Tells a training loop when to save. The time counts from the last checkpoint, at first from the start."""

    def __init__(self, every: float = SAVE_EVERY, *, now: Callable[[], float] = time.monotonic) -> None:
        """Start to count.

        Args:
            every: Seconds between checkpoints within an epoch.
            now: A clock in seconds, for tests.
        """
        self._every = every
        self._now = now
        self._last = now()

    def due(self) -> bool:
        """Return True if a checkpoint is due after a step."""
        return self._now() - self._last >= self._every

    def epoch_due(self) -> bool:
        """Return True if a checkpoint is due at the end of an epoch that is not the last one."""
        return self._now() - self._last >= min(EPOCH_PAUSE, self._every)

    def saved(self) -> None:
        """Count from now on: a checkpoint was written."""
        self._last = self._now()


class Saver:
    """Saves a run in progress when its timer says so."""

    def __init__(self, save: Callable[[TrainingState], object], timer: SaveTimer) -> None:
        self._save = save
        self._timer = timer

    def step_finished(self, state: TrainingState, *, stop: bool) -> None:
        """Save if a checkpoint is due. Raises StoppedError after saving where the run is to stop."""
        if stop or self._timer.due():
            state.stop_clock()
            self._keep(state)
            state.start_clock()
        if stop:
            raise StoppedError

    def epoch_finished(self, state: TrainingState) -> None:
        """Save if a checkpoint is due at the end of an epoch that is not the last one."""
        if self._timer.epoch_due():
            self._keep(state)

    def _keep(self, state: TrainingState) -> None:
        self._save(state)
        state.is_saved = True
        self._timer.saved()


def count_saves(epochs: int, epoch_seconds: float) -> int:
    """Return how many checkpoints a run of equal epochs writes at the default interval; the last epoch is always saved.

    >>> [count_saves(100, seconds) for seconds in (1000, 60, 6, 0.01)]
    [400, 100, 50, 1]
    """
    saves, since = 0, 0.0
    for epoch in range(1, epochs + 1):
        within, since = divmod(since + epoch_seconds, SAVE_EVERY)
        saves += int(within)
        if epoch == epochs or since >= EPOCH_PAUSE:
            saves, since = saves + 1, 0.0
    return saves
