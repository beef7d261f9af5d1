"""Negative log-likelihood and expected calibration error: the agreement of a model's confidence with its accuracy.

The protocol's label smoothing and CutMix lower a model's confidence, so these probabilities are systematically too low.
Compare models with one another, not with perfect calibration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.api import MetricSpec, hookimpl
from xscore_plugins.metrics._checks import check

if TYPE_CHECKING:
    import torch

BINS = 15
"""Number of bins of equal width, as in Guo et al., On Calibration of Modern Neural Networks, ICML 2017."""


def nll(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the mean negative log-likelihood of the labels in nats. Arguments and errors are those of ``top5``."""
    from torch.nn import functional

    check(logits, labels)
    return float(functional.cross_entropy(logits.double(), labels))


def ece(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the expected calibration error in percent: the mean gap of confidence and accuracy over 15 bins.

    Guo et al., 2017, Equation (3): the probability of the answer puts an image into one of the bins (m/15, (m+1)/15].
    The gaps are weighted by the number of images. Arguments and errors are those of ``top5``.
    """
    import torch

    check(logits, labels)
    confidence, answers = logits.double().softmax(dim=1).max(dim=1)
    right = (answers == labels).double()
    bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    gap = torch.zeros(BINS, dtype=torch.float64).index_add_(0, bins, confidence - right)
    return 100.0 * float(gap.abs().sum()) / len(labels)


@hookimpl
def harness_metrics() -> list[MetricSpec]:
    """Register the negative log-likelihood and the expected calibration error."""
    return [
        MetricSpec(name="nll", title="Negative log-likelihood", unit="nats", higher_is_better=False, compute=nll),
        MetricSpec(name="ece", title="Expected calibration error", unit="%", higher_is_better=False, compute=ece),
    ]
