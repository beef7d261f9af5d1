"""Declares the hooks, and nothing else. A plugin implements any of them, in a module or object of an entry point."""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from harness.api import (
    PROJECT,
    AugmentationSpec,
    DatasetSpec,
    EpochRecord,
    ExecutorSpec,
    Job,
    MetricSpec,
    ModelSpec,
    RunResult,
    TrackerSpec,
)

hookspec = pluggy.HookspecMarker(PROJECT)


@hookspec
def harness_models() -> Iterable[ModelSpec]:  # type: ignore[empty-body]
    """Return the architectures that this plugin offers. Called once, at discovery; must not import torch."""


@hookspec
def harness_datasets() -> Iterable[DatasetSpec]:  # type: ignore[empty-body]
    """Return the data sets that this plugin offers. Called once, at discovery; must not read any image."""


@hookspec
def harness_augmentations() -> Iterable[AugmentationSpec]:  # type: ignore[empty-body]
    """Return the augmentations that protocols may name. Called once, at discovery."""


@hookspec
def harness_metrics() -> Iterable[MetricSpec]:  # type: ignore[empty-body]
    """Return the metrics that results hold beside top-1. Called once, at discovery."""


@hookspec
def harness_executors() -> Iterable[ExecutorSpec]:  # type: ignore[empty-body]
    """Return the executors that this plugin offers. Called once, at discovery."""


@hookspec
def harness_trackers() -> Iterable[TrackerSpec]:  # type: ignore[empty-body]
    """Return the tracking tools that this plugin connects. Called once, at discovery; must not import the tool.

    A tracker follows runs only if the user switches it on; the three hooks below are for observers that always do.
    """


@hookspec
def harness_run_started(job: Job) -> None:
    """Observe that a job starts or resumes. Called in the process that trains, before the first step.

    An observer that raises is reported and does no harm. Leave out the arguments that you do not need.
    """


@hookspec
def harness_epoch_finished(job: Job, record: EpochRecord) -> None:
    """Observe the end of an epoch, after its record was written to ``history.jsonl``."""


@hookspec
def harness_run_finished(job: Job, result: RunResult) -> None:
    """Observe a finished job, after its ``result.json`` was written. Not called for a job that failed."""
