"""Horizontal flip: mirrors each image left to right with a given probability.

Source: A. Krizhevsky, I. Sutskever, G. E. Hinton, ImageNet Classification with Deep Convolutional Neural Networks,
NeurIPS 2012 (horizontal reflections). ``p`` means the same as in ``torchvision.transforms.RandomHorizontalFlip``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.api import Augmentation, AugmentationSpec, hookimpl

if TYPE_CHECKING:
    import torch

_LARGE = 1 << 12
"""From this many pixels, a CPU flips one image after the other, each in its cache, faster than all at once."""


@dataclass(frozen=True)
class HorizontalFlip(Augmentation["torch.Tensor"]):
    """Mirrors each image of a batch with probability ``p``, independently.

    Attributes:
        p: Probability of a flip, 0..1; else ValueError.
    """

    p: float

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise ValueError(f"horizontal_flip: p is {self.p!r}, expected a probability between 0 and 1")

    def draw(self, n: int, height: int, width: int, generator: torch.Generator) -> torch.Tensor:
        """Draw the flips of ``n`` images: bool (n,) on the CPU."""
        import torch

        return torch.rand(n, generator=generator) < self.p

    def apply(self, images: torch.Tensor, flipped: torch.Tensor) -> torch.Tensor:
        """Flip the chosen images.

        Args:
            images: (N, 3, H, W) on any device, not modified.
            flipped: bool (N,) on the CPU.
        """
        if images.device.type == "cpu" and images.shape[-2:].numel() >= _LARGE:
            return _flip_singly(images, flipped)
        # The flips are counted on the host, so no device must be queried. Only flipped images are moved: a mask would
        # read every pixel twice.
        chosen = flipped.nonzero().flatten().to(images.device, non_blocking=True)
        output = images.clone()
        if len(chosen):
            output[chosen] = images[chosen].flip(-1)
        return output


def _flip_singly(images: torch.Tensor, flipped: torch.Tensor) -> torch.Tensor:
    import torch

    output = torch.empty_like(images)
    for image, target, flip in zip(images, output, flipped.tolist(), strict=True):
        target.copy_(image.flip(-1) if flip else image)
    return output


def build(*, p: float = 0.5) -> HorizontalFlip:
    """Return a horizontal flip with probability ``p``."""
    return HorizontalFlip(p=p)


@hookimpl
def harness_augmentations() -> list[AugmentationSpec]:
    """Register the flip."""
    return [
        AugmentationSpec(
            name="horizontal_flip",
            title="Horizontal flip",
            build=build,
            paper="Krizhevsky et al., ImageNet Classification with Deep Convolutional Neural Networks, NeurIPS 2012",
        )
    ]
