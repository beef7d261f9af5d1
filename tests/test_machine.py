"""Facts about this computer: memory, the NVIDIA driver, and room for jobs."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from harness import machine
from harness.machine import Device, cpu_name, device_without_torch, find_device, usable_cores
from harness.train.provenance import device_name


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands in for nvidia-smi")
@pytest.mark.parametrize(
    ("script", "version"),
    [("echo 570.86.10; echo 570.86.10", "570.86.10"), ("echo no devices; exit 9", None), ("exit 0", None)],
)
def test_driver_is_what_nvidia_smi_answers(
    script: str, version: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert machine.nvidia_driver() == version


def test_driver_is_unknown_without_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.nvidia_driver() is None


@pytest.mark.parametrize(("gigabytes", "jobs"), [(1, 1), (2, 1), (7, 3), (64, 8), (None, 8)])
def test_room_on_cpu_is_limited_by_cores_and_memory(
    gigabytes: int | None, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: 8)
    monkeypatch.setattr(machine, "memory_bytes", lambda: None if gigabytes is None else gigabytes * 2**30)
    assert machine.room_on_cpu() == jobs


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="the system does not tell its memory")
def test_memory_is_at_least_a_gigabyte() -> None:
    assert (machine.memory_bytes() or 0) > 2**30


def test_version_of_a_library_is_none_where_it_is_not_installed() -> None:
    assert machine.installed_version("click") == version("click")
    assert machine.installed_version("no-such-distribution") is None
    assert all(map(machine.installed_version, machine.LIBRARIES))


def test_free_disk_is_that_of_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    assert machine.existing_folder(tmp_path / "runs" / "deep") == tmp_path
    assert machine.existing_folder(tmp_path) == tmp_path
    assert machine.free_bytes(tmp_path / "runs" / "deep") > 0


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 MB"), (17_000_000, "17 MB"), (999_000_000, "999 MB"), (2_530_000_000, "2.53 GB")]
)
def test_sizes_are_written_in_megabytes_and_gigabytes(size: int, text: str) -> None:
    assert machine.gigabytes(size) == text


def test_device_and_processor_are_those_that_results_record() -> None:
    recorded = device_name(torch.device("cpu"))
    assert cpu_name() == recorded
    assert device_without_torch("cpu") == Device("cpu", "cpu", recorded)
    assert find_device("auto").kind == ("cuda" if torch.cuda.is_available() else "cpu")


def test_auto_asks_torch_only_where_there_is_a_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = tmp_path / "nvidiactl"
    monkeypatch.setattr(machine, "_DRIVER_FILES", (str(driver),))
    monkeypatch.setattr(sys, "platform", "linux")
    assert device_without_torch("auto") == Device("cpu", "cpu", cpu_name())
    driver.touch()
    assert device_without_torch("auto") is None
    assert device_without_torch("cuda:0") is None


@pytest.mark.parametrize(("content", "limit"), [("150000 100000\n", 1.5), ("max 100000\n", None), ("nonsense", None)])
def test_container_limit(content: str, limit: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu.max").write_text(content)
    monkeypatch.setattr(machine, "_CPU_MAX", tmp_path / "cpu.max")
    monkeypatch.setattr(machine, "_CPU_QUOTA", tmp_path / "none")
    assert machine.core_limit() == limit
    if limit:
        assert usable_cores() == 1


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="the system does not tell its memory")
def test_a_containers_limit_bounds_the_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limit, used = tmp_path / "memory.max", tmp_path / "memory.current"
    used.write_text(f"{2**29}\n")
    monkeypatch.setattr(machine, "_MEMORY_LIMITS", (tmp_path / "missing", limit))
    monkeypatch.setattr(machine, "_MEMORY_USED", (tmp_path / "missing", used))
    limit.write_text("max\n")
    installed = machine.memory_bytes() or 0
    assert installed > 2**30
    assert 0 < (machine.free_memory_bytes() or 0) <= installed
    limit.write_text(f"{2**29 + 1000}\n")
    assert machine.memory_bytes() == 2**29 + 1000
    assert machine.free_memory_bytes() == 1000
