"""Counts the multiply-adds of a built module by fvcore, with torch's own counter as a cross-check.

MACs are fvcore's, 1 per multiply-add, for one image in evaluation mode. The total includes normalisation and pooling;
the products are convolutions, linear layers and attention only. torch's counter must find exactly twice the products;
otherwise ``doubts`` reports it. fvcore does not know convolutions with ``padding="same"`` and fused attention, which
get handles here.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

_PRODUCTS = (
    *("conv", "_convolution_mode", "linear", "addmm", "matmul", "mm", "bmm", "baddbmm", "einsum"),
    "scaled_dot_product_attention",
)
"""fvcore's names of the operators in ``MacCount.products``."""

_REAL_WORK = (
    *("lstm", "gru", "rnn_tanh", "rnn_relu", "bilinear", "mv", "deform_conv2d", "PythonOp", "CallFunction"),
    *("_native_multi_head_attention", "_transformer_encoder_layer_fwd"),
)
"""Operators that may hold a model's main work and that neither fvcore nor a handle here counts."""


@dataclass(frozen=True, kw_only=True)
class MacCount:
    """The multiply-adds of one image's forward pass.

    Attributes:
        total: fvcore's total: products, normalisation and pooling.
        products: Convolutions, linear layers and attention products only.
        torch_flops: Count of ``torch.utils.flop_counter``, 2 per multiply-add; expected to be 2 x ``products``.
        operators: Multiply-adds by counted operator.
        uncounted: Number of calls by operator that fvcore does not count.
    """

    total: int
    products: int
    torch_flops: int
    operators: Mapping[str, int]
    uncounted: Mapping[str, int]

    def doubts(self) -> tuple[str, ...]:
        """Return sentences on why these numbers may be too low; none where the counters agree."""
        doubts = []
        if self.torch_flops != 2 * self.products:
            doubts.append(
                f"The counters disagree: fvcore finds {self.products:,} multiply-adds in convolutions, linear layers "
                f"and attention, torch's own counter {self.torch_flops:,} FLOPs, which is {self.torch_flops / 2:,.0f}."
            )
        hidden = [name for name in self.uncounted if name.split("::")[-1].startswith(_REAL_WORK)]
        if hidden:
            doubts.append(
                f"Not counted, although it may be the main work: {', '.join(hidden)}. The MACs are a lower bound."
            )
        return tuple(doubts)


def measure_macs(module: nn.Module, resolution: int) -> MacCount:
    """Count the multiply-adds of one (1, 3, resolution, resolution) image in evaluation mode, on the CPU.

    Raises:
        Exception: torch cannot trace the module.
    """
    import torch

    module.eval()
    image = torch.zeros(1, 3, resolution, resolution)
    with _countable():
        analysis = fvcore_nn().FlopCountAnalysis(module, image)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        analysis.set_op_handle(**_handles())
        operators = {name: int(macs) for name, macs in sorted(analysis.by_operator().items())}
        uncounted = {name.removeprefix("aten::"): calls for name, calls in sorted(analysis.unsupported_ops().items())}
        torch_flops = _torch_flops(module, image)
    return MacCount(
        total=sum(operators.values()),
        products=sum(macs for name, macs in operators.items() if name in _PRODUCTS),
        torch_flops=torch_flops,
        operators=operators,
        uncounted=uncounted,
    )


def estimate_macs(module: nn.Module, resolution: int) -> float:
    """Count the products only, by torch's counter, in a fifth of the time of ``measure_macs``; good for ordering.

    Raises:
        Exception: the module does not run.
    """
    import torch

    module.eval()
    with _countable():
        return _torch_flops(module, torch.zeros(1, 3, resolution, resolution)) / 2


def _torch_flops(module: nn.Module, image: torch.Tensor) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        module(image)
    return int(counter.get_total_flops())


@contextmanager
def _countable() -> Iterator[None]:
    """Make attention visible to both counters by turning fused kernels and the fast path off; restore both."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def fvcore_nn() -> Any:
    """Import ``fvcore.nn`` without the warnings of its own imports."""
    with warnings.catch_warnings():
        # At import fvcore scripts its loss functions, and torch warns about each.
        warnings.simplefilter("ignore")
        import fvcore.nn
    return fvcore.nn


def _handles() -> dict[str, Any]:
    """Return counting functions for operators that fvcore misses or counts wrongly."""
    from fvcore.nn.jit_handles import conv_flop_count, get_shape

    def convolution(inputs: list[Any], outputs: list[Any]) -> int:
        return int(conv_flop_count(get_shape(inputs[0]), get_shape(inputs[1]), get_shape(outputs[0])))

    def product(inputs: list[Any], outputs: list[Any]) -> int:
        # The output's shape, because fvcore's formula ignores a batch that only the second factor has.
        return int(math.prod(get_shape(outputs[0]))) * int(get_shape(inputs[0])[-1])

    def added_product(inputs: list[Any], outputs: list[Any]) -> int:
        return product(inputs[1:], outputs)

    def attention(inputs: list[Any], _outputs: list[Any]) -> int:
        # (..., L, E) queries, (..., S, E) keys, (..., S, V) values: two products, masks and softmax left out.
        query, key, value = (get_shape(item) for item in inputs[:3])
        return int(math.prod(query[:-1])) * int(key[-2]) * int(query[-1] + value[-1])

    return {
        "aten::_convolution_mode": convolution,
        "aten::scaled_dot_product_attention": attention,
        "aten::matmul": product,
        "aten::bmm": product,
        "aten::baddbmm": added_product,
    }
