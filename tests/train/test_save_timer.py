"""When a run in progress is saved, by a clock that the tests set."""

from __future__ import annotations

import math

import pytest

from harness.train.save_timer import EPOCH_PAUSE, SAVE_EVERY, SaveTimer, count_saves


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_checkpoint_is_due_once_the_interval_has_passed() -> None:
    clock = Clock()
    timer = SaveTimer(60.0, now=clock)
    clock.seconds = 59.0
    assert not timer.due()
    clock.seconds = 60.0
    assert timer.due()
    timer.saved()
    assert not timer.due()
    clock.seconds = 120.0
    assert timer.due()


@pytest.mark.parametrize(
    ("every", "pause"), [(SAVE_EVERY, EPOCH_PAUSE), (60.0, EPOCH_PAUSE), (2.0, 2.0), (math.inf, EPOCH_PAUSE)]
)
def test_end_of_an_epoch_is_due_after_the_pause_or_a_shorter_interval(every: float, pause: float) -> None:
    clock = Clock()
    timer = SaveTimer(every, now=clock)
    for start in (0.0, 100.0):
        clock.seconds = start
        timer.saved()
        clock.seconds = start + pause - 0.5
        assert not timer.epoch_due()
        clock.seconds = start + pause
        assert timer.epoch_due()


@pytest.mark.parametrize(
    ("epochs", "seconds", "saved"),
    [
        (100, 60, 100), (100, 10, 100), (100, 6, 50), (5, 1, 1), (2, 1, 1), (1, 1, 1),
        (1, 1000, 4), (2, 1000, 8), (3, 305, 5), (3, 600, 7), (2, 299, 2),
    ],
)  # fmt: skip
def test_counted_saves_are_those_of_the_timer(epochs: int, seconds: int, saved: int) -> None:
    """A training loop with steps of one second asks the timer."""
    clock = Clock()
    timer, found = SaveTimer(now=clock), 0
    for epoch in range(1, epochs + 1):
        for _ in range(seconds):
            clock.seconds += 1
            if timer.due():
                timer.saved()
                found += 1
        if epoch == epochs or timer.epoch_due():
            timer.saved()
            found += 1
    assert count_saves(epochs, seconds) == found == saved
