"""Turns a benchmark, a catalog and a selection into the ordered jobs. Reads no file and builds no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from harness.api import DatasetSpec, Job
from harness.catalog import Catalog, Offer
from harness.errors import DatasetError, WrongUseError
from harness.registry import Benchmark, DatasetFacts, Protocol, Suite


@dataclass(frozen=True)
class Selection:
    """The models, data sets and seeds that a user selected.

    Attributes:
        models: Names, or empty with ``all_models``.
        all_models: Whether to take every installed model.
        suite: A suite's name; None for the registry's default.
        datasets: Some of the suite's data sets; empty for all.
        seeds: Seeds 0 .. seeds - 1.
        protocol: Another protocol than the suite's, by name.
    """

    models: tuple[str, ...] = ()
    all_models: bool = False
    suite: str | None = None
    datasets: tuple[str, ...] = ()
    seeds: int = 1
    protocol: str | None = None


@dataclass(frozen=True)
class Plan:
    """Jobs in the order in which they run, under one protocol and the budget of the suite."""

    suite: Suite
    protocol: Protocol
    models: tuple[str, ...]
    datasets: tuple[str, ...]
    jobs: tuple[Job, ...]


def build_plan(benchmark: Benchmark, catalog: Catalog, selection: Selection) -> Plan:
    """Build the grid of jobs, seed by seed, so that one full screening is complete before any repetition starts.

    Raises:
        WrongUseError: an unknown name, or nothing selected.
        PluginError: a needed name belongs to a broken plugin.
        DatasetError: a data set's plugin and the registry disagree on its sizes.
    """
    suite = benchmark.suite(selection.suite)
    protocol = benchmark.protocol(selection.protocol or suite.protocol)
    models = select_models(catalog, selection.models, all_models=selection.all_models)
    datasets = _select_datasets(suite, selection.datasets)
    if selection.seeds < 1:
        raise WrongUseError(f"--seeds is {selection.seeds}, expected at least 1.")
    for use in protocol.augmentations:
        catalog.augmentation(use.name)
    catalog.metric(protocol.metric)
    return Plan(
        suite=suite,
        protocol=protocol,
        models=models,
        datasets=datasets,
        jobs=tuple(
            Job(protocol.name, model, dataset, seed, suite.budget)
            for seed in range(selection.seeds)
            for model in models
            for dataset in datasets
        ),
    )


def under_budget(benchmark: Benchmark, suite: str | None, budget: str) -> Benchmark:
    """Return the benchmark with one suite put under another budget than its own.

    The suite's anchors belong to its own budget, so scores are then normalised by what was measured.

    Raises:
        WrongUseError: an unknown suite or budget.
    """
    chosen, used = benchmark.suite(suite), benchmark.budget(budget).name
    if used == chosen.budget:
        return benchmark
    moved: Suite = msgspec.structs.replace(chosen, budget=used, anchors=None, title=f"{chosen.title}, budget {used}")
    return msgspec.structs.replace(benchmark, suites={**benchmark.suites, chosen.name: moved})


def select_models(catalog: Catalog, names: Sequence[str], *, all_models: bool) -> tuple[str, ...]:
    """Return the chosen models' names, each once. Raises WrongUseError if none or an unknown one is chosen."""
    if all_models and names:
        raise WrongUseError("Name models or use --all, not both.")
    if not all_models and not names:
        raise WrongUseError(
            f"Which models? Name some ({', '.join(list(catalog.models)[:4])}, ...) or use --all. "
            "'harness list models' shows them."
        )
    chosen = tuple(catalog.models) if all_models else tuple(dict.fromkeys(names))
    for name in chosen:
        catalog.model(name)
    return chosen


def dataset_facts(benchmark: Benchmark, catalog: Catalog, name: str) -> DatasetFacts:
    """Return a data set's sizes: the registry's, checked against the plugin's if both have them.

    Raises:
        DatasetError: they differ.
        WrongUseError, PluginError: neither knows the data set.
    """
    expected = benchmark.datasets.get(name)
    if expected is None or name in catalog.datasets:
        declared = _declared(catalog.dataset(name))
        if expected is not None and declared != expected:
            raise DatasetError(
                f"The data set '{name}' from {catalog.datasets[name].owner} declares {declared.classes} classes, "
                f"{declared.train} train and {declared.test} test images; the benchmark expects {expected.classes}, "
                f"{expected.train} and {expected.test}. Results on it would not be comparable."
            )
        return declared
    return expected


def _declared(offer: Offer[DatasetSpec]) -> DatasetFacts:
    spec = offer.spec
    return DatasetFacts(classes=len(spec.classes), train=spec.splits["train"], test=spec.splits["test"])


def _select_datasets(suite: Suite, names: Sequence[str]) -> tuple[str, ...]:
    outside = [name for name in names if name not in suite.datasets]
    if outside:
        raise WrongUseError(
            f"The data set '{outside[0]}' is not part of the suite '{suite.name}', which has "
            f"{', '.join(suite.datasets)}. Choose another suite with --suite."
        )
    return tuple(dict.fromkeys(names)) or suite.datasets
