"""Top-1 accuracy: the share of images whose label has the largest logit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.api import MetricSpec, hookimpl
from xscore_plugins.metrics._checks import check

if TYPE_CHECKING:
    import torch


def compute(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return top-1 accuracy in percent. Of equal logits, the class with the lowest index is the answer.

    Args:
        logits: float32 (N, C), N >= 1, on the CPU.
        labels: int64 (N,), class indices.

    Raises:
        ValueError: The shapes do not belong together, there are no rows, a logit is not a finite number, or a label is
            no class.
    """
    check(logits, labels)
    correct = int((logits.argmax(dim=1) == labels).sum())
    return 100.0 * correct / len(labels)


@hookimpl
def harness_metrics() -> list[MetricSpec]:
    """Register top-1 accuracy."""
    return [MetricSpec(name="top1", title="Top-1 accuracy", unit="%", higher_is_better=True, compute=compute)]
