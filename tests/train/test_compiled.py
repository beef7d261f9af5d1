"""``--compile``: the same mathematics, recorded, undone before the test split, and a sentence where it can't be had."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from harness.api import ModelSpec, StoppedError
from harness.cli.run_options import COMPILE_MODES as OFFERED_MODES
from harness.errors import TrainingError
from harness.train.environment import COMPILE_MODES, compiled
from harness.train.job import deviations_of
from harness.train.options import RunOptions
from harness.train.task import Task
from tests.training import Watch, train

Patch = pytest.MonkeyPatch

COMPILED = RunOptions(compile_mode="default")


@pytest.fixture
def quick_compiler(monkeypatch: Patch) -> list[str]:
    """torch.compile as it is but for its last stage, which would call a C++ compiler; returns the modes asked for."""
    modes: list[str] = []
    compile_ = torch.compile

    def quick(function: Callable[..., Any], *, mode: str) -> Callable[..., Any]:
        modes.append(mode)
        return compile_(function, backend="aot_eager")

    monkeypatch.setattr(torch, "compile", quick)
    torch._dynamo.reset()
    return modes


def test_compiled_run_is_recorded_and_agrees_with_a_plain_one(
    task_of: Callable[..., Task], quick_compiler: list[str]
) -> None:
    plain = train(task_of(name="plain"))
    task = replace(task_of(name="compiled"), options=COMPILED)
    trained = train(task)
    assert quick_compiler == ["default"]
    assert trained.result.executed is not None
    assert plain.result.executed is not None
    assert trained.result.executed == plain.result.executed | {"compiled": "default"}
    assert trained.result.environment["compile"] == "default"
    assert plain.result.environment["compile"] is None
    assert deviations_of(task, trained.result.executed) == ()
    torch.testing.assert_close(trained.logits, plain.logits, rtol=1e-3, atol=1e-3)


def test_another_precision_inside_a_compiled_model_is_recorded(
    task_of: Callable[..., Task], quick_compiler: list[str]
) -> None:
    class Half(nn.Module):
        def __init__(self, classes: int) -> None:
            super().__init__()
            self.head = nn.Linear(3, classes)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(images.mean((2, 3)).half().float())
            return logits

    task = replace(task_of(), options=COMPILED)
    half = replace(task, model=replace(task.model, spec=ModelSpec(name="tiny", build=Half, paper="none")))
    executed = train(half).result.executed
    assert executed is not None
    assert executed["precision"]["operators"] == "float16"


def test_a_run_that_is_compiled_half_way_says_so(task_of: Callable[..., Task], quick_compiler: list[str]) -> None:
    task = task_of()
    with pytest.raises(StoppedError):
        train(task, Watch(stop_after=3))
    trained = train(replace(task, options=COMPILED))
    assert trained.result.executed is not None
    assert trained.result.executed["compiled"] == {"varied": ["no", "default"]}
    other = task_of(name="other")
    with pytest.raises(StoppedError):
        train(replace(other, options=COMPILED), Watch(stop_after=3))
    back = train(other)
    assert back.result.executed is not None
    assert back.result.executed["compiled"] == {"varied": ["default", "no"]}


def test_only_the_computation_is_compiled_and_only_for_a_while(quick_compiler: list[str]) -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    names = list(module.state_dict())
    with compiled(module, "default"):
        assert "forward" in vars(module)
        assert list(module.state_dict()) == names
        module(torch.ones(2, 3)).sum().backward()
    assert "forward" not in vars(module)
    with compiled(module, None):
        assert "forward" not in vars(module)


def test_a_model_that_cannot_be_compiled_is_told_in_a_sentence(
    task_of: Callable[..., Task], monkeypatch: Patch
) -> None:
    def refuse(*_: Any) -> Any:
        raise RuntimeError("no compiler")

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, mode: compile_(function, backend=refuse))
    torch._dynamo.reset()
    with pytest.raises(TrainingError, match=r"torch\.compile can't compile this model here: .* Leave --compile out"):
        train(replace(task_of(), options=COMPILED))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_really_compiled_steps_agree_with_plain_ones(task_of: Callable[..., Task]) -> None:
    torch._dynamo.reset()
    plain = train(task_of(name="plain"))
    trained = train(replace(task_of(name="compiled"), options=COMPILED))
    # Fused kernels round otherwise and draw other numbers for dropout, and Adam amplifies both; a wrong one would not
    # come near these losses.
    assert [e.loss for e in trained.history] == pytest.approx([e.loss for e in plain.history], rel=0.02)
    assert trained.result.weights_sha256 != plain.result.weights_sha256, "nothing was compiled"


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("mode", COMPILE_MODES)
def test_every_mode_trains_on_cuda(task_of: Callable[..., Task], mode: str) -> None:
    task = replace(task_of(), device=torch.device("cuda:0"), options=RunOptions(compile_mode=mode))
    assert train(task).result.environment["compile"] == mode


def test_modes_are_those_of_torch() -> None:
    assert set(COMPILE_MODES) <= set(torch._inductor.list_mode_options())
    assert OFFERED_MODES == COMPILE_MODES
