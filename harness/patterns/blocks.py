"""Rules about blocks, which show in their sums: Graph -> the operations at which an element is found."""

from __future__ import annotations

from harness.patterns.convolutions import first_mixing, ghost_features, pointwise_convolution
from harness.patterns.graph import Graph, Node

_WIDER = 1.9  # how much wider the middle of an inverted bottleneck is; 2 less what rounding to multiples of 8 takes


def _sums(graph: Graph) -> list[tuple[Node, int, int]]:
    """All additions of two maps or token lists of one shape, with where each of the two comes from."""
    return [(n, n.inputs[0], n.inputs[1]) for n in graph if n.is_add and len(n.shape) >= 3]


def residual(graph: Graph) -> list[Node]:
    """Additions of a map to something computed from it by learned mixing and a non-linearity.

    The map itself may go through a linear projection or normalisation on the way, as in ResNet. Branches that are
    linear until they are added are one convolution in disguise (see ``reparameterised``), and a part of the channels
    that is carried along and concatenated, as in ShuffleNet V2, is not added.
    """
    return [node for node, *_ in _residuals(graph)]


def _residuals(graph: Graph) -> list[tuple[Node, int, int]]:
    """Residual additions with where the skipped branch begins, and the branch's last operation."""
    found = []
    for node, a, b in _sums(graph):
        for skip, branch in ((a, b), (b, a)):
            start = _start_of_skip(graph, skip, branch)
            if start is None:
                continue
            path = graph.between(start, branch)
            if any(n.is_mixing for n in path) and not _is_linear(path):
                found.append((node, start, branch))
                break
    return found


def _start_of_skip(graph: Graph, skip: int, branch: int) -> int | None:
    """Return where a shortcut and a branch part: at the shortcut itself, or before its linear projection."""
    number, projections = skip, 0
    while True:
        if graph.depends(branch, number):
            return number
        node = graph[number]
        projections += node.is_mixing
        linear = node.is_view or node.is_norm or node.op == "avg_pool2d" or (node.is_mixing and projections == 1)
        # ResNet's projection is at most one 1x1 convolution; GhostNet's shortcut is a depthwise one and a 1x1.
        linear = linear or (node.is_mixing and projections == 2 and node.op == "convolution")
        if not linear or not node.inputs or (node.is_mixing and node.op != "convolution"):
            return None
        number = node.inputs[0]


def _is_linear(path: list[Node]) -> bool:
    """Whether a way holds nothing but convolutions, batch normalisation and sums: nothing that bends a value."""
    return all(n.is_mixing or n.is_norm or n.is_view or n.op in ("add", "add_") for n in path)


def inverted_bottleneck(graph: Graph) -> list[Node]:
    """Blocks that are at least twice as wide inside as at both ends.

    Either what a residual addition skips, widened by pointwise convolutions; or, without a shortcut, pointwise
    widening, a depthwise convolution, and pointwise narrowing, one after the other.
    """
    wide = {node.number for node in pointwise_convolution(graph)} | {n.inputs[0] for n in ghost_features(graph)}
    found = []
    for node, start, branch in _residuals(graph):
        ends = max(_channels(graph[start], node), _channels(node, node))
        inside = [n for n in graph.between(start, branch) if n.number in wide or n.op == "cat"]
        if inside and max(_width(n) for n in inside) >= _WIDER * ends and _has_depthwise(graph, start, branch):
            found.append(node)
    return found or _chains(graph)


def _chains(graph: Graph) -> list[Node]:
    found = []
    for node in graph:
        if not node.is_depthwise:
            continue
        width = node.shape[1]
        before = _last_mixing(graph, node)
        after = [graph[n] for n in first_mixing(graph, node) if graph[n].is_pointwise]
        widened = before is not None and before.is_pointwise and width >= _WIDER * before.input_shapes[0][1]
        if widened and any(width >= _WIDER * n.shape[1] for n in after):
            found.append(node)
    return found


def _last_mixing(graph: Graph, node: Node) -> Node | None:
    number = node.inputs[0]
    while not graph[number].is_mixing and graph[number].inputs:
        number = graph[number].inputs[0]
    return graph[number] if graph[number].is_mixing else None


def _width(node: Node) -> int:
    """Channels of a learned map's or concatenation's result."""
    return node.shape[1] if len(node.shape) == 4 else node.shape[-1]


def _channels(node: Node, like: Node) -> int:
    """Channels of a map in (N, C, H, W), or the last axis of tokens."""
    return node.shape[1] if len(like.shape) == 4 and len(node.shape) == 4 else node.shape[-1]


def _has_depthwise(graph: Graph, start: int, branch: int) -> bool:
    # A transformer's MLP is wider inside too, but filters nothing there.
    return any(n.is_depthwise for n in graph.between(start, branch))


def reparameterised(graph: Graph) -> list[Node]:
    """Sums of parallel branches that are linear from a common input on and each have their own normalisation.

    Such branches can be merged into one convolution after training, as in RepVGG and MobileOne.
    """
    found = []
    for node, a, b in _sums(graph):
        sources = [_linear_branch(graph, end) for end in (a, b)]
        if sources[0] and sources[1] and sources[0] & sources[1]:
            found.append(node)
    return found


def _linear_branch(graph: Graph, end: int) -> set[int]:
    """Return the inputs of a branch that ends in a normalisation, or of a sum of such branches; else nothing."""
    node = graph[end]
    if node.is_norm:
        before = graph[node.inputs[0]]
        # One convolution and its normalisation, or the normalisation alone: RepVGG's identity branch.
        return {node.inputs[0], *(before.inputs if before.is_mixing else ())}
    if node.is_add:
        parts = [_linear_branch(graph, number) for number in node.inputs]
        return parts[0] & parts[1]
    # A sum may start from the number 0, which leaves an addition of one activation.
    if node.op in ("add", "add_") and len(node.inputs) == 1:
        return _linear_branch(graph, node.inputs[0])
    return set()
