"""Random shift: moves every image by a few pixels and fills the border by reflection.

This is the usual translation of CIFAR training: K. He, X. Zhang, S. Ren, J. Sun, Deep Residual Learning for Image
Recognition, CVPR 2016, section 4.2 (4 pixels of 32). The paper pads with zeros. Reflection leaves no black frame that
would show the network how far an image was moved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.api import Augmentation, AugmentationSpec, hookimpl

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Shift(Augmentation["tuple[torch.Tensor, torch.Tensor]"]):
    """Moves each image of a batch, independently, by whole pixels in both directions.

    Attributes:
        share: The largest shift as a share of the image's side, 0..0.5; else ValueError.
    """

    share: float

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 0.5:
            raise ValueError(f"shift: share is {self.share!r}, expected a number between 0 and 0.5")

    def draw(self, n: int, height: int, width: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw the source rows (n, height) and columns (n, width) of the moved images."""
        return self._sources(n, height, generator), self._sources(n, width, generator)

    def apply(self, images: torch.Tensor, parameters: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Move float32 images (N, 3, H, W)."""
        import torch

        rows, columns = (sources.to(images.device) for sources in parameters)
        batch = torch.arange(len(images), device=images.device)
        # Indexing the batch, its rows and its columns at once gives (N, H, W, 3).
        moved = images.permute(0, 2, 3, 1)[batch[:, None, None], rows[:, :, None], columns[:, None, :]]
        return moved.permute(0, 3, 1, 2)

    def _sources(self, n: int, side: int, generator: torch.Generator) -> torch.Tensor:
        """Return int64 (n, side) on the CPU: the source row or column of each row or column of the moved images."""
        import torch

        most = int(self.share * side)
        shifts = torch.randint(-most, most + 1, (n, 1), generator=generator)
        mirrored = (torch.arange(side) - shifts).abs()
        return torch.where(mirrored < side, mirrored, 2 * (side - 1) - mirrored)


def build(*, share: float = 0.125) -> Shift:
    """Return a random shift by up to ``share`` of the side; the default is 4 pixels of 32."""
    return Shift(share=share)


@hookimpl
def harness_augmentations() -> list[AugmentationSpec]:
    """Offer the shift to protocols."""
    return [
        AugmentationSpec(
            name="shift",
            title="Random shift",
            build=build,
            paper="He et al., Deep Residual Learning for Image Recognition, CVPR 2016, arXiv:1512.03385, section 4.2",
        )
    ]
