"""Built models: the cache of architectures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.api import ModelSpec
from harness.catalog import Catalog, Offer
from harness.errors import PluginError
from harness.fingerprint import hash_of
from harness.models import Architectures, build_module
from harness.source import source_stamp


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
