"""StarNet S1 at width 23: 2,483,427 parameters at 100 classes.

Ma, Dai, Bai, Wang, Fu: Rewrite the Stars. CVPR 2024, arXiv:2403.19967.

S1 with a base width of 23 instead of 24, since S1 itself has 2.70M parameters at 100 classes. Channels 23, 46, 92, 184
in stages of 2, 2, 8, 3 star blocks, expansion 4, as published. 23 is no multiple of 8, which has no measurable cost on
a CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.api import ModelSpec, hookimpl

if TYPE_CHECKING:
    from torch import nn

WIDTH = 23  # of the first stage; it doubles from stage to stage
DEPTHS = (2, 2, 8, 3)
EXPANSION = 4


def build(num_classes: int) -> nn.Module:
    """Return a randomly initialised StarNet: float32 (N, 3, H, W) to logits (N, num_classes)."""
    from timm.models.starnet import StarNet

    model: nn.Module = StarNet(base_dim=WIDTH, depths=list(DEPTHS), mlp_ratio=EXPANSION, num_classes=num_classes)
    return model


@hookimpl
def harness_models() -> list[ModelSpec]:
    """Offer StarNet to the benchmark."""
    return [
        ModelSpec(
            name="starnet",
            title="StarNet",
            build=build,
            paper="Ma et al., Rewrite the Stars, CVPR 2024, arXiv:2403.19967",
        )
    ]
