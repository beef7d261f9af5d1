"""MobileOne S0 with two branches: 2,521,972 parameters at 100 classes as trained, 1,294,148 with merged branches.

Vasu, Gabriel, Zhu, Tuzel, Ranjan: MobileOne: An Improved One millisecond Mobile Backbone. CVPR 2023, arXiv:2206.04040.

S0's widths times 1.06 (48, 136, 272, 1088 for 48, 128, 256, 1024) with k = 2 over-parameterised branches instead of 4,
since S0 itself has 4.37M parameters at 100 classes as trained. The benchmark's authors also use k = 2. The merged
network nearly has the published S0's size (1.16M). Blocks and repeats are as published.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.api import ModelSpec, hookimpl
from xscore_plugins.models._branches import merge_branches

if TYPE_CHECKING:
    from torch import nn

STEM = 48
BRANCHES = 2
STAGES = ((2, 48), (8, 136), (10, 272), (1, 1088))  # (pairs of depthwise and pointwise block, output channels)


def _block_table() -> tuple[Any, ...]:
    """Return the stages in timm's form, which also needs the depthwise blocks' channels."""
    from timm.models.byobnet import ByoBlockCfg

    stages = []
    channels = STEM
    for repeats, width in STAGES:
        blocks: list[Any] = []
        for _ in range(repeats):
            depthwise = {"num_conv_branches": BRANCHES}
            pointwise = {"num_conv_branches": BRANCHES, "kernel_size": 1}
            blocks.append(ByoBlockCfg("one", d=1, c=channels, gs=1, block_kwargs=depthwise))
            blocks.append(ByoBlockCfg("one", d=1, c=width, gs=0, block_kwargs=pointwise))
            channels = width
        stages.append(tuple(blocks))
    return tuple(stages)


def build(num_classes: int) -> nn.Module:
    """Return a randomly initialised MobileOne: float32 (N, 3, H, W) to logits (N, num_classes)."""
    from timm.models.byobnet import ByobNet, ByoModelCfg

    config = ByoModelCfg(blocks=_block_table(), stem_type="one", stem_chs=STEM)
    model: nn.Module = ByobNet(config, num_classes=num_classes)
    return model


@hookimpl
def harness_models() -> list[ModelSpec]:
    """Offer MobileOne to the benchmark."""
    return [
        ModelSpec(
            name="mobileone",
            title="MobileOne",
            build=build,
            paper="Vasu et al., MobileOne: An Improved One millisecond Mobile Backbone, CVPR 2023, arXiv:2206.04040",
            deploy=merge_branches,
            # In channels_last, the backward pass of torch 2.14 on a CPU writes past its memory in the stem's 1 x 1
            # convolution of stride 2 over three channels. At 224 pixels it crashes; smaller sizes are not understood.
            memory_format="contiguous",
        )
    ]
