"""Torch's settings: what a plugin changes for everybody is put back and named."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from harness.api import ModelSpec
from harness.models import build_noting
from harness.torch_settings import kept_torch, put_back_sentence

Change = Callable[[], Any]
Read = Callable[[], Any]
MKLDNN: Any = torch.backends.mkldnn
CONV = MKLDNN.conv


def defaults(of: Any) -> Any:
    return of.__init__.__defaults__


def weaken_norms() -> None:
    nn.BatchNorm2d.__init__.__defaults__ = (1e-3, 0.01, True, True, None, None)


def hide_relu() -> None:
    nn.functional.relu = nn.functional.silu


def replace_initialiser() -> None:
    nn.init.kaiming_uniform_ = nn.init.normal_  # type: ignore[assignment]


def replace_layer() -> None:
    nn.ReLU = nn.SiLU  # type: ignore[misc, assignment]


def lay_over_a_method() -> None:
    nn.Conv2d.reset_parameters = lambda self: None  # type: ignore[method-assign]


def delete_a_layer() -> None:
    del nn.GELU


def hook_every_module() -> None:
    nn.modules.module.register_module_forward_hook(lambda *_: None)


CHANGES: dict[str, tuple[Change, Read]] = {
    "the default dtype": (lambda: torch.set_default_dtype(torch.float64), torch.get_default_dtype),
    "the default device": (lambda: torch.set_default_device("meta"), torch.get_default_device),
    "the grad mode": (lambda: torch.set_grad_enabled(False), torch.is_grad_enabled),
    "the number of threads": (lambda: torch.set_num_threads(7), torch.get_num_threads),
    "deterministic algorithms": (
        lambda: torch.use_deterministic_algorithms(True),
        torch.are_deterministic_algorithms_enabled,
    ),
    "float32 precision": (
        lambda: torch.set_float32_matmul_precision("medium"),
        torch.get_float32_matmul_precision,
    ),
    "float32 precision of mkldnn.conv": (
        lambda: setattr(CONV, "fp32_precision", "bf16"),
        lambda: CONV.fp32_precision,
    ),
    "cudnn.benchmark": (
        lambda: setattr(torch.backends.cudnn, "benchmark", True),
        lambda: torch.backends.cudnn.benchmark,
    ),
    "anomaly detection": (lambda: torch.set_anomaly_enabled(True), torch.is_anomaly_enabled),
    "autocast on cpu": (
        lambda: torch.set_autocast_enabled("cpu", True),
        lambda: torch.is_autocast_enabled("cpu"),
    ),
    "flushing of denormal numbers": (
        lambda: torch.set_flush_denormal(True),
        lambda: float(torch.full((1,), 1e-40) * 1.0),
    ),
    "torch.nn.init.kaiming_uniform_": (replace_initialiser, lambda: nn.init.kaiming_uniform_),
    "torch.nn.functional.relu": (hide_relu, lambda: nn.functional.relu),
    "torch.nn.ReLU": (replace_layer, lambda: nn.ReLU),
    "torch.nn.GELU": (delete_a_layer, lambda: nn.GELU),
    "Conv2d.reset_parameters": (lay_over_a_method, lambda: nn.Conv2d.reset_parameters),
    "the parameters of _BatchNorm.__init__": (weaken_norms, lambda: str(nn.BatchNorm2d(1))),
    "the hooks in _global_forward_hooks": (
        hook_every_module,
        lambda: len(nn.modules.module._global_forward_hooks),
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_put_back_and_named(name: str) -> None:
    change, read = CHANGES[name]
    before = read()
    with kept_torch() as changed:
        change()
    assert name in changed
    assert read() == before
    with kept_torch() as again:
        pass
    assert again == []


def test_a_change_is_put_back_after_an_error() -> None:
    def fail() -> None:
        torch.set_default_dtype(torch.float64)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), kept_torch():
        fail()
    assert torch.get_default_dtype() == torch.float32


def test_filters_of_warnings_are_put_back() -> None:
    before = list(warnings.filters)
    with kept_torch():
        warnings.simplefilter("error")
    assert list(warnings.filters) == before


def test_a_layer_of_its_own_stays() -> None:
    with kept_torch() as changed:
        nn.Module.size_of_mine = lambda self: 3  # type: ignore[attr-defined]
    try:
        assert changed == []
        assert nn.Linear(1, 1).size_of_mine() == 3  # type: ignore[operator]
    finally:
        del nn.Module.size_of_mine  # type: ignore[attr-defined]


def test_a_build_that_changes_settings_is_remarked() -> None:
    def build(classes: int) -> nn.Module:
        torch.set_default_dtype(torch.float64)
        return nn.Linear(3, classes)

    module, remarks = build_noting(ModelSpec(name="doubled", build=build, paper="none"), 4, "The model")
    assert next(module.parameters()).dtype == torch.float64
    assert torch.get_default_dtype() == torch.float32
    assert remarks == (put_back_sentence("Building the model 'doubled'", ["the default dtype"]),)
