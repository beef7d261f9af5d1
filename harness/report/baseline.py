"""What a model would score that never looks at an image: on HAM10000 a top-1 accuracy of 66.9 %."""

from __future__ import annotations

from collections.abc import Iterable

from harness.api import Job, MetricSpec
from harness.catalog import Offer
from harness.errors import CannotContinueError
from harness.results.store import RunsFolder
from harness.results.values import baseline_logits, compute_metric, read_predictions


def baseline_values(runs: RunsFolder, jobs: Iterable[Job], metric: Offer[MetricSpec]) -> dict[str, float]:
    """Return the majority-class baseline of a metric by data set, from the test labels that finished runs stored.

    The constant answer knows the test split's own class frequencies, which is the most that can be had without looking.
    A data set none of whose runs has readable predictions is left out.
    """
    values: dict[str, float] = {}
    for job in jobs:
        if job.dataset in values:
            continue
        try:
            logits, labels = read_predictions(runs.of(job))
        except CannotContinueError:
            continue
        never = baseline_logits(labels, logits.shape[1])
        values[job.dataset] = compute_metric(metric, never, labels, f"the baseline on {job.dataset}")
    return values
