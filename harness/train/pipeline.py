"""uint8 images -> network inputs, on the training device and a whole batch at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional as F

from harness.api import AugmentationSpec, BatchTransform
from harness.catalog import Catalog
from harness.errors import PluginError
from harness.registry import AugmentationUse, Protocol
from harness.train.observe import Witness, read_strengths
from harness.train.seeds import generator

RESIZING: Mapping[str, Any] = {"mode": "bilinear", "align_corners": False}
"""How images come to the input's size."""


@dataclass(frozen=True)
class InputPipeline:
    """Turns stored images into inputs and, for training, labels into smoothed-over targets.

    The order is the protocol's: augmentations at the stored resolution, upsampling, augmentations at the input
    resolution, normalisation.

    Attributes:
        at_stored, at_input: Augmentations by name, in their order.
        input_size: Side of the network's input in pixels.
        num_classes: Number of columns of the targets.
        mean, std: float32 (1, 3, 1, 1) on the training device.
        strengths: What the built augmentations hold, by (at, name).
    """

    at_stored: Mapping[str, BatchTransform]
    at_input: Mapping[str, BatchTransform]
    input_size: int
    num_classes: int
    mean: torch.Tensor
    std: torch.Tensor
    strengths: Mapping[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)

    def train_batch(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        *,
        seed: int,
        epoch: int,
        step: int,
        witness: Witness | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Augment and normalise a training batch.

        Args:
            images: uint8 (N, H, W, 3) on the training device.
            labels: int64 (N,) there.
            seed, epoch, step: All that the augmentations' parameters depend on.
            witness: Told of what was done.

        Returns:
            Inputs, float32 (N, 3, S, S), and target distributions, float32 (N, C).
        """
        targets = F.one_hot(labels, self.num_classes).to(torch.float32)
        inputs = _to_float(images)
        witness = witness or Witness()
        chain = []
        for name, transform in self.at_stored.items():
            inputs, targets = transform(inputs, targets, generator(seed, "augment", name, epoch, step))
            chain.append(self._describe("stored", name))
        resized = self._upsample(inputs)
        witness.resized(inputs, resized, RESIZING)
        inputs = resized
        for name, transform in self.at_input.items():
            inputs, targets = transform(inputs, targets, generator(seed, "augment", name, epoch, step))
            chain.append(self._describe("input", name))
        witness.augmented(chain)
        normalised = self._normalise(inputs)
        witness.normalised(inputs, normalised, self.mean, self.std)
        return normalised, targets

    def test_batch(self, images: torch.Tensor) -> torch.Tensor:
        """Return the inputs, float32 (N, 3, S, S), of uint8 images (N, H, W, 3), unaugmented."""
        return self._normalise(self._upsample(_to_float(images)))

    def _upsample(self, images: torch.Tensor) -> torch.Tensor:
        size = (self.input_size, self.input_size)
        if images.shape[-2:] == size:
            return images
        return F.interpolate(images, size=size, **RESIZING)

    def _normalise(self, images: torch.Tensor) -> torch.Tensor:
        # In channels_last a CPU vectorises over three channels only, unless the moments are as wide as the images.
        width = images.shape[-1]
        mean, std = (
            moment.expand(1, 3, 1, width).contiguous(memory_format=torch.channels_last)
            for moment in (self.mean, self.std)
        )
        return (images - mean) / std

    def _describe(self, at: str, name: str) -> dict[str, Any]:
        return {"name": name, "at": at, "strengths": dict(self.strengths.get((at, name), {}))}


def build_pipeline(
    protocol: Protocol,
    catalog: Catalog,
    *,
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
) -> InputPipeline:
    """Build the augmentations that a protocol names, with its strengths.

    Raises:
        PluginError: an augmentation refuses its strengths.
    """

    def moments(values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device).view(1, 3, 1, 1)

    def transforms(at: str) -> dict[str, BatchTransform]:
        uses = [use for use in protocol.augmentations if use.at == at]
        return {use.name: _build(catalog.augmentation(use.name).spec, use) for use in uses}

    built = {at: transforms(at) for at in ("stored", "input")}
    return InputPipeline(
        at_stored=built["stored"],
        at_input=built["input"],
        input_size=protocol.input_size,
        num_classes=num_classes,
        mean=moments(mean),
        std=moments(std),
        strengths={
            (use.at, use.name): read_strengths(built[use.at][use.name], use.strengths)
            for use in protocol.augmentations
            if use.name in built[use.at]
        },
    )


def _build(spec: AugmentationSpec, use: AugmentationUse) -> BatchTransform:
    try:
        return spec.build(**use.strengths)
    except (TypeError, ValueError) as error:
        raise PluginError(f"The augmentation '{use.name}' refuses {use.strengths}: {error}") from error


def _to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 (N, H, W, 3) to float32 (N, 3, H, W) in 0..1; the memory stays as it lies, which is channels_last."""
    return images.permute(0, 3, 1, 2).to(torch.float32).div_(255)
