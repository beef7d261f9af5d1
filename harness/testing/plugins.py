"""Rules for every plugin: its distribution, its import and its hooks."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import Distribution, PackageNotFoundError, packages_distributions, requires
from typing import Any

from harness.catalog import Plugin
from harness.testing.rules import Failed, Rule, Skipped, Warned, is_vague, rule, shorten
from harness.testing.sandbox import run_python

IMPORT_SECONDS = 1.0
HEAVY = (
    *("torch", "torchvision", "timm", "fvcore", "tensorflow", "jax", "pandas", "scipy", "sklearn", "matplotlib"),
    *("cv2", "mlflow", "wandb", "tensorboard", "transformers"),
)
"""Libraries that cost from a tenth of a second to several; every command imports every plugin."""
_LESS_HEAVY = ("numpy", "PIL")
_HARNESS = "xscore-harness"


@dataclass(frozen=True)
class PluginCase:
    """A plugin and its distribution.

    Attributes:
        plugin: The plugin, as it was discovered.
        distribution: The distribution that installed it; None if that is unknown, or examined with another plugin.
    """

    plugin: Plugin
    distribution: Distribution | None

    @cached_property
    def imported(self) -> dict[str, Any]:
        """Import the module in a fresh interpreter and return the side effects; see ``sandbox.probe``."""
        code = "import sys; from harness.testing.sandbox import probe; probe(sys.argv[1:])"
        done = run_python(code, self.plugin.module, *HEAVY, *_LESS_HEAVY)
        try:
            found = json.loads(done.out.strip().splitlines()[-1])
        except (ValueError, IndexError):
            return {"error": f"importing it ends the interpreter: {done.last_error}"}
        return dict(found)

    def require_import(self) -> dict[str, Any]:
        """Return the side effects. Raises Skipped if the import failed, which ``plugin-imports`` reports."""
        if self.imported["error"]:
            raise Skipped("it can't be imported.")
        return self.imported


@rule("plugin-imports")
def imports(case: PluginCase) -> None:
    """A plugin that can't be imported gives nothing."""
    if error := case.imported["error"]:
        raise Failed(f"{case.plugin.module}: {error}")


@rule("plugin-api")
def has_version(case: PluginCase) -> str:
    """Hooks and specs may change with a new version of the hook API, and a plugin states its version."""
    from harness.api import HOOK_API_VERSION

    stated = case.require_import()["api"]
    if stated is None:
        return f"none is stated, which means 1; this harness has {HOOK_API_VERSION}"
    if stated != HOOK_API_VERSION:
        raise Failed(f"HARNESS_API is {stated}, this harness has version {HOOK_API_VERSION}.")
    return f"version {stated}"


@rule("plugin-hooks")
def has_hooks(case: PluginCase) -> str:
    """A misspelt hook is never called, and a hook that returns something else disables its plugin."""
    from harness.api import HOOK_API_VERSION

    found = case.require_import()
    if found["api"] not in (None, HOOK_API_VERSION):
        raise Skipped("it was written for another version of the hooks.")
    if case.plugin.trace:
        raise Failed(f"{case.plugin.reason}.")
    return ", ".join(case.plugin.offers)


@rule("plugin-names")
def has_names(case: PluginCase) -> None:
    """A name that two plugins claim belongs to neither, and the reference plugins keep theirs."""
    case.require_import()
    if case.plugin.trace:
        raise Skipped("it offers nothing.")
    if case.plugin.reason:
        raise Failed(f"{case.plugin.reason}.")


@rule("plugin-light")
def imports_nothing_heavy(case: PluginCase) -> None:
    """Every command imports every plugin, even a command that only prints a table."""
    found = case.require_import()
    heavy = [name for name in found["modules"] if name in HEAVY]
    if heavy:
        cuda = " and initialises CUDA" if found["cuda"] else ""
        raise Failed(f"importing it imports {shorten(heavy)}{cuda}; import them inside build, read or compute.")
    if found["modules"]:
        raise Warned(f"importing it imports {shorten(found['modules'])}; import them inside build, read or compute.")


@rule("plugin-quick")
def imports_quickly(case: PluginCase) -> str:
    """A second at import delays every command by a second."""
    found = case.require_import()
    if any(name in HEAVY for name in found["modules"]):
        raise Skipped("the time is that of the libraries that it imports.")
    if found["seconds"] > IMPORT_SECONDS:
        raise Failed(f"importing it takes {found['seconds']:.1f} s, expected less than {IMPORT_SECONDS:g} s.")
    return f"{1000 * found['seconds']:.0f} ms"


@rule("plugin-silent")
def imports_silently(case: PluginCase) -> None:
    """Output at import lands in the data of every command."""
    if found := case.require_import()["printed"]:
        raise Failed(f"importing it prints {found[:120]!r}, expected nothing.")


@rule("plugin-offline")
def imports_offline(case: PluginCase) -> None:
    """No command may wait for a server."""
    if found := case.imported.get("connections"):
        raise Failed(f"importing it wants to connect to {shorten(found)}, expected no network.")


@rule("plugin-writes-nothing")
def imports_without_files(case: PluginCase) -> None:
    """A command that lists the installed plugins must not leave files."""
    if found := case.require_import()["written"]:
        raise Failed(f"importing it changes {shorten(found)}, expected no file to be written.")


@rule("plugin-settings")
def imports_without_settings(case: PluginCase) -> None:
    """A global setting changed at import changes every other plugin's numbers."""
    if found := case.require_import()["settings"]:
        raise Failed(f"importing it changes {shorten(found)}, expected global settings to be left alone.")


@rule("plugin-metadata")
def has_metadata(case: PluginCase) -> str:
    """Users see a plugin's author and terms; pip needs its dependencies."""
    if case.distribution is None:
        raise Skipped("its distribution is examined with another plugin.")
    needs = [text.lower().replace("_", "-") for text in case.distribution.requires or ()]
    lacks = []
    if is_vague(_field(case.distribution, "Version")):
        lacks.append("a version")
    if case.plugin.distribution != _HARNESS and not any(text.startswith(_HARNESS) for text in needs):
        lacks.append(f"a dependency on {_HARNESS}")
    if is_vague(_field(case.distribution, "Summary")):
        lacks.append("a description")
    terms = [_field(case.distribution, name) for name in ("License-Expression", "License", "License-File")]
    if all(is_vague(text) for text in terms) and "License ::" not in _field(case.distribution, "Classifier"):
        lacks.append("a licence")
    if lacks:
        raise Failed(f"{case.plugin.distribution} lacks {shorten(lacks, 4)} in its metadata (pyproject.toml).")
    return f"{case.plugin.distribution} {case.plugin.version}"


def normal(name: str) -> str:
    """Return a distribution's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def required_packages(distribution: str) -> set[str]:
    """Return the import packages of all that a distribution requires, extras left out, and what that requires."""
    found: set[str] = set()
    pending = [distribution, _HARNESS]
    while pending:
        name = normal(pending.pop())
        if name not in found:
            found.add(name)
            try:
                needs = requires(name) or ()
            except PackageNotFoundError:  # for another system, say
                continue
            pending += [re.split(r"[^\w.-]", text, maxsplit=1)[0] for text in needs if "extra ==" not in text]
    return {package for package, owners in packages_distributions().items() if found & {normal(one) for one in owners}}


def _field(found: Distribution, name: str) -> str:
    return " ".join(found.metadata.get_all(name) or ())


RULES: tuple[Rule, ...] = (
    imports,
    has_version,
    has_hooks,
    has_names,
    imports_nothing_heavy,
    imports_quickly,
    imports_silently,
    imports_offline,
    imports_without_files,
    imports_without_settings,
    has_metadata,
)
