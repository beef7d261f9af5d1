"""Random erasing: replaces a box of an image by noise or by one value.

Source: Z. Zhong, L. Zheng, G. Kang, S. Li, Y. Yang, Random Erasing Data Augmentation, AAAI 2020, arXiv:1708.04896.
Boxes are drawn as in ``torchvision.transforms.v2.RandomErasing``. They are filled with uniform noise in 0..1 per pixel
and channel, as in the paper, since images are not normalised yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.api import Augmentation, AugmentationSpec, hookimpl
from xscore_plugins.augmentations._boxes import Box, BoxRanges

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Erasure:
    """A box and its new content on the CPU: float32 (3, height, width), or (3, 1, 1) for one value."""

    box: Box
    content: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class RandomErasing(Augmentation[list[Erasure | None]]):
    """Erases a box of each image with probability ``p``, independently.

    Attributes:
        p: Probability, 0..1.
        scale_min, scale_max: Share of the image's area, 0..1.
        ratio_min, ratio_max: Height divided by width.
        value: The new value, 0..1; None for noise.

    Raises:
        ValueError: a strength is out of range.
    """

    p: float = 0.5
    scale_min: float = 0.02
    scale_max: float = 0.33
    ratio_min: float = 0.3
    ratio_max: float = 3.3
    value: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise ValueError(f"random_erasing: p is {self.p!r}, expected a probability between 0 and 1")
        if self.value is not None and not 0 <= self.value <= 1:
            raise ValueError(f"random_erasing: value is {self.value!r}, expected a number between 0 and 1")
        BoxRanges(self.scale_min, self.scale_max, self.ratio_min, self.ratio_max).check("random_erasing")

    def draw(self, n: int, height: int, width: int, generator: torch.Generator) -> list[Erasure | None]:
        """Draw what is erased of each of ``n`` images of ``height`` x ``width`` pixels."""
        import torch

        erased = (torch.rand(n, generator=generator) < self.p).tolist()
        ranges = BoxRanges(self.scale_min, self.scale_max, 1 / self.ratio_max, 1 / self.ratio_min)
        boxes = ranges.draw(n, height, width, generator, smaller=True)

        def content(box: Box) -> torch.Tensor:
            if self.value is not None:
                return torch.full((3, 1, 1), self.value)
            return torch.rand(3, box.height, box.width, generator=generator)

        return [Erasure(box, content(box)) if one and box else None for one, box in zip(erased, boxes, strict=True)]

    def apply(self, images: torch.Tensor, erasures: list[Erasure | None]) -> torch.Tensor:
        """Erase drawn boxes.

        Args:
            images: float32 (N, 3, H, W) in 0..1 on any device and of any layout, not modified.
            erasures: From ``draw``, for the same N, H and W.
        """
        output = images.clone()
        for image, erasure in zip(output, erasures, strict=True):
            if erasure is not None:
                box = erasure.box
                part = image[:, box.top : box.top + box.height, box.left : box.left + box.width]
                part.copy_(erasure.content.expand_as(part), non_blocking=True)
        return output


@hookimpl
def harness_augmentations() -> list[AugmentationSpec]:
    """Register random erasing."""
    return [
        AugmentationSpec(
            name="random_erasing",
            title="Random erasing",
            build=RandomErasing,
            paper="Zhong et al., Random Erasing Data Augmentation, AAAI 2020, arXiv:1708.04896",
        )
    ]
