"""A table of inverted-residual stages -> timm's EfficientNet class, which EfficientNet, TinyNet and FBNet share.

Stages are written in timm's notation: ``ir`` inverted residual (``ds`` depthwise separable), ``r`` repeats, ``k``
kernel, ``s`` stride of the first repeat, ``e`` expansion, ``c`` output channels, ``se`` squeeze-and-excite ratio.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from torch import nn

Stages: TypeAlias = tuple[tuple[str, ...], ...]

# EfficientNet-B0 (Tan and Le, Table 1), from which TinyNet is scaled too.
B0: Stages = (
    ("ds_r1_k3_s1_e1_c16_se0.25",),
    ("ir_r2_k3_s2_e6_c24_se0.25",),
    ("ir_r2_k5_s2_e6_c40_se0.25",),
    ("ir_r3_k3_s2_e6_c80_se0.25",),
    ("ir_r3_k5_s1_e6_c112_se0.25",),
    ("ir_r4_k5_s2_e6_c192_se0.25",),
    ("ir_r1_k3_s1_e6_c320_se0.25",),
)


def build_stages(
    stages: Stages,
    num_classes: int,
    *,
    activation: type[nn.Module],
    width: float,
    head: int,
    depth: float = 1.0,
    depth_rounding: Literal["ceil", "round"] = "ceil",
    stem: int = 32,
    scale_stem: bool = True,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
) -> nn.Module:
    """Build a network of inverted residuals.

    Args:
        stages: The unscaled stages.
        num_classes: Outputs of the classifier.
        activation: The activation's class.
        width: Multiplies the stages' channels; timm rounds the products to multiples of 8.
        head: Channels of the last 1x1 convolution, not scaled.
        depth: Multiplies the stages' repeats.
        depth_rounding: How the products are made whole.
        stem: Channels of the first convolution.
        scale_stem: Whether ``width`` applies to the stem too.
        dropout: Probability before the classifier.
        stochastic_depth: Probability of dropping the last block; earlier ones rise linearly towards it.

    Returns:
        A module that maps (N, 3, H, W) to (N, num_classes).
    """
    # timm's own factories take no free widths, so its class is used; only this decoder lives in a private module.
    from timm.models._efficientnet_builder import decode_arch_def, round_channels
    from timm.models.efficientnet import EfficientNet

    block_strings = [list(blocks) for blocks in stages]
    block_args = decode_arch_def(block_strings, depth, depth_trunc=depth_rounding)  # type: ignore[no-untyped-call]
    model: nn.Module = EfficientNet(
        block_args,
        num_classes=num_classes,
        num_features=head,
        stem_size=stem,
        fix_stem=not scale_stem,
        round_chs_fn=partial(round_channels, multiplier=width),
        act_layer=activation,
        drop_rate=dropout,
        drop_path_rate=stochastic_depth,
    )
    return model
