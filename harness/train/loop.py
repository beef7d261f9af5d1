"""The training loop: from a position (epoch, step) to the end of the last epoch, and the pass over the test split."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from harness.api import EpochRecord, StoppedError
from harness.data.prepared import SplitArrays
from harness.errors import TrainingError
from harness.models import differs
from harness.registry import Protocol
from harness.train.feeder import Batch, Feeder
from harness.train.observer import Observer
from harness.train.pipeline import InputPipeline
from harness.train.save_timer import Saver
from harness.train.schedule import learning_rate
from harness.train.seeds import Position, generator
from harness.train.state import TrainingState

if TYPE_CHECKING:
    import numpy.typing as npt

_LARGEST_TEST_BATCH = 128
MEMORY_FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
"""torch's memory layouts by the names of ``ModelSpec.memory_format``."""


def test_batch_size(images: int) -> int:
    """Return the size of the batches in which a test split of so many images is evaluated.

    Batches are as equal as possible: every convolution is prepared anew for another shape, which takes longer than the
    few images of a remainder.
    """
    return math.ceil(images / math.ceil(images / _LARGEST_TEST_BATCH))


@dataclass(frozen=True)
class Training:
    """The fixed part of a run: protocol, data, and what follows from them."""

    protocol: Protocol
    lr_max: float
    seed: int
    train: SplitArrays
    pipeline: InputPipeline
    device: torch.device
    memory_format: str

    @property
    def steps(self) -> int:
        """Steps in an epoch; the last partial batch is dropped."""
        return len(self.train) // self.protocol.batch_size

    def fit(self, state: TrainingState, observer: Observer, saver: Saver) -> None:
        """Train from the state's position to the end of the last epoch, which the caller saves.

        Args:
            state: Changed in place.
            observer: Receives every event; may ask to stop.
            saver: Saves the position now and then.

        Raises:
            TrainingError: a loss is not finite, naming epoch and step, or the logits have the wrong shape.
            StoppedError: the observer asked to stop; the position is saved.
        """
        feeder = Feeder(self.train, self.device)
        size, epochs = self.protocol.batch_size, self.protocol.epochs
        for epoch in range(state.epoch, epochs):
            lr = learning_rate(epoch, self.protocol, self.lr_max)
            for group in state.optimizer.param_groups:
                group["lr"] = lr
            state.module.train()
            observer.epoch_started(state)
            state.start_clock()
            with feeder.batches(self._order(epoch), size=size, first=state.step) as batches:
                observer.batch_awaited(state)
                for batch in batches:
                    state.is_saved = False
                    state.losses[state.step] = self.step(state, batch, observer)
                    state.step += 1
                    observer.step_finished(state)
                    saver.step_finished(state, stop=observer.should_stop())
                    observer.batch_awaited(state)
            record = self._close_epoch(state, lr)
            if state.epoch < epochs:
                saver.epoch_finished(state)
            observer.epoch_finished(state, record)

    def step(self, state: TrainingState, batch: Batch, observer: Observer) -> torch.Tensor:
        """Take one step and return its loss, a scalar on the device."""
        position = Position(self.seed, state.epoch, state.step)
        observer.step_started(state, batch)
        inputs, targets = self.pipeline.train_batch(batch.images, batch.labels, position, observer.stage_applied)
        # Dropout inside a model draws from torch's global generator.
        torch.manual_seed(position.derive_seed("forward"))
        logits = state.module(self._laid_out(inputs))
        _check(logits, targets.shape, "training")
        # Linear in the targets, so that mixed targets give the lambda-weighted loss of CutMix.
        loss = F.cross_entropy(logits, targets, label_smoothing=self.protocol.label_smoothing)
        state.optimizer.zero_grad(set_to_none=True)
        observer.loss_computed(state, logits, targets, loss)
        loss.backward()
        state.optimizer.step()
        return loss.detach()

    def predict(self, module: nn.Module, test: SplitArrays, observer: Observer | None = None) -> torch.Tensor:
        """Return the logits, float32 (N, C) on the CPU, of a split in its order, in eval mode.

        Raises:
            TrainingError: a logit is not finite, or the logits have the wrong shape.
            StoppedError: the observer asked to stop.
        """
        observer = observer or Observer()
        module.eval()
        feeder = Feeder(test, self.device)
        size = test_batch_size(len(test))
        answers = []
        with torch.inference_mode(), feeder.batches(np.arange(len(test)), size=size, partial=True) as batches:
            for batch in batches:
                answers.append(self.answer(module, batch.images, observer).float())
                observer.batch_evaluated()
                if observer.should_stop():
                    raise StoppedError
        every = torch.cat(answers).cpu()
        bad = (~torch.isfinite(every)).any(dim=1).nonzero()
        if len(bad):
            raise TrainingError(
                f"The trained model returns logits that are not finite for {len(bad)} of {len(test)} test images, "
                f"first for image {int(bad[0])}."
            )
        return every

    def answer(self, module: nn.Module, images: torch.Tensor, observer: Observer) -> torch.Tensor:
        """Return the logits (N, C) of stored images, uint8 (N, H, W, 3) on the device. Raises like ``predict``."""
        inputs = self.pipeline.test_batch(images, observer.stage_applied)
        logits = module(self._laid_out(inputs))
        _check(logits, (len(inputs), self.pipeline.num_classes), "evaluation")
        answers: torch.Tensor = logits
        return answers

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        """Return the images of an epoch's whole batches: a fresh permutation by (seed, epoch)."""
        order = torch.randperm(len(self.train), generator=generator(self.seed, "shuffle", epoch)).numpy()
        return order[: self.steps * self.protocol.batch_size]

    def _close_epoch(self, state: TrainingState, lr: float) -> EpochRecord:
        """Check the epoch's losses and go to the next epoch."""
        losses = state.losses.cpu()  # waits for the device, so that the clock has seen the whole epoch
        state.stop_clock()
        bad = (~torch.isfinite(losses)).nonzero()
        if len(bad):
            step = int(bad[0])
            raise TrainingError(
                f"The loss became {losses[step].item()} in epoch {state.epoch + 1} of {self.protocol.epochs}, "
                f"step {step + 1} of {self.steps}. The model diverged or computes something undefined."
            )
        record = EpochRecord(
            epoch=state.epoch,
            lr=lr,
            loss=losses.double().mean().item(),
            images_per_second=self.steps * self.protocol.batch_size / max(state.epoch_seconds, 1e-9),
            seconds=state.epoch_seconds,
        )
        state.history.append(record)
        state.epoch, state.step, state.epoch_seconds = state.epoch + 1, 0, 0.0
        return record

    def _laid_out(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs.contiguous(memory_format=MEMORY_FORMATS[self.memory_format])


def _check(logits: object, shape: tuple[int, ...], mode: str) -> None:
    """Refuse other logits than one floating tensor (images, classes); another precision is recorded by the observer."""
    images, classes = shape
    found = differs(logits, images, classes)
    if not found or (isinstance(logits, torch.Tensor) and logits.shape == shape and logits.is_floating_point()):
        return
    if isinstance(logits, torch.Tensor) and logits.is_floating_point():
        raise TrainingError(
            f"The model returns logits of shape {tuple(logits.shape)}, expected {(images, classes)}, in {mode} mode."
        )
    raise TrainingError(
        f"The model returns {found} for {images} images in {mode} mode, expected one float32 tensor of shape "
        f"{(images, classes)}."
    )
