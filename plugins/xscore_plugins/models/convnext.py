"""ConvNeXt Atto at width 34: 2,479,482 parameters at 100 classes.

Liu, Mao, Wu, Feichtenhofer, Darrell, Xie: A ConvNet for the 2020s. CVPR 2022, arXiv:2201.03545. Atto is timm's smallest
variant, with 1x1 convolutions in place of linear layers in the MLP.

Atto with a base width of 34 instead of 40: channels 34, 68, 136, 272, doubling as published, in stages of 2, 2, 6, 2
blocks. 34 is no multiple of 8, which has no measurable cost on a CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.api import ModelSpec, hookimpl

if TYPE_CHECKING:
    from torch import nn

DEPTHS = (2, 2, 6, 2)
WIDTHS = (34, 68, 136, 272)


def build(num_classes: int) -> nn.Module:
    """Return a randomly initialised ConvNeXt: float32 (N, 3, H, W) to logits (N, num_classes)."""
    from timm.models.convnext import ConvNeXt

    model: nn.Module = ConvNeXt(depths=DEPTHS, dims=WIDTHS, conv_mlp=True, num_classes=num_classes)
    return model


@hookimpl
def harness_models() -> list[ModelSpec]:
    """Offer ConvNeXt to the benchmark."""
    return [
        ModelSpec(
            name="convnext",
            title="ConvNeXt",
            build=build,
            paper="Liu et al., A ConvNet for the 2020s, CVPR 2022, arXiv:2201.03545",
        )
    ]
