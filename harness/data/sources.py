"""A data set's sources -> one folder for its reader: fetched or given, verified, unpacked, and never more than needed.

<data>/downloads/<key>/<file>           archives as they came; kept until 'harness prepare --remove'
<data>/<data set>/.sources/parts/...    what was unpacked from each; removed once the set is prepared
<data>/<data set>/.sources/view/        what the reader sees: links to the parts, or to a folder of the user's
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

from filelock import FileLock

from harness.api import DatasetSpec, Source
from harness.data.fetch import FetchPolicy, Progress, digests_of, fetch, no_progress, verify_file
from harness.data.store import SourceRecord
from harness.data.unpack import is_archive, unpack
from harness.errors import SourceError, WrongUseError
from harness.files import write_text_atomically, writing_to

_DEPTH = 3  # how far below a given folder files are looked for; Kaggle's archives nest one or two levels


@dataclass(frozen=True)
class Gathered:
    """What a reader reads.

    Attributes:
        folder: The reader's folder.
        records: What each source was and how it was verified.
        notes: What a user should know, such as that a folder's images have no published checksums.
    """

    folder: Path
    records: tuple[SourceRecord, ...]
    notes: tuple[str, ...]


def download_folder(root: Path, source: Source) -> Path:
    """Where a source's file is kept; data sets that share a file share the folder."""
    known = [source.filename, sorted(source.checksums.items()), list(source.urls[:1])]
    return root / "downloads" / hashlib.sha256(json.dumps(known).encode()).hexdigest()[:12]


def working_folder(root: Path, spec: DatasetSpec) -> Path:
    """Where a data set's sources lie unpacked while it is prepared."""
    return root / spec.name / ".sources"


def gather(
    spec: DatasetSpec, root: Path, given: Path | None, policy: FetchPolicy, progress: Progress = no_progress
) -> Gathered:
    """Get, verify and unpack a data set's sources. What an earlier, interrupted attempt has unpacked is used.

    Args:
        spec: The data set.
        root: The data folder.
        given: A file or folder of the user's; None to download all. What is not in it is downloaded.
        policy: How to download.
        progress: Told about downloads.

    Raises:
        SourceError: something is missing, is not the expected file, or can't be unpacked.
        StoreError: the disk is full or not writable.
    """
    work = working_folder(root, spec)
    found = [find_given(spec, source, given) if given else None for source in spec.sources]
    missing = [source for source, path in zip(spec.sources, found, strict=True) if path is None]
    if given and missing and (policy.offline or len(missing) == len(spec.sources)):
        raise SourceError(_missing(spec, missing, given))
    view = work / "view"
    with writing_to(work):
        shutil.rmtree(view, ignore_errors=True)
        view.mkdir(parents=True)
    records = []
    notes = [f"{source.filename} is not in {given}; it is taken from the network." for source in missing if given]
    for source, path in zip(spec.sources, found, strict=True):
        if path is not None and path.is_dir() and not is_archive(path.name):
            record, note = _use_folder(source, path, view)
            notes.append(note)
        else:
            record = _use_file(spec, source, path, root, work, policy, progress)
        records.append(record)
    return Gathered(view, tuple(records), tuple(note for note in notes if note))


def _use_file(
    spec: DatasetSpec, source: Source, path: Path | None, root: Path, work: Path, policy: FetchPolicy,
    progress: Progress,
) -> SourceRecord:  # fmt: skip
    """Fetch or verify a file, unpack it if it is an archive, and show it to the reader."""
    if path is None:
        folder = download_folder(root, source)
        with writing_to(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):  # another data set made from the same file may be fetching it
            path, sha256, verified = fetch(source, folder, spec.name, policy, progress)
        origin = "downloaded"
    else:
        sha256, verified = _verify_given(path, source, policy)
        origin = f"given: {path}"
    record = SourceRecord(filename=source.filename, sha256=sha256, verified=verified, origin=origin)
    view = work / "view"
    if not is_archive(source.filename):
        _show(path.resolve(), view / source.into / source.filename)
        return record
    part, mark = work / "parts" / source.filename, work / "parts" / f"{source.filename}.sha256"
    if not (part.is_dir() and mark.is_file() and mark.read_text(encoding="utf-8") == sha256):
        shutil.rmtree(part, ignore_errors=True)
        mark.unlink(missing_ok=True)
        unpack(path, part)
        write_text_atomically(mark, sha256)
    try:
        for entry in sorted(part.iterdir()):
            _show(entry.resolve(), view / source.into / entry.name)
        _require_gives(source, path, part, view)
        _verify_members(source, view)
    except SourceError:
        mark.unlink()
        shutil.rmtree(part)
        raise
    return record


def _verify_given(path: Path, source: Source, policy: FetchPolicy) -> tuple[str, str]:
    """Verify a file of the user's. An archive that was packed anew is as good if each file in it can be verified."""
    try:
        return verify_file(path, source, policy.accepted)
    except SourceError:
        if not (source.members and is_archive(source.filename)):
            raise
    return digests_of(path, {"sha256"})["sha256"], f"{len(source.members)} files by checksum"


def _require_gives(source: Source, path: Path, part: Path, view: Path) -> None:
    for wanted in source.gives:
        if not (view / wanted).exists():
            there = ", ".join(sorted(entry.name for entry in part.iterdir())[:5]) or "nothing"
            raise SourceError(
                f"The archive {path} does not hold '{wanted}', which is expected in it; it holds {there}."
            )


def _use_folder(source: Source, found: Path, view: Path) -> tuple[SourceRecord, str]:
    """Show the reader a folder that the user has unpacked, verified file by file as far as digests are known."""
    for wanted in source.gives:
        place = found / PurePosixPath(wanted).name if len(source.gives) > 1 else found
        _show(place.resolve(), view / wanted)
    checked = _verify_members(source, view)
    note = (
        ""
        if checked
        else f"Nobody has published checksums of the single files of {source.filename}, so the folder {found} is "
        "verified by its names and counts, and by decoding every image. The archive could be verified by checksum."
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
                "It is damaged, or was changed after it was unpacked."
            )
    return len(source.members)


def _show(target: Path, link: Path) -> None:
    with writing_to(link.parent):
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.exists() or link.is_symlink():
            raise SourceError(f"Two sources provide '{link.name}'; the data set's plugin must unpack them apart.")
        try:
            link.symlink_to(target, target_is_directory=target.is_dir())
        except OSError:  # Windows without the right to make links
            if target.is_dir():
                shutil.copytree(target, link)
            else:
                shutil.copy2(target, link)


def find_given(spec: DatasetSpec, source: Source, given: Path) -> Path | None:
    """Find a source in what the user gave: the file itself, or else the folder that it unpacks to.

    Raises:
        WrongUseError: nothing is there.
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
        # Several loose files: the folder that holds all of them.
        folders = [given, *(path for path in inside if path.is_dir())]
        return next((f for f in folders if all((f / PurePosixPath(w).name).exists() for w in source.gives)), None)
    name = PurePosixPath(source.gives[0]).name
    return next((path for path in [given, *inside] if path.resolve().name == name and path.is_dir()), None)


def _walk(base: Path) -> Iterator[Path]:
    """Files and folders below a folder, nearest first, without listing the images of a class folder one by one."""
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
        f"--from {given}: not everything that '{spec.name}' is made from is there. Missing: {wanted}. "
        "An archive that holds all of it in one, as Kaggle's do, must be unpacked first; then give its folder."
    )


def clear_work(root: Path, spec: DatasetSpec) -> None:
    """Remove what was unpacked. The user's own files are only linked to, and stay."""
    shutil.rmtree(working_folder(root, spec), ignore_errors=True)
