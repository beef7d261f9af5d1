"""The harness's own training loop with a clock in it: the real ``JobInProgress.train``, stopped after some steps.

Nothing is rebuilt here. A run is made as ``harness run`` makes it, and an observer, which every run has, reads the
clock between steps. A hook on the model reads it when a batch arrives, which is where the data path ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from pathlib import Path
from typing import Any

import torch
from rivals import wait_for
from torch import nn

from harness.api import Job, ModelSpec, StoppedError
from harness.catalog import Catalog, Offer
from harness.data.prepared import PreparedDataset
from harness.registry import Protocol
from harness.train.checkpoint import Found
from harness.train.environment import frozen_numerics, kept_memory
from harness.train.in_progress import JobInProgress
from harness.train.observer import Observer
from harness.train.pipeline import InputPipeline
from harness.train.task import Built, Task

SOME_EPOCH = 10  # past the warm-up
SHORTEST_EPOCH = 5360 // 32
"""Steps of an epoch of Indoor-67, the smallest train split of the benchmark.

The recorder probes the first and the last step of an epoch, which takes time. Readings are of a few steps, in which
a probed step would weigh far too much, or nothing. It is therefore timed on its own in every reading, and counted as
often as in an epoch of this length; all other data sets have longer ones.
"""


class Clock(Observer):
    """Marks the end of every step, and stops the run after as many as are wanted.

    Attributes:
        ends: When each step ended, in seconds.
        data: Seconds of each step until its batch reached the model.
    """

    def __init__(self, module: nn.Module, device: torch.device, *, every: bool) -> None:
        """``every``: wait for an accelerator at every mark, instead of at the first two and the last."""
        self._device, self._every = device, every
        self.begin(0)
        module.register_forward_pre_hook(self._batch_arrives)

    def begin(self, steps: int) -> None:
        self._left = self._wanted = steps
        self.ends: list[float] = []
        self.data: list[float] = []
        wait_for(self._device)
        self._from = time.perf_counter()

    def _batch_arrives(self, *_: Any) -> None:
        if self._every:
            wait_for(self._device)
        self.data.append(time.perf_counter() - self._from)

    def should_stop(self) -> bool:
        """Mark the end of a step: its bookkeeping is over."""
        self._left -= 1
        if self._every or self._left == 0 or self._wanted - self._left <= 2:
            wait_for(self._device)
        self._from = time.perf_counter()
        self.ends.append(self._from)
        return self._left == 0


class RealRun:
    """A job in progress, ready to train a few steps again and again. No checkpoint is written.

    What ``run_task`` sets for the time of a run is set for good, so it belongs in a process of its own (``Apart``).
    """

    def __init__(
        self,
        module: nn.Module,
        model: Offer[ModelSpec],
        dataset: PreparedDataset,
        protocol: Protocol,
        catalog: Catalog,
        device: torch.device,
        *,
        every: bool = False,
    ) -> None:
        task = Task(
            job=Job(protocol.name, model.spec.name, dataset.manifest.dataset, 0),
            protocol=protocol, model=model, dataset=dataset, catalog=catalog, device=device,
            checkpoint=Path(dataset.folder) / "never-written.pt",
        )  # fmt: skip
        self._settings = contextlib.ExitStack()
        self._settings.enter_context(frozen_numerics())
        self._settings.enter_context(kept_memory(device))
        self._run = JobInProgress(task, Built(module, "", 0), Found(None))
        self.steps = self._run.training.steps
        self.clock = Clock(self._run.state.module, device, every=every)

    def use(self, pipeline: InputPipeline) -> None:
        """Replace the input pipeline, by one that keeps time."""
        self._run.training = dataclasses.replace(self._run.training, pipeline=pipeline)

    @property
    def pipeline(self) -> InputPipeline:
        """The input pipeline in use."""
        return self._run.training.pipeline

    def train(self, steps: int) -> Clock:
        """Train from the last step of an epoch on: it, the next epoch's first step, and ordinary ones."""
        state = self._run.state
        state.epoch, state.step, state.epoch_seconds = SOME_EPOCH, self.steps - 1, 0.0
        state.history.clear()
        with contextlib.suppress(StoppedError):
            self.clock.begin(steps)
            self._run.train(self.clock, saving=False)
        return self.clock


class Stub(nn.Module):
    """A model that costs next to nothing and never looks at its input: what remains of a step is the data path."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(images), -1)
