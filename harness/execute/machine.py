"""What can be told of this machine without importing torch: its cores, its processor, whether it has an accelerator."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from harness.processor import cpu_name

Kind: TypeAlias = Literal["cpu", "cuda", "mps"]

WATTS = {"cpu": 65.0, "cuda": 300.0, "mps": 30.0}
"""Assumed power while training, by kind of device: a desktop processor's package, a data-centre GPU between idle and
its limit, an Apple chip under load. Only an assumption; ``harness plan --watts`` takes a measured one."""

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_DRIVER_FILES = (
    *("/dev/nvidiactl", "/dev/nvidia0", "/dev/nvmap", "/dev/nvhost-gpu"),  # the last two on Jetson boards
    *("/dev/dxg", "/dev/kfd"),  # Windows' subsystem for Linux, and ROCm
)
_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
_CPU_PERIOD = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")


@dataclass(frozen=True)
class Device:
    """Where jobs run: what torch calls it, its kind, and the name of the chip."""

    address: str
    kind: Kind
    name: str

    def __str__(self) -> str:
        return f"{self.name} ({self.address})"


def device_without_torch(asked: str) -> Device | None:
    """Return the device that ``--device`` means where that is certain without torch; None where torch has to be asked.

    ``auto`` is the CPU on a machine that has no accelerator's driver; importing torch to learn that takes seconds.
    """
    if asked == "cpu" or (asked == "auto" and _has_no_driver()):
        return Device("cpu", "cpu", cpu_name())
    return None


def find_device(asked: str) -> Device:
    """Return the device that ``--device`` means.

    Raises:
        WrongUseError: there is no such name.
        CannotContinueError: this machine has no such device.
    """
    if (known := device_without_torch(asked)) is not None:
        return known
    import torch

    from harness.train.environment import resolve_device

    found = resolve_device(asked)
    kinds: dict[str, Kind] = {"cuda": "cuda", "mps": "mps"}
    kind = kinds.get(found.type, "cpu")
    return Device(str(found), kind, torch.cuda.get_device_name(found) if kind == "cuda" else cpu_name())


def usable_cores() -> int:
    """Cores that this process may use: those it is bound to, and no more than a container's limit allows."""
    limit = core_limit()
    cores = bound_cores()
    return max(1, min(cores, int(limit)) if limit else cores)


def bound_cores() -> int:
    """Cores that the operating system lets this process run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def core_limit() -> float | None:
    """A container's limit in cores, such as 1.5; None where there is none."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = _CPU_MAX.read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        quota_us = int(_CPU_QUOTA.read_text(encoding="ascii"))
        return None if quota_us <= 0 else quota_us / int(_CPU_PERIOD.read_text(encoding="ascii"))
    return None


def thread_variables() -> dict[str, str]:
    """The environment's variables that set numbers of threads."""
    return {name: os.environ[name] for name in _THREAD_VARIABLES if name in os.environ}


def _has_no_driver() -> bool:
    if sys.platform == "darwin":
        return True  # torch has no CUDA there, and MPS has to be asked for by name
    if sys.platform == "linux":
        return not any(Path(file).exists() for file in _DRIVER_FILES)
    return False
