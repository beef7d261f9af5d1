"""Train tiny jobs in this process, below the level of commands."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from harness.api import EpochRecord
from harness.train.checkpoint import find_checkpoint
from harness.train.profile import HostWatch
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


@dataclass
class FakeTime:
    """Clocks that stand still except where a test spends time; a reading may cost some, too."""

    seconds: float = 1000.0
    cpu_seconds: float = 50.0
    per_reading: float = 0.0

    def spend(self, seconds: float, *, busy: float = 0.0) -> None:
        """Let time pass in which the process computes for ``busy`` seconds."""
        self.seconds += seconds
        self.cpu_seconds += busy

    def now(self) -> float:
        self.seconds += self.per_reading
        return self.seconds

    def watch(self, threads: int | None) -> HostWatch:
        """A watch that reads these clocks."""
        return HostWatch(threads, now=self.now, cpu_now=lambda: self.cpu_seconds)
