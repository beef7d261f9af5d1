"""Defines what plugins import: the hook marker, the specs that hooks return, and the values of jobs and results.

Importing this module takes milliseconds: torch, timm and torchvision appear in annotations only. Keep plugin modules
as fast by importing them inside ``build``, ``read`` and ``compute``.

    from harness.api import ModelSpec, hookimpl

    @hookimpl
    def harness_models():
        return [ModelSpec(name="mynet", build=build, paper="Ada et al., MyNet, 2026")]
"""

from __future__ import annotations

import pluggy

from harness.api.execution import ExecutorSpec, LogReporter, Reporter, Resources, RunOne, StopSignal, Work
from harness.api.jobs import Cell, EpochRecord, Job, RunResult, Shares, State, StoppedError, percent
from harness.api.specs import (
    Augmentation,
    AugmentationSpec,
    BatchTransform,
    DatasetSpec,
    MetricSpec,
    ModelSpec,
    Sample,
    Source,
    Split,
)
from harness.api.tracking import TrackedRun, Tracker, TrackerSpec
from harness.errors import CannotContinueError, StoreError, WrongUseError
from harness.files import write_text_atomically, writing_to
from harness.images import ReadError, open_image

__all__ = [
    "HOOK_API_VERSION",
    "Augmentation",
    "AugmentationSpec",
    "BatchTransform",
    "CannotContinueError",
    "Cell",
    "DatasetSpec",
    "EpochRecord",
    "ExecutorSpec",
    "Job",
    "LogReporter",
    "MetricSpec",
    "ModelSpec",
    "ReadError",
    "Reporter",
    "Resources",
    "RunOne",
    "RunResult",
    "Sample",
    "Shares",
    "Source",
    "Split",
    "State",
    "StopSignal",
    "StoppedError",
    "StoreError",
    "TrackedRun",
    "Tracker",
    "TrackerSpec",
    "Work",
    "WrongUseError",
    "hookimpl",
    "open_image",
    "percent",
    "write_text_atomically",
    "writing_to",
]

PROJECT = "harness"
"""pluggy's project name and the entry-point group of plugins."""

HOOK_API_VERSION = 1
"""Raised when a hook or a spec changes incompatibly. A plugin module may state the version that it was written for as
``HARNESS_API = 1``; the default is 1. A plugin with another version is refused with that reason."""

hookimpl = pluggy.HookimplMarker(PROJECT)
