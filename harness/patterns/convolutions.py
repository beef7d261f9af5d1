"""Rules about convolutions: Graph -> the operations at which an element is found. Each says what does not count."""

from __future__ import annotations

from harness.patterns.graph import Graph, Node

LARGE_KERNEL = 5


def pointwise_convolution(graph: Graph) -> list[Node]:
    """Ungrouped 1x1 convolutions on a map, or linear layers along the channels of a map in (N, H, W, C).

    A convolution of the single position that global pooling leaves is a linear layer, not this.
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
    """Depthwise convolutions whose result reaches a pointwise convolution before any other learned mixing.

    Normalisation, activation, gates and additions may stand in between.
    """
    mixers = {node.number for node in pointwise_convolution(graph)}
    return [node for node in graph if node.is_depthwise and first_mixing(graph, node) & mixers]


def first_mixing(graph: Graph, start: Node) -> set[int]:
    """Return the first learned maps met on every way forward from an operation."""
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
    """Depthwise convolutions over 5 or more positions in height or width."""
    return [node for node in graph if node.is_depthwise and max(node.kernel) >= LARGE_KERNEL]


def patch_embedding(graph: Graph) -> list[Node]:
    """A first learned map that cuts the image into patches: its stride equals its kernel, 2 or more.

    Patches that are cut later, as MobileViT does for its attention, are no embedding.
    """
    learned = [node for node in graph if node.is_mixing]
    if not learned:
        return []
    first = learned[0]
    if first.op == "convolution":
        return [first] if first.kernel == first.stride and min(first.kernel) >= 2 else []
    # Pixels moved into channels and then a linear map: a convolution of that kind, written in another way.
    side = [node for node in graph.between(0, first.number) if not node.is_view and node.op != "pixel_unshuffle"]
    wide = first.input_shapes[0][-1] > graph[0].shape[1] * 2
    rows = product(first.input_shapes[0][:-1])
    return [first] if wide and rows > 1 and [node.number for node in side] == [first.number] else []


def product(values: tuple[int, ...]) -> int:
    """Multiply numbers."""
    result = 1
    for value in values:
        result *= value
    return result


def channel_shuffle(graph: Graph) -> list[Node]:
    """Channels viewed as (groups, channels of a group), transposed and flattened again, beside grouped work.

    Grouped work is a grouped convolution that is not depthwise, as in ShuffleNet V1, or a split of the channels of
    which one part goes round the convolutions, as in V2.
    """
    grouped = [n for n in graph if n.op == "convolution" and n.groups > 1 and not n.is_depthwise]
    split = [n for n in graph if n.op in ("split", "split_with_sizes", "slice", "unbind") and len(n.shape) == 4]
    if not grouped and not split:
        return []
    return [
        node
        for node in graph
        if node.op in ("channel_shuffle", "native_channel_shuffle")
        or (
            node.op in ("transpose", "permute")
            and len(node.shape) == 5
            and node.shape == tuple(node.input_shapes[0][at] for at in (0, 2, 1, 3, 4))
            and 1 < node.shape[2] < node.shape[1] * node.shape[2]
            and any(
                len(graph[n].shape) == 4 and graph[n].shape[1] == node.shape[1] * node.shape[2]
                for n in through_views(graph, node)
            )
        )
    ]


def through_views(graph: Graph, start: Node) -> list[int]:
    """Return the operations after one that only move its values."""
    found, waiting = [], list(graph.users[start.number])
    while waiting:
        number = waiting.pop()
        if graph[number].is_view:
            found.append(number)
            waiting += graph.users[number]
    return found


def ghost_features(graph: Graph) -> list[Node]:
    """Concatenations of a map with cheap copies of it: what joins it was made from it by depthwise convolutions alone.

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
    """Whether a convolution works on each channel alone: depthwise, or its 1x1 scaling branch."""
    return node.groups == node.input_shapes[0][1] > 1
