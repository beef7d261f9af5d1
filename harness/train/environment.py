"""The device, the numeric flags and the versions that a run happens under."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from harness.errors import CannotContinueError, WrongUseError

_LIBRARIES = ("xscore-harness", "torch", "torchvision", "timm", "numpy", "pillow", "pluggy", "fvcore")
_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


def resolve_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps`` into a device that is there.

    ``auto`` takes a CUDA device if there is one and the CPU otherwise. MPS has to be named: its arithmetic is not
    comparable.

    Raises:
        WrongUseError: no such device name.
        CannotContinueError: this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    match = re.fullmatch(r"cpu|mps|cuda(?::(\d+))?", name)
    if not match:
        raise WrongUseError(f"There is no device '{name}'. Expected auto, cpu, cuda, cuda:0, cuda:1, ... or mps.")
    if name == "mps" and not torch.backends.mps.is_available():
        raise CannotContinueError("This machine has no MPS device. Leave --device out to use what there is.")
    if name.startswith("cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = int(match.group(1) or 0)
        if index >= count:
            found = f"{count} CUDA device{'s' if count > 1 else ''}" if count else "no CUDA device that torch can use"
            raise CannotContinueError(
                f"This machine has {found}, but {name} was asked for. 'harness run --device cpu' uses the CPU."
            )
        return torch.device("cuda", index)
    return torch.device(name)


@contextlib.contextmanager
def frozen_numerics() -> Iterator[None]:
    """FP32 without TF32 and with deterministic algorithms for the time of a run; restores what was set before.

    Operators that have no deterministic form on a device warn instead of failing: a third party's model may use one,
    and its result then says so.
    """
    before = (
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.benchmark,
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        os.environ.get(_CUBLAS),
    )
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    os.environ.setdefault(_CUBLAS, ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
        torch.backends.cudnn.benchmark = before[2]
        torch.use_deterministic_algorithms(before[3], warn_only=before[4])
        if before[5] is None:
            os.environ.pop(_CUBLAS, None)


def describe_environment(device: torch.device, *, memory_format: str, plugin: str) -> dict[str, Any]:
    """Return what a reader needs to judge or repeat a run: versions, device, threads and flags."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "versions": {name: found for name in _LIBRARIES if (found := _version(name))},
        "model_plugin": plugin,
        "device": str(device),
        "device_name": _device_name(device),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "cudnn": torch.backends.cudnn.version() if device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "memory_format": memory_format,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "tf32": torch.backends.cudnn.allow_tf32,
        "comparable": device.type != "mps",
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if sys.platform == "darwin":
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            return subprocess.check_output(["sysctl", "-n", "machdep.cpu.brand_string"], text=True).strip()
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
