"""Rules about what a model computes: its logits at every size that the benchmark uses, and their gradients."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.api import ModelSpec
from harness.errors import PluginError, one_line
from harness.models import build, differs
from harness.registry import Benchmark
from harness.testing.rules import RAISED, Failed, Rule, Skipped, rule, shorten

if TYPE_CHECKING:
    import torch
    from torch import nn

BATCHES = (1, 2, 32)
CLASSES = 10
TOLERANCE = 1e-4
"""Allowed difference between two float32 computations of the same logits, as a share of the largest."""


@dataclass(frozen=True)
class ModelCase:
    """A model under examination.

    Attributes:
        spec: The model.
        benchmark: The benchmark, with its resolutions, its budgets and the sizes for counting.
        class_counts: Every class count of ``benchmark.counting`` and of the known data sets.
    """

    spec: ModelSpec
    benchmark: Benchmark
    class_counts: tuple[int, ...]

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Return the protocols' input sizes, the smallest first."""
        return tuple(sorted({protocol.input_size for protocol in self.benchmark.protocols.values()}))

    def images(self, count: int, side: int = 0, seed: int = 0) -> torch.Tensor:
        """Return normalised images, float32 (count, 3, side, side); for side 0, of the smallest resolution."""
        import torch

        side = side or self.resolutions[0]
        random = torch.Generator().manual_seed(seed)
        return torch.randn(count, 3, side, side, generator=random, dtype=torch.float32)

    def build(self, seed: int = 0, classes: int = CLASSES, *, training: bool = True) -> nn.Module:
        """Build the model from a seed. Raises Skipped if that fails, which ``model-builds`` reports."""
        import torch

        torch.manual_seed(seed)
        try:
            module = build(self.spec, classes, f"Model '{self.spec.name}'")
            module.train(training)  # not chained, here and elsewhere: a plugin's own train() may return nothing
        except PluginError as error:
            raise Skipped(str(error)) from error
        return module

    def logits(self, module: nn.Module, images: torch.Tensor, seed: int = 0) -> torch.Tensor:
        """Return logits without gradients. Raises Skipped if there are none, which ``model-logits`` reports."""
        import torch

        torch.manual_seed(seed)
        try:
            with torch.no_grad():
                logits = module(images)
        except RAISED as error:
            raise Skipped(f"it does not compute: {one_line(error)}.") from error
        if not isinstance(logits, torch.Tensor) or not bool(torch.isfinite(logits).all()):
            raise Skipped("it does not return finite logits.")
        return logits


def same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Return whether two computations of the same logits agree within the accuracy of float32."""
    import torch

    scale = max(float(expected.abs().max()), 1e-6)
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=0.0, atol=TOLERANCE * scale)


def steady(case: ModelCase) -> nn.Module:
    """Return a module in evaluation mode that computes the same logits twice. Raises Skipped if it does not."""
    import torch

    module = case.build(training=False)
    images = case.images(2)
    if not torch.equal(case.logits(module, images, seed=1), case.logits(module, images, seed=2)):
        raise Skipped("its evaluation is random.")
    return module


@rule("model-builds")
def builds(case: ModelCase) -> str:
    """Every data set has its own number of classes, and the harness builds the network for each."""
    for classes in case.class_counts:
        try:
            build(case.spec, classes, f"Model '{case.spec.name}'")
        except PluginError as error:
            raise Failed(str(error)) from error
    return f"at {', '.join(str(classes) for classes in case.class_counts)} classes"


@rule("model-logits")
def gives_logits(case: ModelCase) -> None:
    """The loss is computed from one float32 number per image and class."""
    import torch

    for classes in case.class_counts:
        module = case.build(classes=classes)
        for training in (False, True):
            module.train(training)
            mode = "training" if training else "evaluation"
            try:
                with torch.no_grad():
                    logits = module(case.images(2))
            except RAISED as error:
                raise Failed(f"at {classes} classes in {mode} mode it raised {one_line(error)}.") from error
            if found := differs(logits, 2, classes):
                expected = f"expected a float32 tensor of shape (2, {classes})"
                raise Failed(f"two images in {mode} mode give {found}, {expected}.")


@rule("model-batches")
def any_batch(case: ModelCase) -> str:
    """The last batch of a test split may hold a single image."""
    import torch

    module = case.build(training=False)
    case.logits(module, case.images(4))
    for count in BATCHES:
        try:
            with torch.no_grad():
                logits = module(case.images(count))
        except RAISED as error:
            raise Failed(f"a batch of {count} in evaluation mode raised {one_line(error)}.") from error
        if (shape := tuple(logits.shape)) != (count, CLASSES):
            raise Failed(f"a batch of {count} gives {shape}, expected {(count, CLASSES)}.")
    return "batches of 1, 2 and 32 in evaluation mode; training drops the last partial batch"


@rule("model-resolutions")
def any_resolution(case: ModelCase) -> str:
    """The suites train at different resolutions."""
    import torch

    for side in case.resolutions:
        module = case.build()
        for training in (False, True):
            module.train(training)
            try:
                with torch.no_grad():
                    module(case.images(2, side))
            except RAISED as error:
                raise Failed(f"images of {side} x {side} pixels raised {one_line(error)}.") from error
    return f"at {', '.join(str(side) for side in case.resolutions)} pixels"


@rule("model-finite")
def is_finite(case: ModelCase) -> None:
    """A network that is not finite before its first step never becomes finite."""
    import torch

    module = case.build()
    bad = [name for name, value in module.state_dict().items() if not bool(torch.isfinite(value).all())]
    if bad:
        raise Failed(f"{shorten(bad)} is not finite after build.")
    for images, what in ((case.images(2), "noise"), (torch.zeros_like(case.images(2)), "black images")):
        for training in (False, True):
            with torch.no_grad(), _skipping():
                module.train(training)
                logits = module(images)
            if isinstance(logits, torch.Tensor) and not bool(torch.isfinite(logits).all()):
                raise Failed(f"{what} give logits that are not finite.")


@rule("model-gradients")
def has_gradients(case: ModelCase) -> None:
    """A parameter without a gradient counts in the budget and never learns."""
    import torch

    module = case.build()
    case.logits(copy.deepcopy(module), case.images(2))
    torch.manual_seed(0)
    try:
        loss = torch.nn.functional.cross_entropy(module(case.images(2)), torch.tensor([1, 2]))
        loss.backward()
    except RAISED as error:
        raise Failed(f"the backward pass raised {one_line(error)}.") from error
    trainable = {name: value for name, value in module.named_parameters() if value.requires_grad}
    without = [name for name, value in trainable.items() if value.grad is None]
    if without:
        raise Failed(
            f"{len(without)} trainable parameters get no gradient: {shorten(without)}. Use them or set requires_grad."
        )
    bad = [name for name, v in trainable.items() if v.grad is not None and not bool(torch.isfinite(v.grad).all())]
    if bad:
        raise Failed(f"{shorten(bad)} get gradients that are not finite.")


@rule("model-eval-repeats")
def eval_repeats(case: ModelCase) -> None:
    """Evaluation must not be random: dropout and the like belong to training mode."""
    import torch

    module = case.build(training=False)
    first = case.logits(module, case.images(4), seed=1)
    if not torch.equal(first, case.logits(module, case.images(4), seed=2)):
        raise Failed("the same images give different logits the second time in evaluation mode.")


@rule("model-eval-independent")
def eval_independent(case: ModelCase) -> None:
    """The logits of an image must not depend on the other images in its batch."""
    import torch

    module = steady(case)
    images = case.images(4)
    together = case.logits(module, images)
    apart = torch.cat([case.logits(module, images[:2]), case.logits(module, images[2:])])
    if not same(apart, together):
        raise Failed("four images together give different logits than in batches of two, in evaluation mode.")


@contextmanager
def _skipping() -> Iterator[None]:
    """Raise Skipped if the network raises, for another rule reports that."""
    try:
        yield
    except RAISED as error:
        raise Skipped(f"it does not compute: {one_line(error)}.") from error


RULES: tuple[Rule, ...] = (
    builds,
    gives_logits,
    any_batch,
    any_resolution,
    is_finite,
    has_gradients,
    eval_repeats,
    eval_independent,
)
