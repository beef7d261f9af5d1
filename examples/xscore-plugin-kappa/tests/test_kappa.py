"""Tests of kappa alone; test_conformance.py has the rules for all metrics."""

import pytest
import torch
from xscore_plugin_kappa import compute


def test_a_textbook_example():
    # 50 grant proposals, two readers: 20 times both say yes, 15 times both say no, 5 and 10 times they differ.
    answers = torch.tensor([0] * 25 + [1] * 25)
    labels = torch.tensor([0] * 20 + [1] * 5 + [0] * 10 + [1] * 15)
    assert compute(torch.eye(2)[answers], labels) == pytest.approx(0.4)


def test_always_naming_the_largest_class_is_no_better_than_chance():
    labels = torch.tensor([0] * 67 + [1] * 33)
    assert compute(torch.eye(2)[torch.zeros(100, dtype=torch.int64)], labels) == 0


def test_kappa_is_1_for_a_single_class():
    assert compute(torch.tensor([[2.0, 1.0]]), torch.tensor([0])) == 1
