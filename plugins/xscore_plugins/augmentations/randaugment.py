"""RandAugment: applies a few random operations of fourteen to each image, all of one magnitude.

Source: E. D. Cubuk, B. Zoph, J. Shlens, Q. V. Le, RandAugment: Practical Automated Data Augmentation with a Reduced
Search Space, NeurIPS 2020, arXiv:1909.13719. Operations, ranges and the scale of 31 magnitudes are those of
``torchvision.transforms.v2.RandAugment``, except that images stay floats and are interpolated bilinearly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.api import Augmentation, AugmentationSpec, hookimpl
from xscore_plugins.augmentations._operations import SIGNED, Step, apply_steps

if TYPE_CHECKING:
    import torch

LARGEST = 30
"""The largest of 31 magnitudes."""

OPERATIONS = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "color", "contrast"),
    *("sharpness", "posterize", "solarize", "autocontrast", "equalize"),
)


@dataclass(frozen=True)
class RandAugment(Augmentation[Sequence[Sequence[Step]]]):
    """Applies random operations to each image of a batch, independently.

    Attributes:
        num_ops: Number of successive operations per image; 1 or more, else ValueError.
        magnitude: Their strength, 0..30, else ValueError.
    """

    num_ops: int
    magnitude: int

    def __post_init__(self) -> None:
        if self.num_ops < 1:
            raise ValueError(f"randaugment: num_ops is {self.num_ops!r}, expected 1 or above")
        if not 0 <= self.magnitude <= LARGEST:
            raise ValueError(f"randaugment: magnitude is {self.magnitude!r}, expected 0 to {LARGEST}")

    def draw(self, n: int, height: int, width: int, generator: torch.Generator) -> list[list[Step]]:
        """Draw, for each of ``num_ops`` rounds, one step for each of ``n`` images."""
        import torch

        shape = (int(self.num_ops), n)
        operations = torch.randint(len(OPERATIONS), shape, generator=generator).tolist()
        negative = torch.randint(2, shape, generator=generator).tolist()
        return [
            [
                Step(
                    name := OPERATIONS[which],
                    self._magnitude(name, height, width) * (-1 if minus and name in SIGNED else 1),
                )
                for which, minus in zip(*row, strict=True)
            ]
            for row in zip(operations, negative, strict=True)
        ]

    def apply(self, images: torch.Tensor, rounds: Sequence[Sequence[Step]]) -> torch.Tensor:
        """Augment a batch with drawn steps.

        Args:
            images: float32 (N, 3, H, W) in 0..1 on any device and of any layout, not modified.
            rounds: From ``draw``, for the same N, H and W.
        """
        import torch

        planes = images.contiguous()
        for steps in rounds:
            planes = apply_steps(planes, steps)
        return torch.empty_like(images).copy_(planes)

    def _magnitude(self, operation: str, height: int, width: int) -> float:
        share = self.magnitude / LARGEST
        match operation:
            case "shear_x" | "shear_y":
                return 0.3 * share
            case "translate_x":
                return int(150 / 331 * width * share)
            case "translate_y":
                return int(150 / 331 * height * share)
            case "rotate":
                return 30 * share
            case "posterize":
                return 8 - round(4 * share)
            case "solarize":
                return 1 - share
            case "brightness" | "color" | "contrast" | "sharpness":
                return 0.9 * share
            case _:
                return 0.0


def build(*, num_ops: float = 2, magnitude: float = 9) -> RandAugment:
    """Return RandAugment with ``num_ops`` operations per image, each of ``magnitude`` out of 30."""
    for name, value in (("num_ops", num_ops), ("magnitude", magnitude)):
        if value != int(value):
            raise ValueError(f"randaugment: {name} is {value!r}, expected a whole number")
    return RandAugment(num_ops=int(num_ops), magnitude=int(magnitude))


@hookimpl
def harness_augmentations() -> list[AugmentationSpec]:
    """Register RandAugment."""
    return [
        AugmentationSpec(
            name="randaugment",
            title="RandAugment",
            build=build,
            paper="Cubuk et al., RandAugment: Practical Automated Data Augmentation with a Reduced Search Space, "
            "NeurIPS 2020, arXiv:1909.13719",
        )
    ]
