"""MobileNet V2 at width 1.04: 2,510,244 parameters at 100 classes.

Sandler, Howard, Zhu, Zhmoginov, Chen: MobileNetV2: Inverted Residuals and Linear Bottlenecks. CVPR 2018,
arXiv:1801.04381.

The published network with width multiplier 1.04; width 1 has 2.35M parameters with a head of 100 classes. Channels:
stem 32; stages 16, 24, 32, 64, 96, 168, 336; head 1328. Dropout 0.2 before the classifier, as in torchvision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.api import ModelSpec, hookimpl

if TYPE_CHECKING:
    from torch import nn

WIDTH = 1.04
DROPOUT = 0.2


def build(num_classes: int) -> nn.Module:
    """Return a randomly initialised MobileNet V2: float32 (N, 3, H, W) to logits (N, num_classes)."""
    from torchvision.models import mobilenet_v2

    model: nn.Module = mobilenet_v2(weights=None, num_classes=num_classes, width_mult=WIDTH, dropout=DROPOUT)
    return model


@hookimpl
def harness_models() -> list[ModelSpec]:
    """Offer MobileNet to the benchmark."""
    return [
        ModelSpec(
            name="mobilenet",
            title="MobileNet",
            build=build,
            paper="Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018, arXiv:1801.04381",
        )
    ]
