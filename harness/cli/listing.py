"""``harness list``: the installed plugins and their contents."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import click

from harness import __version__
from harness.api import HOOK_API_VERSION
from harness.catalog import Catalog
from harness.cli.common_options import data_option, data_root, format_option, load, registry_option
from harness.cli.output import Command, print_rows
from harness.data.ingest import definition
from harness.data.prepared import find_prepared
from harness.errors import DatasetError
from harness.execute.trackers import missing_modules
from harness.installed import find_installed
from harness.machine import LIBRARIES, installed_version
from harness.registry import Benchmark

_Rows: TypeAlias = list[dict[str, Any]]


def _owner(offer: Any) -> dict[str, str]:
    owner = offer.owner
    return {"plugin": owner.name, "distribution": owner.distribution, "version": owner.version}


def _models(benchmark: Benchmark, catalog: Catalog, _: Path) -> _Rows:
    exceptions = {name: peak for p in benchmark.protocols.values() for name, peak in p.lr_max_exceptions.items()}
    return [
        {
            "model": name,
            "name": name,
            **_owner(offer),
            "title": offer.spec.title or name,
            "lr_max": exceptions.get(name, offer.spec.lr_max),
            "paper": offer.spec.paper,
        }
        for name, offer in catalog.models.items()
    ]


def _datasets(benchmark: Benchmark, catalog: Catalog, root: Path) -> _Rows:
    rows = []
    for name, offer in catalog.datasets.items():
        spec = offer.spec
        rows.append(
            {
                "name": name,
                "title": spec.title,
                "classes": len(spec.classes),
                **{split: spec.splits[split] for split in ("train", "test")},
                "domain": spec.domain,
                "licence": spec.licence,
                **_prepared(offer, root, {p.input_size for p in benchmark.protocols.values()}),
                "leakage": spec.leakage,
                **_owner(offer),
            }
        )
    known = {row["name"] for row in rows}
    rows += [
        {
            "name": name,
            "title": "no installed plugin offers it",
            "classes": facts.classes,
            "train": facts.train,
            "test": facts.test,
            **dict.fromkeys(
                (
                    "domain",
                    "licence",
                    "prepared",
                    "megabytes",
                    "fingerprint",
                    "leakage",
                    "plugin",
                    "distribution",
                    "version",
                )
            ),
        }
        for name, facts in benchmark.datasets.items()
        if name not in known
    ]
    return rows


def _prepared(offer: Any, root: Path, sizes: set[int]) -> dict[str, Any]:
    """Return the prepared forms of a data set, their size on disk and their fingerprints."""
    try:
        found = [find_prepared(root, offer.spec.name, definition(offer), size) for size in sorted(sizes)]
    except DatasetError:
        return {"prepared": "damaged", "megabytes": None, "fingerprint": None}
    forms = {one.folder.name: one for one in found if one}
    size = sum(file.stat().st_size for one in forms.values() for file in one.folder.iterdir())
    return {
        "prepared": ", ".join(sorted(forms)) or ("when first used" if not offer.spec.sources else "no"),
        "megabytes": size / 1e6 if forms else None,
        "fingerprint": ", ".join(sorted({one.manifest.fingerprint for one in forms.values()})) or None,
    }


def _augmentations(_: Benchmark, catalog: Catalog, __: Path) -> _Rows:
    return [
        {"name": name, "title": offer.spec.title or name, **_owner(offer)}
        for name, offer in catalog.augmentations.items()
    ]


def _metrics(_: Benchmark, catalog: Catalog, __: Path) -> _Rows:
    return [
        {
            "name": name,
            "title": offer.spec.title or name,
            "unit": offer.spec.unit,
            "better": "higher" if offer.spec.higher_is_better else "lower",
            **_owner(offer),
        }
        for name, offer in catalog.metrics.items()
    ]


def _executors(_: Benchmark, catalog: Catalog, __: Path) -> _Rows:
    return [{"name": name, "title": offer.spec.title, **_owner(offer)} for name, offer in catalog.executors.items()]


def _trackers(_: Benchmark, catalog: Catalog, __: Path) -> _Rows:
    return [
        {"name": name, "title": offer.spec.title, "missing": missing_modules(offer.spec), **_owner(offer)}
        for name, offer in catalog.trackers.items()
    ]


def _suites(benchmark: Benchmark, _: Catalog, __: Path) -> _Rows:
    return [
        {
            "name": name,
            "title": suite.title,
            "protocol": suite.protocol,
            "budget": suite.budget,
            "datasets": list(suite.datasets),
            "anchors": suite.anchors,
            "default": name == benchmark.default_suite,
        }
        for name, suite in benchmark.suites.items()
    ]


def _budgets(benchmark: Benchmark, _: Catalog, __: Path) -> _Rows:
    return [
        {
            "name": name,
            "parameters": budget.parameters,
            "tolerance": budget.tolerance,
            "least": budget.bounds[0],
            "most": budget.bounds[1],
            "suites": [suite.name for suite in benchmark.suites.values() if suite.budget == name],
        }
        for name, budget in benchmark.budgets.items()
    ]


def _protocols(benchmark: Benchmark, _: Catalog, __: Path) -> _Rows:
    return [
        {
            "name": name,
            "title": protocol.title,
            "input_size": protocol.input_size,
            "batch_size": protocol.batch_size,
            "epochs": protocol.epochs,
            "lr_max": protocol.lr_max,
            "digest": protocol.digest,
        }
        for name, protocol in benchmark.protocols.items()
    ]


def _plugins(_: Benchmark, catalog: Catalog, __: Path) -> _Rows:
    return [
        {
            "plugin": plugin.name,
            "name": plugin.name,
            "distribution": plugin.distribution,
            "version": plugin.version,
            "state": plugin.state,
            "offers": list(plugin.offers),
            "reason": plugin.reason,
        }
        for plugin in catalog.plugins
    ]


_KINDS: Mapping[str, tuple[Callable[[Benchmark, Catalog, Path], _Rows], tuple[str, ...]]] = {
    "models": (_models, ("name", "title", "lr_max", "distribution", "version")),
    "datasets": (_datasets, ("name", "classes", "train", "test", "prepared", "megabytes", "fingerprint", "licence")),
    "augmentations": (_augmentations, ("name", "title", "distribution", "version")),
    "metrics": (_metrics, ("name", "title", "unit", "better", "distribution", "version")),
    "suites": (_suites, ("name", "title", "protocol", "budget", "datasets", "anchors")),
    "budgets": (_budgets, ("name", "parameters", "tolerance", "least", "most", "suites")),
    "protocols": (_protocols, ("name", "input_size", "epochs", "batch_size", "lr_max", "digest", "title")),
    "plugins": (_plugins, ("plugin", "distribution", "version", "state", "offers", "reason")),
    "executors": (_executors, ("name", "title", "distribution", "version")),
    "trackers": (_trackers, ("name", "title", "missing", "distribution", "version")),
}


@click.command("list", cls=Command)
@click.argument("kind", type=click.Choice(list(_KINDS)), default="models")
@data_option
@registry_option
@format_option
def list_command(kind: str, data: Path | None, registry: Path | None, format_: str) -> None:
    """List the installed models, data sets or other plugins: models by default.

    \b
    harness list                    the models and their packages
    harness list datasets           the data sets, prepared or not
    harness list plugins            every plugin, with the error of a broken one
    """
    root = data_root(data) if kind == "datasets" else Path()
    benchmark, catalog = load(registry)
    rows_of, columns = _KINDS[kind]
    rows = rows_of(benchmark, catalog, root)
    print_rows(
        rows, format_, columns={key: key.replace("_", " ") for key in columns}, digits={"lr_max": 4, "megabytes": 1}
    )
    troubled = [plugin for plugin in catalog.plugins if plugin.state != "ok"]
    if troubled and kind != "plugins":
        them = "1 plugin has" if len(troubled) == 1 else f"{len(troubled)} plugins have"
        click.echo(f"{them} a problem; see 'harness list plugins'.", err=True)


def version_text() -> str:
    """Return the version in the first line and the environment below it."""
    facts = {
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "platform": platform.platform(),
        **{name: installed_version(name) or "not installed" for name in LIBRARIES},
        "plugins": _plugins_line(),
        "hook API": str(HOOK_API_VERSION),
    }
    width = max(map(len, facts))
    return "\n".join(
        [f"harness, version {__version__}", *(f"  {name:{width}}  {value}" for name, value in facts.items())]
    )


def show_version(context: click.Context, _: click.Parameter, value: bool) -> None:
    """Print the version and exit; the callback of an option."""
    if value and not context.resilient_parsing:
        click.echo(version_text())
        context.exit()


def _plugins_line() -> str:
    """Count entry points without loading them; 'harness list plugins' shows whether they work."""
    found = find_installed()
    return f"{sum(len(one.points) for one in found)} of {len(found)} distribution{'s' if len(found) != 1 else ''}"
