"""Memory that a run frees stays with the process, so that the next step need not ask the kernel for it again."""

from __future__ import annotations

import contextlib
import ctypes
import platform
from collections.abc import Iterator

import torch

# From glibc's malloc.h. Where nobody has set any, the thresholds grow with what is freed, up to the values below; once
# set they stay, so those are what a program that works on large tensors would have found.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_USUAL = ((_MMAP_MAX, 65536), (_MMAP_THRESHOLD, 32 << 20), (_TRIM_THRESHOLD, 64 << 20))
_NEVER = -1


@contextlib.contextmanager
def kept_memory(device: torch.device) -> Iterator[None]:
    """Let a run on the CPU keep its memory for the time of the run, and give all of it back afterwards.

    torch asks malloc for every tensor on the CPU, and glibc maps large ones from the kernel and unmaps them when they
    are freed: every batch and every activation then costs the kernel a page fault and a page of zeros for each 4 KiB.
    Kept, the same memory serves every step. This changes speed alone. Where the C library is another one, nothing
    happens.
    """
    library = _glibc() if device.type == "cpu" else None
    if library is None:
        yield
        return
    library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        for parameter, value in _USUAL:
            library.mallopt(parameter, value)
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if platform.libc_ver()[0] != "glibc":
        return None
    with contextlib.suppress(OSError):
        library = ctypes.CDLL(None)
        if hasattr(library, "mallopt") and hasattr(library, "malloc_trim"):
            return library
    return None
