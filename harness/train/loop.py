"""The training loop: from a position (epoch, step) to the end of the last epoch."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol as Interface

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from harness.api import EpochRecord, StoppedError
from harness.data.store import SplitArrays
from harness.errors import TrainingError
from harness.registry import Protocol
from harness.train.environment import compiled, fill_uninitialized_memory
from harness.train.feeder import Batch, Feeder
from harness.train.observe import Witness, applied_moments
from harness.train.pipeline import InputPipeline
from harness.train.profile import OFF, Clock, Phase
from harness.train.save_timer import SaveTimer
from harness.train.schedule import learning_rate
from harness.train.seeds import derive_seed, generator

_LARGEST_TEST_BATCH = 128
_MEMORY_FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


class Watcher(Interface):
    """What looks on while a run trains. Every method is called in the training process and must be quick."""

    def training_started(self, history: tuple[EpochRecord, ...]) -> None:
        """Training starts, or goes on after these epochs."""

    def step_finished(self, epoch: int, step: int, steps: int, loss: torch.Tensor) -> None:
        """A training step has ended; reading ``loss`` waits for the device, so do it rarely."""

    def epoch_finished(self, record: EpochRecord, *, saved: bool) -> None:
        """An epoch has ended. Unless it was saved, a run that is killed repeats it, in another number of seconds."""

    def batch_evaluated(self) -> None:
        """A batch of the test split has been evaluated."""

    def should_stop(self) -> bool:
        """Whether the user wants the run to stop after this step, or this batch of the test split."""


@dataclass
class TrainingState:
    """The changing part of a run. ``epoch`` and ``step`` name the step that comes next."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    losses: torch.Tensor
    epoch: int = 0
    step: int = 0
    history: list[EpochRecord] = field(default_factory=list)
    epoch_seconds: float = 0.0


@dataclass(frozen=True)
class Training:
    """The fixed part of a run: data, protocol and what depends on nothing else."""

    protocol: Protocol
    lr_max: float
    seed: int
    train: SplitArrays
    pipeline: InputPipeline
    device: torch.device
    memory_format: str
    witness: Witness = field(default_factory=Witness, compare=False)
    compile_mode: str | None = None
    clock: Clock = OFF

    @property
    def steps(self) -> int:
        """Steps in an epoch; the last partial batch is dropped."""
        return len(self.train) // self.protocol.batch_size

    def fit(
        self, state: TrainingState, watcher: Watcher, save: Callable[[TrainingState], None], timer: SaveTimer
    ) -> None:
        """Train from the state's position to the end of the last epoch.

        Args:
            state: Changed in place.
            watcher: Told of every step and epoch.
            save: Called when the timer says so. The caller saves the end of the last epoch.
            timer: Decides when to save.

        Raises:
            TrainingError: a loss is not finite, naming epoch and step, or the logits have the wrong shape.
            StoppedError: the watcher asked to stop, after the position was saved.
        """
        self._tell_compilation(went_on=bool(state.epoch or state.step))
        with self.witness.watching(state.module, state.optimizer), compiled(state.module, self.compile_mode):
            self._fit(state, watcher, save, timer)

    def _tell_compilation(self, *, went_on: bool) -> None:
        """Have the witness know of torch.compile, of runs that were compiled at times only, too."""
        if self.compile_mode is None and not self.witness.saw("compiled"):
            return
        if went_on and not self.witness.saw("compiled"):
            self.witness.see("compiled", "no")
        self.witness.see("compiled", self.compile_mode or "no")

    def _fit(
        self, state: TrainingState, watcher: Watcher, save: Callable[[TrainingState], None], timer: SaveTimer
    ) -> None:
        feeder = Feeder(self.train, self.device)
        while state.epoch < self.protocol.epochs:
            lr = learning_rate(state.epoch, self.protocol, self.lr_max)
            for group in state.optimizer.param_groups:
                group["lr"] = lr
            order = torch.randperm(len(self.train), generator=generator(self.seed, "shuffle", state.epoch)).numpy()
            state.module.train()
            self.clock.epoch_started(state.epoch, state.step, self.steps)
            clock = time.monotonic()
            size = self.protocol.batch_size
            with feeder.batches(order[: self.steps * size], size=size, first=state.step) as batches:
                for batch in self.clock.waiting_for(batches):
                    self._step(state, batch)
                    watcher.step_finished(state.epoch, state.step, self.steps, state.losses[state.step])
                    state.step += 1
                    self.clock.step_finished()
                    stop = watcher.should_stop()
                    if stop or timer.due():
                        state.epoch_seconds += time.monotonic() - clock
                        save(state)
                        timer.saved()
                        clock = time.monotonic()
                    if stop:
                        raise StoppedError
            losses = state.losses.cpu()  # waits for the device, so the clock below has seen the whole epoch
            state.epoch_seconds += time.monotonic() - clock
            record = self._close_epoch(state, lr, losses)
            worth_saving = state.epoch < self.protocol.epochs and timer.epoch_due()
            if worth_saving:
                save(state)
                timer.saved()
            self.clock.epoch_finished()
            watcher.epoch_finished(record, saved=worth_saving)

    def _step(self, state: TrainingState, batch: Batch) -> None:
        self.witness.step_begins(state.epoch, state.step, self.steps, batch.chosen)
        fill_uninitialized_memory(self.witness.probing)
        self.clock.enter(Phase.AUGMENTATION)
        inputs, targets = self.pipeline.train_batch(
            batch.images, batch.labels, seed=self.seed, epoch=state.epoch, step=state.step, witness=self.witness
        )
        # Dropout inside a model draws from torch's global generator: seeded by the position like everything else.
        torch.manual_seed(derive_seed(self.seed, "forward", state.epoch, state.step))
        self.clock.enter(Phase.FORWARD)
        logits = state.module(self._laid_out(inputs))
        if logits.shape != targets.shape:
            raise TrainingError(
                f"The model returns logits of shape {tuple(logits.shape)}, expected {tuple(targets.shape)}."
            )
        # Linear in the targets, so that the mixed targets give the lambda-weighted loss of CutMix.
        smoothing = self.protocol.label_smoothing
        loss = F.cross_entropy(logits, targets, label_smoothing=smoothing)
        self.clock.enter(Phase.OTHER)
        state.optimizer.zero_grad(set_to_none=True)
        self.witness.loss_computed(logits, targets, loss, smoothing, state.module)
        self.clock.enter(Phase.BACKWARD)
        loss.backward()
        self.clock.enter(Phase.OPTIMIZER)
        state.optimizer.step()
        self.clock.enter(Phase.OTHER)
        state.losses[state.step] = loss.detach()

    def _close_epoch(self, state: TrainingState, lr: float, losses: torch.Tensor) -> EpochRecord:
        """Check the epoch's losses, float32 (steps,), and move on to the next epoch."""
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

    def predict(self, module: nn.Module, test: SplitArrays, watcher: Watcher | None = None) -> torch.Tensor:
        """Return the logits, float32 (N, C) on the CPU, of a split in its order, in eval mode.

        Batches are as equal as can be: for another shape every convolution is prepared anew, which takes longer than
        the few images of a remainder.

        Raises:
            TrainingError: a logit is not finite.
            StoppedError: the watcher asked to stop.
        """
        module.eval()
        feeder = Feeder(test, self.device)
        size = math.ceil(len(test) / math.ceil(len(test) / _LARGEST_TEST_BATCH))
        answers = []
        self.witness.see("evaluation.normalisation", self._test_moments(test.images.shape[1:3]))
        with (
            torch.inference_mode(),
            self.witness.watching_evaluation(module),
            feeder.batches(np.arange(len(test)), size=size, partial=True) as batches,
        ):
            for batch in batches:
                answers.append(module(self._laid_out(self.pipeline.test_batch(batch.images))).float())
                if watcher is not None:
                    watcher.batch_evaluated()
                    if watcher.should_stop():
                        raise StoppedError
        logits = torch.cat(answers).cpu()
        bad = (~torch.isfinite(logits)).any(dim=1).nonzero()
        if len(bad):
            raise TrainingError(
                f"The trained model returns logits that are not finite for {len(bad)} of {len(test)} test images, "
                f"first for image {int(bad[0])}."
            )
        return logits

    def _test_moments(self, size: tuple[int, int]) -> dict[str, list[float]]:
        """By which moments a test batch is normalised: what becomes of a black and a white image."""
        levels = torch.tensor([0, 255], dtype=torch.uint8, device=self.device)
        after = self.pipeline.test_batch(levels.view(2, 1, 1, 1).expand(2, *size, 3))
        before = torch.tensor([0.0, 1.0], device=self.device).view(2, 1, 1, 1).expand_as(after)
        return applied_moments(before, after, self.pipeline.mean, self.pipeline.std)

    def _laid_out(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs.contiguous(memory_format=_MEMORY_FORMATS[self.memory_format])


def build_optimizer(module: nn.Module, protocol: Protocol) -> torch.optim.Optimizer:
    """Return the protocol's Adam in its fused form, which changes speed alone. The loop sets the rate every epoch."""
    return torch.optim.Adam(
        [parameter for parameter in module.parameters() if parameter.requires_grad],
        lr=protocol.lr_max,
        betas=protocol.betas,
        eps=protocol.eps,
        weight_decay=protocol.weight_decay,
        fused=next(module.parameters()).device.type in ("cpu", "cuda", "mps"),
    )


@contextlib.contextmanager
def seeded(seed: int, *purpose: str | int) -> Iterator[None]:
    """Seed torch's global generators for a purpose and give them back as they were."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()):
        torch.manual_seed(derive_seed(seed, *purpose))
        yield


def to_layout(module: nn.Module, device: torch.device, memory_format: str) -> nn.Module:
    """Move a module to the device and into the layout in which it trains."""
    return module.to(device=device).to(memory_format=_MEMORY_FORMATS[memory_format])
