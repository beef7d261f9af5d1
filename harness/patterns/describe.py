"""Installed models -> their elements, parameters and multiply-adds, cached between commands."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from types import MappingProxyType
from typing import TYPE_CHECKING

from harness.api import ModelSpec
from harness.budget import check_output
from harness.cache import Cache, cache_folder
from harness.catalog import Catalog, Offer
from harness.errors import HarnessError, PluginError, one_line
from harness.fingerprint import hash_of
from harness.models import build_module, call_with_model, count_parameters
from harness.patterns.blocks import (
    channel_shuffle,
    depthwise_separable,
    ghost_features,
    inverted_bottleneck,
    large_kernel,
    patch_embedding,
    pointwise_convolution,
    reparameterised,
    residual,
)
from harness.patterns.graph import Graph, Node, record
from harness.registry import Counting
from harness.source import source_stamp

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Described:
    """A built model.

    Attributes:
        model: Its name.
        elements: The elements of Table 6 by name.
        parameters: Trainable parameters at ``Counting.macs_classes``.
        macs: fvcore's multiply-adds per image at that class count; None where counting fails.
        note: The reason of the failure.
    """

    model: str
    elements: Mapping[str, Element]
    parameters: int
    macs: int | None
    note: str = ""

    @property
    def present(self) -> dict[str, bool]:
        """True by element for those that the model has."""
        return {name: element.present for name, element in self.elements.items()}


def element_titles(described: Iterable[Described]) -> dict[str, str]:
    """Return the titles of the elements by name."""
    return {name: element.title for one in described for name, element in one.elements.items()}


def describe_models(catalog: Catalog, names: Iterable[str], counting: Counting) -> tuple[list[Described], list[str]]:
    """Describe models; return them and a sentence for each model that does not build or run.

    Descriptions are cached for the user until the plugin's source files or fvcore change.
    """
    cache = Cache(cache_folder() / "patterns.json")
    described, failures = [], []
    for name in names:
        offer = catalog.model(name)
        # The text separates these entries from those of older versions, which counted differently.
        key = hash_of(
            ["fvcore, exact products", name, source_stamp(offer.spec), RULES, version("fvcore"), *_size(counting)]
        )
        one = cache.get(key, Described)
        if one is None:
            try:
                one = call_with_model(_describe, offer, counting)
            except HarnessError as error:
                failures.append(str(error))
                continue
            cache.put(key, one)
        described.append(one)
    cache.save()
    return described, failures


def _size(counting: Counting) -> tuple[int, int]:
    return counting.macs_resolution, counting.macs_classes


def _describe(offer: Offer[ModelSpec], counting: Counting) -> Described:
    import torch

    from harness.macs import measure_macs

    resolution, classes = _size(counting)
    name = offer.spec.name
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = build_module(offer, classes)
        parameters = count_parameters(module).trainable
        try:
            elements = detect(module, resolution)
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"The model '{name}' of {offer.owner} does not run on one image of {resolution} x {resolution}: "
                f"{one_line(error)}"
            ) from error
        check_output(offer.spec, module, classes, resolution)
        try:
            count, note = measure_macs(module, resolution).total, ""
        except (Exception, SystemExit) as error:
            count, note = None, one_line(error)
    return Described(name, dict(elements), parameters, count, note)


RULES = 1
"""Version of the rules. Raise it when a rule finds something else than before."""


_AVERAGES = ("mean", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool2d")


_FUSED_ATTENTION = ("scaled_dot_product", "multi_head_attention", "transformer_encoder_layer")


@dataclass(frozen=True)
class Element:
    """An element: the number of places where a model has it (0 for none), and one of them as an example."""

    name: str
    title: str
    count: int
    example: str

    @property
    def present(self) -> bool:
        """True if the model has it."""
        return self.count > 0


def detect(module: nn.Module, resolution: int = 224) -> Mapping[str, Element]:
    """Return every element of ``RULE_OF`` for a module that maps float32 (N, 3, H, W) to logits.

    Raises:
        Exception: the module does not run on one image of that resolution.
    """
    graph = record(module, resolution)
    found = {}
    for name, (title, rule) in RULE_OF.items():
        places = rule(graph)
        found[name] = Element(name, title, len(places), _place(graph, places[0]) if places else "")
    return found


def _place(graph: Graph, node: Node) -> str:
    """Name the module whose parameter a node uses, or else the last one before it."""
    number = node.number
    while not graph[number].name and graph[number].inputs:
        number = max(graph[number].inputs)
    name = graph[number].name.rpartition(".")[0]
    return name if number == node.number else f"{node.op.rstrip('_')} after {name or 'the image'}"


def squeeze_excite(graph: Graph) -> list[Node]:
    """Find products of a map with a gate of one value per channel that is learned from the map's global average.

    A gate that varies over positions does not count, nor does a plain learned scale.
    """
    found = []
    for node in graph:
        if node.op not in ("mul", "mul_") or len(node.inputs) != 2 or node.pixels <= 1:
            continue
        for gate, shape in zip(node.inputs, node.input_shapes, strict=True):
            if len(shape) == 4 and shape[2:] == (1, 1) and shape[1] > 1 and _is_pooled(graph, gate):
                found.append(node)
                break
    return found


def _is_pooled(graph: Graph, gate: int) -> bool:
    """Return True for a gate that comes from a global average by learned mixing."""
    number, learned = gate, False
    while graph[number].inputs:
        node = graph[number]
        learned = learned or node.is_mixing
        if node.input_shapes and len(node.input_shapes[0]) == 4 and node.input_shapes[0][2:] != (1, 1):
            return learned and node.op in _AVERAGES
        number = node.inputs[0]
    return False


def attention(graph: Graph) -> list[Node]:
    """Find positions mixed by weights that are themselves computed from the positions.

    That is a product of two activations one of which comes from another such product, with or without a softmax
    between them; one of torch's fused operations; or, in a model without products, a softmax that weighs an activation.
    """
    products = [n for n in graph if n.op in ("bmm", "baddbmm", "matmul") and len(n.inputs) >= 2 and not n.weight]
    numbers = {n.number for n in products}
    chained = [n for n in products if _takes_product(graph, n, numbers)]
    # Beside products a softmax is a part of the same attention.
    others = [n for n in graph if _is_fused(n) or (not products and _is_weighing_softmax(graph, n))]
    return chained + others


def _takes_product(graph: Graph, node: Node, products: set[int]) -> bool:
    """Return True if a factor of a product is another product, at most scaled, masked, softmaxed or moved."""
    for number in node.inputs:
        at = number
        while graph[at].inputs and not graph[at].is_mixing:
            if at in products:
                return True
            at = graph[at].inputs[0]
    return False


def _is_fused(node: Node) -> bool:
    return any(part in node.op for part in _FUSED_ATTENTION)


def _is_weighing_softmax(graph: Graph, node: Node) -> bool:
    if "softmax" not in node.op or "log" in node.op:
        return False
    moved = [user for view in graph.views_of(node) for user in graph.users[view]]
    return any(
        graph[n].op in ("mul", "mul_", "bmm") and len(graph[n].inputs) == 2 for n in (*graph.users[node.number], *moved)
    )


def isotropic(graph: Graph) -> list[Node]:
    """Find the stem of a model in which no later learned operation changes the number of positions.

    Operations after global pooling do not count. At least four learned operations must follow the stem. One or two
    class tokens beside the positions are allowed.
    """
    maps = [(n, _positions(n)) for n in graph if n.is_mixing]
    sized = [(n, count) for n, count in maps if count > 1]
    if len(sized) < 5:
        return []
    first = sized[0][1]
    return [sized[0][0]] if all(first <= count <= first + 8 for _, count in sized) else []


def _positions(node: Node) -> int:
    if len(node.shape) == 4:
        return node.pixels
    # Linear maps are executed on (positions, channels), with one image in the batch.
    return math.prod(node.shape[:-1]) if len(node.shape) >= 2 else 0


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
