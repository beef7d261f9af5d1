"""Turns a name and a kind into a new plugin: code that works, its tests, README, licence and CI file.

The files are jinja templates inside the package, so no network is needed.
"""

from __future__ import annotations

import keyword
import re
import shutil
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness import __version__
from harness.api.specs import require_name
from harness.catalog import Catalog, Offer
from harness.errors import StoreError, WrongUseError
from harness.files import writing_to
from harness.machine import installed_version

_PREFIX = "xscore-plugin-"
_RESERVED = ("harness", "xscore", "plugin", "test", "conformance")
_TEMPLATES = Path(__file__).parent / "templates"
_DESCRIPTIONS = {
    "model": "The architecture {title} for xscore-harness",
    "dataset": "The data set {title} for xscore-harness",
    "augmentation": "The augmentation {title} for xscore-harness",
    "metric": "The metric {title} for xscore-harness",
    "tracker": "{title}, a tracker for xscore-harness",
    "executor": "{title}, an executor for xscore-harness",
}
_LIBRARIES = {
    "model": ("torch",),
    "dataset": ("numpy", "pillow"),
    "augmentation": ("torch",),
    "metric": ("torch",),
    "tracker": (),
    "executor": (),
}
_NEXT = {
    "model": ("harness check-budget {name}", "harness run {name} --suite pocket", "harness leaderboard --suite pocket"),
    "dataset": ("harness prepare {name}", "harness audit {name}"),
    "augmentation": ("harness list augmentations",),
    "metric": ("harness list metrics",),
    "tracker": ("harness list trackers", "harness run starnet --suite pocket --dataset pocket_digits --track {name}"),
    "executor": ("harness list executors", "harness run starnet --suite pocket --executor {name}"),
}


def scaffold(name: str, kind: str, into: Path, catalog: Catalog) -> Path:
    """Write ``into/xscore-plugin-NAME`` and return it.

    Args:
        name: The plugin's name, as users will type it.
        kind: ``"model"``, ``"dataset"``, ``"augmentation"``, ``"metric"``, ``"tracker"`` or ``"executor"``.
        into: The parent folder, made if it is missing.
        catalog: The installed plugins, whose names are taken.

    Raises:
        WrongUseError: the name is not usable or taken, or the folder exists.
        StoreError: the folder can't be written; nothing is left behind.
    """
    _require_free(name, kind, catalog)
    distribution = _PREFIX + name.replace("_", "-")
    folder = into / distribution
    if folder.exists():
        raise WrongUseError(f"{folder} exists already. Choose another name, or another place with --into.")
    values = _values(name, kind, distribution)
    try:
        with writing_to(into):
            for target, template in _files(kind, str(values["module"])).items():
                path = folder / target
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(_render(template, values), encoding="utf-8")
    except StoreError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def next_steps(name: str, kind: str, folder: Path) -> str:
    """Return the author's next steps as text."""
    quoted = f'"{folder}"' if " " in str(folder) else str(folder)
    install = f"pip install -e {quoted}"
    commands = [install, f"harness plugin check {name}", *(text.format(name=name) for text in _NEXT[kind])]
    edit = folder / "src" / _module(name) / ("network.py" if kind == "model" else "__init__.py")
    lines = "\n".join(f"  {command}" for command in commands)
    return f"The plugin works as it is. Next:\n{lines}\nThen edit {edit}; 'pytest' in its folder runs its tests."


def _require_free(name: str, kind: str, catalog: Catalog) -> None:
    try:
        require_name(kind, name)
    except ValueError as error:
        raise WrongUseError(f"The {error}.") from None
    if keyword.iskeyword(name) or name in _RESERVED:
        raise WrongUseError(f"The name '{name}' is reserved. Choose a more specific name.")
    tables: dict[str, Mapping[str, Offer[Any]]] = {
        "model": catalog.models,
        "dataset": catalog.datasets,
        "augmentation": catalog.augmentations,
        "metric": catalog.metrics,
        "tracker": catalog.trackers,
        "executor": catalog.executors,
    }
    offer = tables[kind].get(name) if kind in tables else None
    if offer is not None:
        raise WrongUseError(f"The {kind} name '{name}' is taken by {offer.owner}. Choose another name.")
    named = [plugin for plugin in catalog.plugins if plugin.name == name]
    if named:
        raise WrongUseError(f"The name '{name}' is taken by {named[0]}. Choose another name.")
    distribution = _PREFIX + name.replace("_", "-")
    if (installed := installed_version(distribution)) is not None:
        raise WrongUseError(
            f"The distribution {distribution} {installed} is installed already. Choose another name, or "
            f"uninstall it first: pip uninstall {distribution}"
        )
    module = _module(name)
    if module in sys.modules or find_spec(module) is not None:
        raise WrongUseError(f"A module named {module} exists already. Choose another name.")


def _module(name: str) -> str:
    return (_PREFIX + name).replace("-", "_")


def _values(name: str, kind: str, distribution: str) -> dict[str, object]:
    words = re.split(r"[_-]", name)
    title = " ".join(word.capitalize() for word in words)
    needs = (f"xscore-harness>={__version__}", *_LIBRARIES[kind])
    return {
        "name": name,
        "kind": kind,
        "distribution": distribution,
        "module": _module(name),
        "class_name": "".join(word.capitalize() for word in words),
        "title": title,
        "description": _DESCRIPTIONS[kind].format(title=title),
        "dependencies": ", ".join(f'"{need}"' for need in needs),
        "year": datetime.now(UTC).year,
    }


def _files(kind: str, module: str) -> dict[str, str]:
    """Return the templates by target path."""
    files = {
        "pyproject.toml": "common/pyproject.toml",
        "README.md": "common/README.md",
        "LICENSE": "common/LICENSE",
        ".gitignore": "common/gitignore",
        ".github/workflows/test.yml": "common/workflow.yml",
        "tests/test_conformance.py": "common/test_conformance.py",
        f"tests/test_{module.removeprefix('xscore_plugin_')}.py": f"{kind}/test_own.py",
        f"src/{module}/__init__.py": f"{kind}/__init__.py",
    }
    if kind == "model":
        files[f"src/{module}/network.py"] = "model/network.py"
    return files


def _render(template: str, values: Mapping[str, object]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        autoescape=False,
    )
    return environment.get_template(f"{template}.jinja").render(values)
