"""Counts the multiply-adds of a built module by fvcore, with torch's own counter as a cross-check.

MACs are fvcore's, 1 per multiply-add, for one image in evaluation mode. The total includes normalisation and pooling;
the products are convolutions, linear layers, attention and other products of tensors only. torch's counter must find
exactly twice the products; otherwise ``doubts`` reports it. Operators that fvcore does not know, or knows roughly, get
handles here. A product of complex numbers is four of real ones; an einsum that sums over nothing counts its products.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

_PRODUCTS = (
    *("conv", "_convolution_mode", "linear", "addmm", "matmul", "mm", "bmm", "baddbmm", "einsum"),
    *("mv", "addmv", "dot", "vdot", "inner", "addbmm", "tensordot", "bilinear", "scaled_dot_product_attention"),
)
"""fvcore's names of the operators in ``MacCount.products``."""

_UNSEEN = " ("
"""Within the name of a part of an operator that torch's counter does not see, such as ``einsum (elementwise)``."""

_REAL_WORK = (
    *("lstm", "gru", "rnn_tanh", "rnn_relu", "conv_tbc", "deform_conv2d", "PythonOp", "CallFunction"),
    *("_native_multi_head_attention", "_transformer_encoder_layer_fwd", "_trilinear", "chain_matmul", "kron"),
    *("fft_", "stft", "istft", "cdist", "_cdist_forward", "pdist", "matrix_exp", "_sparse_mm", "sparse_sampled_addmm"),
    *("linalg_multi_dot", "linalg_matrix_power", "linalg_matrix_exp", "linalg_inv", "linalg_solve", "linalg_lstsq"),
    *("linalg_svd", "linalg_qr", "linalg_eig", "linalg_cholesky", "linalg_lu", "linalg_pinv", "linalg_householder"),
    *("svd", "qr", "inverse", "cholesky", "geqrf"),
)
"""Operators that may hold a model's main work and that neither fvcore nor a handle here counts."""


@dataclass(frozen=True, kw_only=True)
class MacCount:
    """The multiply-adds of one image's forward pass.

    Attributes:
        total: fvcore's total: products, normalisation and pooling.
        products: Convolutions, linear layers, attention and other products of tensors only.
        torch_flops: Count of ``torch.utils.flop_counter``, 2 per multiply-add; expected to be 2 x ``products``, less
            what that counter does not see.
        operators: Multiply-adds by counted operator. ``(elementwise)`` and ``(complex)`` after a name part off products
            that torch's counter does not see.
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
        seen = sum(macs for name, macs in self.operators.items() if name in _PRODUCTS)
        if self.torch_flops != 2 * seen:
            doubts.append(
                f"The counters disagree: fvcore finds {seen:,} multiply-adds in convolutions, linear layers "
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
        products=sum(macs for name, macs in operators.items() if name.partition(_UNSEEN)[0] in _PRODUCTS),
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
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    def of_vectors(first: Any, _second: Any, *_: Any, **__: Any) -> int:
        return 2 * int(math.prod(first))

    def of_added_vector(_bias: Any, matrix: Any, *_: Any, **__: Any) -> int:
        return 2 * int(math.prod(matrix))

    def of_added_batches(_sum: Any, first: Any, second: Any, *_: Any, **__: Any) -> int:
        return 2 * int(math.prod(first)) * int(second[-1])

    def of_three(first: Any, weight: Any, *_: Any, **__: Any) -> int:
        return 2 * _bilinear(first, weight)

    aten = torch.ops.aten
    more = {aten.mv: of_vectors, aten.dot: of_vectors, aten.vdot: of_vectors} | {
        aten.addmv: of_added_vector,
        aten.addbmm: of_added_batches,
        aten._trilinear: of_three,
    }
    with FlopCounterMode(display=False, custom_mapping=more) as counter:
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
    from fvcore.nn.jit_handles import addmm_flop_jit, conv_flop_count, conv_flop_jit, get_shape, linear_flop_jit

    def convolution(inputs: list[Any], outputs: list[Any]) -> int:
        return int(conv_flop_count(get_shape(inputs[0]), get_shape(inputs[1]), get_shape(outputs[0])))

    def product(inputs: list[Any], outputs: list[Any]) -> int:
        # The output's shape, because fvcore's formula ignores a batch that only the second factor has.
        return int(math.prod(get_shape(outputs[0]))) * int(get_shape(inputs[0])[-1])

    def added_product(inputs: list[Any], outputs: list[Any]) -> int:
        return product(inputs[1:], outputs)

    def added_batches(inputs: list[Any], _outputs: list[Any]) -> int:
        return int(math.prod(get_shape(inputs[1]))) * int(get_shape(inputs[2])[-1])

    def tensordot(inputs: list[Any], outputs: list[Any]) -> int:
        shape = get_shape(inputs[0])
        return int(math.prod(get_shape(outputs[0]))) * int(math.prod(shape[axis] for axis in _constants(inputs[2])))

    def bilinear(inputs: list[Any], _outputs: list[Any]) -> int:
        return _bilinear(get_shape(inputs[0]), get_shape(inputs[2]))

    def attention(inputs: list[Any], _outputs: list[Any]) -> int:
        # (..., L, E) queries, (..., S, E) keys, (..., S, V) values: two products, masks and softmax left out.
        query, key, value = (get_shape(item) for item in inputs[:3])
        return int(math.prod(query[:-1])) * int(key[-2]) * int(query[-1] + value[-1])

    def einsum(inputs: list[Any], _outputs: list[Any]) -> Counter[str]:
        shapes = [get_shape(one) for one in inputs[1].node().inputs()]
        path = _constants(inputs[2]) if len(inputs) > 2 else []
        summed, elementwise = einsum_products(inputs[0].toIValue(), shapes, path)
        return Counter({"einsum": summed, f"einsum{_UNSEEN}elementwise)": elementwise})

    single = {
        **{"_convolution_mode": convolution, "_convolution": conv_flop_jit, "linear": linear_flop_jit},
        **{"addmm": addmm_flop_jit, "scaled_dot_product_attention": attention, "einsum": einsum},
        **dict.fromkeys(("matmul", "mm", "bmm", "mv", "dot", "vdot", "inner"), product),
        **dict.fromkeys(("baddbmm", "addmv"), added_product),
        **{"addbmm": added_batches, "tensordot": tensordot, "bilinear": bilinear},
    }
    return {f"aten::{name}": _with_complex(_LISTED.get(name, name), handle) for name, handle in single.items()}


_LISTED = {"_convolution": "conv"}  # as fvcore lists it


def _with_complex(name: str, handle: Callable[[list[Any], list[Any]], Any]) -> Callable[[list[Any], list[Any]], Any]:
    """Return a handle that counts four products for one of complex numbers."""

    def count(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
        found = handle(inputs, outputs)
        macs = found if isinstance(found, Counter) else Counter({name: int(found)})
        if str(outputs[0].type().scalarType()).startswith("Complex"):
            macs[f"{name}{_UNSEEN}complex)"] = 3 * sum(macs.values())
        return +macs  # without the zeros

    return count


def _constants(value: Any) -> list[int]:
    """Return the whole numbers of a list in a traced graph; empty for None."""
    if value.node().kind() == "prim::ListConstruct":
        return [int(one.toIValue()) for one in value.node().inputs()]
    return [int(one) for one in value.toIValue() or ()]


def _bilinear(first: Sequence[int], weight: Sequence[int]) -> int:
    """Count x A y by its two products: (..., I) times (O, I, J), and (..., O, J) times (..., J)."""
    out, one, other = weight
    return math.prod(first[:-1]) * out * other * (one + 1)


def einsum_products(equation: str, shapes: Sequence[Sequence[int]], path: Sequence[int] = ()) -> tuple[int, int]:
    """Count the multiply-adds of an einsum, as torch carries it out: two operands at a time.

    Args:
        equation: Such as ``"bchw,cd->bdhw"``; with ``...`` and without ``->``, too.
        shapes: Of the operands.
        path: The order, as pairs of positions among the operands that are left; a result goes to the end. Empty from
            left to right.

    Returns:
        Multiply-adds of products that are summed over, and products that are not.
    """
    terms, result = _einsum_terms(equation, shapes)
    sizes: dict[str, int] = {}
    operands = []
    for term, shape in zip(terms, shapes, strict=True):
        for index, size in zip(term, shape, strict=True):
            sizes[index] = max(size, sizes.get(index, 1))
        # An axis of size 1 is spread over the others, which costs nothing.
        operands.append({index for index, size in zip(term, shape, strict=True) if size != 1})
    summed = elementwise = 0
    steps = [*path] or [0, 1] * (len(operands) - 1)
    for first, second in zip(steps[::2], steps[1::2], strict=True):
        one, other = operands[first], operands[second]
        operands = [operand for at, operand in enumerate(operands) if at not in (first, second)]
        needed = set(result).union(*operands)
        # What a single operand has and nothing else needs is summed before the product.
        one, other = ({i for i in own if i in needed or i in rest} for own, rest in ((one, other), (other, one)))
        products = math.prod(sizes[index] for index in one | other)
        if (one | other) <= needed:
            elementwise += products
        else:
            summed += products
        operands.insert(len(operands) if path else 0, (one | other) & needed)
    return summed, elementwise


def _einsum_terms(equation: str, shapes: Sequence[Sequence[int]]) -> tuple[list[list[str]], list[str]]:
    """Return the indices of each operand and of the result; the axes of an ellipsis are named by their place."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    texts = left.split(",")
    spread = [len(shape) - len(text.replace("...", "")) for text, shape in zip(texts, shapes, strict=True)]

    def indices(text: str, axes: int) -> list[str]:
        before, dots, after = text.partition("...")
        return [*before, *([f"...{axis}" for axis in range(axes, 0, -1)] if dots else []), *after]

    terms = [indices(text, axes) for text, axes in zip(texts, spread, strict=True)]
    if arrow:
        return terms, indices(right, max(spread))
    every = [index for term in terms for index in term]
    once = sorted(index for index in set(every) if every.count(index) == 1 and not index.startswith("..."))
    return terms, [*(f"...{axis}" for axis in range(max(spread), 0, -1)), *once]
