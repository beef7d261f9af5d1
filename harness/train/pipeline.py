"""uint8 images -> network inputs, on the training device and a whole batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch.nn import functional as F

from harness.api import BatchTransform
from harness.train.seeds import Position

RESIZING: Mapping[str, Any] = {"mode": "bilinear", "align_corners": False}
"""The interpolation that brings images to the size of the network's input."""


@dataclass(frozen=True)
class Augment:
    """A stage that draws its parameters from the step's position.

    Attributes:
        name: The augmentation's name in the protocol.
        at: ``"stored"`` before the resizing, ``"input"`` after it.
        transform: The plugin's transform.
        strengths: The strengths that the transform holds.
    """

    name: str
    at: str
    transform: BatchTransform
    strengths: Mapping[str, Any] = field(default_factory=dict)

    def apply(
        self, images: torch.Tensor, targets: torch.Tensor, position: Position
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Transform images (N, 3, H, W) and targets (N, C)."""
        return self.transform(images, targets, position.generator("augment", self.name))


@dataclass(frozen=True)
class Resize:
    """A deterministic stage: images (N, 3, H, W) to ``side`` x ``side`` pixels."""

    side: int
    settings: Mapping[str, Any] = field(default_factory=lambda: RESIZING)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Resize, unless the images have the size already."""
        size = (self.side, self.side)
        return images if images.shape[-2:] == size else F.interpolate(images, size=size, **self.settings)


@dataclass(frozen=True)
class Normalise:
    """A deterministic stage: (images - mean) / std, with moments float32 (1, 3, 1, 1) on the device."""

    mean: torch.Tensor
    std: torch.Tensor

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise images (N, 3, H, W)."""
        # In channels_last a CPU vectorises over three channels only, unless the moments are as wide as the images.
        width = images.shape[-1]
        mean, std = (
            moment.expand(1, 3, 1, width).contiguous(memory_format=torch.channels_last)
            for moment in (self.mean, self.std)
        )
        return (images - mean).div_(std)  # in place: another array of this size costs as much as the division


Stage: TypeAlias = Augment | Resize | Normalise
_Applied: TypeAlias = Callable[[Stage, torch.Tensor, torch.Tensor], object]


@dataclass(frozen=True)
class InputPipeline:
    """Turns stored images into inputs and, for training, labels into target distributions.

    Attributes:
        stages: In the protocol's order: augmentations at the stored size, resizing, augmentations at the input size,
            normalisation.
        num_classes: Number of columns of the targets.
    """

    stages: tuple[Stage, ...]
    num_classes: int

    def train_batch(
        self, images: torch.Tensor, labels: torch.Tensor, position: Position, applied: _Applied | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Apply every stage to a training batch.

        Args:
            images: uint8 (N, H, W, 3) on the training device.
            labels: int64 (N,) there.
            position: All that the augmentations' parameters depend on.
            applied: Called after each stage with the stage and the images before and after it.

        Returns:
            Inputs, float32 (N, 3, S, S), and target distributions, float32 (N, C).
        """
        targets = F.one_hot(labels, self.num_classes).to(torch.float32)
        inputs = to_float(images)
        for stage in self.stages:
            before = inputs
            if isinstance(stage, Augment):
                inputs, targets = stage.apply(before, targets, position)
            else:
                inputs = stage(before)
            if applied is not None:
                applied(stage, before, inputs)
        return inputs, targets

    def test_batch(self, images: torch.Tensor, applied: _Applied | None = None) -> torch.Tensor:
        """Apply the deterministic stages to uint8 images (N, H, W, 3); return inputs, float32 (N, 3, S, S)."""
        inputs = to_float(images)
        for stage in self.stages:
            if not isinstance(stage, Augment):
                before, inputs = inputs, stage(inputs)
                if applied is not None:
                    applied(stage, before, inputs)
        return inputs


def to_float(images: torch.Tensor) -> torch.Tensor:
    """Return uint8 (N, H, W, 3) as float32 (N, 3, H, W) in 0..1; the memory keeps its order, channels_last."""
    return images.permute(0, 3, 1, 2).to(torch.float32).div_(255)
