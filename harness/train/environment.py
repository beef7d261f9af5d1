"""The device and the numeric flags that a run happens under."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


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
        fill_uninitialized_memory(False),
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
        fill_uninitialized_memory(before[5])
        if before[6] is None:
            os.environ.pop(_CUBLAS, None)


def fill_uninitialized_memory(wanted: bool) -> bool:
    """Say whether torch fills new tensors with NaN under deterministic algorithms; return what was set before.

    It makes a model that reads memory which nobody wrote fail instead of differing from run to run, and costs a pass
    over every new tensor. So a run fills in the first and the last step of every epoch alone, like what else is looked
    at closely there.
    """
    settings: Any = torch.utils.deterministic
    before: bool = settings.fill_uninitialized_memory
    settings.fill_uninitialized_memory = wanted
    return before


def numeric_flags(device_type: str) -> tuple[bool, tuple[tuple[str, object], ...]]:
    """Return whether autocast is on at this moment, and the flags of ``frozen_numerics`` by name."""
    try:
        tf32: object = torch.backends.cudnn.allow_tf32
    except RuntimeError:  # torch's answer where the flag was set by its newer interface to something in between
        tf32 = "mixed"
    return torch.is_autocast_enabled(device_type), (
        ("float32_matmul_precision", torch.get_float32_matmul_precision()),
        ("cudnn_tf32", tf32),
        ("cudnn_benchmark", torch.backends.cudnn.benchmark),
        ("deterministic_algorithms", torch.are_deterministic_algorithms_enabled()),
    )
