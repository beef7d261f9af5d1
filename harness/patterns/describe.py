"""Installed models -> their elements, parameters and multiply-adds, cached between commands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version

from harness.api import ModelSpec
from harness.cache import Cache, cache_folder
from harness.catalog import Catalog, Offer
from harness.errors import HarnessError, PluginError, one_line
from harness.fingerprint import hash_of
from harness.models import build_module, source_stamp
from harness.patterns.detect import RULES, Element, detect
from harness.registry import Budget


@dataclass(frozen=True)
class Described:
    """A built model.

    Attributes:
        model: Its name.
        elements: The elements of Table 6 by name.
        parameters: Trainable parameters at the budget's reference class count.
        macs: fvcore's multiply-adds per image at that class count; None where counting fails.
        note: The reason of the failure.
    """

    model: str
    elements: Mapping[str, Element]
    parameters: int
    macs: int | None
    note: str = ""

    @property
    def present(self) -> dict[str, bool]:
        """Whether the model has each element."""
        return {name: element.present for name, element in self.elements.items()}


def element_titles(described: Iterable[Described]) -> dict[str, str]:
    """Return the titles of the elements by name."""
    return {name: element.title for one in described for name, element in one.elements.items()}


def describe_models(catalog: Catalog, names: Iterable[str], budget: Budget) -> tuple[list[Described], list[str]]:
    """Describe models; return them and a sentence for each model that does not build or run.

    Descriptions are cached for the user until the plugin's source files or fvcore change.
    """
    cache = Cache(cache_folder() / "patterns.json")
    described, failures = [], []
    for name in names:
        offer = catalog.model(name)
        key = hash_of([name, source_stamp(offer.spec), RULES, version("fvcore"), *_size(budget)])
        one = cache.get(key, Described)
        if one is None:
            try:
                one = _describe(offer, budget)
            except HarnessError as error:
                failures.append(str(error))
                continue
            cache.put(key, one)
        described.append(one)
    cache.save()
    return described, failures


def _size(budget: Budget) -> tuple[int, int]:
    return budget.macs_resolution, budget.macs_classes


def _describe(offer: Offer[ModelSpec], budget: Budget) -> Described:
    import torch

    from harness.macs import measure_macs

    resolution, classes = _size(budget)
    name = offer.spec.name
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = build_module(offer, classes)
        parameters = sum(p.numel() for p in module.parameters() if p.requires_grad)
        try:
            elements = detect(module, resolution)
        except Exception as error:
            raise PluginError(
                f"The model '{name}' of {offer.owner} does not run on one image of {resolution} x {resolution}: "
                f"{one_line(error)}"
            ) from error
        try:
            count, note = measure_macs(module, resolution).total, ""
        except Exception as error:
            count, note = None, one_line(error)
    return Described(name, dict(elements), parameters, count, note)
