"""Timings and thread counts that a user's machine remembers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from harness import machine
from harness.api import Job
from harness.machine import Device
from harness.price.estimate import Setting
from harness.price.timings import Conditions, Timing, Timings, threads_per_job
from harness.registry import Benchmark

HERE = Setting(Device("cpu", "cpu", "a chip"), 1, 1)
TIMING = Timing(build=0.5, setup=1.0, step=0.1, image=0.01, checkpoint=0.2)


def jobs(*names: str) -> list[Job]:
    return [Job("tiny-1.0", name, "dots", 0) for name in names]


# ---------------------------------------------------------------------------------------------------------- machine


def test_threads_are_torch_s_own_divided_by_the_jobs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    timings = Timings(tmp_path / "timings.json")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert [threads_per_job(jobs, None, timings) for jobs in (1, 2, 3, 16)] == [8, 4, 2, 1]
    assert threads_per_job(2, 6, timings) == 6
    # Remembered, since torch takes seconds to ask; but not for another environment.
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    assert threads_per_job(1, None, Timings(tmp_path / "timings.json")) == 8
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert threads_per_job(1, None, timings) == 5


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"])
def test_every_thread_variable_counts(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    timings = Timings(tmp_path / "timings.json")
    for variable in machine.THREAD_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert threads_per_job(1, None, timings) == 8
    monkeypatch.setenv(name, "5")
    assert machine.thread_variables() == {name: "5"}
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    assert threads_per_job(1, None, timings) == 5  # the remembered 8 belong to another environment


# ---------------------------------------------------------------------------------------------------------- timings


def test_two_commands_that_write_timings_lose_none(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "timings.json"
    one, other = Timings(path), Timings(path)
    one.put("a", TIMING)
    one.put_number(12.5, "macs", "b")
    one.save()
    other.put("b", replace(TIMING, step=7.0))
    other.save()
    found = Timings(path)
    assert found.get("a") == TIMING
    assert found.number("macs", "b") == 12.5
    assert found.number("macs", "c") is None
    after = found.get("b")
    assert after is not None
    assert after.step == 7.0


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"a": {"step": 1}}', b"\xff"])
def test_damaged_timings_count_as_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "timings.json").write_bytes(content)
    assert Timings(tmp_path / "timings.json").get("a") is None


def test_key_changes_with_what_matters_and_with_nothing_else(tiny_benchmark: Benchmark) -> None:
    import msgspec

    protocol = tiny_benchmark.protocol("tiny-1.0")

    def key(**changes: object) -> str:
        facts = {
            "architecture": "a", "memory_format": "contiguous", "protocol": protocol, "side": 12,
            "device": HERE.device, "threads": 1, "jobs": 1,
        } | changes  # fmt: skip
        return Conditions(**facts).key()  # type: ignore[arg-type]

    assert key() == key(protocol=msgspec.structs.replace(protocol, epochs=9, lr_max=0.5, title="x"))
    different = [
        key(architecture="b"), key(memory_format="channels_last"), key(side=8), key(threads=2), key(jobs=2),
        key(device=Device("cpu", "cpu", "another chip")), key(protocol=msgspec.structs.replace(protocol, batch_size=4)),
        key(protocol=msgspec.structs.replace(protocol, input_size=24)),
        key(protocol=msgspec.structs.replace(protocol, augmentations=protocol.augmentations[:1])),
    ]  # fmt: skip
    assert len({key(), *different}) == 1 + len(different)
