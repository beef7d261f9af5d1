"""Train tiny jobs in this process, below the level of commands."""

from __future__ import annotations

import torch

from harness.api import EpochRecord
from harness.train.checkpoint import find_checkpoint
from harness.train.run import Task, Trained, build_model, run_task


class Watch:
    """Counts steps, keeps the records of epochs, and stops after some steps if asked to."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.steps = 0
        self.records: list[EpochRecord] = []

    def training_started(self, history: tuple[EpochRecord, ...]) -> None:
        self.records = list(history)

    def step_finished(self, epoch: int, step: int, steps: int, loss: torch.Tensor) -> None:
        self.steps += 1

    def epoch_finished(self, record: EpochRecord, *, saved: bool) -> None:
        self.records.append(record)

    def batch_evaluated(self) -> None: ...

    def should_stop(self) -> bool:
        return self.steps == self.stop_after


def train(task: Task, watch: Watch | None = None) -> Trained:
    """Carry out a task; it resumes from its checkpoint if there is one."""
    built = build_model(task)
    found = find_checkpoint(task.checkpoint, fingerprint=built.fingerprint)
    return run_task(task, built, found, watch or Watch())
