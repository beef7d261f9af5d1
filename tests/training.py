"""Train tiny jobs in this process, below the level of commands."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from harness.api import EpochRecord
from harness.train.checkpoint import find_checkpoint
from harness.train.clock import HostWatch
from harness.train.job import Trained, run_task
from harness.train.observer import Observer
from harness.train.state import TrainingState
from harness.train.task import Task, build_model


class Watch(Observer):
    """Counts steps, keeps the records of epochs, and stops after some steps if asked to."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.steps = 0
        self.records: list[EpochRecord] = []

    def training_started(self, state: TrainingState) -> None:
        self.records = list(state.history)

    def step_finished(self, state: TrainingState) -> None:
        self.steps += 1

    def epoch_finished(self, state: TrainingState, record: EpochRecord) -> None:
        self.records.append(record)

    def should_stop(self) -> bool:
        return self.steps == self.stop_after


def train(task: Task, watch: Watch | None = None) -> Trained:
    """Carry out a task; it resumes from its checkpoint if there is one."""
    built = build_model(task)
    found = find_checkpoint(task.checkpoint, fingerprint=built.fingerprint)
    return run_task(task, built, found, watch or Watch())


def state_at(epoch: int, step: int = 0, *, steps: int = 8) -> Any:
    """A position for observers that look at nothing else of a training's state."""
    return SimpleNamespace(epoch=epoch, step=step, steps=steps)


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
