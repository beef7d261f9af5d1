"""Metrics of plugins: any value that they return, and whatever they do to the predictions."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from harness.api import MetricSpec
from harness.catalog import Offer, Plugin
from harness.errors import PluginError
from harness.metrics import measure

OWNER = Plugin(name="odd", module="odd", distribution="odd", version="1.0")


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def offer(compute: Callable[..., Any]) -> Offer[MetricSpec]:
    return Offer(MetricSpec(name="odd", unit="", higher_is_better=True, compute=compute), OWNER)


def measured(compute: Callable[..., Any]) -> float:
    return measure(offer(compute), torch.eye(3), torch.arange(3), "mynet on dots")


def raising(error: BaseException) -> Callable[..., Any]:
    def compute(logits: object, labels: object) -> float:
        raise error

    return compute


@pytest.mark.parametrize(
    "value",
    [0.5, np.float32(0.5), np.array(0.5), np.array([0.5]), torch.tensor(0.5), torch.tensor([0.5]), Fraction(1, 2)],
)
def test_every_kind_of_number_is_a_number(value: object) -> None:
    found = measured(lambda logits, labels: value)
    assert type(found) is float
    assert found == 0.5


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (np.float64("inf"), "inf"),
        (torch.tensor(float("nan")), r"a value of type torch.Tensor and shape \(\)"),
        (torch.ones(2), r"a value of type torch.Tensor and shape \(2,\)"),
        (True, "True"),
        (torch.tensor(True), "a value of type torch.Tensor"),
        ("0.5", "'0.5'"),
        (None, "None"),
        (1j, "1j"),
        ([0.5], "a value of type list"),
        (10**400, "a value of type int"),
        (object(), "a value of type object"),
    ],
)
def test_anything_else_is_refused_with_its_metric_and_value(value: object, shown: str) -> None:
    with pytest.raises(PluginError, match=f"computes odd of mynet on dots as {shown}.*expected a finite number"):
        measured(lambda logits, labels: value)


@pytest.mark.parametrize("error", [ValueError("two\nlines"), SystemExit(3), Unprintable(), UnicodeError("\udc80")])
def test_a_metric_that_raises_is_named(error: BaseException) -> None:
    with pytest.raises(PluginError, match="could not compute odd of mynet on dots: ") as caught:
        measured(raising(error))
    assert "\n" not in str(caught.value)
    str(caught.value).encode()


def test_a_metric_that_works_in_place_leaves_the_predictions_as_they_are() -> None:
    def compute(logits: torch.Tensor, labels: torch.Tensor) -> float:
        logits.zero_()
        labels.numpy()[:] = 0
        return 1.0

    logits, labels = torch.eye(3), torch.arange(3)
    assert measure(offer(compute), logits, labels) == 1.0
    assert torch.equal(logits, torch.eye(3))
    assert torch.equal(labels, torch.arange(3))
