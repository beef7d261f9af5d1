"""A built module -> Graph: every operation on activations in one forward pass, in order, with its sources.

Operations are recorded as torch executes them, below the modules. So the names of a model's classes, the style of its
code and whether torch can trace it symbolically do not matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

_VIEWS = frozenset(
    {
        *("view", "_unsafe_view", "reshape", "_reshape_alias", "transpose", "permute", "t", "clone"),
        *("contiguous", "unsqueeze", "squeeze", "expand", "alias", "detach", "slice", "split"),
        *("split_with_sizes", "unsafe_split", "chunk", "select", "unbind", "flatten", "unfold", "_to_copy"),
        *("narrow", "copy_", "copy", "as_strided", "as_strided_"),
    }
)
_POINTWISE_LEARNED = frozenset({"native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"})
_MIXING = frozenset({"convolution", "addmm", "mm", "bmm", "baddbmm", "linear"})


@dataclass(frozen=True)
class Node:
    """One operation.

    Attributes:
        number: Position in the order of execution; 0 is the image.
        op: aten's name, such as ``convolution``.
        inputs: Numbers of the operations whose results it takes, in the order of its arguments.
        shape: Shape of its first result.
        input_shapes: Shapes of the activations, in the order of ``inputs``.
        weight: Shape of its first parameter; empty for none.
        name: Qualified name of that parameter.
        arguments: Its other arguments, without tensors.
    """

    number: int
    op: str
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    input_shapes: tuple[tuple[int, ...], ...]
    weight: tuple[int, ...]
    name: str
    arguments: tuple[Any, ...]

    @property
    def is_view(self) -> bool:
        """True if it moves values without changing them."""
        return self.op in _VIEWS

    @property
    def is_mixing(self) -> bool:
        """True for a learned convolution or linear map."""
        return self.op in _MIXING and bool(self.weight)

    @property
    def is_norm(self) -> bool:
        """True for a batch normalisation, which is per channel and linear in evaluation mode."""
        return self.op in _POINTWISE_LEARNED

    @property
    def is_add(self) -> bool:
        """True if it adds two activations of one shape."""
        same = len(self.input_shapes) == 2 and self.input_shapes[0] == self.input_shapes[1]
        return self.op in ("add", "add_") and same

    @property
    def pixels(self) -> int:
        """Number of positions of its result, if that is a map (N, C, H, W); else 0."""
        return self.shape[2] * self.shape[3] if len(self.shape) == 4 else 0

    # -------------------------------------------------------------------------------------------- kinds of convolution

    @property
    def kernel(self) -> tuple[int, ...]:
        """A convolution's kernel, such as (3, 3); empty for anything else."""
        return self.weight[2:] if self.op == "convolution" else ()

    @property
    def stride(self) -> tuple[int, ...]:
        """A convolution's stride."""
        return tuple(self.arguments[0]) if self.op == "convolution" else ()

    @property
    def groups(self) -> int:
        """A convolution's groups; 0 for anything else."""
        return int(self.arguments[-1]) if self.op == "convolution" else 0

    @property
    def is_depthwise(self) -> bool:
        """True for a convolution of each channel by itself over more than one position."""
        channels = self.input_shapes[0][1] if self.op == "convolution" and len(self.weight) == 4 else 0
        return channels > 1 and self.groups == channels and max(self.kernel) > 1

    @property
    def is_pointwise(self) -> bool:
        """True for an ungrouped 1x1 convolution on a map of more than one position."""
        return self.op == "convolution" and self.kernel == (1, 1) and self.groups == 1 and self.pixels > 1


class Graph:
    """The operations of one forward pass, in order."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __getitem__(self, number: int) -> Node:
        return self.nodes[number]

    @cached_property
    def ancestors(self) -> list[int]:
        """For each operation, the numbers that it depends on, its own included, as bits of an integer."""
        sets: list[int] = []
        for node in self.nodes:
            bits = 1 << node.number
            for source in node.inputs:
                bits |= sets[source]
            sets.append(bits)
        return sets

    @cached_property
    def users(self) -> list[list[int]]:
        """For each operation, the numbers of those that take its result."""
        lists: list[list[int]] = [[] for _ in self.nodes]
        for node in self.nodes:
            for source in set(node.inputs):
                lists[source].append(node.number)
        return lists

    def depends(self, late: int, early: int) -> bool:
        """Return True if ``late`` is computed from ``early``, or is the same."""
        return bool(self.ancestors[late] >> early & 1)

    def behind_views(self, number: int) -> int:
        """Return the operation that computed the values of a view."""
        while self.nodes[number].is_view and self.nodes[number].inputs:
            number = self.nodes[number].inputs[0]
        return number

    def views_of(self, node: Node) -> list[int]:
        """Return the numbers of the operations that only move the values of a result."""
        found, waiting = [], list(self.users[node.number])
        while waiting:
            number = waiting.pop()
            if self.nodes[number].is_view:
                found.append(number)
                waiting += self.users[number]
        return found

    def between(self, early: int, late: int) -> list[Node]:
        """Return all operations on the paths from ``early``, left out, to ``late``, included."""
        if not self.depends(late, early):
            return []
        bits = self.ancestors[late]
        return [
            self.nodes[n] for n in range(early + 1, late + 1) if bits >> n & 1 and self.depends(n, early) and n != early
        ]


def record(module: nn.Module, resolution: int) -> Graph:
    """Run one image through a module in evaluation mode and record its operations.

    Args:
        module: Maps float32 (N, 3, H, W) to anything. Its training mode is restored.
        resolution: Side of the image in pixels.

    Raises:
        Exception: the module does not run.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    was_training = module.training
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    recorder = _recorder(module)
    image = torch.linspace(0, 1, 3 * resolution**2).reshape(1, 3, resolution, resolution)
    try:
        module.eval()
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), recorder:
            recorder.begin(image)
            module(image)
    finally:
        module.train(was_training)
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return Graph(recorder.nodes)


def _recorder(module: nn.Module) -> Any:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    parameters = {id(value): name for name, value in module.named_parameters()}

    class Recorder(TorchDispatchMode):
        """Records every operation on activations. It keeps all results, so that no ``id`` is used twice."""

        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.nodes: list[Node] = []
            self.source: dict[int, int] = {}
            self.names: dict[int, tuple[str, tuple[int, ...]]] = {}
            self.kept: list[torch.Tensor] = []

        def begin(self, image: torch.Tensor) -> None:
            self.nodes.append(Node(0, "image", (), tuple(image.shape), (), (), "", ()))
            self.source[id(image)] = 0
            self.kept.append(image)

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            given = [leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, torch.Tensor)]
            seen = [(self.source[id(one)], tuple(one.shape)) for one in given if id(one) in self.source]
            weights = [found for one in given if (found := self._parameter(one))]
            result = func(*args, **(kwargs or {}))
            made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
            self.kept += made
            op = str(func.overloadpacket.__name__)
            if seen and made:
                number = len(self.nodes)
                plain = tuple(a for a in (*args, *(kwargs or {}).values()) if not isinstance(a, torch.Tensor | None))
                name, weight = weights[0] if weights else ("", ())
                inputs, input_shapes = zip(*seen, strict=True)
                self.nodes.append(Node(number, op, inputs, tuple(made[0].shape), input_shapes, weight, name, plain))
                for one in made:
                    self.source[id(one)] = number
            elif weights:
                # A weight that is transposed or stacked before its use remains that parameter.
                for one in made:
                    self.names[id(one)] = (weights[0][0], tuple(one.shape))
            return result

        def _parameter(self, tensor: torch.Tensor) -> tuple[str, tuple[int, ...]] | None:
            if id(tensor) in parameters:
                return parameters[id(tensor)], tuple(tensor.shape)
            return self.names.get(id(tensor))

    return Recorder()
