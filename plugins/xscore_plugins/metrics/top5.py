"""Top-5 accuracy: the share of images whose label is among the five largest logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.api import MetricSpec, hookimpl
from xscore_plugins.metrics._checks import check

if TYPE_CHECKING:
    import torch


def compute(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return top-5 accuracy in percent. With at most five classes, every answer counts as right.

    Of equal logits, the class with the lowest index comes first: a constant model then has no advantage.

    Args:
        logits: float32 (N, C), N >= 1, on the CPU.
        labels: int64 (N,), class indices.

    Raises:
        ValueError: The shapes do not fit, there are no rows, a logit is not finite, or a label is no class index.
    """
    check(logits, labels)
    first = logits.argsort(dim=1, descending=True, stable=True)[:, :5]
    return 100.0 * int((first == labels[:, None]).any(dim=1).sum()) / len(labels)


@hookimpl
def harness_metrics() -> list[MetricSpec]:
    """Register top-5 accuracy."""
    return [MetricSpec(name="top5", title="Top-5 accuracy", unit="%", higher_is_better=True, compute=compute)]
