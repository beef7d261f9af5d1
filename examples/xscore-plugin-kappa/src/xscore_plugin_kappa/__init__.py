"""Cohen's kappa: the agreement of answers and labels beyond chance, for any balance of the classes.

J. Cohen, A coefficient of agreement for nominal scales, Educational and Psychological Measurement 20, 1960. On
HAM10000, two thirds of the images are of one class. Always naming that class has an accuracy of 66.9 % and a kappa
of 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.api import MetricSpec, hookimpl

if TYPE_CHECKING:
    import torch


def compute(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return Cohen's kappa, -1..1: 1 for full agreement, 0 for the agreement of chance.

    Of equal logits, the class with the lowest index is the answer. If all answers and labels are of one class, chance
    agrees fully, and kappa is 1.

    Args:
        logits: float32 (N, C) on the CPU.
        labels: int64 (N,), class indices.

    Raises:
        ValueError: A logit is not a finite number.
    """
    import torch

    if not torch.isfinite(logits).all():
        raise ValueError("a logit is not a finite number")
    classes, answers = logits.shape[1], logits.argmax(dim=1)
    agreed = float((answers == labels).double().mean())
    shares = [torch.bincount(values, minlength=classes).double() / len(labels) for values in (answers, labels)]
    by_chance = float(shares[0] @ shares[1])
    return 1.0 if by_chance == 1 else (agreed - by_chance) / (1 - by_chance)


@hookimpl
def harness_metrics() -> list[MetricSpec]:
    """Offer the metric; every new result will hold it."""
    return [MetricSpec(name="kappa", title="Cohen's kappa", unit="", higher_is_better=True, compute=compute)]
