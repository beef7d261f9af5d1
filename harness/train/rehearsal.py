"""Rehearses a job on further builds of its model, so that the start finds out what would fail at the end.

A build must be fresh, and its initial weights must follow from the seed. The rehearsal then goes once through the whole
of a job: a step, a checkpoint that is read back, another build that takes the weights, and the last test batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from harness.errors import HarnessError, PluginError, TrainingError, one_line
from harness.models import build_module, called
from harness.train.checkpoint import load_weights, read_back, state_hash
from harness.train.environment import fill_uninitialized_memory
from harness.train.feeder import Batch, Feeder
from harness.train.loop import test_batch_size
from harness.train.observe import RunRecorder
from harness.train.observer import Observer
from harness.train.setup import build_optimizer, seeded, to_layout
from harness.train.state import TrainingState

if TYPE_CHECKING:
    from harness.train.in_progress import JobInProgress
    from harness.train.task import Built, Task

_IMAGES = 4  # whose logits are compared between a module and another one with its weights
_TOLERANCE = 1e-3  # of the largest logit


@dataclass(frozen=True)
class Further:
    """Further builds of a job's model.

    Attributes:
        again: From the job's seed.
        other: From another seed.
        remarks: Sentences about them for the readers of the result.
    """

    again: nn.Module
    other: nn.Module
    remarks: tuple[str, ...] = ()


def build_further(task: Task, built: Built) -> Further:
    """Build a job's model again from its seed, and from another one.

    Raises:
        PluginError: it is the first build once more, or has other initial weights for the same seed.
    """
    name = called(task.model)
    again = _build(task, task.job.seed)
    own = {value.untyped_storage().data_ptr() for value in built.module.parameters() if value.numel()}
    trained = {key: value for key, value in again.named_parameters() if value.requires_grad and value.numel()}
    if shared := [key for key, value in trained.items() if value.untyped_storage().data_ptr() in own]:
        raise PluginError(
            f"{name} hands out the same parameters at every build ({_few(shared)}), so that one job would go on with "
            "the weights of another. Expected a fresh module each time; leave out the cache around build."
        )
    if differing := _differing(built.module.state_dict(), again.state_dict()):
        raise PluginError(
            f"{name}: two builds from seed {task.job.seed} differ in {_few(differing)}. Expected "
            "equal initial weights: draw them from torch's global generator, which is seeded, and from nothing else."
        )
    other = _build(task, task.job.seed + 1)
    if _differing(again.state_dict(), other.state_dict()):
        return Further(again, other)
    same = "The initial weights are the same for every seed, so that seeds differ in the order of the data alone."
    return Further(again, other, (same,))


def rehearse(run: JobInProgress, further: Further) -> None:
    """Go once through a job, with modules of its own, before the first step.

    Args:
        run: The job; neither its state nor its files change.
        further: From ``build_further``; one module is trained by a step, and the other takes its weights.

    Raises:
        PluginError: the model could be trained, and its end would fail or be wrong.
        TrainingError: the logits have the wrong shape, or the first loss is not finite.
    """
    task, training, module = run.task, run.training, further.again
    name = called(task.model)
    with seeded(task.job.seed, "rehearsal"):
        state = _after_one_step(run, module)
        if state_hash(run.state.module.state_dict()) != run.built.initial_sha256:
            raise PluginError(
                f"{name}: training one build changes another one. Expected a fresh module each time, without tensors "
                "or modules that its builds share."
            )
        other = to_layout(further.other, task.device, training.memory_format)
        try:
            saved = read_back(run.position(state))
            load_weights(other, saved.weights, task.blank_batch())
            build_optimizer(other, task.protocol).load_state_dict(saved.optimizer or {})
        except (Exception, SystemExit) as error:
            reason = str(error).rstrip(".") if isinstance(error, HarnessError) else one_line(error)
            raise PluginError(
                f"{name}: a checkpoint of it can't be used, so that neither a stop nor the result could be stored: "
                f"{reason}. Expected a state dict of tensors and plain values that a fresh build can load."
            ) from error
        images = len(training.train)
        tested = task.dataset.manifest.counts["test"]
        size = test_batch_size(tested)
        _logits(run, module, min(tested % size or size, images))
        expected, found = _logits(run, module, min(_IMAGES, images)), _logits(run, other, min(_IMAGES, images))
        again = _logits(run, module, min(_IMAGES, images))
    scale = float(expected.abs().max())
    steady = bool(torch.isfinite(expected).all()) and torch.equal(expected, again)
    if steady and not torch.allclose(found, expected, rtol=0.0, atol=_TOLERANCE * scale):
        raise PluginError(
            f"{name}: another build with the same state dict computes different logits. Expected all state that "
            "matters to be in the state dict; without it no stopped run can resume, and no result can be verified."
        )


def _build(task: Task, seed: int) -> nn.Module:
    with seeded(seed, "initialise"):
        return build_module(task.model, task.num_classes)


def _after_one_step(run: JobInProgress, module: nn.Module) -> TrainingState:
    task, training = run.task, run.training
    module = to_layout(module, task.device, training.memory_format)
    state = TrainingState(module, build_optimizer(module, task.protocol), torch.zeros_like(run.state.losses))
    recorder = RunRecorder()
    module.train()
    size = task.protocol.batch_size
    try:
        with recorder.attached(state, task.protocol, None), _batches(run, size) as batches:
            loss = float(training.step(state, next(batches), recorder))
    finally:
        fill_uninitialized_memory(False)
    if not math.isfinite(loss):
        raise TrainingError(
            f"The loss is {loss} in the first step, with the initial weights. The model computes something undefined."
        )
    if task.options.compile_mode is not None:  # then no operator is watched while it trains
        run.recorder.see_inside(recorder)
    return state


def _batches(run: JobInProgress, size: int) -> AbstractContextManager[Iterator[Batch]]:
    return Feeder(run.training.train, run.task.device, ahead=False).batches(torch.arange(size).numpy(), size=size)


def _logits(run: JobInProgress, module: nn.Module, count: int) -> torch.Tensor:
    """Return the logits (count, C) of the first training images in evaluation mode."""
    module.eval()
    with torch.inference_mode(), _batches(run, count) as batches:
        return run.training.answer(module, next(batches).images, Observer())


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Return the names that two state dicts do not share, or that stand for other values."""
    one, other = ({name: state_hash({name: value}) for name, value in state.items()} for state in (first, second))
    return [name for name in {**one, **other} if one.get(name) != other.get(name)]


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
