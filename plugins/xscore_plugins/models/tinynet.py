"""TinyNet at width 0.745 and depth 1.1: 2,465,234 parameters at 100 classes.

Han, Wang, Zhang, Zhang, Xu, Zhang: Model Rubik's Cube: Twisting Resolution, Depth and Width for TinyNets. NeurIPS 2020,
arXiv:2010.14819.

TinyNet-B (width 0.75, depth 1.1) with width 0.745, since channels are rounded to multiples of 8 and 0.75 has 2.58M
parameters. Like every TinyNet it is EfficientNet-B0 re-scaled, so it is kin to this benchmark's EfficientNet: narrower
and deeper, with the stem unscaled, repeats rounded to nearest, and neither dropout nor stochastic depth. Channels: stem
32; stages 16, 24, 32, 56, 80, 144, 240 of 1, 2, 2, 3, 3, 4, 1 blocks; head 1280.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.api import ModelSpec, hookimpl
from xscore_plugins.models._efficientnet import B0, build_stages

if TYPE_CHECKING:
    from torch import nn

WIDTH = 0.745
DEPTH = 1.1
STEM = 32
HEAD = 1280


def build(num_classes: int) -> nn.Module:
    """Return a randomly initialised TinyNet: float32 (N, 3, H, W) to logits (N, num_classes)."""
    from torch import nn

    return build_stages(
        B0,
        num_classes,
        activation=nn.SiLU,
        width=WIDTH,
        head=HEAD,
        depth=DEPTH,
        depth_rounding="round",
        stem=STEM,
        scale_stem=False,
    )


@hookimpl
def harness_models() -> list[ModelSpec]:
    """Offer TinyNet to the benchmark."""
    return [
        ModelSpec(
            name="tinynet",
            title="TinyNet",
            build=build,
            paper="Han et al., Model Rubik's Cube: Twisting Resolution, Depth and Width for TinyNets, "
            "NeurIPS 2020, arXiv:2010.14819",
        )
    ]
