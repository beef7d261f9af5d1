"""A finished job computed again, nothing written: its logits from stored weights, or a window of its training."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Mapping

import torch

from harness.api import StoppedError
from harness.data.store import SplitArrays
from harness.errors import TrainingError
from harness.train.checkpoint import Checkpoint, Found
from harness.train.environment import frozen_numerics
from harness.train.loop import TrainingState, Watcher, seeded, to_layout
from harness.train.memory import kept_memory
from harness.train.run import Built, JobInProgress, Task, make_training
from harness.train.witness import Witness


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
    try:
        module.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise TrainingError(f"The weights do not fit the model: {str(error).splitlines()[-1].strip()}") from error
    with frozen_numerics(), seeded(task.job.seed, "run"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make_training(task, Witness()).predict(module, test)


def repeat(task: Task, built: Built, start: Checkpoint | None, watcher: Watcher) -> TrainingState:
    """Train again from a position to the end, or to where the watcher stops, without writing anything.

    Args:
        task: The job with everything looked up.
        built: From ``build_model``; the module is trained in place.
        start: Where to begin; None for the first step.
        watcher: Told of steps and epochs; may stop.

    Returns:
        The state at the end. After a stop, its losses (steps,) are those of the epoch that was stopped in.
    """
    with frozen_numerics(), kept_memory(task.device), seeded(task.job.seed, "run"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = JobInProgress(task, built, Found(start))
        with contextlib.suppress(StoppedError):
            run.training.fit(run.state, watcher, lambda _: None, save_every=math.inf)
        return run.state
