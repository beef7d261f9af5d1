"""The settings that a run trains under: numeric flags, memory and compilation."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import nn

from harness.errors import TrainingError
from harness.torch_settings import precisions

COMPILE_MODES: Final = ("default", "reduce-overhead")
"""torch's names: fused kernels; and, on CUDA, the whole step recorded as a graph that is launched at once."""

# The parameters of mallopt and the values that glibc's thresholds grow to by themselves, from glibc's malloc.h. A
# threshold that was set once no longer grows, so these are what a program that works on large tensors ends up with.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_USUAL = ((_MMAP_MAX, 65536), (_MMAP_THRESHOLD, 32 << 20), (_TRIM_THRESHOLD, 64 << 20))
_NEVER = -1


@contextlib.contextmanager
def frozen_numerics() -> Iterator[None]:
    """FP32 without TF32 and with deterministic algorithms while a run trains.

    An operator that has no deterministic form on a device warns instead of failing. A third party's model may use one,
    and a note in its result records the warning.
    """
    with contextlib.ExitStack() as settings:
        settings.enter_context(_matmul_precision("highest"))
        settings.enter_context(_attribute(torch.backends.cudnn, "allow_tf32", False))
        settings.enter_context(_attribute(torch.backends.cudnn, "benchmark", False))
        settings.enter_context(_default_variable("CUBLAS_WORKSPACE_CONFIG", ":4096:8"))
        settings.enter_context(_deterministic_algorithms())
        settings.enter_context(_attribute(torch.utils.deterministic, "fill_uninitialized_memory", False))
        yield


@contextlib.contextmanager
def _attribute(owner: Any, name: str, value: object) -> Iterator[None]:
    """Set an attribute; put the earlier value back at the end."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextlib.contextmanager
def _matmul_precision(name: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def _deterministic_algorithms() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    before_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=before_warns)


@contextlib.contextmanager
def _default_variable(name: str, value: str) -> Iterator[None]:
    """Set an environment variable unless it is set; remove it again at the end."""
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)


def fill_uninitialized_memory(wanted: bool) -> None:
    """Set whether torch fills new tensors with NaN under deterministic algorithms.

    A model that reads uninitialised memory then fails, instead of differing from run to run. It costs a pass over
    every new tensor, so a run fills only in its probed steps: the first and the last one of each epoch.
    """
    settings: Any = torch.utils.deterministic
    settings.fill_uninitialized_memory = wanted


def numeric_flags(device_type: str) -> tuple[bool, tuple[tuple[str, object], ...]]:
    """Return whether autocast is on at this moment, and the flags of ``frozen_numerics`` by name.

    A backend that computes float32 in a shorter type has an entry of its own, which is absent otherwise.
    """
    try:
        tf32: object = torch.backends.cudnn.allow_tf32
    except RuntimeError:  # torch's answer where the flag was set by its newer interface to something in between
        tf32 = "mixed"
    try:
        precision = torch.get_float32_matmul_precision()
    except RuntimeError:
        precision = "mixed"
    shorter = [
        (f"{name}.fp32_precision", owner.fp32_precision)
        for name, owner in precisions().items()
        if owner.fp32_precision not in ("none", "ieee")
    ]
    return torch.is_autocast_enabled(device_type), (
        ("float32_matmul_precision", precision),
        ("cudnn_tf32", tf32),
        ("cudnn_benchmark", torch.backends.cudnn.benchmark),
        ("deterministic_algorithms", torch.are_deterministic_algorithms_enabled()),
        *shorter,
    )


@contextlib.contextmanager
def kept_memory(device: torch.device) -> Iterator[None]:
    """Keep freed memory in the process, for those who train at large inputs, such as 224 pixels, on a CPU under glibc.

    All of it is given back at the end. With another C library nothing happens; the numbers are the same in any case.
    """
    # torch asks malloc for every tensor on the CPU. glibc maps large ones from the kernel and unmaps them when they are
    # freed, so every batch and every activation costs the kernel a page fault and a page of zeros per 4 KiB.
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


@contextlib.contextmanager
def compiled(module: nn.Module, mode: str | None) -> Iterator[None]:
    """Let a module compute by ``torch.compile`` while it trains; nothing happens where ``mode`` is None.

    Only the computation is compiled: names of parameters, hooks and the state dict stay as they are. Afterwards the
    module is as before, so evaluation is never compiled.

    Raises:
        TrainingError: at the first step, where torch can't compile the module here.
    """
    if mode is None:
        yield
        return
    compute = torch.compile(module.forward, mode=mode)

    def forward(*inputs: Any) -> Any:
        try:
            return compute(*inputs)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            raise TrainingError(
                f"torch.compile can't compile this model here: {reason} Leave --compile out to train without it."
            ) from error

    module.forward = forward
    try:
        yield
    finally:
        del module.forward
