"""MobileViT v1 between XS and S: 2,507,236 parameters at 100 classes.

Mehta, Rastegari: MobileViT: Light-weight, General-purpose, and Mobile-friendly Vision Transformer. ICLR 2022,
arXiv:2110.02178.

The layout of XS and S (2.0M and 5.0M parameters at 100 classes) with widths between the two: stem 16; stages 32, 48,
72, 88, 112; transformers of dimension 108, 132, 168 (1.5 times their stage) and depth 2, 4, 3; head 448 (4 times the
last stage). Both ratios, the expansion of 4 and patches of 2 x 2 are as published. Dropout 0.1 in attention and MLPs,
like the benchmark's authors. The protocol in the registry declares the lower learning-rate peak.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.api import ModelSpec, hookimpl

if TYPE_CHECKING:
    from torch import nn

STEM = 16
EXPANSION = 4.0
# (inverted residuals, output channels, stride of the first)
CONVOLUTION_STAGES = ((1, 32, 1), (3, 48, 2))
# (output channels, transformer dimension, transformer depth): one inverted residual of stride 2, one MobileViT block
TRANSFORMER_STAGES = ((72, 108, 2), (88, 132, 4), (112, 168, 3))
HEAD = 448
PATCH = 2
DROPOUT = 0.1


def _block_table() -> tuple[Any, ...]:
    """Return the stages in timm's form."""
    from timm.models.byobnet import ByoBlockCfg

    def residual(repeats: int, channels: int, stride: int) -> Any:
        options = {"bottle_in": True, "linear_out": True}
        return ByoBlockCfg("bottle", d=repeats, c=channels, s=stride, gs=1, br=EXPANSION, block_kwargs=options)

    def transformer(channels: int, dimension: int, depth: int) -> Any:
        options = {
            "transformer_dim": dimension,
            "transformer_depth": depth,
            "patch_size": PATCH,
            "attn_drop": DROPOUT,
            "drop": DROPOUT,
        }
        return ByoBlockCfg("mobilevit", d=1, c=channels, s=1, block_kwargs=options)

    convolutions = tuple(residual(*stage) for stage in CONVOLUTION_STAGES)
    transformers = tuple((residual(1, stage[0], 2), transformer(*stage)) for stage in TRANSFORMER_STAGES)
    return convolutions + transformers


def build(num_classes: int) -> nn.Module:
    """Return a randomly initialised MobileViT: float32 (N, 3, H, W) to logits (N, num_classes)."""
    import timm.models.mobilevit  # noqa: F401  registers the block type "mobilevit"
    from timm.models.byobnet import ByobNet, ByoModelCfg

    config = ByoModelCfg(
        blocks=_block_table(),
        stem_type="3x3",
        stem_chs=STEM,
        stem_pool="",
        downsample="",
        act_layer="silu",
        num_features=HEAD,
    )
    model: nn.Module = ByobNet(config, num_classes=num_classes)
    return model


@hookimpl
def harness_models() -> list[ModelSpec]:
    """Offer MobileViT to the benchmark."""
    return [
        ModelSpec(
            name="mobilevit",
            title="MobileViT",
            build=build,
            paper="Mehta and Rastegari, MobileViT: Light-weight, General-purpose, and Mobile-friendly Vision "
            "Transformer, ICLR 2022, arXiv:2110.02178",
        )
    ]
