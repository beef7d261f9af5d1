"""Rules about gates, attention and resolution: Graph -> the operations at which an element is found."""

from __future__ import annotations

from harness.patterns.convolutions import product, through_views
from harness.patterns.graph import Graph, Node

_AVERAGES = ("mean", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool2d")
_FUSED_ATTENTION = ("scaled_dot_product", "multi_head_attention", "transformer_encoder_layer")


def squeeze_excite(graph: Graph) -> list[Node]:
    """Products of a map with a gate of one value a channel that is learned from the map's global average.

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
    """Whether a gate comes from a global average by learned mixing."""
    number, learned = gate, False
    while graph[number].inputs:
        node = graph[number]
        learned = learned or node.is_mixing
        if node.input_shapes and len(node.input_shapes[0]) == 4 and node.input_shapes[0][2:] != (1, 1):
            return learned and node.op in _AVERAGES
        number = node.inputs[0]
    return False


def attention(graph: Graph) -> list[Node]:
    """Positions mixed by weights that are themselves computed from the positions.

    A product of two activations of which one holds another such product (with or without a softmax in between), a
    softmax that weighs an activation, or one of torch's fused operations.
    """
    products = [n for n in graph if n.op in ("bmm", "baddbmm", "matmul") and _both_activations(n)]
    numbers = [n.number for n in products]
    found = [n for n in products if any(graph.depends(n.number, m) and m != n.number for m in numbers)]
    found = [n for n in found if _directly(graph, n, set(numbers))]
    for node in graph:
        if any(part in node.op for part in _FUSED_ATTENTION):
            found.append(node)
        if "softmax" in node.op and "log" not in node.op and _weighs(graph, node):
            found.append(node)
    if products and any("softmax" in n.op for n in graph):
        # A softmax between two products is the same attention, found twice.
        found = [n for n in found if "softmax" not in n.op]
    return found


def _both_activations(node: Node) -> bool:
    return len(node.inputs) >= 2 and not node.weight


def _directly(graph: Graph, node: Node, products: set[int]) -> bool:
    """Whether one of a product's factors is another product, at most scaled, masked, softmaxed or moved."""
    for number in node.inputs:
        at = number
        while graph[at].inputs and not graph[at].is_mixing:
            if at in products:
                return True
            at = graph[at].inputs[0]
    return False


def _weighs(graph: Graph, node: Node) -> bool:
    return any(
        graph[n].op in ("mul", "mul_", "bmm") and len(graph[n].inputs) == 2
        for n in [*graph.users[node.number], *_next_uses(graph, node)]
    )


def _next_uses(graph: Graph, node: Node) -> list[int]:
    return [user for view in through_views(graph, node) for user in graph.users[view]]


def isotropic(graph: Graph) -> list[Node]:
    """The stem's map, where no learned map after it changes the number of positions, up to global pooling.

    At least four learned maps must follow. A class token or two beside the positions do not count.
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
    return product(node.shape[:-1]) if len(node.shape) >= 2 else 0
