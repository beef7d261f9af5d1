"""The budget check: the reference table, what fvcore would miss, verdicts, and models that cannot be measured."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from harness.api import ModelSpec
from harness.budget import BudgetReport, check_budget
from harness.errors import BudgetError
from harness.macs import estimate_macs, measure_macs
from harness.models import count_parameters
from harness.registry import Budget, Counting
from tests.xscore_plugins.test_models import CLASSES, COUNTS, DEPLOYED, spec_of

REFERENCE = Budget(parameters=2_500_000, tolerance=0.10, name="2.5M")
SMALL = Budget(parameters=1000, tolerance=0.10, name="1k")

# fvcore's total, convolutions and products only, and torch's count, in millions, at 224 x 224 and 100 classes.
MACS = {
    "mobilenet": (320.6, 307.1, 614.2),
    "shufflenet": (288.5, 283.1, 566.1),
    "efficientnet": (287.4, 275.4, 550.8),
    "mobilevit": (908.6, 887.8, 1775.6),
    "convmixer": (2490.4, 2471.5, 4942.9),
    "starnet": (393.3, 390.6, 781.3),
    "fbnet": (278.0, 266.3, 532.6),
    "ghostnet": (143.5, 128.4, 256.8),
    "mobileone": (620.2, 595.3, 1190.7),
    "tinynet": (270.7, 258.5, 517.0),
    "convnext": (403.7, 399.7, 799.5),
}
DEPLOYED_MACS = {"ghostnet": 55.8, "mobileone": 304.2}
UNCOUNTED = {
    "convmixer": {"add", "gelu"},
    "mobilevit": {"add", "mul", "silu", "silu_"},
    "shufflenet": {"max_pool2d", "mean"},
}


def reference(*classes: int) -> Counting:
    return Counting(classes=classes, macs_resolution=224, macs_classes=100)


def at(*classes: int) -> Counting:
    return Counting(classes=classes, macs_resolution=16, macs_classes=3)


def millions(count: int | None) -> float | None:
    return None if count is None else round(count / 1e6, 1)


@pytest.mark.parametrize("name", MACS)
def test_macs_of_the_reference_models(name: str) -> None:
    report = check_budget(spec_of(name), REFERENCE, reference(100))
    assert (millions(report.macs), millions(report.macs_multiply), millions(report.torch_flops)) == MACS[name]
    assert report.macs_multiply is not None
    assert report.torch_flops == 2 * report.macs_multiply
    assert report.notes == ()
    assert report.deployed == DEPLOYED.get(name)
    assert millions(report.deployed_macs) == DEPLOYED_MACS.get(name)
    assert set(report.uncounted_operators) >= UNCOUNTED.get(name, set())
    assert not {"_convolution_mode", "scaled_dot_product_attention"} & set(report.uncounted_operators)


@pytest.mark.parametrize("name", MACS)
def test_reference_models_are_within_budget_at_every_class_count(name: str) -> None:
    report = check_budget(spec_of(name), REFERENCE, reference(*CLASSES), macs=False)
    assert tuple(report.parameters.values()) == COUNTS[name]
    assert report.verdict == "within"
    assert report.macs is None


class Tokens(nn.Module):
    """A 16-pixel image as 16 tokens of width 8, mixed by whatever it is given, averaged and classified."""

    EMBED = 8 * 3 * 16 * 16

    def __init__(self, mix: Callable[[torch.Tensor], torch.Tensor], classes: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, stride=4)
        self.mix = mix
        self.head = nn.Linear(8, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(images).flatten(2).transpose(1, 2)
        logits: torch.Tensor = self.head(self.mix(tokens).mean(1))
        return logits


class Fused(nn.Module):
    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        heads = tokens.view(-1, 16, 2, 4).transpose(1, 2)
        mixed = nn.functional.scaled_dot_product_attention(heads, heads, heads)
        return mixed.transpose(1, 2).flatten(2)


class MultiHead(nn.Module):
    def __init__(self, need_weights: bool, masked: bool = False) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.need_weights = need_weights
        self.mask = torch.zeros(16, 16) if masked else None

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        mixed: torch.Tensor = self.attention(
            tokens, tokens, tokens, need_weights=self.need_weights, attn_mask=self.mask
        )[0]
        return mixed


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 8, batch_first=True)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        mixed: torch.Tensor = self.lstm(tokens)[0]
        return mixed


class Broadcast(nn.Module):
    """A (16, 16) matrix times a batch of tokens: fvcore's own formula looks at the first factor only."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, 16))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.matmul(self.weight, torch.stack([tokens[0], tokens[0]])).mean(0, keepdim=True)


PROJECTIONS = 16 * 8 * 24 + 16 * 8 * 8
PRODUCTS = 2 * (2 * 16 * 16 * 4)  # queries by keys and weights by values, 2 heads of width 4


@pytest.mark.parametrize(
    ("mix", "expected"),
    [
        (Fused(), PRODUCTS),
        (MultiHead(need_weights=False), PROJECTIONS + PRODUCTS),
        (MultiHead(need_weights=True), PROJECTIONS + PRODUCTS),
        (MultiHead(need_weights=True, masked=True), PROJECTIONS + PRODUCTS),
        (nn.TransformerEncoderLayer(8, 2, 32, batch_first=True), PROJECTIONS + PRODUCTS + 2 * 16 * 8 * 32),
        (Broadcast(), 2 * 16 * 16 * 8),
    ],
    ids=["fused", "multihead", "multihead-weights", "multihead-masked", "encoder-layer", "broadcast"],
)
def test_attention_is_counted(mix: nn.Module, expected: int) -> None:
    count = measure_macs(Tokens(mix, 3), 16)
    assert count.products == Tokens.EMBED + expected + 3 * 8
    assert count.torch_flops == 2 * count.products
    assert count.doubts() == ()
    assert estimate_macs(Tokens(mix, 3), 16) == count.products


def test_same_padding_is_counted() -> None:
    count = measure_macs(nn.Conv2d(3, 4, 3, padding="same"), 16)
    assert count.products == 16 * 16 * 27 * 4
    assert count.operators == {"_convolution_mode": count.products}
    assert count.torch_flops == 2 * count.products


def test_uncounted_real_work_is_named() -> None:
    report = check_budget(small(lambda classes: Tokens(Recurrent(), classes)), SMALL, at(3))
    assert report.uncounted_operators["lstm"] == 1
    assert any("lstm" in note and "lower bound" in note for note in report.notes)


def test_disagreement_of_the_counters_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.macs._handles", dict)
    count = measure_macs(nn.Conv2d(3, 4, 3, padding="same"), 16)
    assert count.uncounted == {"_convolution_mode": 1}
    (doubt,) = count.doubts()
    assert "disagree" in doubt
    assert "27,648" in doubt


def test_measuring_leaves_torch_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    def kernels() -> tuple[bool, bool]:
        fused: bool = torch.backends.cuda.flash_sdp_enabled()  # type: ignore[no-untyped-call]
        return fused, torch.backends.mha.get_fastpath_enabled()

    before = kernels()
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_budget(small(lambda classes: Tokens(MultiHead(need_weights=False), classes)), SMALL, at(3))
    assert torch.equal(torch.rand(1), expected)
    assert kernels() == before
    assert torch.is_grad_enabled()
    assert capfd.readouterr() == ("", "")


def small(build: Callable[[int], Any], **settings: Any) -> ModelSpec:
    return ModelSpec(name="mynet", build=build, paper="", **settings)


def pooled(width: int) -> Callable[[int], nn.Module]:
    """A model with 4 * width + (width + 1) * classes parameters."""
    return lambda classes: nn.Sequential(
        nn.Conv2d(3, width, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)
    )


@pytest.mark.parametrize(
    ("width", "classes", "verdict"),
    [
        (140, (3,), "within"),  # 983
        (140, (2, 3), "under"),  # 842 and 983: one class count under is enough
        (160, (2, 3), "over"),  # 962 and 1123
        (155, (1, 2, 4), "over"),  # 776, 932 and 1244: over outweighs under
    ],
)
def test_verdict(width: int, classes: tuple[int, ...], verdict: str) -> None:
    report = check_budget(small(pooled(width)), SMALL, at(*classes), macs=False)
    assert report.parameters == {count: 4 * width + (width + 1) * count for count in classes}
    assert report.verdict == verdict


def test_limit_itself_is_within() -> None:
    def build(classes: int) -> nn.Module:
        model = pooled(100)(classes)
        model.register_parameter("rest", nn.Parameter(torch.zeros(1100 - count_parameters(model).trainable)))
        return model

    report = check_budget(small(build), SMALL, at(2, 3))
    assert report.limit == 1100
    assert set(report.parameters.values()) == {1100}
    assert report.verdict == "within"


def test_frozen_parameters_are_shown() -> None:
    def build(classes: int) -> nn.Module:
        model = pooled(100)(classes)
        next(iter(model.parameters())).requires_grad_(False)
        return model

    report = check_budget(small(build), SMALL, at(3), macs=False)
    assert report.frozen == {3: 300}
    assert report.parameters[3] == 703 - 300


def test_row_has_the_contracts_keys_first_and_is_json() -> None:
    report = check_budget(small(pooled(100), deploy=lambda model: model), SMALL, at(2, 3))
    row = report.as_row()
    assert list(row)[:6] == ["model", "parameters", "macs", "budget", "tolerance", "verdict"]
    assert row["deployed"] == 703
    assert json.loads(json.dumps(row))["parameters"] == {"2": 602, "3": 703}
    assert isinstance(report, BudgetReport)


class Wrap(nn.Module):
    """Logits of a fine model, put through whatever breaks them."""

    def __init__(self, classes: int, change: Callable[[nn.Module, torch.Tensor], Any]) -> None:
        super().__init__()
        self.inner = pooled(4)(classes)
        self.change = change

    def forward(self, images: torch.Tensor) -> Any:
        return self.change(self, self.inner(images))


def wrapped(change: Callable[[nn.Module, torch.Tensor], Any]) -> Callable[[int], nn.Module]:
    return lambda classes: Wrap(classes, change)


def fail(classes: int) -> nn.Module:
    raise KeyError("num_classes")


def grow(model: nn.Module, logits: torch.Tensor) -> torch.Tensor:
    model.late = nn.Linear(2, 2)
    return logits


def shapeless(classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))


def frozen(classes: int) -> nn.Module:
    return pooled(4)(classes).requires_grad_(False)


def in_training(model: nn.Module, logits: torch.Tensor) -> Any:
    return (logits, logits) if model.training else logits


OFFENDERS: dict[str, tuple[Callable[[int], Any], tuple[str, ...]]] = {
    "no-build": (fail, ("does not build for 2 classes", "KeyError: 'num_classes'", "torch.nn.Module")),
    "no-module": (lambda classes: "net", ("builds a str for 2 classes",)),
    "lazy": (shapeless, ("without a shape", "1.weight, 1.bias")),
    "nothing-to-train": (frozen, ("no trainable parameters",)),
    "forward-fails": (lambda classes: nn.Linear(5, classes), ("2 images of 16 x 16", "fails: RuntimeError")),
    "wrong-classes": (lambda classes: pooled(4)(1000), ("shape (2, 1000)", "shape (2, 2)")),
    "no-batch-axis": (wrapped(lambda model, logits: logits[0]), ("shape (2,)", "shape (2, 2)")),
    "wrong-dtype": (wrapped(lambda model, logits: logits.double()), ("float64", "float32")),
    "tuple": (wrapped(lambda model, logits: (logits, logits)), ("returns a tuple", "evaluation mode")),
    "tuple-in-training": (wrapped(in_training), ("returns a tuple", "training mode")),
    "nan": (wrapped(lambda model, logits: logits * float("nan")), ("4 of 4 logits", "not finite")),
    "grows": (wrapped(grow), ("goes from", "trainable parameters")),
}


@pytest.mark.parametrize("offender", OFFENDERS)
def test_offenders_are_refused_with_a_sentence(offender: str) -> None:
    build, expected = OFFENDERS[offender]
    with pytest.raises(BudgetError) as caught:
        check_budget(small(build), SMALL, at(2, 3))
    assert str(caught.value).startswith("Model 'mynet'")
    for part in expected:
        assert part in str(caught.value)


def test_unstable_architecture_is_refused() -> None:
    widths = iter(range(4, 100))
    with pytest.raises(BudgetError, match="in one build for 3 classes and"):
        check_budget(small(lambda classes: pooled(next(widths))(classes)), SMALL, at(2, 3))


@pytest.mark.parametrize(
    ("deploy", "expected"),
    [
        (lambda model: None, "deploy returned a NoneType"),
        (lambda model: model.requires_grad_(False), "expected it to use a copy"),
        (lambda model: pooled(100)(3), "computes something else"),
    ],
    ids=["no-module", "in-place", "another-function"],
)
def test_deploy_that_does_not_hold_is_refused(deploy: Callable[[nn.Module], Any], expected: str) -> None:
    with pytest.raises(BudgetError, match=expected):
        check_budget(small(pooled(100), deploy=deploy), SMALL, at(3))


def test_model_without_countable_macs_has_a_verdict() -> None:
    def change(model: nn.Module, logits: torch.Tensor) -> torch.Tensor:
        if len(logits) == 1:
            raise RuntimeError("no single images here")
        return logits

    report = check_budget(small(wrapped(change)), SMALL, at(3))
    assert report.macs is None
    assert report.verdict == "under"
    assert any("no single images here" in note for note in report.notes)


def test_importing_the_module_is_cheap() -> None:
    script = "import sys, harness.budget; print(sorted({'torch', 'fvcore', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
