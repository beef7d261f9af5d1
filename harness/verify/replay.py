"""Repeat parts of a run: its predictions from the stored weights, and a window of its training."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch

from harness.api import StoppedError
from harness.data.prepared import SplitArrays, open_split
from harness.errors import HarnessError
from harness.results.predictions import read_predictions
from harness.train.checkpoint import Checkpoint, Found, load_weights
from harness.train.environment import frozen_numerics, kept_memory
from harness.train.in_progress import JobInProgress
from harness.train.observer import Observer
from harness.train.setup import seeded, to_layout
from harness.train.state import TrainingState
from harness.train.task import Built, Task, make_training
from harness.verify.checks import Check, Run

if TYPE_CHECKING:
    import torch

    from harness.train.checkpoint import Checkpoint

LOGIT_TOLERANCE = 1e-3
"""Largest difference of a logit, as a share of the largest logit, that another machine explains."""
LOSS_TOLERANCE = 0.05
"""Relative difference of a window's mean loss that another machine explains; training makes small differences grow."""
WHOLE_SECONDS = 60.0
"""A run of at most this duration is repeated as a whole if no checkpoint from before its end exists."""


def check_evaluation(run: Run) -> Iterator[Check]:
    """Check that the stored weights give the stored logits: equal bits in the run's environment, else a tolerance."""
    import numpy as np

    try:
        checkpoint = run.checkpoint
        logits, labels = read_predictions(run.folder)
    except HarnessError:
        checkpoint = None
    if checkpoint is None:
        yield Check("evaluation", "skipped", detail="The weights or the predictions can't be read.")
        return
    task, built = run.task, run.build()
    with run.same_threads():
        try:
            test = open_split(task.dataset, "test")
            again = evaluate(task, built, checkpoint.weights, test).numpy()
        except HarnessError as error:
            yield Check("evaluation", "failed", detail=str(error))
            return
        differences = run.differences()
    if again.shape != logits.shape or not np.array_equal(test.labels, labels):
        detail = "The stored predictions belong to another test split than the prepared one."
        yield Check("evaluation", "failed", f"{logits.shape}", f"{again.shape}", detail)
        return
    largest = float(np.abs(again - logits).max())
    changed = int((again.argmax(axis=1) != logits.argmax(axis=1)).sum())
    found = f"largest difference {largest:.2g}, {changed} of {len(logits):,} answers changed"
    if np.array_equal(again, logits):
        yield Check("evaluation", "ok", "equal bits", "equal bits")
    elif not differences:
        detail = "In the run's own environment (device, threads, torch) the stored weights give other logits."
        yield Check("evaluation", "failed", found, "equal bits", detail)
    else:
        limit = LOGIT_TOLERANCE * float(np.abs(logits).max())
        detail = f"Compared within a tolerance, since the environment differs: {'; '.join(differences)}."
        yield Check("evaluation", "ok" if largest <= limit else "failed", found, f"at most {limit:.2g}", detail)


def check_replay(run: Run) -> Iterator[Check]:
    """Check that a repeated window of the training gives the recorded losses, and at the end the recorded weights."""
    from harness.train.checkpoint import load_checkpoint, spare_of

    final = run.checkpoint
    if final is None:
        yield Check("replay", "skipped", detail="The final checkpoint is not there.")
        return
    try:
        spare = load_checkpoint(spare_of(run.folder.checkpoint), fingerprint=run.result.fingerprint)
        lack = "No checkpoint from before the end is there"
    except HarnessError as error:
        spare, lack = None, str(error)
    if spare is not None and spare.optimizer is None:
        spare = None
    with run.same_threads():
        try:
            if spare is not None or run.result.seconds <= WHOLE_SECONDS:
                yield from _repeat_end(run, spare, final)
            else:
                yield from _repeat_beginning(run, f"{lack}, so the first epoch was repeated.")
        except HarnessError as error:
            yield Check("replay", "failed", detail=str(error))


def _repeat_end(run: Run, start: Checkpoint | None, final: Checkpoint) -> Iterator[Check]:
    """Repeat the training from a position, or from the first step, to its end."""
    from harness.train.task import weights_hash

    begin = f"epoch {start.epoch + 1}, step {start.step + 1}" if start else "the first step"
    where = f"from {begin} to the end"
    state = repeat(run.task, run.build(), start, _StopAfter())
    losses = state.losses.cpu()
    differences = run.differences()
    if not differences:
        wrong = (losses != final.losses).nonzero()
        if len(wrong):
            step = int(wrong[0])
            detail = f"Repeated {where}: the loss of the last epoch's step {step + 1} differs."
            yield Check("replay", "failed", losses[step].item(), final.losses[step].item(), detail)
        else:
            steps = f"{len(losses)} losses of the last epoch"
            yield Check("replay", "ok", steps, steps, f"Repeated {where}, equal bits.")
        found, expected = weights_hash(state.module)[:16], run.result.weights_sha256[:16]
        detail = "" if found == expected else f"Repeated {where}, training ends in other weights."
        yield Check("replay weights", "ok" if found == expected else "failed", found, expected, detail)
        return
    yield _within_tolerance(float(losses.double().mean()), float(final.losses.double().mean()), where, differences)
    detail = "Weights are compared only in the run's own environment."
    yield Check("replay weights", "skipped", detail=f"{detail} {'; '.join(differences)}.")


def _repeat_beginning(run: Run, note: str) -> Iterator[Check]:

    history = run.folder.read_history()
    if not history:
        yield Check("replay", "skipped", detail="The history is empty.")
        return
    steps = run.dataset.manifest.counts["train"] // run.protocol.batch_size
    state = repeat(run.task, run.build(), None, _StopAfter(steps))
    found, expected = state.losses.cpu().double().mean().item(), history[0].loss
    differences = run.differences()
    if differences:
        yield _within_tolerance(found, expected, f"over the first epoch. {note}", differences)
    else:
        detail = f"The mean loss of the first epoch, {steps} steps. {note}"
        yield Check("replay", "ok" if found == expected else "failed", found, expected, detail)


def _within_tolerance(found: float, expected: float, where: str, differences: list[str]) -> Check:
    near = abs(found - expected) <= LOSS_TOLERANCE * abs(expected)
    detail = (
        f"Mean loss, repeated {where}, compared within {LOSS_TOLERANCE:.0%} since the environment differs: "
        f"{'; '.join(differences)}."
    )
    return Check("replay", "ok" if near else "failed", found, expected, detail)


class _StopAfter(Observer):
    """Stops a repetition after some steps; never for None."""

    def __init__(self, steps: int | None = None) -> None:
        self._left = steps

    def step_finished(self, state: TrainingState) -> None:
        if self._left is not None:
            self._left -= 1

    def should_stop(self) -> bool:
        return self._left == 0


def evaluate(task: Task, built: Built, weights: Mapping[str, torch.Tensor], test: SplitArrays) -> torch.Tensor:
    """Return the logits, float32 (N, C), that weights of a finished job give for a split, as the run computed them.

    Args:
        task: The job with everything looked up; nothing is written.
        built: From ``build_model``; takes the weights.
        weights: A state dict.
        test: The images.

    Raises:
        TrainingError: the weights are not of this model, or the logits are not finite.
    """
    module = to_layout(built.module, task.device, task.model.spec.memory_format)
    load_weights(module, weights, task.blank_batch())
    with frozen_numerics(), seeded(task.job.seed, "run"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make_training(task).predict(module, test)


def repeat(task: Task, built: Built, start: Checkpoint | None, observer: Observer) -> TrainingState:
    """Train again from a position to the end, or to where the observer stops, without writing anything.

    Args:
        task: The job with everything looked up.
        built: From ``build_model``; the module is trained in place.
        start: Where to begin; None for the first step.
        observer: Receives every event; may stop.

    Returns:
        The state at the end. After a stop, its losses (steps,) are those of the epoch that was stopped in.
    """
    with frozen_numerics(), kept_memory(task.device), seeded(task.job.seed, "run"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = JobInProgress(task, built, Found(start))
        with contextlib.suppress(StoppedError):
            run.train(observer, saving=False)
        return run.state
