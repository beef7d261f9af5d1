"""Builds timm's EfficientNet class from a table of inverted-residual stages. EfficientNet, TinyNet and FBNet share it.

Stages are written in timm's notation: ``ir`` inverted residual (``ds`` depthwise separable), ``r`` repeats, ``k``
kernel, ``s`` stride of the first repeat, ``e`` expansion, ``c`` output channels, ``se`` squeeze-and-excite ratio.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from torch import nn

Stages: TypeAlias = tuple[tuple[str, ...], ...]

# EfficientNet-B0 (Tan and Le, Table 1). TinyNet scales it, too.
B0: Stages = (
    ("ds_r1_k3_s1_e1_c16_se0.25",),
    ("ir_r2_k3_s2_e6_c24_se0.25",),
    ("ir_r2_k5_s2_e6_c40_se0.25",),
    ("ir_r3_k3_s2_e6_c80_se0.25",),
    ("ir_r3_k5_s1_e6_c112_se0.25",),
    ("ir_r4_k5_s2_e6_c192_se0.25",),
    ("ir_r1_k3_s1_e6_c320_se0.25",),
)


@dataclass(frozen=True, kw_only=True)
class Config:
    """A network of inverted residuals.

    Attributes:
        stages: The unscaled stages.
        activation: The name of the activation's class in ``torch.nn``.
        width: Factor of the stages' channels; timm rounds the products to multiples of 8.
        head: Channels of the last 1x1 convolution, not scaled.
        depth: Factor of the stages' repeats.
        depth_rounding: Rounding of these products.
        stem: Channels of the first convolution.
        scale_stem: ``width`` applies to the stem, too.
        dropout: Probability before the classifier.
        stochastic_depth: Probability of dropping the last block; it rises linearly from the first block on.
    """

    stages: Stages
    activation: Literal["ReLU", "SiLU"]
    width: float
    head: int
    depth: float = 1.0
    depth_rounding: Literal["ceil", "round"] = "ceil"
    stem: int = 32
    scale_stem: bool = True
    dropout: float = 0.0
    stochastic_depth: float = 0.0


def build_network(config: Config, num_classes: int) -> nn.Module:
    """Return a randomly initialised network: float32 (N, 3, H, W) to logits (N, num_classes)."""
    # timm's factories take no free widths, so its class is used. Only its decoder of stages is private.
    from timm.models._efficientnet_builder import decode_arch_def, round_channels
    from timm.models.efficientnet import EfficientNet
    from torch import nn

    block_strings = [list(blocks) for blocks in config.stages]
    block_args = decode_arch_def(block_strings, config.depth, depth_trunc=config.depth_rounding)  # type: ignore[no-untyped-call]
    model: nn.Module = EfficientNet(
        block_args,
        num_classes=num_classes,
        num_features=config.head,
        stem_size=config.stem,
        fix_stem=not config.scale_stem,
        round_chs_fn=partial(round_channels, multiplier=config.width),
        act_layer=getattr(nn, config.activation),
        drop_rate=config.dropout,
        drop_path_rate=config.stochastic_depth,
    )
    return model
