"""Random boxes within images, one per image of a batch, by share of the area and by aspect ratio."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_ATTEMPTS = 10
"""Number of draws until a box fits, as in the reference implementations."""


@dataclass(frozen=True)
class Box:
    """A box in whole pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class BoxRanges:
    """The distribution of random boxes.

    Attributes:
        scale_min, scale_max: Share of the image's area, uniform.
        ratio_min, ratio_max: Width divided by height, uniform in its logarithm.
    """

    scale_min: float
    scale_max: float
    ratio_min: float
    ratio_max: float

    def check(self, owner: str) -> None:
        """Raise ValueError if no box can be drawn from these ranges."""
        if not 0 < self.scale_min <= self.scale_max <= 1:
            raise ValueError(
                f"{owner}: scale_min is {self.scale_min!r} and scale_max {self.scale_max!r}, "
                "expected 0 < scale_min <= scale_max <= 1"
            )
        if not 0 < self.ratio_min <= self.ratio_max < math.inf:
            raise ValueError(
                f"{owner}: ratio_min is {self.ratio_min!r} and ratio_max {self.ratio_max!r}, "
                "expected 0 < ratio_min <= ratio_max"
            )

    def draw(self, n: int, height: int, width: int, generator: torch.Generator, *, smaller: bool) -> list[Box | None]:
        """Draw one box within ``height`` x ``width`` pixels per image; None where ten draws did not fit.

        Args:
            n: Number of images.
            height, width: The images' size in pixels.
            generator: The only source of randomness.
            smaller: A box must be smaller than the image in both directions, instead of at most as large.
        """
        import torch

        area, ratio, down, right = torch.rand(4, n, _ATTEMPTS, dtype=torch.float64, generator=generator).unbind(0)
        area = height * width * (self.scale_min + (self.scale_max - self.scale_min) * area)
        low, high = math.log(self.ratio_min), math.log(self.ratio_max)
        ratio = (low + (high - low) * ratio).exp()
        tall, wide = (area / ratio).sqrt().round().long(), (area * ratio).sqrt().round().long()
        fits = (tall > 0) & (wide > 0) & (tall <= height - smaller) & (wide <= width - smaller)
        first = fits.int().argmax(dim=1, keepdim=True)
        top = (down * (height - tall + 1)).floor().long()
        left = (right * (width - wide + 1)).floor().long()
        columns = [values.gather(1, first).flatten().tolist() for values in (top, left, tall, wide)]
        found = fits.any(dim=1).tolist()
        return [Box(*box) if ok else None for ok, box in zip(found, zip(*columns, strict=True), strict=True)]
