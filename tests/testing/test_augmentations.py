"""Every rule about augmentations catches its offender, and no other rule complains."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from harness.api import AugmentationSpec
from harness.testing.augmentations import RULES, AugmentationCase
from tests.testing.offending import SIDE_EFFECTS, Offender, assert_exactly, complaints


class Darken:
    """Darkens each image by a share of its own; subclasses are each wrong in one way."""

    def __init__(self, strength: float) -> None:
        self.strength = strength

    def shares(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        drawn = torch.rand(len(images), 1, 1, 1, generator=generator)
        return (1 - self.strength * drawn).to(images.device)

    def __call__(self, images: torch.Tensor, targets: torch.Tensor, generator: torch.Generator) -> Any:
        return images * self.shares(images, generator), targets


class Crops(Darken):
    def __call__(self, images: torch.Tensor, targets: torch.Tensor, generator: torch.Generator) -> Any:
        height, width = images.shape[-2:]
        return super().__call__(images[..., : height // 2 * 2, : width // 2 * 2], targets, generator)


class GivesDoubles(Darken):
    def __call__(self, images: torch.Tensor, targets: torch.Tensor, generator: torch.Generator) -> Any:
        mixed, targets = super().__call__(images, targets, generator)
        return mixed.double(), targets


class NeedsTwo(Darken):
    def __call__(self, images: torch.Tensor, targets: torch.Tensor, generator: torch.Generator) -> Any:
        if len(images) < 2:
            raise IndexError("nothing to mix with")
        return super().__call__(images, targets, generator)


class Brightens(Darken):
    def shares(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return 2 - super().shares(images, generator)


class AddsToTargets(Darken):
    def __call__(self, images: torch.Tensor, targets: torch.Tensor, generator: torch.Generator) -> Any:
        return super().__call__(images, targets + 0.1, generator)


class TurnsTargetsNegative(Darken):
    def __call__(self, images: torch.Tensor, targets: torch.Tensor, generator: torch.Generator) -> Any:
        spread = 2 * targets - targets.roll(1, dims=1)
        return super().__call__(images, spread, generator)


class WorksInPlace(Darken):
    def __call__(self, images: torch.Tensor, targets: torch.Tensor, generator: torch.Generator) -> Any:
        return images.mul_(self.shares(images, generator)), targets


class WorksInPlaceOnTargets(Darken):
    def __call__(self, images: torch.Tensor, targets: torch.Tensor, generator: torch.Generator) -> Any:
        return super().__call__(images, targets.mul_(0.5).add_(0.1), generator)


class Counts(Darken):
    def __init__(self, strength: float) -> None:
        super().__init__(strength)
        self.calls = itertools.count(1)

    def shares(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return super().shares(images, generator) / next(self.calls)


class DrawsFromTorch(Darken):
    def shares(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return (1 - self.strength * torch.rand(len(images), 1, 1, 1)).to(images.device)


class DrawsFromNumpy(Darken):
    def shares(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        import numpy as np

        return super().shares(images, generator) * float(1 - 0.1 * np.random.rand())


class DependsOnTheSeed(Darken):
    def shares(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return super().shares(images, torch.Generator().manual_seed(torch.initial_seed()))


class StaysOnTheCpu(Darken):
    def shares(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return 1 - self.strength * torch.rand(len(images), 1, 1, 1, generator=generator)


class ReturnsToTheCpu(Darken):
    def __call__(self, images: torch.Tensor, targets: torch.Tensor, generator: torch.Generator) -> Any:
        mixed, targets = super().__call__(images, targets, generator)
        return torch.empty_like(mixed, device="cpu").zero_() if mixed.device.type == "meta" else mixed, targets


class Fetches(Darken):
    def __call__(self, images: torch.Tensor, targets: torch.Tensor, generator: torch.Generator) -> Any:
        if float(images.mean()) > 2:
            return images, targets
        return super().__call__(images, targets, generator)


class Views(Darken):
    def __call__(self, images: torch.Tensor, targets: torch.Tensor, generator: torch.Generator) -> Any:
        flat = images.view(len(images), -1, 1, 1)
        return (flat * self.shares(images, generator)).view(images.shape), targets


class ReadsTheMemory(Darken):
    def __call__(self, images: torch.Tensor, targets: torch.Tensor, generator: torch.Generator) -> Any:
        if images.is_contiguous():
            return super().__call__(images, targets, generator)
        return super().__call__(images.flip(1), targets, generator)


class DoesNothing(Darken):
    def shares(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return super().shares(images, generator) * 0 + 1


class Acts(Darken):
    def __init__(self, strength: float, action: Callable[[], None]) -> None:
        super().__init__(strength)
        self.action = action

    def __call__(self, images: torch.Tensor, targets: torch.Tensor, generator: torch.Generator) -> Any:
        self.action()
        return super().__call__(images, targets, generator)


def build(kind: Callable[..., Darken] = Darken, *, strength: float = 0.5) -> Darken:
    return kind(strength)


def build_without_default(*, strength: float) -> Darken:
    return Darken(strength)


def build_from_anything(**strengths: float) -> Darken:
    return Darken(strengths.get("strength", 0.5))


def build_nothing() -> Any:
    return "darken"


def spec(kind: Callable[..., Any] | None = None, **changes: Any) -> AugmentationSpec:
    healthy = AugmentationSpec(name="darken", title="Darken", build=build, paper="Ada et al., 2026")
    return replace(healthy, **({"build": partial(build, kind)} if kind else {}), **changes)


OFFENDERS = (
    Offender("augmentation-builds", spec(build=build_without_default), says="strength"),
    Offender("augmentation-shapes", spec(Crops), says="17 x 23 gives images torch.float32 (5, 3, 16, 22)"),
    Offender("augmentation-shapes", spec(GivesDoubles), says="float64"),
    Offender("augmentation-shapes", spec(NeedsTwo), says="a batch of 1 images of 8 x 8 raised IndexError"),
    Offender("augmentation-range", spec(Brightens), says="clamp"),
    Offender("augmentation-targets", spec(AddsToTargets), says="sum to 1.5"),
    Offender("augmentation-targets", spec(TurnsTargetsNegative), says="smallest value of -1"),
    Offender("augmentation-inputs", spec(WorksInPlace)),
    Offender("augmentation-inputs", spec(WorksInPlaceOnTargets)),
    Offender("augmentation-repeats", spec(Counts)),
    Offender("augmentation-generator", spec(DrawsFromTorch), says="torch's global generator"),
    Offender("augmentation-generator", spec(DrawsFromNumpy), says="numpy.random"),
    Offender("augmentation-generator", spec(DependsOnTheSeed), says="global seeds"),
    Offender("augmentation-strengths", spec(build=build_from_anything), says="accepted"),
    Offender("augmentation-device", spec(StaysOnTheCpu), says="device=images.device"),
    Offender("augmentation-device", spec(ReturnsToTheCpu), says="images come back"),
    Offender("augmentation-device", spec(Fetches), "warning", says="stalls"),
    Offender("augmentation-layout", spec(Views), says="reshape"),
    Offender("augmentation-layout", spec(ReadsTheMemory), says="another result"),
    Offender("augmentation-acts", spec(DoesNothing)),
    Offender("augmentation-spec-pickles", spec(build=lambda *, strength=0.5: Darken(strength))),
    Offender("augmentation-described", spec(paper=""), "warning", says="paper"),
    *(
        Offender(f"augmentation-{end}", spec(partial(Acts, action=action)), says=says)
        for end, action, says in SIDE_EFFECTS
    ),
)


@pytest.mark.parametrize("number", range(len(OFFENDERS)), ids=lambda number: f"{number}-{OFFENDERS[number].rule}")
def test_exactly_the_intended_rule_complains(number: int) -> None:
    offender = OFFENDERS[number]
    assert_exactly(offender, complaints(RULES, AugmentationCase(offender.what)))


def test_what_is_no_function_of_a_batch_is_named() -> None:
    found = complaints(RULES, AugmentationCase(spec(build=build_nothing)))
    assert found["augmentation-builds"].detail == "build returned a str, expected a function of a batch."


@pytest.mark.parametrize("strengths", [({},), ({"strength": 0.25}, {"strength": 1.0})])
def test_healthy_augmentation_keeps_every_rule(strengths: tuple[dict[str, float], ...]) -> None:
    assert complaints(RULES, AugmentationCase(spec(), strengths)) == {}


def test_strengths_of_a_protocol_that_it_refuses() -> None:
    found = complaints(RULES, AugmentationCase(spec(), ({"p": 0.5},)))
    assert set(found) == {"augmentation-builds"}
    assert "build(p=0.5) raised TypeError" in found["augmentation-builds"].detail
