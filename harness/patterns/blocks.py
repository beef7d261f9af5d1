"""Rules about convolutions and blocks: Graph -> the operations at which an element is found.

Each rule's docstring says what counts and what does not.
"""

from __future__ import annotations

import math

from harness.patterns.graph import Graph, Node

LARGE_KERNEL = 5
# Width of an inverted bottleneck's middle over that of its ends: 2, less the effect of rounding to multiples of 8.
_WIDER = 1.9
_SHUFFLES = ("channel_shuffle", "native_channel_shuffle")


# ------------------------------------------------------------------------------------------------------- convolutions


def pointwise_convolution(graph: Graph) -> list[Node]:
    """Find ungrouped 1x1 convolutions on a map, and linear layers along the channels of a map in (N, H, W, C).

    A convolution of the single position that global pooling leaves is a linear layer and does not count.
    """
    return [node for node in graph if node.is_pointwise or _is_linear_on_a_map(graph, node)]


def _is_linear_on_a_map(graph: Graph, node: Node) -> bool:
    if node.op not in ("addmm", "mm", "linear") or not node.weight:
        return False
    before = node.inputs[0]
    while graph[before].is_view and graph[before].op != "permute" and graph[before].inputs:
        before = graph[before].inputs[0]
    shape = graph[before].shape
    return len(shape) == 4 and shape[1] * shape[2] > 1 and shape[3] == node.input_shapes[0][-1]


def depthwise_separable(graph: Graph) -> list[Node]:
    """Find depthwise convolutions whose result reaches a pointwise convolution before any other learned mixing.

    Normalisation, activation, gates and additions may lie between them.
    """
    mixers = {node.number for node in pointwise_convolution(graph)}
    return [node for node in graph if node.is_depthwise and first_mixing(graph, node) & mixers]


def first_mixing(graph: Graph, start: Node) -> set[int]:
    """Return the first learned convolution or linear map on each path forward from an operation."""
    found: set[int] = set()
    waiting, seen = list(graph.users[start.number]), set()
    while waiting:
        number = waiting.pop()
        if number in seen:
            continue
        seen.add(number)
        if graph[number].is_mixing:
            found.add(number)
        else:
            waiting += graph.users[number]
    return found


def large_kernel(graph: Graph) -> list[Node]:
    """Find depthwise convolutions over 5 or more positions in height or width."""
    return [node for node in graph if node.is_depthwise and max(node.kernel) >= LARGE_KERNEL]


def patch_embedding(graph: Graph) -> list[Node]:
    """Find a first learned operation that cuts the image into patches: its stride equals its kernel, 2 or more.

    Patches that are cut later do not count, such as MobileViT's for its attention.
    """
    learned = [node for node in graph if node.is_mixing]
    if not learned:
        return []
    first = learned[0]
    if first.op == "convolution":
        return [first] if first.kernel == first.stride and min(first.kernel) >= 2 else []
    # Pixels moved into channels, then a linear map, are the same convolution written in another way.
    side = [node for node in graph.between(0, first.number) if not node.is_view and node.op != "pixel_unshuffle"]
    wide = first.input_shapes[0][-1] > graph[0].shape[1] * 2
    rows = math.prod(first.input_shapes[0][:-1])
    return [first] if wide and rows > 1 and [node.number for node in side] == [first.number] else []


def channel_shuffle(graph: Graph) -> list[Node]:
    """Find channels viewed as (groups, channels per group), transposed and flattened again, beside grouped work.

    Grouped work is a grouped convolution that is not depthwise, as in ShuffleNet V1, or a split of the channels, as in
    V2, where one part bypasses the convolutions.
    """
    grouped = [n for n in graph if n.op == "convolution" and n.groups > 1 and not n.is_depthwise]
    split = [n for n in graph if n.op in ("split", "split_with_sizes", "slice", "unbind") and len(n.shape) == 4]
    if not grouped and not split:
        return []
    return [node for node in graph if node.op in _SHUFFLES or _is_shuffle(graph, node)]


def _is_shuffle(graph: Graph, node: Node) -> bool:
    """Return True for (N, groups, C / groups, H, W) transposed to (N, C / groups, groups, H, W) and then flattened."""
    if node.op not in ("transpose", "permute") or len(node.shape) != 5:
        return False
    given, channels = node.input_shapes[0], node.shape[1] * node.shape[2]
    if node.shape != tuple(given[at] for at in (0, 2, 1, 3, 4)) or not 1 < node.shape[2] < channels:
        return False
    flattened = [graph[number].shape for number in graph.views_of(node)]
    return any(len(shape) == 4 and shape[1] == channels for shape in flattened)


def ghost_features(graph: Graph) -> list[Node]:
    """Find concatenations of a map with cheap copies, made from it by depthwise convolutions only.

    A dense block's concatenation does not count, nor does that of two branches of one input.
    """
    found = []
    for node in graph:
        if node.op != "cat" or len(node.inputs) != 2 or len(node.shape) != 4:
            continue
        early, late = sorted(node.inputs)
        early = graph.behind_views(early)
        mixing = [n for n in graph.between(early, late) if n.is_mixing]
        if mixing and all(n.op == "convolution" and _is_per_channel(n) for n in mixing):
            found.append(node)
    return found


def _is_per_channel(node: Node) -> bool:
    """Return True for a convolution of each channel by itself: depthwise, or its 1x1 scaling branch."""
    return node.groups == node.input_shapes[0][1] > 1


# ------------------------------------------------------------------------------------------------------------- blocks


def _sums(graph: Graph) -> list[tuple[Node, int, int]]:
    """Return all additions of two maps or token lists of one shape, with the numbers of their two sources."""
    return [(n, n.inputs[0], n.inputs[1]) for n in graph if n.is_add and len(n.shape) >= 3]


def residual(graph: Graph) -> list[Node]:
    """Find additions of a map to a branch computed from it by learned mixing and a non-linearity.

    The map may pass a linear projection or normalisation first, as in ResNet. A sum of linear branches does not count,
    because it is one convolution (see ``reparameterised``), nor do channels that are kept and concatenated, as in
    ShuffleNet V2.
    """
    return [node for node, *_ in _residuals(graph)]


def _residuals(graph: Graph) -> list[tuple[Node, int, int]]:
    """Return residual additions, each with the operation at which its branch begins and the branch's last one."""
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
    """Return the operation at which shortcut and branch part: the shortcut itself, or the input of its projection."""
    number, projections = skip, 0
    while True:
        if graph.depends(branch, number):
            return number
        node = graph[number]
        projections += node.is_mixing
        linear = node.is_view or node.is_norm or node.op == "avg_pool2d" or (node.is_mixing and projections == 1)
        # ResNet's projection is one 1x1 convolution; GhostNet's shortcut is a depthwise one and a 1x1.
        linear = linear or (node.is_mixing and projections == 2 and node.op == "convolution")
        if not linear or not node.inputs or (node.is_mixing and node.op != "convolution"):
            return None
        number = node.inputs[0]


def _is_linear(path: list[Node]) -> bool:
    """Return True for a path of convolutions, batch normalisation and sums only, without a non-linearity."""
    return all(n.is_mixing or n.is_norm or n.is_view or n.op in ("add", "add_") for n in path)


def inverted_bottleneck(graph: Graph) -> list[Node]:
    """Find blocks that are at least twice as wide inside as at both ends.

    A block is the branch of a residual addition, widened by pointwise convolutions. In a model without such a branch
    it is a pointwise widening, a depthwise convolution and a pointwise narrowing in sequence.
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
    """Return the channels of the result of a learned operation or a concatenation."""
    return node.shape[1] if len(node.shape) == 4 else node.shape[-1]


def _channels(node: Node, like: Node) -> int:
    """Return the channels of a map (N, C, H, W), or the last axis of tokens."""
    return node.shape[1] if len(like.shape) == 4 and len(node.shape) == 4 else node.shape[-1]


def _has_depthwise(graph: Graph, start: int, branch: int) -> bool:
    # A transformer's MLP is wider inside, too, but has no depthwise convolution there.
    return any(n.is_depthwise for n in graph.between(start, branch))


def reparameterised(graph: Graph) -> list[Node]:
    """Find sums of parallel branches that are linear from a common input on, each with its own normalisation.

    Such branches can be merged into one convolution after training, as in RepVGG and MobileOne.
    """
    found = []
    for node, a, b in _sums(graph):
        sources = [_linear_branch(graph, end) for end in (a, b)]
        if sources[0] and sources[1] and sources[0] & sources[1]:
            found.append(node)
    return found


def _linear_branch(graph: Graph, end: int) -> set[int]:
    """Return the inputs of a branch that ends in a normalisation, or of a sum of such branches; else an empty set."""
    node = graph[end]
    if node.is_norm:
        before = graph[node.inputs[0]]
        # A convolution and its normalisation, or the normalisation only, which is RepVGG's identity branch.
        return {node.inputs[0], *(before.inputs if before.is_mixing else ())}
    if node.is_add:
        parts = [_linear_branch(graph, number) for number in node.inputs]
        return parts[0] & parts[1]
    # A sum may start from the number 0, which leaves an addition of one activation.
    if node.op in ("add", "add_") and len(node.inputs) == 1:
        return _linear_branch(graph, node.inputs[0])
    return set()
