"""Points -> where each one's name fits best, so that names in a scatter plot do not lie on one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_CHARACTER, _LINE, _POINT = 6.3, 12.0, 7.0


@dataclass(frozen=True)
class Place:
    """Offset of a name from its point in pixels, and how it is aligned there."""

    dx: float
    dy: float
    align: str


def place_labels(
    x: Sequence[float], y: Sequence[float], names: Sequence[str], *, width: float = 320, height: float = 240,
    gap: float = 9,
) -> list[Place]:  # fmt: skip
    """Choose for each point one of eight places around it, the one that covers least of points and other names.

    Greedy, in the order of the points from right to left. ``width`` and ``height`` are those of the plot in pixels,
    about (those of a phone, where names are closest); ``gap`` is the distance of a name from its point.
    """
    px = _pixels(x, width)
    py = [height - value for value in _pixels(y, height)]
    boxes = [(a - _POINT, b - _POINT, a + _POINT, b + _POINT) for a, b in zip(px, py, strict=True)]
    points = len(boxes)
    found: dict[int, Place] = {}
    for at in sorted(range(points), key=lambda i: -px[i]):
        best: tuple[float, Place, tuple[float, float, float, float]] | None = None
        for rank, place in enumerate(_places(gap)):
            box = _box(px[at], py[at], len(names[at]) * _CHARACTER, place)
            cost = sum(_overlap(box, other) for i, other in enumerate(boxes) if i != at) + 0.5 * rank
            cost += 40 * (max(0.0, -20 - box[0]) + max(0.0, box[2] - width - 20))
            if best is None or cost < best[0]:
                best = cost, place, box
        assert best is not None
        found[at] = best[1]
        boxes.append(best[2])
    return [found[at] for at in range(points)]


def _places(gap: float) -> list[Place]:
    near = gap * 0.7
    return [
        Place(0, -gap - 3, "center"), Place(gap, 0, "left"), Place(-gap, 0, "right"), Place(0, gap + 3, "center"),
        Place(near, -near, "left"), Place(-near, -near, "right"),
        Place(near, near, "left"), Place(-near, near, "right"),
    ]  # fmt: skip


def _pixels(values: Sequence[float], length: float) -> list[float]:
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return [length * (0.04 + 0.92 * (value - low) / span) for value in values]


def _box(x: float, y: float, width: float, place: Place) -> tuple[float, float, float, float]:
    left = x + place.dx - {"left": 0.0, "center": width / 2, "right": width}[place.align]
    top = y + place.dy - _LINE / 2
    return left, top, left + width, top + _LINE


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    return wide * high if wide > 0 and high > 0 else 0.0
