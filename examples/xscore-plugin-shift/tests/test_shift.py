"""Tests of the shift alone; test_conformance.py has the rules for all augmentations."""

import pytest
import torch
from xscore_plugin_shift import build

TARGETS = torch.eye(4)


def shifted(images, share, seed=0):
    return build(share=share)(images, TARGETS, torch.Generator().manual_seed(seed))[0]


def test_a_row_is_moved_and_mirrored_at_its_border():
    images = torch.arange(8.0).div(8).view(1, 1, 1, 8).expand(4, 3, 1, 8)
    row = torch.arange(8)
    for seed in range(20):
        for image in shifted(images, 0.25, seed):
            found = (8 * image[0, 0]).round().long()
            padded = torch.cat([row[[2, 1]], row, row[[6, 5]]])  # by reflection, two pixels on either side
            assert any(torch.equal(found, padded[start : start + 8]) for start in range(5))


def test_every_image_is_moved_independently():
    images = torch.rand(1, 3, 32, 32).expand(4, 3, 32, 32)
    moved = shifted(images, 0.25)
    assert not all(torch.equal(moved[0], other) for other in moved[1:])


def test_no_share_changes_nothing():
    images = torch.rand(4, 3, 8, 8)
    assert torch.equal(shifted(images, 0), images)


def test_a_share_above_a_half_is_refused():
    with pytest.raises(ValueError, match=r"between 0 and 0\.5"):
        build(share=0.6)
