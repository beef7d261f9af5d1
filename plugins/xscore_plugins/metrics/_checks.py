"""Check the arguments of a metric."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def check(logits: torch.Tensor, labels: torch.Tensor) -> None:
    """Raise ValueError unless these are finite logits (N, C) and labels (N,) in 0..C - 1; N and C are 1 or more."""
    import torch

    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not logits.numel():
        raise ValueError(
            f"logits are {tuple(logits.shape)} and labels {tuple(labels.shape)}, "
            "expected (N, C) and (N,) with at least one row and one class"
        )
    damaged = int((~torch.isfinite(logits)).any(dim=1).sum())
    if damaged:
        raise ValueError(f"{damaged} of {len(logits)} rows of logits hold a value that is not finite")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= logits.shape[1]:
        raise ValueError(f"labels run from {low} to {high}, expected 0 to {logits.shape[1] - 1}")
