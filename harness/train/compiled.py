"""torch.compile for the time of a training: the same mathematics in fewer, fused kernels, for those who ask for it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import nn

from harness.errors import TrainingError

MODES: Final = ("default", "reduce-overhead")
"""torch's names: fused kernels; and, on CUDA, the whole step recorded as a graph that is launched at once."""


@contextlib.contextmanager
def compiled(module: nn.Module, mode: str | None) -> Iterator[None]:
    """Let a module compute by ``torch.compile`` for a while; nothing happens where ``mode`` is None.

    Only the computation is compiled: names of parameters, hooks and the state dict stay what they are, and afterwards
    the module is as it was, so that evaluation is never compiled.

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
