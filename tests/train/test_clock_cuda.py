"""The clock on CUDA: when its window opens, how a trace is read, and how its phases sum up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from harness.api import EpochRecord
from harness.train import clock_cuda
from harness.train.clock import Phase, RunClock
from tests.training import state_at

RECORD = EpochRecord(epoch=0, lr=1e-3, loss=1.0, images_per_second=1.0, seconds=1.0)


def test_idle_share_is_what_no_interval_covers() -> None:
    assert clock_cuda.idle_share([]) is None
    assert clock_cuda.idle_share([(3, 3)]) is None
    assert clock_cuda.idle_share([(0, 10)]) == 0
    assert clock_cuda.idle_share([(8, 10), (0, 2)]) == pytest.approx(0.6)
    assert clock_cuda.idle_share([(0, 6), (1, 2), (5, 8), (8, 9), (9.5, 10)]) == pytest.approx(0.05)
    random = np.random.default_rng(1)
    for _ in range(20):  # against counting moments
        starts = random.integers(0, 900, 40)
        busy = [(int(start), int(start + random.integers(1, 30))) for start in starts]
        moments = np.zeros(1000, bool)
        for begin, end in busy:
            moments[begin:end] = True
        covered = moments[min(begin for begin, _ in busy) : max(end for _, end in busy)]
        assert clock_cuda.idle_share(busy) == pytest.approx(1 - covered.mean())


def test_only_the_devices_work_counts_in_a_trace() -> None:
    def event(category: str, begin: float, seconds: float) -> dict[str, Any]:
        return {"ph": "X", "cat": category, "ts": begin, "dur": seconds, "name": "x"}

    work = [event("kernel", 10, 4), event("gpu_memcpy", 13, 3), event("gpu_memset", 18, 2)]
    noise = [event("cpu_op", 0, 99), event("gpu_user_annotation", 10, 90), {"ph": "M", "name": "process_name"}]
    assert clock_cuda.idle_in({"traceEvents": work + noise}) == pytest.approx(0.2)
    assert clock_cuda.idle_in({"traceEvents": noise}) is None


def test_trace_of_this_torch_has_the_expected_form() -> None:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        torch.ones(8) + 1
    trace = clock_cuda._trace(profiler)
    work = [event for event in trace["traceEvents"] if event.get("ph") == "X"]
    assert {"ts", "dur", "cat"} <= set(work[0])
    assert "cpu_op" in {event["cat"] for event in work}
    assert clock_cuda.idle_in(trace) is None


def test_window_is_within_an_epoch_and_after_the_first_steps() -> None:
    def turns(epochs: int, steps: int) -> list[tuple[int, int]]:
        window = clock_cuda.StepWindow()
        return [
            (epoch, step) for epoch in range(epochs) for step in range(1, steps + 1) if window.due(step, steps - step)
        ]

    assert turns(2, 1000) == [(0, 10), (0, 30)]
    assert turns(3, 31) == [(0, 10), (0, 25)]  # 15 steps, half an epoch
    assert turns(9, 4) == [(2, 2), (2, 4)]
    assert turns(2, 18) == [(1, 1), (1, 10)]
    assert turns(2, 4) == []  # too short a training to be measured
    assert turns(99, 1) == []


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_phases_on_cuda_sum_up_and_the_idle_share_is_measured() -> None:
    device = torch.device("cuda", 0)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record(torch.cuda.current_stream(device))
    clock = RunClock(clock_cuda.CudaWatch(device), tell=lambda shares: None, save=lambda clock: None)
    clock.epoch_started(state_at(0, 0, steps=60))
    matrix = torch.rand(2048, 2048, device=device)
    for _ in range(60):
        clock.enter(Phase.FORWARD)
        for _ in range(10):
            matrix = matrix @ matrix.softmax(dim=1)
        clock.enter(Phase.WAITING)
        clock.step_finished(state_at(0))
    clock.epoch_finished(state_at(1), RECORD)
    clock.close()
    end.record(torch.cuda.current_stream(device))
    torch.cuda.synchronize(device)
    (piece,) = clock.pieces
    measured = sum(piece.seconds.values()) + sum(clock.outside.seconds.values())
    # The device's own clock, in milliseconds, around all of it.
    assert 0.5 * begin.elapsed_time(end) / 1000 < measured <= begin.elapsed_time(end) / 1000 + 1e-3
    assert piece.seconds["forward"] > 0.5 * piece.training_seconds
    assert piece.idle is not None
    assert 0 <= piece.idle < 0.5
    assert piece.host_waiting is not None
