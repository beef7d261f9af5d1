"""FBNet-C at width 0.761: 2,520,964 parameters at 100 classes.

Wu, Dai, Zhang, Wang, Sun, Wu, Tian, Vajda, Jia, Keutzer: FBNet: Hardware-Aware Efficient ConvNet Design via
Differentiable Neural Architecture Search. CVPR 2019, arXiv:1812.03443.

The published blocks with their widths times 0.761, since FBNet-C itself has 3.79M parameters at 100 classes. Channels:
stem 16; stages 16, 24, 24, 48, 88, 144, 264; head 1984, unscaled. Channels are rounded to multiples of 8, so the count
jumps: just below 0.761 it is 2.41M.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.api import ModelSpec, hookimpl
from xscore_plugins.models._efficientnet import Config, build_network

if TYPE_CHECKING:
    from torch import nn

STAGES = (
    ("ir_r1_k3_s1_e1_c16",),
    ("ir_r1_k3_s2_e6_c24", "ir_r2_k3_s1_e1_c24"),
    ("ir_r1_k5_s2_e6_c32", "ir_r1_k5_s1_e3_c32", "ir_r1_k5_s1_e6_c32", "ir_r1_k3_s1_e6_c32"),
    ("ir_r1_k5_s2_e6_c64", "ir_r1_k5_s1_e3_c64", "ir_r2_k5_s1_e6_c64"),
    ("ir_r3_k5_s1_e6_c112", "ir_r1_k5_s1_e3_c112"),
    ("ir_r4_k5_s2_e6_c184",),
    ("ir_r1_k3_s1_e6_c352",),
)
CONFIG = Config(stages=STAGES, activation="ReLU", width=0.761, head=1984, stem=16)


def build(num_classes: int) -> nn.Module:
    """Return a randomly initialised FBNet-C: float32 (N, 3, H, W) to logits (N, num_classes)."""
    return build_network(CONFIG, num_classes)


@hookimpl
def harness_models() -> list[ModelSpec]:
    """Offer FBNet to the benchmark."""
    return [
        ModelSpec(
            name="fbnet",
            title="FBNet",
            build=build,
            paper="Wu et al., FBNet: Hardware-Aware Efficient ConvNet Design via Differentiable Neural "
            "Architecture Search, CVPR 2019, arXiv:1812.03443",
        )
    ]
