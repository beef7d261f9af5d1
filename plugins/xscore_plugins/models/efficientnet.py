"""EfficientNet B0 compound-scaled by phi = -2: 2,512,450 parameters at 100 classes.

Tan, Le: EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks. ICML 2019, arXiv:1905.11946.

The paper's compound scaling, applied backwards from B0: width 1.1^-2 = 0.826, depth 1.2^-2 = 0.694 (repeats rounded up,
as published). The protocol sets the resolution. Channels: stem 24; stages 16, 24, 32, 64, 96, 160, 264 of 1, 2, 2, 3,
3, 3, 1 blocks; head 1056. Dropout 0.2 and stochastic depth 0.2, as published for B0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.api import ModelSpec, hookimpl
from xscore_plugins.models._efficientnet import B0, Config, build_network

if TYPE_CHECKING:
    from torch import nn

PHI = -2
CONFIG = Config(
    stages=B0,
    activation="SiLU",
    width=1.1**PHI,
    head=1056,  # 1280 times the width, to the nearest multiple of 8
    depth=1.2**PHI,
    dropout=0.2,
    stochastic_depth=0.2,
)


def build(num_classes: int) -> nn.Module:
    """Return a randomly initialised EfficientNet: float32 (N, 3, H, W) to logits (N, num_classes)."""
    return build_network(CONFIG, num_classes)


@hookimpl
def harness_models() -> list[ModelSpec]:
    """Offer EfficientNet to the benchmark."""
    return [
        ModelSpec(
            name="efficientnet",
            title="EfficientNet",
            build=build,
            paper="Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, "
            "ICML 2019, arXiv:1905.11946",
        )
    ]
