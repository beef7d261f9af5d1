"""Arithmetic of prices: seconds of a job, order of the jobs, and their sum."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.api import Job
from harness.price.price import JobPrice, Price, longest_first, makespan
from harness.price.timings import Timing

TIMING = Timing(build=0.5, setup=1.0, step=0.1, image=0.01, checkpoint=0.2)


def jobs(*names: str) -> list[Job]:
    return [Job("tiny-1.0", name, "dots", 0) for name in names]


def test_job_seconds_count_steps_checkpoints_and_evaluation() -> None:
    # 1 + 3 x 8 steps of 0.1 s + a checkpoint of 0.2 s + 40 images of 0.01 s: the first epochs are not worth one.
    assert TIMING.seconds(steps=8, epochs=3, test=40) == pytest.approx(1 + 2.4 + 0.2 + 0.4)
    # An epoch of 1,000 s has three checkpoints within it, besides the one at its end.
    assert TIMING.seconds(steps=10_000, epochs=1, test=0) == pytest.approx(1 + 1000 + 0.2 * 4)


def test_makespan_is_that_of_longest_first() -> None:
    assert makespan([], 2) == 0
    assert makespan([3, 1, 2], 1) == 6
    assert makespan([3, 1, 2], 2) == 3
    assert makespan([4, 4, 4], 2) == 8
    assert makespan([5], 8) == 5


def test_longest_first_keeps_the_order_of_equals_and_of_seeds() -> None:
    a, b, c, d = jobs("a", "b", "c", "d")
    assert longest_first([a, b, c, d], {a: 1.0, b: 3.0, d: 1.0}) == (b, a, d, c)
    later = replace(b, seed=1)
    assert longest_first([later, a, b], {a: 1.0, b: 3.0, later: 3.0}) == (b, a, later)


def test_price_sums_what_is_left() -> None:
    a, b, c = jobs("a", "b", "c")
    price = Price(
        jobs=(
            JobPrice(job=a, seconds=100.0, basis="timed", overhead=2.0, weights=1000, predictions=50),
            JobPrice(job=b, seconds=100.0, basis="runs", left=0.5, weights=3000, predictions=50),
            JobPrice(job=c, seconds=None, basis=None),
        ),
        start_up=10.0,
        at_once=2,
        watts=1800.0,
    )  # fmt: skip
    assert price.seconds == 152
    assert price.finish == 112
    assert price.kilowatt_hours == pytest.approx(112 * 1800 / 3.6e6)
    assert [one.job for one in price.unknown] == [c]
    # What stays are weights, a spare checkpoint of three times their size, and predictions; the two in progress have
    # up to three such checkpoints each.
    assert price.runs_bytes == 3 * 3 * 4 * 4000 + 100
