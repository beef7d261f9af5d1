"""The rules of a plugin, found by its name or in its folder, which need not be installed."""

from __future__ import annotations

import contextlib
import importlib
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from harness.api import PROJECT
from harness.catalog import DISTRIBUTION, Catalog, Plugin
from harness.errors import WrongUseError, unknown_name
from harness.registry import Benchmark
from harness.testing import (
    augmentations,
    datasets,
    executors,
    metrics,
    model_state,
    models,
    observers,
    plugins,
    trackers,
)
from harness.testing.plugins import normal
from harness.testing.rules import Rule, RuleCheck, checks

RULES: tuple[Rule, ...] = (
    *plugins.RULES,
    *models.RULES,
    *model_state.RULES,
    *datasets.RULES,
    *augmentations.RULES,
    *metrics.RULES,
    *trackers.RULES,
    *observers.RULES,
    *executors.RULES,
)
"""All rules, in the order in which they are examined."""


def find_checks(name: str | None, benchmark: Benchmark, catalog: Catalog, data_root: Path) -> tuple[RuleCheck, ...]:
    """Return the checks of a distribution, a plugin or one spec, by its name; for None of all third parties.

    Raises:
        WrongUseError: nothing has that name.
    """
    finder = _Finder(benchmark, catalog, data_root)
    if name is None:
        others = [plugin for plugin in catalog.plugins if plugin.distribution != DISTRIBUTION]
        return tuple(finder.of_plugins(others, None))
    plain = normal(name)
    if chosen := [one for one in catalog.plugins if plain in (normal(one.name), normal(one.distribution))]:
        return tuple(finder.of_plugins(chosen, None))
    if owners := [one for one in catalog.plugins if name in _offers(one)]:
        return tuple(finder.of_plugins(owners, name))
    known = {text for one in catalog.plugins for text in (one.name, one.distribution, *_offers(one))}
    kind = "distribution, plugin, model, data set, augmentation, metric, tracker or executor"
    raise WrongUseError(unknown_name(kind, name, known))


@dataclass(frozen=True)
class _Finder:
    """Pairs plugins with the rules that apply to them."""

    benchmark: Benchmark
    catalog: Catalog
    data_root: Path

    def of_plugins(self, chosen: list[Plugin], only: str | None) -> Iterator[RuleCheck]:
        seen: set[str] = set()
        for plugin in chosen:
            if only is None:
                found = None if plugin.distribution in seen else _distribution(plugin.distribution)
                seen.add(plugin.distribution)
                yield from checks(f"plugin {plugin.name}", plugins.RULES, plugins.PluginCase(plugin, found))
            for subject, rules, case in self._cases(plugin, only):
                yield from checks(subject, rules, case)

    def _cases(self, plugin: Plugin, only: str | None) -> Iterator[tuple[str, tuple[Rule, ...], object]]:
        """Yield the subject, the rules and the case of each spec of a plugin, or of the only one of that name."""

        def offered(table: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
            return ((name, offer) for name, offer in table.items() if offer.owner == plugin and only in (None, name))

        catalog, benchmark = self.catalog, self.benchmark
        sizes = tuple(sorted({protocol.input_size for protocol in benchmark.protocols.values()}))
        for name, model in offered(catalog.models):
            case = models.ModelCase(model.spec, benchmark, self._class_counts())
            yield f"model {name}", (*models.RULES, *model_state.RULES), case
        for name, dataset in offered(catalog.datasets):
            yield f"data set {name}", datasets.RULES, datasets.DatasetCase(dataset, self.data_root, sizes)
        for name, augmentation in offered(catalog.augmentations):
            case_of = augmentations.AugmentationCase(augmentation.spec, self._strengths(name))
            yield f"augmentation {name}", augmentations.RULES, case_of
        for name, metric in offered(catalog.metrics):
            yield f"metric {name}", metrics.RULES, metrics.MetricCase(metric.spec)
        for name, tracker in offered(catalog.trackers):
            yield f"tracker {name}", trackers.RULES, trackers.TrackerCase(tracker.spec)
        for name, executor in offered(catalog.executors):
            yield f"executor {name}", executors.RULES, executors.ExecutorCase(executor)
        hooks = observers.observers_in(catalog, plugin)
        if hooks.functions and only is None:
            yield f"observer {plugin.name}", observers.RULES, observers.ObserverCase(plugin.name, hooks)

    def _class_counts(self) -> tuple[int, ...]:
        """Return the class counts of the budget, the published data sets and the installed ones of the suites."""
        named = {name for suite in self.benchmark.suites.values() for name in suite.datasets}
        installed = {len(self.catalog.datasets[name].spec.classes) for name in named & set(self.catalog.datasets)}
        published = {facts.classes for facts in self.benchmark.datasets.values()}
        return tuple(sorted({*self.benchmark.counting.classes, *published, *installed}))

    def _strengths(self, augmentation: str) -> tuple[dict[str, float], ...]:
        """Return the different strengths that protocols give to an augmentation; its defaults if none names it."""
        protocols = self.benchmark.protocols.values()
        uses = [use.strengths for one in protocols for use in one.augmentations if use.name == augmentation]
        return tuple({repr(sorted(use.items())): use for use in uses}.values()) or ({},)


def _offers(plugin: Plugin) -> set[str]:
    return {offer.rpartition(" ")[2] for offer in plugin.offers}


def _distribution(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


@dataclass(frozen=True)
class Project:
    """The content of a ``pyproject.toml`` that matters for a plugin.

    Attributes:
        folder: The file's folder.
        name: The distribution's name.
        metadata: The lines of a METADATA file.
        points: Modules by the names of the entry points in the group ``harness``.
        sources: The folder that its modules are imported from.
    """

    folder: Path
    name: str
    metadata: tuple[str, ...]
    points: Mapping[str, str]
    sources: Path


def project_above(file: Path) -> Path | None:
    """Return the nearest folder above a file that has a ``pyproject.toml``."""
    return next((folder for folder in file.parents if (folder / "pyproject.toml").is_file()), None)


def read_project(folder: Path) -> Project:
    """Read the folder of a distribution.

    Raises:
        WrongUseError: it is not the folder of a plugin, or its modules are not in it.
    """
    file = folder / "pyproject.toml"
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WrongUseError(
            f"{folder} has no pyproject.toml. Name the folder of a plugin's distribution, or an installed plugin."
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise WrongUseError(f"{file} can't be read: {error}.") from error
    project = content.get("project", {})
    points = project.get("entry-points", {}).get(PROJECT, {})
    if not points or not isinstance(project.get("name"), str):
        raise WrongUseError(
            f"{file} names no plugin: expected [project] with a name, and a table [project.entry-points.{PROJECT}] "
            "with a line such as mynet = \"xscore_plugin_mynet\"."
        )  # fmt: skip
    return Project(
        folder=folder.absolute(),
        name=project["name"],
        metadata=tuple(_metadata(project)),
        points={str(name): str(value) for name, value in points.items()},
        sources=_sources(folder.absolute(), content, [str(value) for value in points.values()]),
    )


@contextlib.contextmanager
def importable(project: Project) -> Iterator[None]:
    """Make a project's modules importable during the block, as if it were installed and before all that is."""
    with tempfile.TemporaryDirectory() as folder:
        version = next((line.partition(": ")[2] for line in project.metadata if line.startswith("Version: ")), "0")
        info = Path(folder) / f"{project.name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("\n".join(project.metadata) + "\n", encoding="utf-8")
        lines = [f"{name} = {value}" for name, value in project.points.items()]
        (info / "entry_points.txt").write_text(f"[{PROJECT}]\n" + "\n".join(lines) + "\n", encoding="utf-8")
        added = [folder, str(project.sources)]
        sys.path[:0] = added
        importlib.invalidate_caches()
        try:
            yield
        finally:
            for entry in added:
                with contextlib.suppress(ValueError):
                    sys.path.remove(entry)
            importlib.invalidate_caches()


def _metadata(project: Mapping[str, Any]) -> Iterator[str]:
    yield "Metadata-Version: 2.4"
    yield f"Name: {project['name']}"
    yield f"Version: {project.get('version', '0')}"  # only the build backend knows a dynamic one
    if isinstance(project.get("description"), str):
        yield f"Summary: {project['description']}"
    licence = project.get("license")
    if isinstance(licence, str):
        yield f"License-Expression: {licence}"
    elif isinstance(licence, dict):
        yield f"License: {licence.get('text') or licence.get('file') or ''}"
    for need in project.get("dependencies", ()):
        yield f"Requires-Dist: {need}"


def _sources(folder: Path, content: Mapping[str, Any], modules: list[str]) -> Path:
    """Find the modules: beside the pyproject.toml, in ``src``, or where hatch's settings place them."""
    wheel: Any = content.get("tool", {}).get("hatch", {}).get("build", {}).get("targets", {}).get("wheel", {})
    set_for_hatch = [(folder / str(package)).parent for package in wheel.get("packages", ())]
    tops = {value.partition(":")[0].partition(".")[0].strip() for value in modules}
    for place in (*set_for_hatch, folder / "src", folder):
        if all((place / top).is_dir() or (place / f"{top}.py").is_file() for top in tops):
            return place
    raise WrongUseError(
        f"{', '.join(sorted(tops))} is neither in {folder / 'src'} nor in {folder}. "
        f"Install the distribution (pip install -e {folder}) and name it instead of its folder."
    )
