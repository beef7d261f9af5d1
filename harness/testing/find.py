"""A name, a folder or nothing -> the checks that apply."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from harness.catalog import DISTRIBUTION, Catalog, Plugin
from harness.errors import WrongUseError, unknown_name
from harness.registry import Benchmark
from harness.testing import augmentations, datasets, fakes, metrics, models, observers, plugins, trackers
from harness.testing.rules import Check, Rule, checks

RULES: tuple[Rule, ...] = (
    *plugins.RULES,
    *models.RULES,
    *datasets.RULES,
    *augmentations.RULES,
    *metrics.RULES,
    *trackers.RULES,
    *observers.RULES,
)
"""All rules, in the order in which they are examined."""


def find_checks(name: str | None, benchmark: Benchmark, catalog: Catalog, data_root: Path) -> tuple[Check, ...]:
    """Return the checks of a distribution, of a plugin or of one spec, by its name; of all third parties' for None.

    Raises:
        WrongUseError: nothing has that name.
    """
    if name is None:
        chosen = [plugin for plugin in catalog.plugins if plugin.distribution != DISTRIBUTION]
        return tuple(_of_plugins(chosen, None, benchmark, catalog, data_root))
    plain = normal(name)
    chosen = [plugin for plugin in catalog.plugins if plain in (normal(plugin.name), normal(plugin.distribution))]
    if chosen:
        return tuple(_of_plugins(chosen, None, benchmark, catalog, data_root))
    owners = [plugin for plugin in catalog.plugins if name in _names(plugin)]
    if owners:
        return tuple(_of_plugins(owners, name, benchmark, catalog, data_root))
    known = {plugin.name for plugin in catalog.plugins} | {plugin.distribution for plugin in catalog.plugins}
    known |= {one for plugin in catalog.plugins for one in _names(plugin)}
    raise WrongUseError(
        unknown_name("distribution, plugin, model, data set, augmentation, metric or tracker", name, known)
    )


def normal(name: str) -> str:
    """Return a distribution's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _names(plugin: Plugin) -> set[str]:
    return {offer.rpartition(" ")[2] for offer in plugin.offers}


def _of_plugins(
    chosen: list[Plugin], only: str | None, benchmark: Benchmark, catalog: Catalog, data_root: Path
) -> Iterator[Check]:
    seen: set[str] = set()
    for plugin in chosen:
        if only is None:
            found = None if plugin.distribution in seen else _distribution(plugin.distribution)
            seen.add(plugin.distribution)
            yield from checks(f"plugin {plugin.name}", plugins.RULES, plugins.PluginCase(plugin, found))
        yield from _of_specs(plugin, only, benchmark, catalog, data_root)
        functions = {
            hook: (implementation.function, tuple(implementation.argnames))
            for hook, implementations in catalog.observers.items()
            for owner, implementation in implementations
            if owner == plugin
        }
        if functions and only is None:
            case = observers.ObserverCase(plugin.name, fakes.Observers(functions))
            yield from checks(f"observer {plugin.name}", observers.RULES, case)


def _distribution(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def _of_specs(
    plugin: Plugin, only: str | None, benchmark: Benchmark, catalog: Catalog, data_root: Path
) -> Iterator[Check]:
    counts = tuple(
        sorted(
            {*benchmark.budget.classes, *(facts.classes for facts in benchmark.datasets.values())}
            | {
                len(o.spec.classes)
                for s in benchmark.suites.values()
                for d in s.datasets
                if (o := catalog.datasets.get(d))
            }
        )
    )
    sizes = tuple(sorted({protocol.input_size for protocol in benchmark.protocols.values()}))

    def mine(name: str, owner: Plugin) -> bool:
        return owner == plugin and only in (None, name)

    for name, model in catalog.models.items():
        if mine(name, model.owner):
            yield from checks(f"model {name}", models.RULES, models.ModelCase(model.spec, benchmark, counts))
    for name, dataset in catalog.datasets.items():
        if mine(name, dataset.owner):
            yield from checks(f"data set {name}", datasets.RULES, datasets.DatasetCase(dataset, data_root, sizes))
    for name, augmentation in catalog.augmentations.items():
        if mine(name, augmentation.owner):
            uses = [u.strengths for p in benchmark.protocols.values() for u in p.augmentations if u.name == name]
            distinct = tuple({repr(sorted(use.items())): use for use in uses}.values()) or ({},)
            case = augmentations.AugmentationCase(augmentation.spec, distinct)
            yield from checks(f"augmentation {name}", augmentations.RULES, case)
    for name, metric in catalog.metrics.items():
        if mine(name, metric.owner):
            yield from checks(f"metric {name}", metrics.RULES, metrics.MetricCase(metric.spec))
    for name, tracker in catalog.trackers.items():
        if mine(name, tracker.owner):
            yield from checks(f"tracker {name}", trackers.RULES, trackers.TrackerCase(tracker.spec))
