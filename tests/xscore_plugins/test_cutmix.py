"""CutMix against cases worked out by hand, and the distribution of its boxes."""

from __future__ import annotations

import math

import pytest
import torch

from tests.xscore_plugins.pictures import distributions, photographs, seeded
from xscore_plugins.augmentations import (
    cutmix,
)

pytestmark = [pytest.mark.portable, pytest.mark.usefixtures("one_thread")]


def test_cutmix_by_hand() -> None:
    images = torch.stack([torch.full((3, 4, 4), value) for value in (0.1, 0.2, 0.3)])
    targets = torch.eye(3)
    # lambda 3/4: a box of half the side, 2 x 2 pixels, around pixel (1, 2).
    parameters = cutmix.clipped_box(0.75, (1, 2), (4, 4), torch.tensor([2, 0, 1]))
    assert (parameters.top, parameters.bottom, parameters.left, parameters.right) == (0, 2, 1, 3)
    assert parameters.kept == 0.75
    transform = cutmix.build()
    mixed, weights = transform.apply(images, parameters), transform.mix_targets(targets, parameters)
    first = torch.tensor([[0.1, 0.3, 0.3, 0.1], [0.1, 0.3, 0.3, 0.1], [0.1, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.1]])
    assert torch.equal(mixed[0], first.expand(3, 4, 4))
    assert torch.equal(mixed[1, 0, 0], torch.tensor([0.2, 0.1, 0.1, 0.2]))
    assert torch.equal(mixed[2, 2, 3], torch.full((4,), 0.3))
    assert torch.equal(weights, torch.tensor([[0.75, 0, 0.25], [0.25, 0.75, 0], [0, 0.25, 0.75]]))


def test_a_box_cut_at_the_corner_gives_back_what_it_lost() -> None:
    # lambda 3/4 asks for 4 x 4 of 8 x 8 pixels; around the corner pixel only 2 x 2 of them are inside.
    corner = cutmix.clipped_box(0.75, (0, 0), (8, 8), torch.arange(2))
    assert (corner.top, corner.bottom, corner.left, corner.right) == (0, 2, 0, 2)
    assert corner.kept == 1 - 4 / 64
    other = cutmix.clipped_box(0.75, (7, 7), (8, 8), torch.arange(2))
    assert (other.top, other.bottom, other.left, other.right) == (5, 8, 5, 8)
    assert other.kept == 1 - 9 / 64


@pytest.mark.parametrize(("lam", "kept"), [(0.0, 0.0), (1.0, 1.0)])
def test_all_or_nothing(lam: float, kept: float) -> None:
    images, targets = photographs(4, 8), distributions(4)
    permutation = torch.tensor([1, 2, 3, 0])
    parameters = cutmix.clipped_box(lam, (4, 4), (8, 8), permutation)
    assert parameters.kept == kept
    transform = cutmix.build()
    mixed, weights = transform.apply(images, parameters), transform.mix_targets(targets, parameters)
    assert torch.equal(mixed, images if kept else images[permutation])
    assert torch.equal(weights, targets if kept else targets[permutation])


@pytest.mark.parametrize(("height", "width"), [(40, 40), (8, 8), (24, 33), (1, 1), (180, 200)])
def test_lambda_is_the_share_of_pixels_kept(height: int, width: int) -> None:
    n = 5
    images = torch.arange(1.0, n + 1).view(n, 1, 1, 1).expand(n, 3, height, width) / n
    targets = distributions(n)
    transform = cutmix.build(alpha=1.0)
    for seed in range(60):
        parameters = transform.draw(n, height, width, seeded(seed))
        mixed, weights = transform(images, targets, seeded(seed))
        partner = parameters.permutation
        assert torch.equal(partner.sort().values, torch.arange(n))
        own = (mixed == images)[:, 0].double().mean(dim=(1, 2))
        others = partner != torch.arange(n)
        assert torch.equal(own[others], torch.full_like(own[others], parameters.kept))
        assert torch.allclose(weights, parameters.kept * targets + (1 - parameters.kept) * targets[partner])
        assert torch.allclose(weights.sum(dim=1), torch.ones(n))
        # Every pixel is the image's own or its partner's.
        assert ((mixed == images) | (mixed == images[partner])).all()


@pytest.mark.parametrize("alpha", [0.01, 0.3, 1.0, 4.0, 1000.0])
def test_lambda_has_the_moments_of_a_symmetric_beta(alpha: float) -> None:
    n, generator = 8_000, seeded(0)
    drawn = torch.tensor([cutmix.symmetric_beta(alpha, generator) for _ in range(n)], dtype=torch.float64)
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(drawn.mean().item() - 0.5) < 4 * math.sqrt(variance / n)
    assert drawn.var().item() == pytest.approx(variance, rel=0.07)
    kurtosis = 3 * (2 * alpha + 1) / (2 * alpha + 3)
    assert ((drawn - 0.5) ** 4).mean().item() == pytest.approx(kurtosis * variance**2, rel=0.15)


def test_lambda_is_uniform_at_alpha_one() -> None:
    n, generator = 8_000, seeded(1)
    drawn = torch.tensor([cutmix.symmetric_beta(1.0, generator) for _ in range(n)], dtype=torch.float64)
    assert (drawn.sort().values - (torch.arange(n) + 0.5) / n).abs().max() < 1.95 / math.sqrt(n)


def test_boxes_are_centred_everywhere_and_cut_at_the_border() -> None:
    transform, generator = cutmix.build(alpha=1.0), seeded(0)
    drawn = [transform.draw(2, 40, 40, generator) for _ in range(4_000)]
    for box in drawn:
        assert 0 <= box.top <= box.bottom <= 40
        assert 0 <= box.left <= box.right <= 40
        assert box.kept == (1600 - (box.bottom - box.top) * (box.right - box.left)) / 1600
    cut = sum(box.top == 0 or box.left == 0 or box.bottom == 40 or box.right == 40 for box in drawn)
    assert 0.5 < cut / len(drawn) < 1
    # With side s and a uniform centre a side keeps s - s^2/4 on average; squared and averaged over a uniform lambda,
    # E[(s - s^2/4)^2] = 1/2 - 1/5 + 1/48 of the image is replaced. Whole, even pixels make it a little less.
    replaced = 1 - sum(box.kept for box in drawn) / len(drawn)
    assert replaced == pytest.approx(1 / 2 - 1 / 5 + 1 / 48, abs=0.025)
