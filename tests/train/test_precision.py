"""The precision inside a model is recorded wherever it leaves float32, and the arithmetic stays the same."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from harness.api import ModelSpec
from harness.train.precision import PrecisionWatch
from harness.train.task import Task, build_model
from tests.training import train


class Inner(nn.Module):
    """A small network, with something done to its features."""

    def __init__(self, classes: int, change: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(4, classes)
        self.change = change

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.change(self, self.stem(images)).mean((2, 3)))
        return logits


class HalfBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: torch.Tensor) -> torch.Tensor:
        return features.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0].half().float()


def autocast(_: nn.Module, features: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return torch.einsum("bchw,cd->bdhw", features, torch.eye(4)).float()


def only_when(training: bool) -> Callable[[nn.Module, torch.Tensor], torch.Tensor]:
    return lambda module, features: features.half().float() if module.training == training else features


def short_convolutions(_: nn.Module, features: torch.Tensor) -> torch.Tensor:
    backend: Any = torch.backends.mkldnn
    conv = backend.conv
    conv.fp32_precision = "bf16"
    try:
        return nn.functional.avg_pool2d(features, 1)
    finally:
        conv.fp32_precision = "none"


def with_change(task: Task, change: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> Task:
    spec = ModelSpec(name=task.job.model, build=lambda classes: Inner(classes, change), paper="none")
    return replace(task, model=replace(task.model, spec=spec))


@pytest.mark.parametrize(
    ("change", "setting", "kind"),
    [
        pytest.param(autocast, "precision", "bfloat16", id="autocast"),
        pytest.param(lambda _, x: x.half().float(), "precision", "float16", id="half"),
        pytest.param(lambda _, x: x.to(torch.bfloat16).float(), "precision", "bfloat16", id="bfloat16"),
        pytest.param(lambda _, x: x.double().float(), "precision", "float64", id="double"),
        pytest.param(lambda _, x: HalfBackward.apply(x), "precision", "float16", id="backward"),
        pytest.param(only_when(training=True), "precision", "float16", id="training"),
        pytest.param(only_when(training=False), "evaluation", "float16", id="evaluation"),
        pytest.param(short_convolutions, "numerics", "bf16", id="flag of a backend"),
    ],
)
def test_another_precision_inside_is_a_deviation(task: Task, change: Any, setting: str, kind: str) -> None:
    result = train(with_change(task, change)).result
    (sentence,) = [one for one in result.deviations if one.startswith(setting)]
    assert kind in sentence
    assert result.executed is not None
    assert kind in str(result.executed[setting])


def test_a_model_in_float32_has_no_deviation(task: Task) -> None:
    result = train(with_change(task, lambda _, x: x * torch.tensor(2.0, dtype=torch.float64))).result
    assert result.deviations == []
    assert result.executed is not None
    assert "operators" not in result.executed["precision"]


def test_a_watched_step_has_the_same_bits(task: Task) -> None:
    module = build_model(task).module
    images = torch.randn(4, 3, 12, 12)
    gradients = []
    for watch in (contextlib.nullcontext(), PrecisionWatch("cpu")):
        module.zero_grad()
        torch.manual_seed(0)  # for dropout
        with watch:
            module(images).square().sum().backward()
        gradients.append([value.grad for value in module.parameters()])
    assert all(a is not None and b is not None and torch.equal(a, b) for a, b in zip(*gradients, strict=True))
