"""TinyNet at width 0.745 and depth 1.1: 2,465,234 parameters at 100 classes.

Han, Wang, Zhang, Zhang, Xu, Zhang: Model Rubik's Cube: Twisting Resolution, Depth and Width for TinyNets. NeurIPS 2020,
arXiv:2010.14819.

TinyNet-B (width 0.75, depth 1.1) with width 0.745, since channels are rounded to multiples of 8 and 0.75 has 2.58M
parameters. Every TinyNet is a re-scaled EfficientNet-B0, so it is related to this benchmark's EfficientNet: narrower
and deeper, with an unscaled stem, repeats rounded to nearest, and neither dropout nor stochastic depth. Channels: stem
32; stages 16, 24, 32, 56, 80, 144, 240 of 1, 2, 2, 3, 3, 4, 1 blocks; head 1280.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.api import ModelSpec, hookimpl
from xscore_plugins.models._efficientnet import B0, Config, build_network

if TYPE_CHECKING:
    from torch import nn

CONFIG = Config(
    stages=B0,
    activation="SiLU",
    width=0.745,
    head=1280,
    depth=1.1,
    depth_rounding="round",
    stem=32,
    scale_stem=False,
)


def build(num_classes: int) -> nn.Module:
    """Return a randomly initialised TinyNet: float32 (N, 3, H, W) to logits (N, num_classes)."""
    return build_network(CONFIG, num_classes)


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
