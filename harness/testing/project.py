"""A distribution's source folder -> importable, and discovered as if it were installed, for a while."""

from __future__ import annotations

import contextlib
import importlib
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.api import PROJECT
from harness.errors import WrongUseError


@dataclass(frozen=True)
class Project:
    """What a ``pyproject.toml`` says of a plugin's distribution.

    Attributes:
        folder: Where it stands.
        name: The distribution's name.
        metadata: Lines of what would be its METADATA file.
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
    """Read a distribution's folder.

    Raises:
        WrongUseError: it is no folder of a plugin, or its modules are not found in it.
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
    """Put a project's modules on ``sys.path``, with a ``.dist-info`` of its own, before anything installed."""
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
    yield f"Version: {project.get('version', '0')}"  # a dynamic one is known to the build backend alone
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
    """Find where the modules are: beside the pyproject.toml, in ``src``, or where hatch is told that they are."""
    wheel: Any = content.get("tool", {}).get("hatch", {}).get("build", {}).get("targets", {}).get("wheel", {})
    told = [(folder / str(package)).parent for package in wheel.get("packages", ())]
    tops = {value.partition(":")[0].partition(".")[0].strip() for value in modules}
    for place in (*told, folder / "src", folder):
        if all((place / top).is_dir() or (place / f"{top}.py").is_file() for top in tops):
            return place
    raise WrongUseError(
        f"{', '.join(sorted(tops))} is neither in {folder / 'src'} nor in {folder}. "
        f"Install the distribution (pip install -e {folder}) and name it instead of its folder."
    )
