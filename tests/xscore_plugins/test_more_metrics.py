"""The further metrics against scikit-learn, against plain loops, and on impossible input."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from harness.catalog import discover
from xscore_plugins.metrics import balanced, calibration, top1, top5

ALL = (top5.compute, balanced.balanced_accuracy, balanced.macro_f1, calibration.nll, calibration.ece)


@pytest.fixture(params=[(400, 7, 0), (50, 100, 1), (30, 2, 2), (9, 6, 3)])
def case(request: pytest.FixtureRequest) -> tuple[torch.Tensor, torch.Tensor]:
    count, classes, seed = request.param
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count) ** 2 // classes  # skewed, and some classes without an image
    logits = rng.normal(size=(count, classes)) * 2
    logits[np.arange(count), labels] += 1.5
    return torch.from_numpy(logits.astype(np.float32)), torch.from_numpy(labels)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_they_agree_with_scikit_learn(case: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = case
    answers = logits.argmax(dim=1)
    classes = range(logits.shape[1])
    seen = sorted({*labels.tolist(), *answers.tolist()})
    assert balanced.balanced_accuracy(logits, labels) == pytest.approx(
        100 * sk.balanced_accuracy_score(labels, answers)
    )
    assert balanced.macro_f1(logits, labels) == pytest.approx(
        100 * sk.f1_score(labels, answers, labels=seen, average="macro", zero_division=0)
    )
    if len(classes) > 2:
        assert top5.compute(logits, labels) == pytest.approx(
            100 * sk.top_k_accuracy_score(labels, logits, k=min(5, len(classes) - 1), labels=list(classes))
        )
    assert calibration.nll(logits, labels) == pytest.approx(
        sk.log_loss(labels, logits.double().softmax(dim=1), labels=list(classes))
    )


def test_ece_is_the_weighted_gap_of_guo_and_others(case: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = case
    confidence, answers = (value.numpy() for value in logits.double().softmax(dim=1).max(dim=1))
    right = answers == labels.numpy()
    expected = 0.0
    for m in range(15):
        inside = (confidence > m / 15) & (confidence <= (m + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert calibration.ece(logits, labels) == pytest.approx(100 * expected)


def test_a_perfect_and_a_constant_model() -> None:
    labels = torch.tensor([0, 0, 0, 1])
    perfect = torch.nn.functional.one_hot(labels, 2).float() * 100
    constant = torch.tensor([[1.0, 0.0]]).repeat(4, 1)
    assert [metric(perfect, labels) for metric in ALL] == pytest.approx([100, 100, 100, 0, 0], abs=1e-9)
    assert top1.compute(constant, labels) == 75
    assert balanced.balanced_accuracy(constant, labels) == 50
    assert balanced.macro_f1(constant, labels) == pytest.approx(100 * (6 / 7) / 2)


def test_of_equal_logits_the_lowest_classes_are_in_the_top_five() -> None:
    assert top5.compute(torch.zeros(8, 8), torch.arange(8)) == 62.5


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize(
    ("logits", "labels", "says"),
    [
        (torch.zeros(4), torch.zeros(4, dtype=torch.int64), r"expected \(N, C\)"),
        (torch.zeros(4, 3), torch.zeros(3, dtype=torch.int64), r"expected \(N, C\)"),
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), "at least one row"),
        (torch.full((4, 3), float("nan")), torch.zeros(4, dtype=torch.int64), "4 of 4 rows"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), "labels run from 0 to 3"),
        (torch.zeros(2, 3), torch.tensor([-1, 0]), "labels run from -1 to 0"),
    ],
)
def test_impossible_input_is_refused(
    metric: Callable[[torch.Tensor, torch.Tensor], float], logits: torch.Tensor, labels: torch.Tensor, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        metric(logits, labels)


@pytest.mark.parametrize("name", ["top1", "top5", "balanced_accuracy", "macro_f1", "nll", "ece"])
def test_every_metric_refuses_a_label_beyond_the_classes(name: str) -> None:
    metric = discover().metrics[name].spec
    with pytest.raises(ValueError, match="labels run from 0 to 99, expected 0 to 9"):
        metric.compute(torch.eye(10), torch.tensor([*range(9), 99]))


def test_all_are_installed_with_their_direction() -> None:
    found = {name: offer.spec.higher_is_better for name, offer in discover().metrics.items()}
    assert found | {"top1": True} == found
    expected = {"top5": True, "balanced_accuracy": True, "macro_f1": True, "nll": False, "ece": False}
    assert {name: found[name] for name in expected} == expected
