"""Random resized crop: stretches a random part of each image to the whole image's size.

Source: C. Szegedy, W. Liu, Y. Jia, P. Sermanet, S. Reed, D. Anguelov, D. Erhan, V. Vanhoucke, A. Rabinovich, Going
Deeper with Convolutions, CVPR 2015, arXiv:1409.4842, section 6. Boxes and bilinear interpolation are those of
``torchvision.transforms.v2.RandomResizedCrop``. A part is never larger than the image, so nothing must be smoothed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.api import Augmentation, AugmentationSpec, hookimpl
from xscore_plugins.augmentations._boxes import Box, BoxRanges

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class RandomResizedCrop(Augmentation[list[Box]]):
    """Replaces each image of a batch by a part of it, independently.

    Attributes:
        scale_min, scale_max: The part's share of the image's area, 0..1.
        ratio_min, ratio_max: The part's width divided by its height.

    Raises:
        ValueError: a strength is out of range.
    """

    scale_min: float
    scale_max: float
    ratio_min: float
    ratio_max: float

    def __post_init__(self) -> None:
        self._ranges.check("random_resized_crop")

    @property
    def _ranges(self) -> BoxRanges:
        return BoxRanges(self.scale_min, self.scale_max, self.ratio_min, self.ratio_max)

    def draw(self, n: int, height: int, width: int, generator: torch.Generator) -> list[Box]:
        """Draw the part of each of ``n`` images of ``height`` x ``width`` pixels."""
        whole = self._largest(height, width)
        return [box or whole for box in self._ranges.draw(n, height, width, generator, smaller=False)]

    def apply(self, images: torch.Tensor, boxes: Sequence[Box]) -> torch.Tensor:
        """Crop drawn parts.

        Args:
            images: float32 (N, 3, H, W) in 0..1 on any device and of any layout, not modified.
            boxes: From ``draw``, for the same N, H and W.
        """
        import torch
        from torch.nn import functional as F

        height, width = images.shape[-2:]
        table = torch.tensor([(box.top, box.left, box.height, box.width) for box in boxes], dtype=torch.float32)
        top, left, tall, wide = table.to(images.device, non_blocking=True)[:, :, None].unbind(1)

        def source(size: int, start: torch.Tensor, extent: torch.Tensor) -> torch.Tensor:
            # Pixel centres lie at halves. Beyond the part's outermost centres, its border pixels are repeated.
            centres = torch.arange(size, dtype=torch.float32, device=images.device) + 0.5
            inside = (centres * (extent / size) - 0.5).clamp_(min=0).minimum(extent - 1)
            return (start + inside + 0.5) * (2 / size) - 1

        x, y = source(width, left, wide), source(height, top, tall)
        grid = torch.stack((x[:, None, :].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)), dim=-1)
        cropped = F.grid_sample(images.contiguous(), grid, "bilinear", "border", align_corners=False)
        return torch.empty_like(images).copy_(cropped.clamp_(0, 1))

    def _largest(self, height: int, width: int) -> Box:
        """Return the largest central part of an allowed ratio, used where ten draws did not fit."""
        ratio = width / height
        wide = round(height * self.ratio_max) if ratio > self.ratio_max else width
        tall = round(width / self.ratio_min) if ratio < self.ratio_min else height
        return Box((height - tall) // 2, (width - wide) // 2, tall, wide)


def build(
    *, scale_min: float = 0.08, scale_max: float = 1.0, ratio_min: float = 3 / 4, ratio_max: float = 4 / 3
) -> RandomResizedCrop:
    """Return a random resized crop of parts within the given areas and ratios."""
    return RandomResizedCrop(scale_min=scale_min, scale_max=scale_max, ratio_min=ratio_min, ratio_max=ratio_max)


@hookimpl
def harness_augmentations() -> list[AugmentationSpec]:
    """Register the random resized crop."""
    return [
        AugmentationSpec(
            name="random_resized_crop",
            title="Random resized crop",
            build=build,
            paper="Szegedy et al., Going Deeper with Convolutions, CVPR 2015, arXiv:1409.4842",
        )
    ]
