"""The reference metrics against cases worked out by hand."""

from __future__ import annotations

import pytest
import torch

from xscore_plugins.metrics import top1

pytestmark = pytest.mark.portable


def test_top1_is_the_percentage_of_rows_whose_largest_logit_is_the_label() -> None:
    logits = torch.tensor([[0.1, 0.9, 0.0], [2.0, -1.0, 1.9], [-3.0, -2.0, -1.0], [0.0, 5.0, 1.0]])
    assert top1.compute(logits, torch.tensor([1, 0, 2, 2])) == 75.0
    assert top1.compute(logits, torch.tensor([1, 0, 2, 1])) == 100.0
    assert top1.compute(logits, torch.tensor([0, 1, 0, 0])) == 0.0


def test_of_equal_logits_the_lowest_class_is_the_answer() -> None:
    logits = torch.tensor([[1.0, 1.0, 0.0], [0.0, 2.0, 2.0], [0.0, 0.0, 0.0]])
    assert top1.compute(logits, torch.tensor([0, 1, 0])) == 100.0
    assert top1.compute(logits, torch.tensor([1, 2, 2])) == 0.0


def test_top1_is_a_plain_float_of_full_precision() -> None:
    logits = torch.eye(3)
    value = top1.compute(logits, torch.tensor([0, 0, 0]))
    assert type(value) is float
    assert value == 100 / 3


@pytest.mark.parametrize("damage", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite_are_refused(damage: float) -> None:
    logits = torch.zeros(4, 3)
    logits[2, 1] = logits[2, 2] = damage
    with pytest.raises(ValueError, match=r"1 of 4 rows of logits hold a value that is not finite"):
        top1.compute(logits, torch.zeros(4, dtype=torch.int64))


@pytest.mark.parametrize(
    ("logits_shape", "labels_shape"), [((4,), (4,)), ((4, 3), (3,)), ((4, 3), (4, 1)), ((0, 3), (0,)), ((4, 0), (4,))]
)
def test_shapes_that_do_not_fit_are_refused(logits_shape: tuple[int, ...], labels_shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(N, C\) and \(N,\)"):
        top1.compute(torch.zeros(logits_shape), torch.zeros(labels_shape, dtype=torch.int64))


def test_the_plugin_declares_unit_and_direction() -> None:
    (spec,) = top1.harness_metrics()
    assert (spec.name, spec.unit, spec.higher_is_better) == ("top1", "%", True)
    assert spec.compute(torch.eye(2), torch.tensor([0, 1])) == 100.0
