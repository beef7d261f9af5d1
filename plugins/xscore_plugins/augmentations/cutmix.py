"""CutMix: replaces a box of every image by the same box of another image, and mixes the targets by area.

Source: S. Yun, D. Han, S. J. Oh, S. Chun, J. Choe, Y. Yoo, CutMix: Regularization Strategy to Train Strong Classifiers
with Localizable Features, ICCV 2019, arXiv:1905.04899, equations (1) and (2). One lambda, one box and one permutation
per batch. The box is clipped at the image's border. Lambda is then recomputed as the share of pixels kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.api import Augmentation, AugmentationSpec, hookimpl

if TYPE_CHECKING:
    import torch

_LARGE = 1 << 12
"""From this many pixels of a box, a CPU copies one image after the other faster than all at once."""


@dataclass(frozen=True, eq=False)
class CutMixParameters:
    """The drawn parameters of one batch.

    Attributes:
        permutation: int64 (N,) on the CPU; image i receives the box of image ``permutation[i]``.
        top, bottom, left, right: The clipped box in pixels; bottom and right are exclusive.
        kept: Lambda, the exact share of each image's own pixels.
    """

    permutation: torch.Tensor
    top: int
    bottom: int
    left: int
    right: int
    kept: float


@dataclass(frozen=True)
class CutMix(Augmentation[CutMixParameters]):
    """Mixes every batch with a permutation of itself.

    Attributes:
        alpha: Both parameters of the beta distribution of lambda; above 0, or ValueError. 1 makes lambda uniform.
    """

    alpha: float

    def __post_init__(self) -> None:
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"cutmix: alpha is {self.alpha!r}, expected a finite number above 0")

    def draw(self, n: int, height: int, width: int, generator: torch.Generator) -> CutMixParameters:
        """Draw lambda, the box and the permutation for ``n`` images of ``height`` x ``width`` pixels."""
        import torch

        lam = symmetric_beta(self.alpha, generator)
        centre_y, centre_x = (int(torch.randint(size, (1,), generator=generator)) for size in (height, width))
        return clipped_box(lam, (centre_y, centre_x), (height, width), torch.randperm(n, generator=generator))

    def apply(self, images: torch.Tensor, parameters: CutMixParameters) -> torch.Tensor:
        """Mix images (N, 3, H, W), on any device and not modified, with drawn parameters for the same N, H and W."""
        rows, columns = slice(parameters.top, parameters.bottom), slice(parameters.left, parameters.right)
        mixed = images.clone()
        boxes, sources = mixed[:, :, rows, columns], images[:, :, rows, columns]
        if images.device.type == "cpu" and boxes.shape[-2:].numel() >= _LARGE:
            for box, other in zip(boxes, parameters.permutation.tolist(), strict=True):
                box.copy_(sources[other])
        else:
            boxes.copy_(sources[parameters.permutation.to(images.device, non_blocking=True)])
        return mixed

    def mix_targets(self, targets: torch.Tensor, parameters: CutMixParameters) -> torch.Tensor:
        """Mix targets (N, C) by the share of pixels kept."""
        partner = parameters.permutation.to(targets.device, non_blocking=True)
        return parameters.kept * targets + (1 - parameters.kept) * targets[partner]


def symmetric_beta(alpha: float, generator: torch.Generator) -> float:
    """Draw from Beta(alpha, alpha), for any alpha > 0, by two uniform numbers.

    If T is a Student t variable with 2 alpha degrees of freedom, (1 + T / sqrt(2 alpha + T^2)) / 2 is symmetric beta.
    R. W. Bailey's polar method draws T (Mathematics of Computation 62, 1994); see L. Devroye, Non-Uniform Random
    Variate Generation, 1986, chapter IX.3. torch's own beta sampler takes no generator.
    """
    import torch

    radial, angle = torch.rand(2, dtype=torch.float64, generator=generator)
    # 1 - u is in (0, 1], so the power may be infinite but is never undefined. x / sqrt(1 + x^2) = sin(atan(x)) holds
    # at infinity, too.
    cotangent = ((1 - radial) ** (-1 / alpha) - 1).sqrt() * (2 * math.pi * angle).cos()
    return float(0.5 + 0.5 * cotangent.atan().sin())


def clipped_box(
    lam: float, centre: tuple[int, int], size: tuple[int, int], permutation: torch.Tensor
) -> CutMixParameters:
    """Return the box around a centre pixel with sides of sqrt(1 - lam) times the image's, clipped at the border.

    Sides are rounded down to whole pixels, then to even ones, as in the paper's code.
    """
    (centre_y, centre_x), (height, width) = centre, size
    side = math.sqrt(1 - lam)
    half_height, half_width = int(height * side) // 2, int(width * side) // 2
    top, bottom = max(centre_y - half_height, 0), min(centre_y + half_height, height)
    left, right = max(centre_x - half_width, 0), min(centre_x + half_width, width)
    kept = (height * width - (bottom - top) * (right - left)) / (height * width)
    return CutMixParameters(permutation, top, bottom, left, right, kept)


def build(*, alpha: float = 1.0) -> CutMix:
    """Return CutMix for every batch, with lambda from Beta(alpha, alpha)."""
    return CutMix(alpha=alpha)


@hookimpl
def harness_augmentations() -> list[AugmentationSpec]:
    """Register CutMix."""
    return [
        AugmentationSpec(
            name="cutmix",
            title="CutMix",
            build=build,
            paper="Yun et al., CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features, "
            "ICCV 2019, arXiv:1905.04899",
        )
    ]
