"""Balanced accuracy and macro F1: every class has the same weight, for any number of its images.

On HAM10000, two thirds of the images are of one class. A model that always names it has a top-1 accuracy of 66.9 %, a
balanced accuracy of 14.3 % and a macro F1 of 11.5 %.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.api import MetricSpec, hookimpl
from xscore_plugins.metrics._checks import check

if TYPE_CHECKING:
    import torch


def _counts(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the right answers, the images and the answers per class, each (C,)."""
    import torch

    check(logits, labels)
    classes = logits.shape[1]
    answers = logits.argmax(dim=1)
    right = torch.bincount(labels[answers == labels], minlength=classes).double()
    there = torch.bincount(labels, minlength=classes).double()
    return right, there, torch.bincount(answers, minlength=classes).double()


def balanced_accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the mean recall over the classes that have images, in percent.

    Equals scikit-learn's ``balanced_accuracy_score`` times 100. Arguments and errors are those of ``top5``.
    """
    right, there, _ = _counts(logits, labels)
    present = there > 0
    return 100.0 * float((right[present] / there[present]).mean())


def macro_f1(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the mean over classes of the harmonic mean of precision and recall, in percent.

    A class with neither images nor answers is left out. A class with only one of the two counts as 0. Equals
    scikit-learn's ``f1_score(average="macro", zero_division=0)`` times 100. Arguments and errors are those of ``top5``.
    """
    right, there, answered = _counts(logits, labels)
    total = there + answered
    seen = total > 0
    return 100.0 * float((2 * right[seen] / total[seen]).mean())


@hookimpl
def harness_metrics() -> list[MetricSpec]:
    """Register balanced accuracy and macro F1."""
    return [
        MetricSpec(
            name="balanced_accuracy",
            title="Balanced accuracy",
            unit="%",
            higher_is_better=True,
            compute=balanced_accuracy,
        ),
        MetricSpec(name="macro_f1", title="Macro F1", unit="%", higher_is_better=True, compute=macro_f1),
    ]
