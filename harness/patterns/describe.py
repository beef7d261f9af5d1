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
from harness.models import build_module, count_parameters, source_stamp
from harness.patterns.detect import RULES, Element, detect
from harness.registry import Counting


@dataclass(frozen=True)
class Described:
    """A built model.

    Attributes:
        model: Its name.
        elements: The elements of Table 6 by name.
        parameters: Trainable parameters at ``Counting.macs_classes``.
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
        """True by element for those that the model has."""
        return {name: element.present for name, element in self.elements.items()}


def element_titles(described: Iterable[Described]) -> dict[str, str]:
    """Return the titles of the elements by name."""
    return {name: element.title for one in described for name, element in one.elements.items()}


def describe_models(catalog: Catalog, names: Iterable[str], counting: Counting) -> tuple[list[Described], list[str]]:
    """Describe models; return them and a sentence for each model that does not build or run.

    Descriptions are cached for the user until the plugin's source files or fvcore change.
    """
    cache = Cache(cache_folder() / "patterns.json")
    described, failures = [], []
    for name in names:
        offer = catalog.model(name)
        # "fvcore" separates these entries from those of older versions, which counted parameters differently.
        key = hash_of(["fvcore", name, source_stamp(offer.spec), RULES, version("fvcore"), *_size(counting)])
        one = cache.get(key, Described)
        if one is None:
            try:
                one = _describe(offer, counting)
            except HarnessError as error:
                failures.append(str(error))
                continue
            cache.put(key, one)
        described.append(one)
    cache.save()
    return described, failures


def _size(counting: Counting) -> tuple[int, int]:
    return counting.macs_resolution, counting.macs_classes


def _describe(offer: Offer[ModelSpec], counting: Counting) -> Described:
    import torch

    from harness.macs import measure_macs

    resolution, classes = _size(counting)
    name = offer.spec.name
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = build_module(offer, classes)
        parameters = count_parameters(module).trainable
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
