"""Every rule about models catches its offender, and no other rule complains."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from harness.api import ModelSpec
from harness.registry import Benchmark
from harness.testing import fakes, model_state, models
from harness.testing.models import ModelCase
from tests.testing.offending import SIDE_EFFECTS, Offender, assert_exactly, complaints

RULES = (*models.RULES, *model_state.RULES)


class Net(nn.Module):
    """The small network; subclasses are each wrong in one way."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body = fakes.build_net(classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.body(images)
        return logits


class DropsTheBatchAxis(Net):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images).squeeze()


class GivesDoubles(Net):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images).double()


class ComputesInHalf(Net):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images.half().float())


class SilentModes(Net):
    def train(self, mode: bool = True) -> Any:
        super().train(mode)

    def eval(self) -> Any:
        super().eval()


class GivesTuple(Net):
    def forward(self, images: torch.Tensor) -> Any:
        return (super().forward(images),)


class OneSizeOnly(Net):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.shape[-1] != 12:
            raise ValueError("12 pixels, please")
        return super().forward(images)


class DividesByBrightness(Net):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images / images.abs().amax(dim=(1, 2, 3), keepdim=True))


class HasAnIdleLayer(Net):
    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.idle = nn.Linear(2, 2)


class DetachesItsBody(Net):
    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.scale * super().forward(images).detach()


class AlwaysDrops(Net):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return F.dropout(super().forward(images), 0.5, training=True)


class LooksAtTheBatch(Net):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = super().forward(images)
        return logits - logits.mean(dim=0)


class CountsEverything(Net):
    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += len(images)
        return super().forward(images)


class ShrinksItself(Net):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            with torch.no_grad():
                self.body[-1].weight.mul_(0.99)
        return super().forward(images)


class DrawsElsewhere(Net):
    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        nn.init.constant_(self.body[-1].bias, random.random())


class SeedsItself(Net):
    def __init__(self, classes: int) -> None:
        torch.manual_seed(0)
        super().__init__(classes)


class HidesState(Net):
    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.hidden = torch.rand(classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) + self.hidden


class HoldsLambda(Net):
    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.last = lambda logits: logits

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(super().forward(images))


class HoldsDouble(Net):
    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.scale = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) * self.scale.float()


class Views(Net):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) + images.view(len(images), -1).mean(dim=1, keepdim=True)


class Branches(Net):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = super().forward(images)
        return logits + 1 if float(images.sum()) > 1e9 else logits


class Large(Net):
    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.more = nn.Linear(classes, classes)
        self.most = nn.Linear(classes, 40 * classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.more(super().forward(images))
        return logits + self.most(logits).view(len(images), 40, -1).mean(dim=1)


class Small(nn.Sequential):
    def __init__(self, classes: int) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, classes))


def raises_for_five(classes: int, error: type[BaseException]) -> nn.Module:
    if classes == 5:
        raise error("no weights for 5 classes")
    return Net(classes)


def builds_a_list_for_five(classes: int) -> Any:
    return [Net(classes)] if classes == 5 else Net(classes)


def freezes_for_five(classes: int) -> nn.Module:
    return Net(classes).requires_grad_(classes != 5)


def does(action: Callable[[], None], classes: int) -> nn.Module:
    action()
    return Net(classes)


def replaces_an_initialiser(classes: int) -> nn.Module:
    nn.init.normal_ = lambda tensor, *_: tensor
    return Net(classes)


def deploys_another(module: nn.Module) -> nn.Module:
    return Net(10)


def deploys_itself(module: nn.Module) -> nn.Module:
    return module


def model(build: Callable[[int], nn.Module] = Net, **changes: Any) -> ModelSpec:
    return replace(ModelSpec(name="net", build=build, paper="Ada et al., 2026"), **changes)


OFFENDERS = (
    Offender("model-builds", model(partial(raises_for_five, error=ValueError)), says="no weights for 5 classes"),
    Offender("model-builds", model(partial(raises_for_five, error=SystemExit)), says="SystemExit"),
    Offender("model-builds", model(builds_a_list_for_five), says="builds a list"),
    Offender("model-builds", model(freezes_for_five), says="no trainable parameter"),
    Offender("model-logits", model(GivesDoubles), says="float64 tensor of shape (2, 4)"),
    Offender("model-logits", model(GivesTuple), says="a tuple"),
    Offender("model-batches", model(DropsTheBatchAxis), says="a batch of 1 gives (10,)"),
    Offender("model-resolutions", model(OneSizeOnly), says="images of 20 x 20 pixels raised ValueError"),
    Offender("model-finite", model(DividesByBrightness), says="black images"),
    Offender("model-gradients", model(HasAnIdleLayer), says="idle.weight, idle.bias"),
    Offender("model-gradients", model(DetachesItsBody), says="body.0.weight"),
    Offender("model-eval-repeats", model(AlwaysDrops)),
    Offender("model-eval-independent", model(LooksAtTheBatch)),
    Offender("model-eval-keeps-state", model(CountsEverything), says="seen"),
    Offender("model-train-keeps-weights", model(ShrinksItself), says="body.6.weight"),
    Offender("model-seeded", model(DrawsElsewhere), says="body.6.bias"),
    Offender("model-seeded", model(SeedsItself), says="different seeds are equal"),
    Offender("model-state-dict", model(HidesState), says="outside of it"),
    Offender("model-pickles", model(HoldsLambda), says="can't be pickled"),
    Offender("model-spec-pickles", model(lambda classes: Net(classes)), says="lambdas"),
    Offender("model-budget", model(Large), says="expected at most 390"),
    Offender("model-budget", model(Small), "warning", says="16 at 4 classes"),
    Offender("model-float32", model(HoldsDouble), says="scale (torch.float64)"),
    Offender("model-float32", model(ComputesInHalf), says="float16 (aten._to_copy)"),
    Offender("model-settings", model(replaces_an_initialiser), says="torch.nn.init.normal_"),
    Offender("model-memory-format", model(Views), says="reshape"),
    Offender("model-deploys", model(deploy=deploys_another), says="different logits"),
    Offender("model-deploys", model(deploy=deploys_itself), says="expected a copy"),
    Offender("model-exports", model(Branches), "warning", says="torch.export fails"),
    Offender("model-described", model(paper="TODO"), says="paper = 'TODO'"),
    *(Offender(f"model-{end}", model(partial(does, action)), says=says) for end, action, says in SIDE_EFFECTS),
)


def case_of(spec: ModelSpec, benchmark: Benchmark) -> ModelCase:
    (protocol,) = benchmark.protocols.values()
    both = {"small": protocol, "large": msgspec.structs.replace(protocol, input_size=20)}
    return ModelCase(spec, msgspec.structs.replace(benchmark, protocols=both), (4, 5, 10))


@pytest.mark.parametrize("number", range(len(OFFENDERS)), ids=lambda number: f"{number}-{OFFENDERS[number].rule}")
def test_exactly_the_intended_rule_complains(number: int, tiny_benchmark: Benchmark) -> None:
    offender = OFFENDERS[number]
    # A fresh process takes seconds, so that rule is examined for its own offender and for the healthy model alone.
    rules = [rule for rule in RULES if rule.id != "model-pickles" or offender.rule == rule.id]
    assert_exactly(offender, complaints(rules, case_of(offender.what, tiny_benchmark)))


def test_healthy_model_keeps_every_rule(tiny_benchmark: Benchmark) -> None:
    assert complaints(RULES, case_of(model(), tiny_benchmark)) == {}


def test_modes_that_return_nothing_break_no_rule(tiny_benchmark: Benchmark) -> None:
    rules = [rule for rule in RULES if rule.id != "model-pickles"]
    assert complaints(rules, case_of(model(SilentModes, deploy=copy.deepcopy), tiny_benchmark)) == {}


def test_one_offender_does_not_spoil_the_next(tiny_benchmark: Benchmark) -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    spoilt = model(partial(does, lambda: torch.set_default_dtype(torch.float64)))
    complaints([rule for rule in RULES if rule.id != "model-pickles"], case_of(spoilt, tiny_benchmark))
    assert torch.get_default_dtype() == torch.float32
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_a_model_that_does_not_build_fails_one_rule_and_the_rest_is_skipped(tiny_benchmark: Benchmark) -> None:
    broken = model(partial(raises_for_five, error=ValueError))
    case = replace(case_of(broken, tiny_benchmark), class_counts=(5,))
    assert set(complaints(itertools.islice(RULES, 2), case)) == {"model-builds"}
