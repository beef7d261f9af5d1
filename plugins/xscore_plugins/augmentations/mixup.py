"""mixup: blends every image of a batch with another image of it, and their targets likewise.

Source: H. Zhang, M. Cisse, Y. N. Dauphin, D. Lopez-Paz, mixup: Beyond Empirical Risk Minimization, ICLR 2018,
arXiv:1710.09412. One lambda and one permutation per batch, as in the paper's code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.api import Augmentation, AugmentationSpec, hookimpl
from xscore_plugins.augmentations.cutmix import symmetric_beta

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class MixupParameters:
    """The drawn parameters of one batch: image i keeps the share ``lam``, the rest comes from ``permutation[i]``."""

    permutation: torch.Tensor
    lam: float


@dataclass(frozen=True)
class Mixup(Augmentation[MixupParameters]):
    """Blends a batch with a permutation of itself.

    Attributes:
        alpha: Both parameters of the beta distribution of lambda; above 0, or ValueError.
        p: Probability that a batch is blended at all, 0..1, or ValueError.
    """

    alpha: float
    p: float

    def __post_init__(self) -> None:
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"mixup: alpha is {self.alpha!r}, expected a finite number above 0")
        if not 0 <= self.p <= 1:
            raise ValueError(f"mixup: p is {self.p!r}, expected a probability between 0 and 1")

    def draw(self, n: int, height: int, width: int, generator: torch.Generator) -> MixupParameters:
        """Draw lambda and the permutation for ``n`` images; lambda is 1 for a batch that is not blended."""
        import torch

        blended = float(torch.rand((), generator=generator)) < self.p
        lam = symmetric_beta(self.alpha, generator)
        return MixupParameters(torch.randperm(n, generator=generator), lam if blended else 1.0)

    def apply(self, images: torch.Tensor, parameters: MixupParameters) -> torch.Tensor:
        """Blend images (N, 3, H, W), on any device and not modified, with drawn parameters for the same N."""
        partner, lam = parameters.permutation.to(images.device, non_blocking=True), parameters.lam
        return (lam * images).add_(images[partner], alpha=1 - lam).clamp_(0, 1)

    def mix_targets(self, targets: torch.Tensor, parameters: MixupParameters) -> torch.Tensor:
        """Blend targets (N, C) likewise."""
        partner, lam = parameters.permutation.to(targets.device, non_blocking=True), parameters.lam
        return lam * targets + (1 - lam) * targets[partner]


def build(*, alpha: float = 0.2, p: float = 1.0) -> Mixup:
    """Return mixup of a share ``p`` of the batches, with lambda from Beta(alpha, alpha)."""
    return Mixup(alpha=alpha, p=p)


@hookimpl
def harness_augmentations() -> list[AugmentationSpec]:
    """Register mixup."""
    return [
        AugmentationSpec(
            name="mixup",
            title="mixup",
            build=build,
            paper="Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018, arXiv:1710.09412",
        )
    ]
