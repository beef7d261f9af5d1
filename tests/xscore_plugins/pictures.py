"""Pictures and seeds that the tests of augmentations share."""

from __future__ import annotations

import torch

PROTOCOL = {"brightness": 0.2, "contrast": 0.3, "saturation": 0.3, "hue": 0.2}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photographs(n: int, size: int, seed: int = 0) -> torch.Tensor:
    """Random images, of which some are grey, of few colours, saturated primaries, or 8-bit; channels_last."""
    images = torch.rand(n, 3, size, size, generator=seeded(seed))
    images[1::6] = images[1::6].mean(dim=1, keepdim=True)
    images[2::6] = (images[2::6] * 4).round() / 4
    images[3::6] = images[3::6].round()
    images[4::6] = (images[4::6] * 255).round() / 255
    return images.contiguous(memory_format=torch.channels_last)


def distributions(n: int, classes: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, classes, generator=seeded(seed)).softmax(dim=1)
