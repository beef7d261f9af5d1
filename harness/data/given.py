"""Finds a data set's sources in the user's file or folder: every place that may hold one, nearest first."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from harness.api import DatasetSpec, Source
from harness.data.unpack import is_archive
from harness.errors import WrongUseError

DEPTH = 3  # levels searched below a given folder; Kaggle's archives nest one or two
_LEFTOVERS = frozenset(
    [
        *("__macosx", ".ds_store", ".appledouble", ".apdisk", ".fseventsd", ".spotlight-v100", ".temporaryitems"),
        *(".trashes", "icon\r", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),
        *("@eadir", "#recycle", ".@__thumb", ".directory", ".thumbnails"),
        *(".ipynb_checkpoints", "__pycache__", ".git", ".svn"),
    ]
)
_APPLE_DOUBLE = b"\x00\x05\x16\x07"


@dataclass(frozen=True)
class Search:
    """The places that may hold the sources of a data set.

    Attributes:
        given: The user's file or folder.
        places: Files and folders for each source, in the order of the sources; those of the right name alone if there
            are any. A source without a place is missing.
        closed: Folders that can't be listed.
    """

    given: Path
    places: tuple[tuple[Path, ...], ...]
    closed: tuple[Path, ...] = ()


def search(spec: DatasetSpec, given: Path) -> Search:
    """Search the user's file, or folder with three levels below it, for the sources of a data set.

    Raises:
        WrongUseError: the path does not exist.
    """
    if given.is_file():
        sole = len(spec.sources) == 1
        return Search(given, tuple((given,) if _may_be(given, source, sole=sole) else () for source in spec.sources))
    if not given.is_dir():
        raise WrongUseError(f"--from: there is no file or folder {given}.")
    names = {_plain(name) for source in spec.sources for name in (source.filename, *_last_names(source))}
    closed: list[Path] = []
    folders, files = [given], []
    for path, kind in _walk(given, closed):
        if kind == "folder":
            folders.append(path)
        elif _plain(path.name) in names:
            files.append(path)
    places = [_named(source, given, folders, files) for source in spec.sources]
    sizes = {source.bytes for source, found in zip(spec.sources, places, strict=True) if not found and source.checksums}
    if sizes - {None}:  # a renamed file is recognised by its checksum
        same = [(path.stat().st_size, path) for path, kind in _walk(given, closed) if kind == "file"]
        places = [
            found or [path for size, path in same if source.checksums and size == source.bytes]
            for source, found in zip(spec.sources, places, strict=True)
        ]
    if places == [[]] and len(spec.sources[0].gives) == 1:
        places = [[given]]  # the user's folder may have another name
    return Search(given, tuple(tuple(_without_repeats(found)) for found in places), tuple(dict.fromkeys(closed)))


def has_the_name(source: Source, place: Path) -> bool:
    """Return whether a place has the declared name: that of the source, or that of the folder that it gives."""
    if place.is_file():
        return True  # a file is recognised by its checksum
    return len(source.gives) > 1 or place.name in _last_names(source)


def is_leftover(name: str, neighbours: Iterable[str], path: Path) -> bool:
    """Return whether a file or folder was left by a file manager, a notebook or version control, and is no data.

    Args:
        name: Its name.
        neighbours: The names in its folder.
        path: The file itself. Macs keep a file's attributes beside it, under its name with ``._`` in front.
    """
    if name.casefold() in _LEFTOVERS or name.endswith(":Zone.Identifier"):
        return True
    if not name.startswith("._") or path.is_dir():
        return False
    if name[2:] in neighbours:
        return True
    try:
        with path.open("rb") as file:
            return file.read(len(_APPLE_DOUBLE)) == _APPLE_DOUBLE
    except OSError:
        return False


def _may_be(file: Path, source: Source, *, sole: bool) -> bool:
    """Return whether the user's file may be a source: by its name or size, or because there is no other source."""
    if sole and is_archive(file.name) == is_archive(source.filename):
        return True
    same_size = bool(source.checksums) and file.stat().st_size == source.bytes
    return same_size or _plain(file.name) == _plain(source.filename)


def _plain(name: str) -> str:
    """Return a name by which names that differ by case, or by the form of their accents, are equal."""
    return unicodedata.normalize("NFC", name).casefold()


def _last_names(source: Source) -> list[str]:
    return [PurePosixPath(path).name for path in source.gives]


def _named(source: Source, given: Path, folders: Sequence[Path], files: Sequence[Path]) -> list[Path]:
    """Return the places with a source's name; else those of a similar name, or with the name of a link's target."""
    found = [path for path in files if path.name == source.filename]
    wanted = _last_names(source)
    if len(wanted) > 1:  # the source is several files: the folder holds all of them
        return found + [path for path in folders if all((path / name).exists() for name in wanted)]
    if wanted:
        found += [path for path in folders if wanted[0] in (_names_of(path) if path is given else [path.name])]
    if found:
        return found
    found = [path for path in files if _plain(path.name) == _plain(source.filename)]
    for path in folders if wanted else ():
        names = _names_of(path) if path is given or path.is_symlink() else [path.name]
        if _plain(wanted[0]) in map(_plain, names):
            found.append(path)
    return found


def _names_of(path: Path) -> list[str]:
    """Return the names of a path: as it is written, as the shell shows it for the working folder, and without links."""
    shell = os.environ.get("PWD", "")
    try:
        here = [Path(shell).name] if shell and Path(shell).samefile(path) else []
    except OSError:
        here = []
    return [Path(os.path.abspath(path)).name, path.resolve().name, *here]  # noqa: PTH100 - absolute() keeps '..'


def _without_repeats(places: Iterable[Path]) -> Iterator[Path]:
    """Leave out the places that are the same file or folder as an earlier one, by another link."""
    seen: set[tuple[int, int]] = set()
    for place in places:
        status = place.stat()
        if (status.st_dev, status.st_ino) not in seen:
            seen.add((status.st_dev, status.st_ino))
            yield place


def kind_of(entry: os.DirEntry[str]) -> str:
    """Return ``"folder"``, ``"file"``, or nothing for a dangling or circular link, a device or a pipe."""
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else ""
    except OSError:
        return ""


def _walk(base: Path, closed: list[Path]) -> Iterator[tuple[Path, str]]:
    """Yield what is below a folder with its kind, nearest first, without leftovers and hidden folders.

    Links are followed, but no folder is searched twice. Folders that can't be listed are added to ``closed``.
    """
    seen = {os.path.realpath(base)}
    level = [str(base)]
    for _ in range(DEPTH):
        below: list[str] = []
        for folder in level:
            try:
                with os.scandir(folder) as opened:
                    entries = sorted(opened, key=lambda entry: entry.name)
            except OSError:
                closed.append(Path(folder))
                continue
            for entry in entries:
                kind = kind_of(entry)
                if not kind or entry.name.casefold() in _LEFTOVERS:
                    continue
                if kind == "folder":
                    if entry.name.startswith("."):
                        continue
                    real = os.path.realpath(entry.path)
                    if real not in seen:
                        seen.add(real)
                        below.append(entry.path)
                yield Path(entry.path), kind
        level = below
