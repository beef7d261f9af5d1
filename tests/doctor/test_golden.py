"""The certificate holds on this machine, and whatever a library could come to compute otherwise breaks it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from harness.catalog import Catalog, discover
from harness.doctor import golden
from harness.registry import Protocol, load_benchmark
from xscore_plugins.augmentations import color_jitter, cutmix, horizontal_flip

Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def frozen() -> tuple[Protocol, Catalog]:
    return load_benchmark().protocol(golden.PROTOCOL), discover()


def told(frozen: tuple[Protocol, Catalog]) -> dict[str, str]:
    return golden.differences(golden.compute(*frozen), golden.certified())


def test_this_machine_computes_what_was_certified(frozen: tuple[Protocol, Catalog]) -> None:
    assert told(frozen) == {}


def test_every_part_of_the_protocol_is_certified(frozen: tuple[Protocol, Catalog]) -> None:
    """An augmentation that is added to the protocol can't be forgotten, nor a sample be empty or constant."""
    held = golden.certified()
    for use in frozen[0].augmentations:
        assert any(name.startswith(f"augmentation.{use.name}.") for name in held)
    assert {"train_batch", "test_batch", "loss", "gradient", "adam", "learning_rate", "stored_resize"} <= set(held)
    assert len(held["learning_rate"]) == frozen[0].epochs
    assert all(len(set(values)) > 8 for name, values in held.items() if name != "loss")


def test_as_many_threads_as_you_like(frozen: tuple[Protocol, Catalog]) -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert told(frozen) == {}
    finally:
        torch.set_num_threads(threads)


def hue_by_a_level(patch: Patch) -> None:
    shift = color_jitter._shift_hue
    patch.setattr(color_jitter, "_shift_hue", lambda planes, by, out: shift(planes, (by + 0.004).clamp(-1, 1), out=out))


def grey_of_another_standard(patch: Patch) -> None:
    mul = torch.mul
    patch.setattr(torch, "mul", lambda x, w, **k: mul(x, 0.2126 if w == 0.2989 else w, **k))


def uniform_numbers(patch: Patch) -> None:
    rand = torch.rand
    patch.setattr(torch, "rand", lambda *a, **k: 1 - rand(*a, **k))


def permutations(patch: Patch) -> None:
    randperm = torch.randperm
    patch.setattr(torch, "randperm", lambda *a, **k: randperm(*a, **k).flip(0))


def integers(patch: Patch) -> None:
    randint = torch.randint
    patch.setattr(torch, "randint", lambda high, *a, **k: high - 1 - randint(high, *a, **k))


def upsampling(patch: Patch) -> None:
    interpolate = F.interpolate
    patch.setattr(F, "interpolate", lambda *a, **k: interpolate(*a, **(k | {"align_corners": True})))


def upsampling_with_antialias(patch: Patch) -> None:
    interpolate = F.interpolate
    patch.setattr(F, "interpolate", lambda x, **k: interpolate(interpolate(x, scale_factor=0.99), **k))


def stored_images(patch: Patch) -> None:
    resize = Image.Image.resize
    patch.setattr(Image.Image, "resize", lambda self, size, _: resize(self, size, Image.Resampling.BICUBIC))


def loss(patch: Patch) -> None:
    cross_entropy = F.cross_entropy
    patch.setattr(F, "cross_entropy", lambda *a, label_smoothing: cross_entropy(*a, label_smoothing=0.051))


def adam(patch: Patch) -> None:
    make = torch.optim.Adam
    patch.setattr(torch.optim, "Adam", lambda *a, **k: make(*a, **(k | {"betas": (0.9, 0.9985)})))


def flips(patch: Patch) -> None:
    patch.setattr(horizontal_flip.HorizontalFlip, "apply", lambda self, images, flipped: images.flip(-2))


def boxes(patch: Patch) -> None:
    clipped = cutmix.clipped_box
    patch.setattr(
        cutmix, "clipped_box", lambda lam, centre, *rest: clipped(lam, (centre[0], min(centre[1] + 1, 31)), *rest)
    )


def schedule(patch: Patch) -> None:
    patch.setattr(math, "cos", lambda x, cos=math.cos: cos(x * 0.999))


@pytest.mark.parametrize(
    ("drift", "part"),
    [
        (hue_by_a_level, "augmentation.color_jitter"), (grey_of_another_standard, "augmentation.color_jitter"),
        (uniform_numbers, "draws.uniform"), (permutations, "draws.permutation"), (integers, "draws.integers"),
        (upsampling, "test_batch"), (upsampling_with_antialias, "test_batch"), (stored_images, "stored_resize"),
        (loss, "loss"), (adam, "adam"), (flips, "augmentation.horizontal_flip"), (boxes, "augmentation.cutmix"),
        (schedule, "learning_rate"),
    ],
)  # fmt: skip
def test_a_part_that_moves_breaks_the_certificate(
    frozen: tuple[Protocol, Catalog], monkeypatch: Patch, drift: Callable[[Patch], Any], part: str
) -> None:
    drift(monkeypatch)
    assert any(name.startswith(part) for name in told(frozen)), f"{part} was moved and nobody noticed"


def test_the_certificate_tells_what_moved_and_by_how_much() -> None:
    held = {"a": [1.0, 2.0], "draws.b": [1.0], "gone": [0.0], "longer": [1.0, 2.0]}
    found = {"a": [1.0, 2.1], "draws.b": [1.0000001], "new": [0.0], "longer": [1.0]}
    sentences = golden.differences(found, held)
    assert sentences["a"] == "a differs by up to 0.05 in 1 of 2 values"
    assert set(sentences) == {"a", "draws.b", "gone", "new", "longer"}
    assert golden.differences({"a": [1.0, math.nan]}, {"a": [1.0, 2.0]}) != {}
    assert golden.differences({"a": [1.0, 2.00003]}, {"a": [1.0, 2.0]}) == {}
