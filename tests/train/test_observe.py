"""Values that a witness solves for: label smoothing, moments and strengths."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from harness.catalog import Catalog
from harness.train.observe import applied_moments, applied_smoothing
from harness.train.setup import read_strengths


@pytest.mark.parametrize("smoothing", [0.0, 0.05, 0.1, 0.37])
def test_smoothing_is_solved_for_from_the_numbers(smoothing: float) -> None:
    logits = torch.randn(32, 10, generator=torch.Generator().manual_seed(0))
    targets = F.one_hot(torch.arange(32) % 10, 10).float()
    loss = F.cross_entropy(logits, targets, label_smoothing=smoothing).item()
    assert applied_smoothing(logits, targets, loss, smoothing) == (smoothing, True)
    found, sure = applied_smoothing(logits, targets, loss, 0.9)
    assert found == pytest.approx(smoothing, abs=6e-4)
    assert sure
    assert applied_smoothing(logits, targets, loss * 3 + 5, 0.05) == (None, True)


def test_smoothing_counts_as_declared_if_it_cannot_be_solved() -> None:
    """Equal logits give the same loss with any smoothing."""
    logits, targets = torch.zeros(4, 3), F.one_hot(torch.arange(4) % 3, 3).float()
    loss = F.cross_entropy(logits, targets, label_smoothing=0.05).item()
    assert applied_smoothing(logits, targets, loss, 0.05) == (0.05, False)
    assert applied_smoothing(logits, targets, loss + 1, 0.05) == (None, True)


def test_moments_are_solved_for_from_the_numbers() -> None:
    before = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1), torch.tensor([0.2, 0.25, 0.3]).view(1, 3, 1, 1)
    after = (before - mean) / std
    assert applied_moments(before, after, mean, std) == {"mean": mean.flatten().tolist(), "std": std.flatten().tolist()}
    found = applied_moments(before, after, torch.zeros_like(mean), torch.ones_like(std))
    assert found["mean"] == pytest.approx([0.4, 0.5, 0.6], abs=1e-4)
    assert found["std"] == pytest.approx([0.2, 0.25, 0.3], abs=1e-4)


def test_strengths_are_read_from_the_transform(tiny_catalog: Catalog) -> None:
    built = tiny_catalog.augmentation("horizontal_flip").spec.build(p=0.9)
    assert read_strengths(built, {"p": 0.5}) == {"p": 0.9}
    assert read_strengths(lambda images, targets, random: (images, targets), {"p": 0.5}) == {"p": 0.5}
