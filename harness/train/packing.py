"""A tree of many small tensors <-> the same tree with a few large ones, which are written far more quickly.

``torch.save`` spends some 30 microseconds on every tensor, and a network with its optimiser has up to 4,000 of them. On
an accelerator each would be a copy of its own, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch

_Kind: TypeAlias = tuple[torch.dtype, torch.device]
_MARK = "packed tensor"


def pack(tree: Any) -> dict[str, Any]:
    """Return what ``unpack`` makes the same tree of, with one tensor for each type and device.

    Args:
        tree: Dicts, lists and tuples, nested, with tensors and plain values in them. It is left as it is.
    """
    parts: dict[_Kind, list[torch.Tensor]] = {}
    sizes: dict[_Kind, int] = {}

    def put(tensor: torch.Tensor) -> tuple[Any, ...]:
        kind = tensor.dtype, tensor.device
        if kind not in parts:
            parts[kind], sizes[kind] = [], 0
        dense = _dense(tensor.detach())
        place = _MARK, list(parts).index(kind), sizes[kind], tuple(dense.shape), dense.stride()
        # As it lies in memory: an optimiser's averages fit a weight in channels_last only in the same layout.
        parts[kind].append(dense.as_strided((dense.numel(),), (1,)))
        sizes[kind] += dense.numel()
        return place

    packed = _mapped(tree, lambda value: isinstance(value, torch.Tensor), put)
    return {"tree": packed, "tensors": [torch.cat(tensors) for tensors in parts.values()]}


def unpack(packed: dict[str, Any]) -> Any:
    """Return the tree that was packed; no two of its tensors share memory.

    Raises:
        KeyError, TypeError, ValueError, IndexError, RuntimeError: this is not what ``pack`` returned.
    """
    tensors: list[torch.Tensor] = packed["tensors"]

    def get(place: tuple[Any, ...]) -> torch.Tensor:
        _, kind, start, shape, strides = place
        tensor: torch.Tensor = tensors[kind].as_strided(shape, strides, start)
        return tensor.clone()  # which keeps the layout

    return _mapped(packed["tree"], lambda value: isinstance(value, tuple) and value[:1] == (_MARK,), get)


def _mapped(tree: Any, is_leaf: Callable[[Any], bool], change: Callable[[Any], Any]) -> Any:
    """Return a tree of the same shape with its leaves changed."""
    if is_leaf(tree):
        return change(tree)
    if isinstance(tree, dict):
        return {key: _mapped(value, is_leaf, change) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_mapped(value, is_leaf, change) for value in tree)
    return tree


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor if it fills its memory without gaps or overlaps, else a contiguous copy."""
    if tensor.is_contiguous() or (tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)):
        return tensor
    return tensor.contiguous()
