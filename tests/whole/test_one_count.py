"""Every command counts parameters alike, by fvcore, for a model whose own list of parameters misleads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.models import count_parameters
from tests.support import Ran

SOURCE = """
    from harness.api import ModelSpec, hookimpl

    def build(num_classes):
        from torch import nn

        class Tied(nn.Module):
            def __init__(self):
                super().__init__()
                self.stem = nn.Sequential(
                    nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten()
                )
                self.first = nn.Linear(8, 8, bias=False)
                self.again = self.first
                self.fixed = nn.Linear(8, num_classes, bias=False).requires_grad_(False)
                self.head = nn.Linear(8, num_classes)

            def parameters(self, recurse=True):
                yield from super().parameters(recurse)
                yield from self.again.parameters()

            def forward(self, images):
                features = self.again(self.first(self.stem(images)).relu())
                return self.head(features) + self.fixed(features)

        return Tied()

    @hookimpl
    def harness_models():
        return [ModelSpec(name="tied", build=build, paper="Ada et al., 2026")]
"""
TRAINABLE, FROZEN, BUFFERS = 216 + 16 + 64 + 36, 32, 17
REPEATED = 64


@pytest.fixture
def tied(tiny_harness: Callable[..., Ran], install: Callable[..., Path]) -> Callable[..., Ran]:
    """The command line with the tiny plugin, the tiny registry and the model ``tied``."""
    install("tied", SOURCE)
    return tiny_harness


def test_shared_parameters_count_once_and_frozen_ones_apart(tied: Callable[..., Ran]) -> None:
    import tied as plugin  # type: ignore[import-not-found]

    module = plugin.build(4)
    counts = count_parameters(module)
    assert (counts.trainable, counts.frozen, counts.buffers) == (TRAINABLE, FROZEN, BUFFERS)
    listed = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    assert listed == TRAINABLE + REPEATED
    assert TRAINABLE <= 390 < listed  # within the budget by the one count, over it by the other


def test_every_command_counts_by_fvcore(tied: Callable[..., Ran]) -> None:
    (report,) = tied("check-budget", "tied", "--format", "json").rows
    assert report["parameters"] == report["trainable"] == {"4": TRAINABLE}
    assert (report["frozen"], report["buffers"]) == ({"4": FROZEN}, {"4": BUFFERS})
    assert report["verdict"] == "within"

    assert "Would be refused" not in tied("plan", "tied", "--dataset", "dots", "--quick").err
    ran = tied("run", "tied", "--dataset", "dots", "--format", "json")
    assert ran.code == 0
    assert [row["over_budget"] for row in ran.rows] == [False]
    result = json.loads(Path("runs/tiny-1.0/tied/dots/seed-0/result.json").read_text())
    assert result["parameters"] == TRAINABLE

    verified = tied("verify", "runs", "--format", "json")
    assert [row["verdict"] for row in verified.rows if row["check"] in ("parameters", "budget")] == ["ok", "ok"]
    checked = tied("plugin", "check", "tied", "--format", "json")
    assert [row["verdict"] for row in checked.rows if row["rule"] == "model-budget"] == ["ok"]
    (described,) = tied("patterns", "tied", "--format", "json").rows
    assert described["parameters"] == TRAINABLE
