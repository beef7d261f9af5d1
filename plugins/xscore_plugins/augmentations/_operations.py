"""The image operations of RandAugment and AugMix, on batches with a different operation per image.

Each operation is that of ``torchvision.transforms.v2.functional`` on float images, with bilinear interpolation and
black beyond the border. Magnitudes have the units of ``torchvision.transforms.autoaugment``: shears are slopes,
translations whole pixels, rotations degrees, factors 1 + magnitude, posterize the bits kept, solarize a threshold in
0..1.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

GEOMETRIC = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
SIGNED = frozenset((*GEOMETRIC, "brightness", "color", "contrast", "sharpness"))
"""Operations whose magnitude is negated in half of the draws."""


@dataclass(frozen=True)
class Step:
    """One operation on one image: its name and its magnitude."""

    operation: str
    magnitude: float = 0.0


def apply_steps(images: torch.Tensor, steps: Sequence[Step]) -> torch.Tensor:
    """Apply one operation per image.

    Args:
        images: float32 (N, 3, H, W) in 0..1, contiguous, not modified.
        steps: One step per image.

    Returns:
        A new tensor of the same shape and device, in 0..1.
    """
    import torch

    groups: dict[str, list[int]] = defaultdict(list)
    for index, step in enumerate(steps):
        groups["geometric" if step.operation in GEOMETRIC else step.operation].append(index)
    output = images.clone()
    for name, members in groups.items():
        if name == "identity":
            continue
        where = torch.tensor(members).to(images.device, non_blocking=True)
        chosen = images[where]
        if name == "geometric":
            output[where] = _warp(chosen, [steps[index] for index in members])
        else:
            magnitudes = torch.tensor([steps[index].magnitude for index in members], dtype=torch.float32)
            output[where] = _PHOTOMETRIC[name](
                chosen, magnitudes.to(images.device, non_blocking=True).view(-1, 1, 1, 1)
            )
    return output


def _warp(images: torch.Tensor, steps: Sequence[Step]) -> torch.Tensor:
    """Move the pixels of each image by its own affine map, all in one pass."""
    import torch
    from torch.nn import functional as F

    height, width = images.shape[-2:]
    maps = torch.tensor([_source_of(step, height, width) for step in steps], dtype=torch.float32).to(images.device)
    x = torch.arange(width, dtype=torch.float32, device=images.device) - (width - 1) / 2
    y = torch.arange(height, dtype=torch.float32, device=images.device) - (height - 1) / 2
    # Coordinates of the source in pixels from the centre, then in the -1..1 that grid_sample takes.
    a, b, c, d, e, f = (one.view(-1, 1, 1) for one in maps.unbind(1))
    x_from = (a * x + b * y[:, None] + c) * (2 / width)
    y_from = (d * x + e * y[:, None] + f) * (2 / height)
    grid = torch.stack((x_from, y_from), dim=-1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False).clamp_(0, 1)


def _source_of(step: Step, height: int, width: int) -> tuple[float, float, float, float, float, float]:
    """Return the source of a pixel: x' = a x + b y + c, y' = d x + e y + f, in pixels from the image's centre.

    Shears keep the upper left corner in place. Rotations are anticlockwise about the centre.
    """
    m = step.magnitude
    match step.operation:
        case "shear_x":
            return 1, m, m * height / 2, 0, 1, 0
        case "shear_y":
            return 1, 0, 0, m, 1, m * width / 2
        case "translate_x":
            return 1, 0, -int(m), 0, 1, 0
        case "translate_y":
            return 1, 0, 0, 0, 1, -int(m)
        case _:
            cosine, sine = math.cos(math.radians(m)), math.sin(math.radians(m))
            return cosine, -sine, 0, sine, cosine, 0


def _blend(images: torch.Tensor, others: torch.Tensor | float, magnitude: torch.Tensor) -> torch.Tensor:
    """Return (1 + m) x - m y, clamped to 0..1."""
    return (images * (1 + magnitude) - magnitude * others).clamp_(0, 1)


def _grey(images: torch.Tensor) -> torch.Tensor:
    red, green, blue = images.unbind(1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).unsqueeze(1)


def _contrast(images: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
    return _blend(images, _grey(images).mean(dim=(1, 2, 3), keepdim=True), magnitude)


def _sharpness(images: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
    """Blend with a 3 x 3 blur. The border has no full neighbourhood, so it stays."""
    import torch
    from torch.nn import functional as F

    if min(images.shape[-2:]) <= 2:
        return images
    kernel = torch.full((3, 1, 3, 3), 1 / 13, device=images.device)
    kernel[:, :, 1, 1] = 5 / 13
    output = images.clone()
    inner = images[..., 1:-1, 1:-1]
    output[..., 1:-1, 1:-1] = _blend(inner, F.conv2d(images, kernel, groups=3), magnitude)
    return output


def _posterize(images: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    levels = 2**bits
    return (images * levels).floor_().clamp_(min=0).minimum(levels - 1) / levels


def _solarize(images: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    return (1 - images).where(images >= threshold, images)


def _autocontrast(images: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    from torchvision.transforms.v2 import functional as F

    stretched: torch.Tensor = F.autocontrast(images)
    return stretched


def _equalize(images: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    from torchvision.transforms.v2 import functional as F

    equalized: torch.Tensor = F.equalize(images)
    return equalized


_PHOTOMETRIC: Mapping[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "brightness": lambda images, magnitude: _blend(images, 0.0, magnitude),
    "color": lambda images, magnitude: _blend(images, _grey(images), magnitude),
    "contrast": _contrast,
    "sharpness": _sharpness,
    "posterize": _posterize,
    "solarize": _solarize,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
}
