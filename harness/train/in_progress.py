"""A job in progress: its training, its state, and the checkpoints that it resumes from and writes."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import torch

from harness.data.prepared import content_fingerprint, pixel_digest
from harness.errors import DatasetError
from harness.train.checkpoint import Checkpoint, Found, load_weights, save_checkpoint
from harness.train.clock import Phase
from harness.train.deviations import (
    SOURCES,
    accounted_reads,
)
from harness.train.environment import compiled
from harness.train.observe import RunRecorder
from harness.train.observer import Observer, Observers
from harness.train.provenance import plugin_sources
from harness.train.save_timer import Saver, SaveTimer
from harness.train.setup import build_optimizer, to_layout
from harness.train.state import TrainingState
from harness.train.task import Built, Task, make_training


class JobInProgress:
    """A job in progress: the training, its state and its checkpoints."""

    def __init__(self, task: Task, built: Built, found: Found) -> None:
        checkpoint = found.checkpoint
        manifest = task.dataset.manifest
        module = to_layout(built.module, task.device, task.model.spec.memory_format)
        self.task = task
        self.built = built
        self.started = checkpoint.started if checkpoint else timestamp()
        self.began = time.monotonic()
        self.training = make_training(task)
        self.recorder = _recorder(checkpoint)
        self.train_pixels = pixel_digest(self.training.train.images)
        task.dataset.require_pixels("train", self.train_pixels)
        self.recorder.see("train_images", len(self.training.train))
        self.recorder.see("data", self.train_pixels)
        self.recorder.see(SOURCES, plugin_sources(task.catalog, task.model.spec, task.protocol))
        if not self.training.steps:
            raise DatasetError(
                f"The data set '{manifest.dataset}' has {manifest.counts['train']} training images, "
                f"fewer than one batch of {task.protocol.batch_size}."
            )
        self.state = TrainingState(
            module=module,
            optimizer=build_optimizer(module, task.protocol),
            losses=torch.zeros(self.training.steps, device=task.device),
        )
        self.sealed = task.dataset.sealed_test()
        self.earlier_seconds = 0.0
        self.earlier_reads = 0
        self.content = ""
        self.interruptions: tuple[dict[str, Any], ...] = ()
        self.came_trained = checkpoint is not None and checkpoint.epoch >= task.protocol.epochs
        if checkpoint is not None:
            self._resume(checkpoint)
        if checkpoint is not None or found.reason:
            entry = {"went_on": timestamp(), "epoch": self.state.epoch, "step": self.state.step}
            self.interruptions = (*self.interruptions, entry | ({"reason": found.reason} if found.reason else {}))

    @property
    def test_reads(self) -> int:
        """Number of times that the test split was opened for this job, by earlier processes too."""
        return self.earlier_reads + self.sealed.reads

    def seconds(self) -> float:
        """Wall-clock time spent on the job, without the pauses between processes."""
        return self.earlier_seconds + time.monotonic() - self.began

    def train(self, observer: Observer, *, saving: bool = True) -> None:
        """Train from the position to the end; ``test`` saves the end. Without ``saving`` nothing is written."""
        task, state = self.task, self.state
        saver = Saver(self._save if saving else lambda _: None, SaveTimer(task.options.save_every))
        with (
            self.recorder.attached(state, task.protocol, task.options.compile_mode),
            task.clock.attached(state),
            compiled(state.module, task.options.compile_mode),
        ):
            self.training.fit(state, Observers(self.recorder, task.clock, observer), saver)

    @property
    def mishaps(self) -> list[str]:
        """The damaged checkpoints of all processes that worked on the job, as sentences."""
        return [str(entry["reason"]) for entry in self.interruptions if "reason" in entry]

    def test(self, observer: Observer) -> tuple[torch.Tensor, torch.Tensor]:
        """Seal the weights, then read the test split. Nothing else in a run opens it."""
        epochs = self.task.protocol.epochs
        # The read is counted on disk before it happens, so that a stop in between can't hide it.
        self._save(self.state, test_reads=self.test_reads + 1, roll=not self.came_trained)
        self.task.clock.enter(Phase.EVALUATION)
        test = self.sealed.open(epochs_done=len(self.state.history), epochs=epochs)
        self.content = content_fingerprint(
            self.task.dataset.manifest.classes,
            {
                "train": (self.training.train.labels.tolist(), self.train_pixels),
                "test": (test.labels.tolist(), pixel_digest(test.images)),
            },
        )
        with self.recorder.attached_to_evaluation(self.state.module):
            logits = self.training.predict(self.state.module, test, Observers(self.recorder, observer))
        self.task.clock.enter(Phase.OTHER)
        return logits, torch.from_numpy(test.labels.copy())

    def facts(self) -> dict[str, Any]:
        """Return the facts of the execution, over all processes that worked on the job."""
        facts = self.recorder.facts()
        if not isinstance(facts["data"], dict):  # else processes trained on different images: keep that visible
            facts["data"] = self.content
        facts["test_reads"] = accounted_reads(self.test_reads, self.interruptions, self.task.protocol.epochs)
        return facts

    def position(self, state: TrainingState, *, test_reads: int | None = None) -> Checkpoint:
        """Return a state of this job as a checkpoint."""
        done = state.epoch >= self.task.protocol.epochs
        return Checkpoint(
            fingerprint=self.built.fingerprint,
            epoch=state.epoch,
            step=state.step,
            weights=state.module.state_dict(),
            optimizer=None if done else state.optimizer.state_dict(),
            losses=state.losses,
            history=tuple(state.history),
            started=self.started,
            seconds=self.seconds(),
            epoch_seconds=state.epoch_seconds,
            test_reads=self.test_reads if test_reads is None else test_reads,
            interruptions=self.interruptions,
            witnessed=self.recorder.state(),
        )

    def _save(self, state: TrainingState, *, test_reads: int | None = None, roll: bool = True) -> None:
        with self.task.clock.during(Phase.CHECKPOINT):
            save_checkpoint(self.task.checkpoint, self.position(state, test_reads=test_reads), roll=roll)

    def _resume(self, found: Checkpoint) -> None:
        state = self.state
        load_weights(state.module, found.weights, self.task.blank_batch())
        if found.optimizer is not None:
            state.optimizer.load_state_dict(found.optimizer)
        state.losses.copy_(found.losses)
        state.epoch, state.step, state.epoch_seconds = found.epoch, found.step, found.epoch_seconds
        state.history = list(found.history)
        self.earlier_seconds, self.earlier_reads = found.seconds, found.test_reads
        self.interruptions = found.interruptions


def _recorder(checkpoint: Checkpoint | None) -> RunRecorder:
    if checkpoint is None:
        return RunRecorder()
    return RunRecorder(checkpoint.witnessed, position=(checkpoint.epoch, checkpoint.step))


def timestamp() -> str:
    """Return the present time in UTC, in seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")
