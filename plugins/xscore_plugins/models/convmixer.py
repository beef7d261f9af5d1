"""ConvMixer 528/8: 2,493,316 parameters at 100 classes.

Trockman, Kolter: Patches Are All You Need? TMLR 2023, arXiv:2201.09792.

Width 528, depth 8, kernel 5, patches of 7 x 7, GELU: the paper's only block, isotropic as published. Depth, kernel and
patch are those of the benchmark's authors. Their width of 512 has 2.35M parameters at 100 classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.api import ModelSpec, hookimpl

if TYPE_CHECKING:
    from torch import nn

WIDTH = 528
DEPTH = 8
KERNEL = 5
PATCH = 7


def build(num_classes: int) -> nn.Module:
    """Return a randomly initialised ConvMixer: float32 (N, 3, H, W) to logits (N, num_classes)."""
    from timm.models.convmixer import ConvMixer

    model: nn.Module = ConvMixer(dim=WIDTH, depth=DEPTH, kernel_size=KERNEL, patch_size=PATCH, num_classes=num_classes)
    return model


@hookimpl
def harness_models() -> list[ModelSpec]:
    """Offer ConvMixer to the benchmark."""
    return [
        ModelSpec(
            name="convmixer",
            title="ConvMixer",
            build=build,
            paper="Trockman and Kolter, Patches Are All You Need?, TMLR 2023, arXiv:2201.09792",
        )
    ]
