"""GhostNet V3 at width 0.536: 2,486,176 parameters at 100 classes as trained, 1,876,644 with merged branches.

Liu, Hao, Han, Tang, Wang: GhostNetV3: Exploring the Training Strategies for Compact Models. 2024, arXiv:2404.11202.
Han, Wang, Tian, Guo, Xu, Xu: GhostNet: More Features from Cheap Operations. CVPR 2020, arXiv:1911.11907 (the stages).

All 16 bottlenecks of GhostNet with V3's parallel branches and widths times 0.536. Channels: stem 8; stages 8, 12, 12,
20, 20, 44, 44 to 60, 84, 84; then 516 and a head of 1280. No dropout before the classifier, like the benchmark's
authors. Inputs must be larger than 32 x 32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.api import ModelSpec, hookimpl
from xscore_plugins.models._branches import merge_branches

if TYPE_CHECKING:
    from torch import nn

WIDTH = 0.536
# Stages of bottlenecks: (kernel, expanded channels, output channels, squeeze-and-excite ratio, stride)
STAGES: tuple[tuple[tuple[int | float, ...], ...], ...] = (
    ((3, 16, 16, 0, 1),),
    ((3, 48, 24, 0, 2),),
    ((3, 72, 24, 0, 1),),
    ((5, 72, 40, 0.25, 2),),
    ((5, 120, 40, 0.25, 1),),
    ((3, 240, 80, 0, 2),),
    (
        (3, 200, 80, 0, 1),
        (3, 184, 80, 0, 1),
        (3, 184, 80, 0, 1),
        (3, 480, 112, 0.25, 1),
        (3, 672, 112, 0.25, 1),
    ),
    ((5, 672, 160, 0.25, 2),),
    ((5, 960, 160, 0, 1), (5, 960, 160, 0.25, 1), (5, 960, 160, 0, 1), (5, 960, 160, 0.25, 1)),
)


def build(num_classes: int) -> nn.Module:
    """Return a randomly initialised GhostNet V3: float32 (N, 3, H, W) to logits (N, num_classes)."""
    from timm.models.ghostnet import GhostNet

    stages = [[list(bottleneck) for bottleneck in stage] for stage in STAGES]
    model: nn.Module = GhostNet(stages, num_classes=num_classes, width=WIDTH, version="v3", drop_rate=0.0)
    return model


@hookimpl
def harness_models() -> list[ModelSpec]:
    """Offer GhostNet to the benchmark."""
    return [
        ModelSpec(
            name="ghostnet",
            title="GhostNet",
            build=build,
            paper="Liu et al., GhostNetV3: Exploring the Training Strategies for Compact Models, "
            "2024, arXiv:2404.11202",
            deploy=merge_branches,
        )
    ]
