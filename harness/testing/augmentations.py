"""Rules for augmentations: an augmentation is a pure function of a batch and a generator, on every device."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.api import AugmentationSpec, BatchTransform
from harness.errors import one_line
from harness.testing.rules import (
    RAISED,
    Failed,
    Rule,
    Skipped,
    Warned,
    description_rule,
    pickling_rule,
    rule,
    shorten,
    side_effect_rules,
)
from harness.testing.sandbox import changed, random_states

if TYPE_CHECKING:
    import torch

SHAPES = ((1, 8, 8), (2, 32, 32), (5, 17, 23), (8, 40, 40))
"""Images in a batch, height and width."""
CLASSES = 5
_SEEDS = range(6)
_UNKNOWN = "a_strength_that_nobody_knows"


@dataclass(frozen=True)
class AugmentationCase:
    """An augmentation and its strengths in the protocols that name it; its defaults if none does."""

    spec: AugmentationSpec
    strengths: tuple[dict[str, float], ...] = field(default=({},))

    def transform(self, strengths: dict[str, float] | None = None) -> BatchTransform:
        """Build it. Raises Skipped if that fails, which ``augmentation-builds`` reports."""
        try:
            return self.spec.build(**(self.strengths[0] if strengths is None else strengths))
        except RAISED as error:
            raise Skipped(f"it does not build: {one_line(error)}.") from error

    def apply(
        self, transform: BatchTransform, images: torch.Tensor, targets: torch.Tensor, seed: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Apply it. Raises Skipped if that fails, which ``augmentation-shapes`` reports."""
        import torch

        try:
            found = transform(images, targets, torch.Generator().manual_seed(seed))
            good = found[0].shape == images.shape and found[1].shape == targets.shape
        except RAISED as error:
            raise Skipped(f"it does not work: {one_line(error)}.") from error
        if not good or not bool(torch.isfinite(found[0]).all()):
            raise Skipped("it does not return usable images.")
        return found


def batch(count: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images float32 (count, 3, height, width) in 0..1, black and white among them, and target distributions."""
    import torch

    draw = torch.Generator().manual_seed(count + height)
    images = torch.rand(count, 3, height, width, generator=draw, dtype=torch.float32)
    images[-1, :, : height // 2] = 1.0
    images[-1, :, height // 2 :] = 0.0
    targets = torch.nn.functional.one_hot(torch.arange(count) % CLASSES, CLASSES).to(torch.float32)
    targets[-1] = 1 / CLASSES
    return images, targets


def _batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    return (batch(*shape) for shape in SHAPES)


@rule("augmentation-builds")
def builds(case: AugmentationCase) -> str:
    """The protocol gives the strengths; people try the defaults first."""
    for strengths in ({}, *case.strengths):
        try:
            transform = case.spec.build(**strengths)
        except RAISED as error:
            shown = ", ".join(f"{name}={value}" for name, value in strengths.items())
            raise Failed(f"build({shown}) raised {one_line(error)}. Expected a default for every strength.") from error
        if not callable(transform):
            raise Failed(f"build returned a {type(transform).__name__}, expected a function of a batch.")
    return ""


@rule("augmentation-shapes")
def keeps_shapes(case: AugmentationCase) -> None:
    """The network gets the batches: any number of images, of any size."""
    import torch

    transform = case.transform()
    for images, targets in _batches():
        what = f"a batch of {len(images)} images of {images.shape[2]} x {images.shape[3]}"
        try:
            found = transform(images.clone(), targets.clone(), torch.Generator().manual_seed(0))
            pairs = list(zip(("images", "targets"), found, (images, targets), strict=True))
        except RAISED as error:
            raise Failed(f"{what} raised {one_line(error)}.") from error
        for name, value, given in pairs:
            if not isinstance(value, torch.Tensor) or (value.shape, value.dtype) != (given.shape, given.dtype):
                shown = (
                    f"{value.dtype} {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
                )
                raise Failed(f"{what} gives {name} {shown}, expected {given.dtype} {tuple(given.shape)}.")


@rule("augmentation-range")
def keeps_range(case: AugmentationCase) -> None:
    """Images are in 0..1, and the statistics that normalise them hold for that range alone."""
    import torch

    transform = case.transform()
    for images, targets in _batches():
        for seed in _SEEDS:
            try:
                found = transform(images.clone(), targets.clone(), torch.Generator().manual_seed(seed))[0]
                low, high = float(found.min()), float(found.max())
                finite = bool(torch.isfinite(found).all())
            except RAISED as error:
                raise Skipped(f"it does not work: {one_line(error)}.") from error
            if not finite or low < 0 or high > 1:
                raise Failed(f"images in 0..1 become {low:.4g}..{high:.4g}; clamp them.")


@rule("augmentation-targets")
def keeps_distributions(case: AugmentationCase) -> None:
    """The loss takes each row of targets as a distribution over the classes."""
    transform = case.transform()
    for images, targets in _batches():
        for seed in _SEEDS:
            found = case.apply(transform, images.clone(), targets.clone(), seed)[1]
            sums = found.sum(dim=1)
            if float(found.min()) < -1e-6 or float((sums - 1).abs().max()) > 1e-4:
                raise Failed(
                    f"rows of targets sum to {float(sums.min()):.4g}..{float(sums.max()):.4g} with a smallest value "
                    f"of {float(found.min()):.4g}, expected non-negative rows with sum 1."
                )


@rule("augmentation-inputs")
def leaves_inputs(case: AugmentationCase) -> None:
    """The harness may use its batch again, so the batch must stay as it is."""
    import torch

    transform = case.transform()
    for seed in _SEEDS:
        images, targets = batch(5, 17, 23)
        given = images.clone(), targets.clone()
        case.apply(transform, *given, seed)
        if not torch.equal(given[0], images) or not torch.equal(given[1], targets):
            raise Failed("it changes its arguments; clone them first.")


@rule("augmentation-repeats")
def repeats(case: AugmentationCase) -> None:
    """A resumed run has to draw the same numbers as a run without a stop."""
    import torch

    transform = case.transform()
    images, targets = batch(8, 40, 40)
    for seed in _SEEDS:
        found = []
        for _ in range(2):
            _seed_everything(0)  # another rule examines the global seeds
            found.append(case.apply(transform, images.clone(), targets.clone(), seed))
        if not all(torch.equal(a, b) for a, b in zip(*found, strict=True)):
            raise Failed("the same generator state gives a different result the second time: it has hidden state.")


@rule("augmentation-generator")
def uses_the_generator(case: AugmentationCase) -> None:
    """A resumed run can restore no source of randomness but the generator that is passed in."""
    import torch

    transform = case.transform()
    images, targets = batch(8, 40, 40)
    _require_repeats(case, transform, images, targets)
    found = []
    for seed in (1, 2):
        _seed_everything(seed)
        before = random_states()
        found.append(case.apply(transform, images.clone(), targets.clone(), 0))
        if moved := changed(before, random_states()):
            raise Failed(f"it draws from {shorten(moved)}; pass generator=generator instead.")
    if not all(torch.equal(a, b) for a, b in zip(*found, strict=True)):
        raise Failed("its result depends on the global seeds; pass generator=generator instead.")


@rule("augmentation-strengths")
def refuses_unknown_strengths(case: AugmentationCase) -> None:
    """A misspelt strength in a protocol must not be ignored."""
    case.transform()
    try:
        case.spec.build(**case.strengths[0], **{_UNKNOWN: 1.0})
    except (TypeError, ValueError):
        return
    except RAISED as error:
        raise Failed(f"an unknown strength raised {one_line(error)}, expected TypeError or ValueError.") from error
    raise Failed("an unknown strength is accepted, expected TypeError or ValueError.")


@rule("augmentation-device")
def stays_on_the_device(case: AugmentationCase) -> None:
    """Batches are augmented on the training device, and copies to and from it cost time."""
    import torch

    transform = case.transform()
    images, targets = batch(5, 17, 23)
    case.apply(transform, images.clone(), targets.clone(), 0)
    try:
        # torch's device without memory: an operation that mixes devices or fetches a value fails on it.
        found = transform(images.to("meta"), targets.to("meta"), torch.Generator().manual_seed(0))
    except RAISED as error:
        text = one_line(error)
        if "device" in text and "expected" in text:
            raise Failed(f"it mixes devices: {text[:160]} Create tensors with device=images.device.") from error
        raise Warned(f"it fetches values from the device, which stalls a GPU: {text[:120]}") from error
    away = [name for name, value in zip(("images", "targets"), found, strict=True) if value.device.type != "meta"]
    if away:
        raise Failed(f"{shorten(away)} come back on another device.")


@rule("augmentation-layout")
def any_layout(case: AugmentationCase) -> None:
    """Images arrive in channels_last layout, as they are stored."""
    import torch

    transform = case.transform()
    images, targets = batch(5, 17, 23)
    expected = _require_repeats(case, transform, images, targets)
    turned = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    _seed_everything(0)
    try:
        found = transform(turned, targets.clone(), torch.Generator().manual_seed(3))
    except RAISED as error:
        raise Failed(f"images in channels_last layout raised {one_line(error)}. Use reshape, not view.") from error
    if not torch.allclose(found[0], expected[0], atol=1e-5):
        raise Failed("images in channels_last layout give another result.")


@rule("augmentation-acts")
def acts(case: AugmentationCase) -> None:
    """An augmentation that never changes anything is a mistake in its strengths or its code."""
    import torch

    transform = case.transform()
    for shape in ((8, 40, 40), (5, 17, 23)):
        images, targets = batch(*shape)
        for seed in range(20):
            found = case.apply(transform, images.clone(), targets.clone(), seed)
            if not torch.equal(found[0], images):
                return
    raise Failed("40 batches are returned unchanged.")


def _require_repeats(
    case: AugmentationCase, transform: BatchTransform, images: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the result of one generator state. Raises Skipped if a second call gives a different one."""
    import torch

    found = []
    for _ in range(2):
        _seed_everything(0)
        found.append(case.apply(transform, images.clone(), targets.clone(), 3))
    if not all(torch.equal(a, b) for a, b in zip(*found, strict=True)):
        raise Skipped("the same generator state gives a different result the second time.")
    return found[0]


def _seed_everything(seed: int) -> None:
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _use(case: object) -> object:
    import torch

    assert isinstance(case, AugmentationCase)
    return case.spec.build(**case.strengths[0])(*batch(2, 16, 16), torch.Generator().manual_seed(0))


RULES: tuple[Rule, ...] = (
    builds,
    keeps_shapes,
    keeps_range,
    keeps_distributions,
    leaves_inputs,
    repeats,
    uses_the_generator,
    refuses_unknown_strengths,
    stays_on_the_device,
    any_layout,
    acts,
    *side_effect_rules("augmentation", "augmenting a batch", _use),
    pickling_rule("augmentation"),
    description_rule("augmentation", "Readers of a protocol look its augmentations up.", (), ("paper",)),
)
