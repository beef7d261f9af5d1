"""A job's start finds out what would fail at its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from harness.api import ModelSpec, StoppedError
from harness.errors import HarnessError, PluginError, TrainingError
from harness.train.checkpoint import load_checkpoint, state_hash
from harness.train.task import Task, build_model
from tests.training import Watch, train


class Net(nn.Module):
    """A small network; subclasses are each special in one way."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, classes)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.norm(self.stem(images)).relu().mean((2, 3))
        return features

    def forward(self, images: torch.Tensor) -> Any:
        return self.head(self.features(images))


class LateBuffer(Net):
    def features(self, images: torch.Tensor) -> torch.Tensor:
        if not hasattr(self, "grid"):
            self.register_buffer("grid", torch.linspace(-1, 1, images.shape[-1]))
        return super().features(images + self.get_buffer("grid"))


class ExtraState(Net):
    calls = 0

    def forward(self, images: torch.Tensor) -> Any:
        self.calls += self.training
        return super().forward(images)

    def get_extra_state(self) -> Any:
        return {"calls": self.calls, "last": [torch.ones(2), None]}

    def set_extra_state(self, state: Any) -> None:
        self.calls = state["calls"]


class StrangeState(ExtraState):
    def get_extra_state(self) -> Any:
        return {"device": object()}


class FailsToLoad(Net):
    def load_state_dict(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError("load it with my own loader")


class HiddenState(Net):
    """Evaluates with an average that is not in its state dict."""

    seen = 0.0

    def features(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen += 1.0
        return super().features(images) * (1 + self.seen)


class ConjugateView(Net):
    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.register_buffer("phase", torch.randn(4, dtype=torch.complex64).conj())


class SparseBuffer(Net):
    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.register_buffer("mix", torch.eye(4).to_sparse())


class TiedWeights(Net):
    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.again = self.head


class ComplexWeights(Net):
    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.scale = nn.Parameter(torch.randn(4, dtype=torch.complex64))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return (super().features(images) * self.scale).real


class SilentModes(Net):
    """Its own methods return nothing."""

    def train(self, mode: bool = True) -> Any:
        super().train(mode)

    def to(self, *where: Any, **how: Any) -> Any:
        super().to(*where, **how)


class NoiseOfItsOwn(Net):
    generator = torch.Generator().manual_seed(5)  # goes on from build to build

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        nn.init.normal_(self.head.weight, generator=self.generator)


class SharedStem(Net):
    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.stem = one_stem()


class SharedNorm(Net):
    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.norm = one_norm()


class EvaluatesToTuple(Net):
    def forward(self, images: torch.Tensor) -> Any:
        logits = super().forward(images)
        return logits if self.training else (logits, logits)


class SqueezesItsBatch(Net):
    def forward(self, images: torch.Tensor) -> Any:
        return super().forward(images).unsqueeze(0).squeeze() if self.training else super().forward(images)[:1]


class Nothing(Net):
    def forward(self, images: torch.Tensor) -> Any:
        super().forward(images)


@cache
def one_stem() -> nn.Conv2d:
    return nn.Conv2d(3, 4, 3, padding=1)


@cache
def one_norm() -> nn.BatchNorm2d:
    return nn.BatchNorm2d(4, affine=False)


@cache
def one_net(classes: int) -> nn.Module:
    return Net(classes)


def with_build(task: Task, build: Callable[[int], nn.Module]) -> Task:
    return replace(task, model=replace(task.model, spec=ModelSpec(name=task.job.model, build=build, paper="none")))


@pytest.mark.parametrize(
    "build",
    [LateBuffer, ExtraState, ConjugateView, SparseBuffer, TiedWeights, ComplexWeights, SilentModes],
    ids=lambda kind: kind.__name__,
)
def test_a_special_model_is_trained_stopped_and_resumed(task_of: Callable[..., Task], build: type[Net]) -> None:
    whole = train(with_build(task_of(name="whole"), build)).result
    task = with_build(task_of(name="halves"), build)
    with pytest.raises(StoppedError):
        train(task, Watch(stop_after=5))
    went_on = train(task).result
    assert went_on.weights_sha256 == whole.weights_sha256
    checkpoint = load_checkpoint(task.checkpoint, fingerprint=whole.fingerprint)
    assert checkpoint is not None
    assert state_hash(checkpoint.weights) == whole.weights_sha256


@pytest.mark.parametrize(
    ("build", "says"),
    [
        pytest.param(one_net, "same parameters at every build", id="cached"),
        pytest.param(SharedStem, "same parameters at every build .stem.weight", id="shared stem"),
        pytest.param(SharedNorm, "training one build changes another", id="shared statistics"),
        pytest.param(NoiseOfItsOwn, "two builds from seed 0 differ in head.weight", id="other generator"),
        pytest.param(StrangeState, "'_extra_state.'device'' in the state dict is a object", id="strange state"),
        pytest.param(FailsToLoad, "load it with my own loader", id="own loader"),
        pytest.param(HiddenState, "same state dict computes different logits", id="hidden state"),
    ],
)
def test_a_model_that_fails_at_the_end_is_refused_at_the_start(
    task: Task, build: Callable[[int], nn.Module], says: str
) -> None:
    watch = Watch()
    with pytest.raises(PluginError, match=says):
        train(with_build(task, build), watch)
    assert watch.steps == 0
    assert not task.checkpoint.exists()


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (EvaluatesToTuple, r"returns a tuple for \d+ images in evaluation mode, expected one float32 tensor of shape"),
        (SqueezesItsBatch, r"logits of shape \(1, 4\), expected \(\d+, 4\), in evaluation mode"),
        (Nothing, r"returns nothing \(None\) for 8 images in training mode"),
    ],
)
def test_an_odd_output_is_a_sentence_before_the_first_step(task: Task, build: type[Net], says: str) -> None:
    watch = Watch()
    with pytest.raises(HarnessError, match=says):
        train(with_build(task, build), watch)
    assert watch.steps == 0


class Undefined(Net):
    def forward(self, images: torch.Tensor) -> Any:
        return super().forward(images) / 0


class SeedsItself(Net):
    def __init__(self, classes: int) -> None:
        torch.manual_seed(3)
        super().__init__(classes)


def test_a_loss_that_is_undefined_from_the_start_costs_no_epoch(task: Task) -> None:
    with pytest.raises(TrainingError, match="The loss is nan in the first step"):
        train(with_build(task, Undefined))


def test_weights_that_no_seed_decides_are_noted(task: Task) -> None:
    (note,) = train(with_build(task, SeedsItself)).result.notes
    assert note.startswith("The initial weights are the same for every seed")


def test_the_initial_weights_are_recorded(task_of: Callable[..., Task]) -> None:
    first, other = (train(task_of(seed=seed, name=f"seed {seed}")).result for seed in (0, 1))
    assert first.initial_weights_sha256 == build_model(task_of()).initial_sha256
    assert first.initial_weights_sha256 != other.initial_weights_sha256


class TakesThreads(Net):
    def forward(self, images: torch.Tensor) -> Any:
        torch.set_num_threads(3)
        return super().forward(images)


def test_a_sound_job_has_no_note_and_one_that_changes_torch_has(task_of: Callable[..., Task]) -> None:
    assert train(task_of(name="sound")).result.notes == []
    threads = torch.get_num_threads()
    (note,) = train(with_build(task_of(name="other"), TakesThreads)).result.notes
    assert note.startswith("Training tiny changes settings of torch for everybody: the number of threads.")
    assert torch.get_num_threads() == threads
