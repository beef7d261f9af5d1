"""This computer and process: cores, memory, accelerators, libraries, garbage collector; torch only where needed."""

from __future__ import annotations

import contextlib
import gc
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from harness.errors import CannotContinueError, WrongUseError

if TYPE_CHECKING:
    import torch

Kind: TypeAlias = Literal["cpu", "cuda", "mps"]

WATTS = {"cpu": 65.0, "cuda": 300.0, "mps": 30.0}
"""Assumed power while training, by kind of device: a desktop processor's package, a data-centre GPU between idle and
its limit, an Apple chip under load. Only an assumption; ``harness plan --watts`` takes a measured one."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Environment variables from which numerical libraries take their number of threads when they are imported."""

LIBRARIES = ("torch", "torchvision", "timm", "numpy", "pillow", "pluggy", "fvcore")
"""Distributions that results depend on: results record their versions, and ``harness doctor`` compares them."""

_DRIVER_FILES = (
    *("/dev/nvidiactl", "/dev/nvidia0", "/dev/nvmap", "/dev/nvhost-gpu"),  # the last two on Jetson boards
    *("/dev/dxg", "/dev/kfd"),  # Windows' subsystem for Linux, and ROCm
)
_JOB_BYTES = 2 * 2**30  # a process with torch takes 0.5 to 1 GB, and training at 224 pixels about another one
_ANSWER_SECONDS = 10
_MEMORY = Path("/proc/meminfo")
_MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_MEMORY_USED = (Path("/sys/fs/cgroup/memory.current"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"))
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
    found = resolve_device(asked)
    kinds: dict[str, Kind] = {"cuda": "cuda", "mps": "mps"}
    return Device(str(found), kinds.get(found.type, "cpu"), device_name(found))


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
    return {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ}


def forks_workers(devices: Sequence[str]) -> bool:
    """Return whether workers for these devices are forked from the fork server: on a CPU under Linux alone."""
    return sys.platform == "linux" and set(devices) == {"cpu"}


def _has_no_driver() -> bool:
    if sys.platform == "darwin":
        return True  # torch has no CUDA there, and MPS has to be asked for by name
    if sys.platform == "linux":
        return not any(Path(file).exists() for file in _DRIVER_FILES)
    return False


def resolve_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps`` into a device that is there.

    ``auto`` takes a CUDA device if there is one and the CPU otherwise. MPS has to be named: its arithmetic is not
    comparable.

    Raises:
        WrongUseError: no such device name.
        CannotContinueError: this machine has no such device.
    """
    import torch

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


def torch_threads() -> int:
    """Return how many CPU threads torch takes by itself."""
    import torch

    return torch.get_num_threads()


def room_on_cpu() -> int:
    """Return how many jobs a CPU has room for: one per core, as long as each has the memory that it needs."""
    memory, cores = memory_bytes(), usable_cores()
    return cores if memory is None else max(1, min(cores, memory // _JOB_BYTES))


def memory_bytes() -> int | None:
    """Return the bytes of memory of this computer, or fewer if a container's limit is lower.

    None where the system does not tell, as on Windows.
    """
    ask = getattr(os, "sysconf", None)
    try:
        installed = int(ask("SC_PHYS_PAGES")) * int(ask("SC_PAGE_SIZE")) if ask else None
    except (ValueError, OSError):
        return None
    limit = _first_number(_MEMORY_LIMITS)
    return installed if installed is None or limit is None else min(installed, limit)


def free_memory_bytes() -> int | None:
    """Return the bytes of memory that processes may still take; None where the system does not tell."""
    free = memory_bytes()
    with contextlib.suppress(OSError, AttributeError):
        found = re.search(r"^MemAvailable:\s+(\d+) kB$", _MEMORY.read_text(encoding="ascii"), re.MULTILINE)
        free = int(found[1]) * 1024 if found else free
    limit, used = _first_number(_MEMORY_LIMITS), _first_number(_MEMORY_USED)
    return free if free is None or limit is None or used is None else max(0, min(free, limit - used))


def _first_number(files: Sequence[Path]) -> int | None:
    """Return the number in the first of these files that has one; a limit's "max" is none."""
    for file in files:
        with contextlib.suppress(OSError, ValueError):
            return int(file.read_text(encoding="ascii"))
    return None


def existing_folder(folder: Path) -> Path:
    """Return a folder, or the nearest path above it that exists."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())


def disk_use(folder: Path) -> int:
    """Return the bytes of all files below a folder. Links are not followed."""
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_symlink() or file.is_file())


def free_bytes(folder: Path) -> int:
    """Return the free bytes on the disk of a folder, which need not exist yet."""
    return shutil.disk_usage(existing_folder(folder)).free


def gigabytes(size: float) -> str:
    """Write a number of bytes for people.

    >>> gigabytes(2_530_000_000), gigabytes(17_000_000)
    ('2.53 GB', '17 MB')
    """
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or of the processor."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    return cpu_name()


def nvidia_driver() -> str | None:
    """Return the version of the NVIDIA driver; None where nvidia-smi is missing or does not answer."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.SubprocessError, UnicodeDecodeError, IndexError):
        return subprocess.run(
            command, capture_output=True, text=True, timeout=_ANSWER_SECONDS, check=True, stdin=subprocess.DEVNULL
        ).stdout.split()[0]
    return None


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution; None where it is not installed, or its metadata is damaged."""
    try:
        return version(distribution) or None
    except Exception:  # damaged metadata ends in errors of any kind
        return None


def cpu_name() -> str:
    """The processor's name, as results record it."""
    if sys.platform == "darwin":
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            return subprocess.check_output(["sysctl", "-n", "machdep.cpu.brand_string"], text=True).strip()
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Pause the garbage collector while many lasting objects are made, which it would examine again and again.

    Importing torch and timm takes 1.9 seconds instead of 2.7. ``gc.freeze`` afterwards spares what stays the looks that
    the collector would take at it later.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
