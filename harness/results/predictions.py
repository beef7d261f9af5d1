"""Metrics, confusion matrices and the majority-class baseline from the stored predictions of finished runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

from harness.api import Job, MetricSpec, RunResult
from harness.catalog import Offer
from harness.errors import CannotContinueError, one_line
from harness.metrics import measure
from harness.results.store import JobFolder, RunsFolder

if TYPE_CHECKING:
    import numpy as np

    Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]
    Ints: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]


def read_predictions(folder: JobFolder) -> tuple[Floats, Ints]:
    """Return test logits float32 (N, C), all finite, and labels int64 (N,) in 0..C-1.

    Raises:
        CannotContinueError: the file is missing or damaged, or its two arrays do not match.
    """
    import numpy as np

    path, advice = folder.predictions, f"Remove the folder {folder.path}, and run that job again."
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            logits, labels = stored["logits"], stored["labels"]
    except FileNotFoundError:
        raise CannotContinueError(
            f"{path} is missing, so only the metrics in result.json are known of {folder.job}."
        ) from None
    except Exception as error:  # of damaged bytes, each decompressor and each parser of a header has errors of its own
        raise CannotContinueError(f"{path} is damaged: {one_line(error)}. {advice}") from error
    if problem := _unfit(logits, labels):
        raise CannotContinueError(f"{path} holds {problem}. {advice}")
    return logits.astype(np.float32, copy=False), labels.astype(np.int64, copy=False)


def _unfit(logits: Any, labels: Any) -> str:
    """Say why two arrays are not predictions; empty if they are."""
    import numpy as np

    kinds = (getattr(logits, "dtype", np.dtype("V")).kind, getattr(labels, "dtype", np.dtype("V")).kind)
    if kinds[0] != "f" or kinds[1] not in "iu":
        return "other values than numbers, expected float logits and whole labels"
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not logits.size:
        return f"logits {logits.shape} and labels {labels.shape}, expected (N, C) and (N,)"
    if not np.isfinite(logits).all():
        return "logits that are not finite"
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        return f"labels from {labels.min()} to {labels.max()}, expected 0 to {logits.shape[1] - 1}"
    return ""


def metric_value(folder: JobFolder, result: RunResult, offer: Offer[MetricSpec]) -> float:
    """Return a metric of a finished run, from its result or else from its stored predictions.

    Raises:
        CannotContinueError: the predictions are unusable.
        PluginError: the metric's plugin raises, or returns something that is not a finite number.
    """
    name = offer.spec.name
    if name in result.metrics:
        return float(result.metrics[name])
    logits, labels = read_predictions(folder)
    return compute_metric(offer, logits, labels, f"{folder.job}")


def compute_metric(offer: Offer[MetricSpec], logits: Floats, labels: Ints, what: str) -> float:
    """Apply a metric plugin to copies of logits (N, C) and labels (N,), which errors call ``what``.

    Raises PluginError like ``metric_value``.
    """
    import torch

    return measure(offer, torch.from_numpy(logits), torch.from_numpy(labels), what)


def baseline_values(runs: RunsFolder, jobs: Iterable[Job], metric: Offer[MetricSpec]) -> dict[str, float]:
    """Return the majority-class baseline of a metric by data set, from the test labels that finished runs stored.

    On HAM10000 it is a top-1 accuracy of 66.9 %. The constant prediction uses the test split's own class frequencies,
    the best possible without the images. A data set without readable predictions is left out.
    """
    values: dict[str, float] = {}
    for job in jobs:
        if job.dataset in values:
            continue
        try:
            logits, labels = read_predictions(runs.of(job))
        except CannotContinueError:
            continue
        constant = baseline_logits(labels, logits.shape[1])
        values[job.dataset] = compute_metric(metric, constant, labels, f"the baseline on {job.dataset}")
    return values


def baseline_logits(labels: Ints, classes: int) -> Floats:
    """Return the same logits (N, C) for every image: the log of the class frequencies of ``labels``.

    The prediction is always the most frequent class, with the best constant probabilities. A class without images gets
    the frequency of half an image, so that its logarithm is finite.
    """
    import numpy as np

    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    prior = np.maximum(counts, 0.5)
    row = np.log(prior / prior.sum()).astype(np.float32)
    return np.repeat(row[None, :], len(labels), axis=0)


def confusion(logits: Floats, labels: Ints) -> Ints:
    """Return counts (C, C): rows are true classes, columns are predicted ones."""
    import numpy as np

    classes = logits.shape[1]
    return np.bincount(labels * classes + logits.argmax(axis=1), minlength=classes * classes).reshape(classes, classes)
