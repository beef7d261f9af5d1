"""Built models: the cache of architectures."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.api import ModelSpec
from harness.catalog import Catalog, Offer
from harness.errors import PluginError
from harness.fingerprint import hash_of
from harness.models import Architectures, build_module
from harness.source import source_stamp

if TYPE_CHECKING:
    from torch import nn


def offer_of(catalog: Catalog) -> Offer[ModelSpec]:
    return catalog.model("tiny")


def test_counts_that_an_earlier_harness_remembered_are_not_used(tiny_catalog: Catalog, tmp_path: Path) -> None:
    offer = offer_of(tiny_catalog)
    path = tmp_path / "cache" / "xscore-harness" / "architectures.json"
    path.parent.mkdir(parents=True)
    earlier = hash_of(["tiny", 4, source_stamp(offer.spec)])
    path.write_text(json.dumps({earlier: {"digest": "0" * 16, "parameters": 1}}))
    architectures = Architectures(remember=True)
    assert architectures.get(offer, 4).parameters == 268
    architectures.save()
    assert Architectures(remember=True).get(offer, 4) == architectures.get(offer, 4)
    assert [one["parameters"] for one in json.loads(path.read_text()).values()] == [1, 268]


@pytest.mark.parametrize(
    ("freeze", "lazy", "said"),
    [(True, False, "has no trainable parameters at 4 classes"), (False, True, "parameters without a shape")],
)
def test_a_module_that_cannot_be_trained_is_refused(freeze: bool, lazy: bool, said: str, tiny_catalog: Catalog) -> None:
    from torch import nn

    def build(classes: int) -> nn.Module:
        return nn.LazyLinear(classes) if lazy else nn.Linear(3, classes).requires_grad_(not freeze)

    spec = ModelSpec(name="odd", build=build, paper="none")
    with pytest.raises(PluginError, match=said):
        build_module(Offer(spec, offer_of(tiny_catalog).owner), 4)


def build_that_hangs(classes: int) -> None:
    time.sleep(600)


def build_that_leaves(classes: int) -> None:
    os._exit(7)


@pytest.mark.parametrize(
    ("build", "said"),
    [(build_that_hangs, "took longer than 3 seconds and was ended"), (build_that_leaves, "ended with exit code 7")],
)
def test_a_build_without_end_or_with_a_crash_is_a_sentence(
    build: Callable[[int], nn.Module], said: str, tiny_catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.models._BUILD_SECONDS", 3.0)
    spec = ModelSpec(name="odd", build=build, paper="none")
    architectures = Architectures(remember=True)
    for _ in range(2):  # at the second time it is known
        with pytest.raises(PluginError, match=f"The model 'odd' of .* does not build, or does not run: .* {said}"):
            architectures.get(Offer(spec, offer_of(tiny_catalog).owner), 4)


def test_models_are_read_alike_here_and_apart(tiny_catalog: Catalog) -> None:
    offer = offer_of(tiny_catalog)
    unsendable = Offer(replace(offer.spec, build=lambda classes: offer.spec.build(classes)), offer.owner)
    here = Architectures(remember=False, apart=False).get_all(offer, (4, 5))
    assert Architectures(remember=False).get_all(offer, (4, 5)) == here
    assert Architectures(remember=False).get_all(unsendable, (4, 5)) == here


def interrupts(_: int) -> object:
    raise KeyboardInterrupt


def exits(_: int) -> object:
    sys.exit(3)


def warns(_: int) -> object:
    warnings.simplefilter("error")
    warnings.warn("this layer is old", UserWarning, stacklevel=1)
    return None


def fails_to_print_itself(classes: int) -> object:
    from torch import nn

    class Act(nn.ReLU):
        def extra_repr(self) -> str:
            raise AttributeError("slope")

    return nn.Sequential(Act(), nn.Linear(3, classes))


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (interrupts, "does not build for 4 classes: KeyboardInterrupt. Expected build"),
        (exits, "does not build for 4 classes: SystemExit: 3. Expected build"),
        (warns, "does not build for 4 classes: UserWarning: this layer is old. Expected build"),
        (lambda _: None, "builds a NoneType for 4 classes. Expected build"),
        (lambda _: Path, "builds the class Path for 4 classes. Expected build"),
        (
            fails_to_print_itself,
            "has a structure that can't be described at 4 classes: AttributeError: slope. Expected the names",
        ),
    ],
)
def test_a_build_that_makes_no_model_is_refused_with_a_sentence(
    build: Callable[[int], Any], said: str, tiny_catalog: Catalog
) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a process that trains
    filters = list(warnings.filters)
    try:
        with pytest.raises(PluginError, match=re.escape(said)):
            build_module(Offer(ModelSpec(name="odd", build=build, paper="none"), offer_of(tiny_catalog).owner), 4)
    finally:
        signal.signal(signal.SIGINT, before)
    assert list(warnings.filters) == filters
