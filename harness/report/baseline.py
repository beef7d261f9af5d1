"""What a model would score that never looks at an image: on HAM10000 a top-1 accuracy of 66.9 %."""

from __future__ import annotations

from collections.abc import Iterable

from harness.api import MetricSpec
from harness.catalog import Offer
from harness.errors import CannotContinueError
from harness.results.store import JobFolder
from harness.results.values import baseline_logits, compute_metric, read_predictions


def baseline_values(folders: Iterable[JobFolder], metric: Offer[MetricSpec]) -> dict[str, float]:
    """Return the majority-class baseline of a metric by data set, from the test labels that finished runs stored.

    The constant answer knows the test split's own class frequencies, which is the most that can be had without looking.
    A data set none of whose runs has readable predictions is left out.
    """
    values: dict[str, float] = {}
    for folder in folders:
        if folder.job.dataset in values:
            continue
        try:
            logits, labels = read_predictions(folder)
        except CannotContinueError:
            continue
        never = baseline_logits(labels, logits.shape[1])
        values[folder.job.dataset] = compute_metric(metric, never, labels, f"the baseline on {folder.job.dataset}")
    return values
