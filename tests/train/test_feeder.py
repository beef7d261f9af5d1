"""Batches: the same whether gathered when asked for or one ahead, and memory that comes back after a run."""

from __future__ import annotations

import platform
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.data.prepared import SplitArrays
from harness.train.feeder import Batch, Feeder
from harness.train.task import Task
from tests.training import Watch, train

CPU = torch.device("cpu")


@pytest.fixture
def split(tmp_path: Path) -> SplitArrays:
    """21 memory-mapped images, each pixel of which is the image's number, and their labels."""
    images = np.broadcast_to(np.arange(21, dtype=np.uint8)[:, None, None, None], (21, 5, 4, 3))
    np.save(tmp_path / "images.npy", images)
    return SplitArrays(np.load(tmp_path / "images.npy", mmap_mode="r"), np.arange(21, dtype=np.int64) * 10)


def fed(feeder: Feeder, order: np.ndarray, **how: int | bool) -> list[Batch]:
    with feeder.batches(order, **how) as batches:  # type: ignore[arg-type]
        return list(batches)


@pytest.mark.parametrize("ahead", [False, True])
def test_batches_hold_the_images_of_the_order(split: SplitArrays, ahead: bool) -> None:
    order = np.random.default_rng(0).permutation(21)
    found = fed(Feeder(split, CPU, ahead=ahead), order, size=4)
    assert [len(batch.chosen) for batch in found] == [4] * 5, "the last partial batch is dropped"
    assert np.concatenate([batch.chosen for batch in found]).tolist() == order[:20].tolist()
    for batch in found:
        assert batch.images.shape == (4, 5, 4, 3)
        assert batch.images.dtype == torch.uint8
        assert batch.images[:, 2, 1, 0].tolist() == batch.chosen.tolist()
        assert batch.labels.tolist() == (10 * batch.chosen).tolist()


@pytest.mark.parametrize("ahead", [False, True])
def test_going_on_begins_with_the_batch_that_comes_next(split: SplitArrays, ahead: bool) -> None:
    order = np.arange(21)
    rest = fed(Feeder(split, CPU, ahead=ahead), order, size=4, first=3)
    assert [batch.chosen.tolist() for batch in rest] == [[12, 13, 14, 15], [16, 17, 18, 19]]
    assert fed(Feeder(split, CPU, ahead=ahead), order, size=4, first=5) == []
    whole = fed(Feeder(split, CPU, ahead=ahead), order, size=8, partial=True)
    assert [len(batch.chosen) for batch in whole] == [8, 8, 5]


def test_one_batch_is_gathered_ahead_and_no_more(split: SplitArrays, monkeypatch: pytest.MonkeyPatch) -> None:
    gathered: list[int] = []
    second = threading.Event()
    gather = Feeder._gather

    def noted(self: Feeder, chosen: np.ndarray) -> object:
        gathered.append(int(chosen[0]))
        if len(gathered) == 2:
            second.set()
        return gather(self, chosen)

    monkeypatch.setattr(Feeder, "_gather", noted)
    with Feeder(split, CPU, ahead=True).batches(np.arange(20), size=4) as batches:
        next(batches)
        assert second.wait(10), "nobody gathers while the first batch trains"
        assert gathered == [0, 4]
        next(batches)
    assert gathered[:3] == [0, 4, 8]
    assert len(gathered) == 3


def test_read_errors_are_raised_in_the_training_thread(split: SplitArrays) -> None:
    broken = SplitArrays(split.images, split.labels[:10].reshape(10)[:0])
    with Feeder(broken, CPU, ahead=True).batches(np.arange(8), size=4) as batches, pytest.raises(IndexError):
        next(batches)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_batches_reach_a_gpu_whole_however_late_they_are_read(split: SplitArrays) -> None:
    """The copies run on a stream of their own and their memory is used again: neither may be seen in a batch."""
    device = torch.device("cuda:0")
    order = np.arange(21)
    with Feeder(split, device).batches(order, size=3) as batches:
        for batch in batches:
            torch.cuda._sleep(10_000_000)  # the training stream is busy while the next batch arrives
            total = batch.images.float().mean(dim=(1, 2, 3))
            assert total.cpu().tolist() == batch.chosen.tolist()
            assert batch.labels.cpu().tolist() == (10 * batch.chosen).tolist()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_no_step_but_the_probed_ones_waits_for_the_gpu(task_of: Callable[..., Task]) -> None:
    """From the second step of an epoch to the last but one, anything that synchronises raises."""

    class Strict(Watch):
        def step_finished(self, epoch: int, step: int, steps: int, loss: torch.Tensor) -> None:
            torch.cuda.set_sync_debug_mode("error" if step + 2 < steps else "default")

    try:
        train(replace(task_of(), device=torch.device("cuda:0")), Strict())
    finally:
        torch.cuda.set_sync_debug_mode("default")


IN_A_PROCESS_OF_ITS_OWN = """
import torch
from harness.train.environment import kept_memory

def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))

def use():
    torch.zeros(size, dtype=torch.uint8).fill_(1)
    return (anonymous() - before) / size

size, before = 64 << 20, anonymous()
with kept_memory(torch.device("cpu")):
    within = use()
print(within, (anonymous() - before) / size, use())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_memory_is_kept_for_a_run_and_given_back_after_it() -> None:
    ran = subprocess.run([sys.executable, "-c", IN_A_PROCESS_OF_ITS_OWN], capture_output=True, text=True, check=True)
    within, after, later = map(float, ran.stdout.split())
    assert within > 0.9, "what was freed went back to the kernel at once"
    assert after < 0.2, "the run's memory stayed with the process"
    assert later < 0.2, "malloc was left otherwise than it was found"


@pytest.mark.parametrize("ahead", [False, True])
def test_a_batch_that_is_changed_in_place_changes_nothing_that_is_stored(split: SplitArrays, ahead: bool) -> None:
    writable = SplitArrays(np.array(split.images), split.labels.copy())  # a file's map would refuse to be written
    order = np.arange(21)
    for batch in fed(Feeder(writable, CPU, ahead=ahead), order, size=4):
        batch.images.zero_()
        batch.labels.zero_()
    assert np.array_equal(writable.images, split.images)
    assert np.array_equal(writable.labels, split.labels)
    assert order.tolist() == list(range(21))
