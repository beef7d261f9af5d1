"""A model to be examined: built and given images, for the rules in ``model_output`` and ``model_state``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.api import ModelSpec
from harness.errors import one_line
from harness.registry import Benchmark
from harness.testing.rules import RAISED, Untold

if TYPE_CHECKING:
    import torch
    from torch import nn

CLASSES = 10
TOLERANCE = 1e-4
"""Share of the largest logit by which two ways of computing the same may differ in float32."""


@dataclass(frozen=True)
class ModelCase:
    """A model and what the benchmark will ask of it.

    Attributes:
        spec: The model.
        benchmark: Whose resolutions and budget count.
        class_counts: Every class count of the budget and of the known data sets.
    """

    spec: ModelSpec
    benchmark: Benchmark
    class_counts: tuple[int, ...]

    @property
    def resolutions(self) -> tuple[int, ...]:
        """The protocols' input sizes, the smallest first."""
        return tuple(sorted({protocol.input_size for protocol in self.benchmark.protocols.values()}))

    def images(self, count: int, side: int = 0, seed: int = 0) -> torch.Tensor:
        """Return normalised images, float32 (count, 3, side, side), of the smallest resolution for 0."""
        import torch

        side = side or self.resolutions[0]
        random = torch.Generator().manual_seed(seed)
        return torch.randn(count, 3, side, side, generator=random, dtype=torch.float32)

    def build(self, seed: int = 0, classes: int = CLASSES) -> nn.Module:
        """Build the model from a seed. Raises Untold if it does not: ``model-builds`` says why."""
        import torch
        from torch import nn

        torch.manual_seed(seed)
        try:
            module = self.spec.build(classes)
        except RAISED as error:
            raise Untold(f"it does not build for {classes} classes: {one_line(error)}.") from error
        if not isinstance(module, nn.Module):
            raise Untold(f"it builds a {type(module).__name__}.")
        return module

    def logits(self, module: nn.Module, images: torch.Tensor, seed: int = 0) -> torch.Tensor:
        """Return logits without gradients. Raises Untold if there are none: ``model-logits`` says why."""
        import torch

        torch.manual_seed(seed)
        try:
            with torch.no_grad():
                logits = module(images)
        except RAISED as error:
            raise Untold(f"it does not compute: {one_line(error)}.") from error
        if not isinstance(logits, torch.Tensor) or not bool(torch.isfinite(logits).all()):
            raise Untold("it does not return finite logits.")
        return logits


def same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether two ways of computing the same logits agree as far as float32 does."""
    import torch

    scale = max(float(expected.abs().max()), 1e-6)
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=0.0, atol=TOLERANCE * scale)


def steady(case: ModelCase) -> nn.Module:
    """Return a module in evaluation mode that answers the same twice, which other rules build upon."""
    import torch

    module = case.build().eval()
    images = case.images(2)
    if not torch.equal(case.logits(module, images, seed=1), case.logits(module, images, seed=2)):
        raise Untold("its evaluation depends on chance.")
    return module


def moved(case: ModelCase, module: nn.Module) -> list[str]:
    """Names in the state dict that a forward pass changes."""
    import torch

    before = {name: value.clone() for name, value in module.state_dict().items()}
    case.logits(module, case.images(4))
    return [name for name, value in module.state_dict().items() if not torch.equal(value, before[name])]
