"""AugMix: mixes each image with several augmented versions of itself, each made by a chain of operations.

Source: D. Hendrycks, N. Mu, E. D. Cubuk, B. Zoph, J. Gilmer, B. Lakshminarayanan, AugMix: A Simple Data Processing
Method to Improve Robustness and Uncertainty, ICLR 2020, arXiv:1912.02781. Only the mixing is implemented: a protocol
has no place for the paper's consistency loss. The nine operations are the paper's, which avoid the corruptions of
ImageNet-C; their ranges are those of ``torchvision.transforms.v2.AugMix`` with ``all_ops=False``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.api import Augmentation, AugmentationSpec, hookimpl
from xscore_plugins.augmentations._operations import SIGNED, Step, apply_steps

if TYPE_CHECKING:
    import torch

LARGEST = 10
OPERATIONS = (
    *("shear_x", "shear_y", "translate_x", "translate_y", "rotate", "posterize", "solarize", "autocontrast"),
    "equalize",
)
_DEEPEST = 3


@dataclass(frozen=True, eq=False)
class AugMixParameters:
    """The drawn parameters of N images.

    Attributes:
        weights: float32 (N, width + 1) on the CPU: the shares of the image itself and of each chain's result; rows
            sum to 1.
        chains: By chain and round, one step per image. Shorter chains end in rounds of ``identity``.
    """

    weights: torch.Tensor
    chains: list[list[list[Step]]]


@dataclass(frozen=True)
class AugMix(Augmentation[AugMixParameters]):
    """Mixes each image of a batch with augmented versions of itself.

    Attributes:
        severity: Magnitudes are drawn from the lowest ``severity`` of ten levels; 1..10.
        width: Number of chains, 1 or more.
        depth: Operations in a chain; 0 draws 1 to 3 per image and chain.
        alpha: Parameter of the Dirichlet and beta distributions of the shares; above 0.

    Raises:
        ValueError: a strength is out of range.
    """

    severity: int
    width: int
    depth: int
    alpha: float

    def __post_init__(self) -> None:
        for name, low, high in (("severity", 1, LARGEST), ("width", 1, math.inf), ("depth", 0, math.inf)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"augmix: {name} is {getattr(self, name)!r}, expected {low} to {high}")
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"augmix: alpha is {self.alpha!r}, expected a finite number above 0")

    def draw(self, n: int, height: int, width: int, generator: torch.Generator) -> AugMixParameters:
        """Draw the shares and the chains of ``n`` images of ``height`` x ``width`` pixels."""
        import torch

        def shares(parts: int) -> torch.Tensor:
            # The sampler behind torch.distributions.Dirichlet, which itself takes no generator.
            alphas = torch.full((n, parts), self.alpha, dtype=torch.float64)
            return torch._sample_dirichlet(alphas, generator=generator)

        own, augmented = shares(2).split(1, dim=1)
        weights = torch.cat((own, augmented * shares(self.width)), dim=1)
        rounds = self.depth or _DEEPEST
        shape = (self.width, rounds, n)
        which = torch.randint(len(OPERATIONS), shape, generator=generator).tolist()
        level = torch.randint(self.severity, shape, generator=generator).tolist()
        minus = torch.randint(2, shape, generator=generator).tolist()
        depths = torch.randint(1, _DEEPEST + 1, (self.width, n), generator=generator).tolist()

        def step(chain: int, number: int, image: int) -> Step:
            if not self.depth and number >= depths[chain][image]:
                return Step("identity")
            name = OPERATIONS[which[chain][number][image]]
            magnitude = _magnitude(name, level[chain][number][image], height, width)
            return Step(name, -magnitude if name in SIGNED and minus[chain][number][image] else magnitude)

        chains = [
            [[step(chain, number, image) for image in range(n)] for number in range(rounds)]
            for chain in range(self.width)
        ]
        return AugMixParameters(weights.float(), chains)

    def apply(self, images: torch.Tensor, parameters: AugMixParameters) -> torch.Tensor:
        """Augment a batch with drawn parameters.

        Args:
            images: float32 (N, 3, H, W) in 0..1 on any device and of any layout, not modified.
            parameters: From ``draw``, for the same N, H and W.
        """
        import torch

        planes = images.contiguous()
        weights = parameters.weights.to(images.device, non_blocking=True).view(len(images), -1, 1, 1, 1)
        mixed = planes * weights[:, 0]
        for number, rounds in enumerate(parameters.chains, start=1):
            end = planes
            for steps in rounds:
                end = apply_steps(end, steps)
            mixed.addcmul_(end, weights[:, number])
        # Rounded shares may sum to a little more than 1, so white is clamped.
        return torch.empty_like(images).copy_(mixed.clamp_(0, 1))


def _magnitude(operation: str, level: int, height: int, width: int) -> float:
    """Return the magnitude of a level 0..9."""
    share = level / (LARGEST - 1)
    match operation:
        case "shear_x" | "shear_y":
            return 0.3 * share
        case "translate_x":
            return int(width / 3 * share)
        case "translate_y":
            return int(height / 3 * share)
        case "rotate":
            return 30 * share
        case "posterize":
            return 4 - round(4 * share)
        case "solarize":
            return 1 - share
        case _:
            return 0.0


def build(*, severity: float = 3, width: float = 3, depth: float = 0, alpha: float = 1.0) -> AugMix:
    """Return AugMix with ``width`` chains of ``depth`` operations (0: 1 to 3) up to ``severity`` out of 10."""
    for name, value in (("severity", severity), ("width", width), ("depth", depth)):
        if value != int(value):
            raise ValueError(f"augmix: {name} is {value!r}, expected a whole number")
    return AugMix(severity=int(severity), width=int(width), depth=int(depth), alpha=alpha)


@hookimpl
def harness_augmentations() -> list[AugmentationSpec]:
    """Register AugMix."""
    return [
        AugmentationSpec(
            name="augmix",
            title="AugMix",
            build=build,
            paper="Hendrycks et al., AugMix: A Simple Data Processing Method to Improve Robustness and Uncertainty, "
            "ICLR 2020, arXiv:1912.02781",
        )
    ]
