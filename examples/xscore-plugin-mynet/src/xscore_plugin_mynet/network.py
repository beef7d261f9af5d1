"""The network, in plain torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

EXPANSION = 2


class Block(nn.Module):
    """Depthwise 5 x 5, then two pointwise convolutions around a GELU, added to the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(width, width, 5, padding=2, groups=width, bias=False),
            nn.BatchNorm2d(width),
            nn.Conv2d(width, EXPANSION * width, 1),
            nn.GELU(),
            nn.Conv2d(EXPANSION * width, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images + self.branch(images)


def shrink(before: int, after: int, stride: int) -> nn.Sequential:
    """Map each patch of ``stride`` x ``stride`` pixels to one pixel of ``after`` channels."""
    return nn.Sequential(nn.Conv2d(before, after, stride, stride, bias=False), nn.BatchNorm2d(after))


class MyNet(nn.Sequential):
    """Maps images (N, 3, H, W) to logits (N, num_classes)."""

    def __init__(self, num_classes: int, widths: Sequence[int], depths: Sequence[int]) -> None:
        layers: list[nn.Module] = []
        before, stride = 3, 4
        for width, depth in zip(widths, depths, strict=True):
            layers += [shrink(before, width, stride), *(Block(width) for _ in range(depth))]
            before, stride = width, 2
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, num_classes))
