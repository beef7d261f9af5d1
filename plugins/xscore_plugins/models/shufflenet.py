"""ShuffleNet V2 at width 1.483: 2,487,192 parameters at 100 classes.

Ma, Zhang, Zheng, Sun: ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design. ECCV 2018,
arXiv:1807.11164.

The x1.5 network (176, 352, 704) narrowed to 172, 344, 688, since x1.5 itself has 2.58M parameters at 100 classes. Each
stage is twice as wide as the previous one. Repeats, stem, head and the channel shuffle are as published.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.api import ModelSpec, hookimpl

if TYPE_CHECKING:
    from torch import nn

REPEATS = (4, 8, 4)
CHANNELS = (24, 172, 344, 688, 1024)  # stem, three stages, head


def build(num_classes: int) -> nn.Module:
    """Return a randomly initialised ShuffleNet V2: float32 (N, 3, H, W) to logits (N, num_classes)."""
    from torchvision.models.shufflenetv2 import ShuffleNetV2

    model: nn.Module = ShuffleNetV2(list(REPEATS), list(CHANNELS), num_classes=num_classes)
    return model


@hookimpl
def harness_models() -> list[ModelSpec]:
    """Offer ShuffleNet to the benchmark."""
    return [
        ModelSpec(
            name="shufflenet",
            title="ShuffleNet",
            build=build,
            paper="Ma et al., ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design, "
            "ECCV 2018, arXiv:1807.11164",
        )
    ]
