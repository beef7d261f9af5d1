"""Graph -> Elements: the twelve architectural elements of the paper's Table 6, each by a rule about what is computed.

Every rule is stated in the docstring of its function (``convolutions``, ``blocks``, ``gates``) and says what does *not*
count. Names of models, classes and modules play no part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from harness.patterns.blocks import inverted_bottleneck, reparameterised, residual
from harness.patterns.convolutions import (
    channel_shuffle,
    depthwise_separable,
    ghost_features,
    large_kernel,
    patch_embedding,
    pointwise_convolution,
)
from harness.patterns.gates import attention, isotropic, squeeze_excite
from harness.patterns.graph import Graph, Node, record

if TYPE_CHECKING:
    from torch import nn

RULES = 1
"""Version of the rules, raised whenever one of them changes what it finds."""


@dataclass(frozen=True)
class Element:
    """Whether a model has an element: how many times it was found (0 for no), and an example to look at."""

    name: str
    title: str
    count: int
    example: str

    @property
    def present(self) -> bool:
        """Whether it was found at all."""
        return self.count > 0


def detect(module: nn.Module, resolution: int = 224) -> Mapping[str, Element]:
    """Return every element of ``RULE_OF`` for a module that maps float32 (N, 3, H, W) to logits.

    Raises:
        Exception: whatever the module raises on one image of that resolution.
    """
    graph = record(module, resolution)
    found = {}
    for name, (title, rule) in RULE_OF.items():
        places = rule(graph)
        found[name] = Element(name, title, len(places), _place(graph, places[0]) if places else "")
    return found


def _place(graph: Graph, node: Node) -> str:
    """Name the parameter at a node, or the last one before it."""
    number = node.number
    while not graph[number].name and graph[number].inputs:
        number = max(graph[number].inputs)
    name = graph[number].name.rpartition(".")[0]
    return name if number == node.number else f"{node.op.rstrip('_')} after {name or 'the image'}"


Rule = Callable[[Graph], list[Node]]

RULE_OF: Mapping[str, tuple[str, Rule]] = MappingProxyType(
    {
        "pointwise": ("pointwise convolution", pointwise_convolution),
        "depthwise_separable": ("depthwise separable convolution", depthwise_separable),
        "residual": ("residual", residual),
        "inverted_bottleneck": ("inverted bottleneck", inverted_bottleneck),
        "squeeze_excite": ("squeeze-and-excite", squeeze_excite),
        "patch_embedding": ("patch embedding", patch_embedding),
        "large_kernel": ("large-kernel (>= 5) depthwise", large_kernel),
        "attention": ("attention", attention),
        "channel_shuffle": ("grouped channels with shuffle", channel_shuffle),
        "ghost": ("ghost (cheap) features", ghost_features),
        "reparameterised": ("re-parameterised branches", reparameterised),
        "isotropic": ("isotropic trunk", isotropic),
    }
)
