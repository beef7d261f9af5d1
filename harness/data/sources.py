"""Gathers a data set's sources in one folder for its reader: fetches or finds, verifies and unpacks them.

<data>/downloads/<key>/<file>           the archives; kept until 'harness prepare --remove'
<work>/parts/...                        the unpacked archives; removed once the set is prepared
<work>/view/                            the reader's folder: links to the parts, or to the user's own folder

``work`` is a folder of this writer alone, see ``harness.data.store``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from harness.api import DatasetSpec, Source
from harness.data.fetch import FetchPolicy, Progress, digests_of, fetch, no_progress, verify_file
from harness.data.prepared import SourceRecord
from harness.data.unpack import is_archive, unpack
from harness.errors import SourceError, WrongUseError
from harness.files import hold_lock, write_text_atomically, writing_to

_DEPTH = 3  # levels searched below a given folder; Kaggle's archives nest one or two


@dataclass(frozen=True)
class Gathered:
    """The gathered sources of a data set.

    Attributes:
        folder: The reader's folder.
        records: The identity and the verification of each source.
        notes: Notes for the user, such as that a folder's images have no published checksums.
    """

    folder: Path
    records: tuple[SourceRecord, ...]
    notes: tuple[str, ...]


def download_folder(root: Path, source: Source) -> Path:
    """The folder of a source's file. Data sets that share a file share the folder."""
    known = [source.filename, sorted(source.checksums.items()), list(source.urls[:1])]
    return root / "downloads" / hashlib.sha256(json.dumps(known).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Folders:
    """The data folder ``root``, which keeps the downloads, and the folder ``work`` of this writer alone."""

    root: Path
    work: Path


def gather(
    spec: DatasetSpec, folders: Folders, given: Path | None, policy: FetchPolicy, progress: Progress = no_progress
) -> Gathered:
    """Get, verify and unpack a data set's sources. Files unpacked by an earlier, interrupted attempt are used.

    Args:
        spec: The data set.
        folders: The data folder, and this writer's own.
        given: The user's own file or folder; files missing in it are downloaded. None to download all.
        policy: The download settings.
        progress: Called with the progress of downloads.

    Raises:
        SourceError: something is missing, is not the expected file, or can't be unpacked.
        StoreError: the disk is full or not writable.
    """
    gathering = _Gathering(spec, folders, policy, progress)
    found = [find_given(spec, source, given) if given else None for source in spec.sources]
    missing = [source for source, path in zip(spec.sources, found, strict=True) if path is None]
    if given and missing and (policy.offline or len(missing) == len(spec.sources)):
        raise SourceError(_missing(spec, missing, given))
    view = gathering.view
    with writing_to(view.parent):
        shutil.rmtree(view, ignore_errors=True)
        view.mkdir(parents=True)
    records = []
    notes = [f"{source.filename} is not in {given}; it is downloaded." for source in missing if given]
    for source, path in zip(spec.sources, found, strict=True):
        if path is not None and path.is_dir() and not is_archive(path.name):
            record, note = _use_folder(source, path, view)
            notes.append(note)
        else:
            record = _use_file(gathering, source, path)
        records.append(record)
    return Gathered(view, tuple(records), tuple(note for note in notes if note))


@dataclass(frozen=True)
class _Gathering:
    """One data set whose sources are gathered, with its folders and settings."""

    spec: DatasetSpec
    folders: Folders
    policy: FetchPolicy
    progress: Progress

    @property
    def parts(self) -> Path:
        return self.folders.work / "parts"

    @property
    def view(self) -> Path:
        return self.folders.work / "view"


def _use_file(gathering: _Gathering, source: Source, path: Path | None) -> SourceRecord:
    """Fetch or verify a file, unpack an archive, and link the content into the reader's folder."""
    policy, view = gathering.policy, gathering.view
    if path is None:
        folder = download_folder(gathering.folders.root, source)
        with writing_to(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with hold_lock(folder / ".lock"):  # another data set may be fetching the same file
            path, sha256, verified = fetch(source, folder, gathering.spec.name, policy, gathering.progress)
        origin = "downloaded"
    else:
        sha256, verified = _verify_given(path, source, policy)
        origin = f"given: {path}"
    record = SourceRecord(filename=source.filename, sha256=sha256, verified=verified, origin=origin)
    if not is_archive(source.filename):
        _link(path.resolve(), view / source.into / source.filename)
        return record
    part, mark = gathering.parts / source.filename, gathering.parts / f"{source.filename}.sha256"
    if not (part.is_dir() and mark.is_file() and mark.read_text(encoding="utf-8") == sha256):
        shutil.rmtree(part, ignore_errors=True)
        mark.unlink(missing_ok=True)
        unpack(path, part)
        write_text_atomically(mark, sha256)
    try:
        for entry in sorted(part.iterdir()):
            _link(entry.resolve(), view / source.into / entry.name)
        _require_given_paths(source, path, part, view)
        _verify_members(source, view)
    except SourceError:
        mark.unlink()
        shutil.rmtree(part)
        raise
    return record


def _verify_given(path: Path, source: Source, policy: FetchPolicy) -> tuple[str, str]:
    """Verify the user's file. An archive that was packed anew is accepted if each file in it can be verified."""
    try:
        return verify_file(path, source, policy.accepted)
    except SourceError:
        if not (source.members and is_archive(source.filename)):
            raise
    return digests_of(path, {"sha256"})["sha256"], f"{len(source.members)} files by checksum"


def _require_given_paths(source: Source, path: Path, part: Path, view: Path) -> None:
    for wanted in source.gives:
        if not (view / wanted).exists():
            there = ", ".join(sorted(entry.name for entry in part.iterdir())[:5]) or "nothing"
            raise SourceError(f"The archive {path} does not hold '{wanted}'; it holds {there}.")


def _use_folder(source: Source, found: Path, view: Path) -> tuple[SourceRecord, str]:
    """Link a folder that the user has unpacked, and verify every file whose digest is known."""
    for wanted in source.gives:
        place = found / PurePosixPath(wanted).name if len(source.gives) > 1 else found
        _link(place.resolve(), view / wanted)
    checked = _verify_members(source, view)
    note = (
        ""
        if checked
        else f"No checksums of the files in {source.filename} are published, so the folder {found} is verified by its "
        "names and counts, and by decoding every image. The archive itself could be verified by checksum."
    )
    verified = f"{checked} files by checksum" if checked else "names and counts"
    return SourceRecord(filename=source.filename, sha256="", verified=verified, origin=f"given: {found}"), note


def _verify_members(source: Source, view: Path) -> int:
    for name, digest in source.members.items():
        path = view / name
        algorithm, _, expected = digest.partition(":")
        if not path.is_file():
            raise SourceError(f"The file '{name}' of {source.filename} is missing in {path.parent.resolve()}.")
        found = digests_of(path, {algorithm})[algorithm]
        if found != expected:
            raise SourceError(
                f"{path.resolve()} is not the expected file: its {algorithm} is {found}, expected {expected}. "
                "It is damaged, or was changed after unpacking."
            )
    return len(source.members)


def _link(target: Path, link: Path) -> None:
    with writing_to(link.parent):
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.exists() or link.is_symlink():
            raise SourceError(
                f"Two sources provide '{link.name}'; the data set's plugin must unpack them to different folders."
            )
        try:
            link.symlink_to(target, target_is_directory=target.is_dir())
        except OSError:  # Windows without permission to create links
            if target.is_dir():
                shutil.copytree(target, link)
            else:
                shutil.copy2(target, link)


def find_given(spec: DatasetSpec, source: Source, given: Path) -> Path | None:
    """Find a source in the user's file or folder: the file itself, or else the folder that it unpacks to.

    Raises:
        WrongUseError: the path does not exist.
    """
    if given.is_file():
        sole = len(spec.sources) == 1 and is_archive(given.name) == is_archive(source.filename)
        return given if sole or given.name == source.filename else None
    if not given.is_dir():
        raise WrongUseError(f"--from: there is no file or folder {given}.")
    inside = list(_walk(given))
    for path in inside:
        if path.name == source.filename and path.is_file():
            return path
    if not source.gives:
        return None
    if len(source.gives) > 1:
        # The source is several files: find the folder that holds all of them.
        folders = [given, *(path for path in inside if path.is_dir())]
        return next((f for f in folders if all((f / PurePosixPath(w).name).exists() for w in source.gives)), None)
    name = PurePosixPath(source.gives[0]).name
    return next((path for path in [given, *inside] if path.resolve().name == name and path.is_dir()), None)


def _walk(base: Path) -> Iterator[Path]:
    """Yield folders and files below a folder, nearest first; no files beyond a folder's first 1000 entries."""
    level = [base]
    for _ in range(_DEPTH):
        below: list[Path] = []
        for folder in level:
            with contextlib.suppress(OSError), os.scandir(folder) as entries:
                for index, entry in enumerate(sorted(entries, key=lambda entry: entry.name)):
                    if entry.is_dir():
                        below.append(Path(entry.path))
                    if entry.is_dir() or index < 1000:
                        yield Path(entry.path)
        level = below


def _missing(spec: DatasetSpec, missing: Sequence[Source], given: Path) -> str:
    wanted = "; ".join(
        source.filename + (f" or, unpacked, {' and '.join(source.gives)}" if source.gives else "") for source in missing
    )
    return (
        f"--from {given}: some sources of '{spec.name}' are missing. Missing: {wanted}. "
        "An archive that holds all sources in one file, such as Kaggle's, must be unpacked first; then pass its folder."
    )
