"""Random shift: every image is moved by a few pixels, and what appears at its border mirrors what is beside it.

The usual translation of CIFAR training, there padded with zeros: K. He, X. Zhang, S. Ren, J. Sun, Deep Residual
Learning for Image Recognition, CVPR 2016, section 4.2 (4 pixels of 32). Reflection keeps a frame of black pixels from
telling the network how far an image was moved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.api import AugmentationSpec, hookimpl

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Shift:
    """Moves each image of a batch, independently, by whole pixels in both directions.

    Attributes:
        share: The largest shift as a share of the image's side, 0..0.5; outside of that range: ValueError.
    """

    share: float

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 0.5:
            raise ValueError(f"shift: share is {self.share!r}, expected a number between 0 and 0.5")

    def __call__(
        self, images: torch.Tensor, targets: torch.Tensor, generator: torch.Generator, /
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Move float32 images (N, 3, H, W) and leave their targets (N, C) alone."""
        import torch

        count, _, height, width = images.shape
        rows = self._sources(count, height, generator).to(images.device)
        columns = self._sources(count, width, generator).to(images.device)
        which = torch.arange(count, device=images.device)
        # Indexing the batch, its rows and its columns at once gives (N, H, W, 3).
        moved = images.permute(0, 2, 3, 1)[which[:, None, None], rows[:, :, None], columns[:, None, :]]
        return moved.permute(0, 3, 1, 2), targets

    def _sources(self, count: int, side: int, generator: torch.Generator) -> torch.Tensor:
        """Return int64 (count, side) on the CPU: from which row or column each one of the moved images comes."""
        import torch

        most = int(self.share * side)
        shifts = torch.randint(-most, most + 1, (count, 1), generator=generator)
        mirrored = (torch.arange(side) - shifts).abs()
        return torch.where(mirrored < side, mirrored, 2 * (side - 1) - mirrored)


def build(*, share: float = 0.125) -> Shift:
    """Random shift by up to ``share`` of the side: 4 pixels of 32."""
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
