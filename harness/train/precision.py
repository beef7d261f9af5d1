"""The precision inside a model: the floating types in which torch's operators compute, as the operators get them.

A witness at the edge of a model sees float32 go in and come out. In between the model may switch autocast on, or cast
by hand, in its forward pass, its backward pass or its own operators.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.train.environment import numeric_flags

_SINGLE = (torch.float32, torch.complex64)


class PrecisionWatch(TorchDispatchMode):
    """While it is entered, notes every operator that takes or gives another floating type than float32.

    Tensors without dimensions are left out: torch holds Python's numbers in them, and they decide no type. The
    operators and their results stay the same.

    Attributes:
        found: The first operator by the type that it computes in, such as ``{"bfloat16": "aten.mm"}``.
        flags: The different values of ``numeric_flags`` under which operators ran.
        paused: True to note nothing for a while.
    """

    def __init__(self, device_type: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: dict[str, str] = {}
        self.flags: list[tuple[tuple[str, object], ...]] = []
        self.paused = False
        self._device_type = device_type

    def begin(self) -> None:
        """Enter it, where a ``with`` block can't hold the operators."""
        self.__enter__()  # type: ignore[no-untyped-call]

    def end(self) -> None:
        """Leave it."""
        self.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Carry out an operator and note its types."""
        result = func(*args, **(kwargs or {}))
        if not self.paused:
            flags = numeric_flags(self._device_type)[1]
            if flags not in self.flags:
                self.flags.append(flags)
            for leaf in tree_leaves((args, kwargs, result)):
                if isinstance(leaf, torch.Tensor) and leaf.dim() and (kind := _other_type(leaf)):
                    self.found.setdefault(kind, str(func.overloadpacket))
        return result


def _other_type(tensor: torch.Tensor) -> str:
    """Return a tensor's type if it is a floating one other than float32, or a quantised one; else an empty text."""
    kind = tensor.dtype
    odd = (kind.is_floating_point or kind.is_complex or tensor.is_quantized) and kind not in _SINGLE
    return str(kind).removeprefix("torch.") if odd else ""
