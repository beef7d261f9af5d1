"""MyNet: a plain residual network of depthwise separable blocks, as an example of a model plugin.

Four stages of widths 50, 100, 200 and 400; each block is a depthwise 5 x 5 convolution and two pointwise ones around
a GELU, with a residual connection. 2.54 M trainable parameters at 100 classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.api import ModelSpec, hookimpl

if TYPE_CHECKING:
    from torch import nn

WIDTHS = (50, 100, 200, 400)
DEPTHS = (2, 2, 4, 2)


def build(num_classes: int) -> nn.Module:
    """Return a fresh network for RGB images of at least 32 x 32 pixels. torch is imported only here."""
    from xscore_plugin_mynet.network import MyNet

    return MyNet(num_classes, WIDTHS, DEPTHS)


@hookimpl
def harness_models() -> list[ModelSpec]:
    return [ModelSpec(name="mynet", title="MyNet", build=build, paper="Example of xscore-harness, 2026")]
