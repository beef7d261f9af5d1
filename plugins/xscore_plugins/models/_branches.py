"""Re-parameterisation of networks with parallel branches. GhostNet and MobileOne share it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def merge_branches(model: nn.Module) -> nn.Module:
    """Return a copy of the model with its parallel branches merged into single convolutions."""
    from timm.utils.model import reparameterize_model

    # Some parameters of the merged copy have requires_grad=False: count all of them.
    merged: nn.Module = reparameterize_model(model, inplace=False)
    return merged
