"""Finds the entry points of installed plugins, distribution by distribution, so that a damaged one hides no other."""

from __future__ import annotations

import contextlib
import re
import sys
from dataclasses import dataclass, replace
from importlib.metadata import Distribution, DistributionFinder, EntryPoint
from pathlib import Path
from typing import Any

from harness.api import PROJECT
from harness.errors import PluginError
from harness.guard import guarded


@dataclass(frozen=True)
class Installed:
    """A distribution with entry points of the harness.

    Attributes:
        name, version: As its metadata has them; of a damaged one, as its folder's name has them.
        folder: The folder of its metadata.
        points: The entry points.
        damage: The reason why they can't be read, or why none of them may be used; empty if there is none.
    """

    name: str
    version: str
    folder: Path
    points: tuple[EntryPoint, ...]
    damage: str = ""


def find_installed() -> list[Installed]:
    """Return the distributions that have entry points of the harness; of two with one name, the first on the path.

    Two in one folder of the path are left by an interrupted upgrade: the version of the code is then unknown.
    """
    found: dict[str, Installed] = {}
    for distribution in _distributions():
        one = _read(distribution)
        if one is None or not (one.points or one.damage) or one.folder.name.startswith("~"):  # pip is removing it
            continue
        first = found.setdefault(_canonical(one.name), one)
        if first.folder != one.folder and first.folder.parent == one.folder.parent:
            twice = f"{first.folder.name} and {one.folder.name} are both there"
            found[_canonical(one.name)] = replace(first, damage=_damage(first.folder, twice))
    return list(found.values())


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _distributions() -> list[Distribution]:
    """Ask every finder on Python's list; one that fails stops no other."""
    found: list[Distribution] = []
    for finder in sys.meta_path:
        find: Any = getattr(finder, "find_distributions", None)
        with contextlib.suppress(PluginError), guarded():
            found.extend(find(DistributionFinder.Context()) if find else ())
    return found


def _read(distribution: Distribution) -> Installed | None:
    """Read a distribution; return None for one that has nothing to do with the harness."""
    folder = Path(str(getattr(distribution, "_path", "its archive")))
    name, _, version = re.sub(r"\.(dist|egg)-info$", "", folder.name).partition("-")
    try:
        with guarded():
            if PROJECT not in (distribution.read_text("entry_points.txt") or ""):
                return None
            points = tuple(point for point in distribution.entry_points if point.group == PROJECT)
    except PluginError:
        return Installed(
            name, version, folder, (), _damage(folder, "entry_points.txt is no list of NAME = MODULE in UTF-8")
        )
    written: tuple[str | None, str | None] = None, None
    with contextlib.suppress(PluginError), guarded():
        written = distribution.metadata["Name"], distribution.metadata["Version"]
    if not all(written):
        damage = _damage(folder, "METADATA is missing or has no name and version")
        return Installed(name, version, folder, points, damage)
    return Installed(str(written[0]), str(written[1]), folder, points)


def _damage(folder: Path, found: str) -> str:
    name = folder.name.partition("-")[0]
    return f"{found}, in {folder}; install it again: pip install --force-reinstall {name}"
