"""Gathers a data set's sources in one folder for its reader: fetches or finds, verifies and unpacks them.

<data>/downloads/<key>/<file>           the archives; kept until 'harness prepare --remove'
<work>/parts/...                        the unpacked archives; removed once the set is prepared
<work>/view/                            the reader's folder: links to the files of the parts, or to the user's own

``work`` is a folder of this writer alone, see ``harness.data.store``.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from harness.api import DatasetSpec, Source
from harness.data.checksums import digests_of, verify_file
from harness.data.decode import read_samples
from harness.data.fetch import FetchPolicy, Progress, fetch, no_progress
from harness.data.given import DEPTH, Search, has_the_name, search
from harness.data.prepared import SourceRecord
from harness.data.unpack import is_archive, unpack
from harness.data.view import ReaderFolder
from harness.errors import DatasetError, SourceError, legible
from harness.files import hold_lock, write_text_atomically, writing_to

_TRIALS = 64  # combinations of the user's folders that are tried


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

    Several folders of the user may have the name of a source. Each is tried then, and the one in which the plugin's
    reader finds its images is used.

    Args:
        spec: The data set.
        folders: The data folder, and this writer's own.
        given: The user's own file or folder; files missing in it are downloaded. None to download all.
        policy: The download settings.
        progress: Called with the progress of downloads.

    Raises:
        SourceError: something is missing, is not the expected file, or can't be unpacked; or no folder of the user
            fits, or several do.
        StoreError: the disk is full or not writable.
    """
    places: Sequence[Sequence[Path]] = [() for _ in spec.sources]
    notes: list[str] = []
    if given is not None:
        found = search(spec, given)
        places = found.places
        missing = [source for source, one in zip(spec.sources, places, strict=True) if not one]
        if missing and (policy.offline or len(missing) == len(spec.sources)):
            raise SourceError(_missing(spec, missing, found))
        notes += [f"{source.filename} is not in {given}; it is downloaded." for source in missing]
    gathering = _Gathering(spec, folders, policy, progress, notes)
    view = ReaderFolder(folders.work / "view")
    choices = [gathering.pieces(source, found, view) for source, found in zip(spec.sources, places, strict=True)]
    try:
        chosen = _choose(spec, view, choices, given, notes)
    except _NoneFitsError as error:
        # A folder whose name is only similar is not the source then.
        missing = [pieces[0].source for pieces in choices if not any(piece.certain for piece in pieces)]
        if policy.offline or len(missing) in (0, len(choices)):
            raise
        notes += [str(error), *(f"{source.filename} is downloaded." for source in missing)]
        choices = [
            gathering.pieces(source, (), view) if source in missing else pieces
            for source, pieces in zip(spec.sources, choices, strict=True)
        ]
        chosen = _choose(spec, view, choices, given, notes)
    _build(view, chosen)
    if view.decomposed and _misfit(spec, view):
        _build(view, chosen)  # composed names do not help: the reader shall name the file as it is
    notes += [piece.note for piece in chosen if piece.note]
    return Gathered(view.path, tuple(piece.record for piece in chosen), (*notes, *view.notes))


class _NoneFitsError(SourceError):
    """The plugin's reader finds its images in none of the user's folders."""


@dataclass(frozen=True)
class _Piece:
    """One source that is ready to be linked.

    Attributes:
        source: The source.
        record: Its identity and its verification.
        place: The file, the folder of the unpacked archive, or the user's folder.
        links: Files and folders, each with its path in the reader's folder.
        archive: The archive that was unpacked, or None.
        certain: Whether checksum or name show that this is the source; otherwise the reader is asked.
        note: A note for the user.
    """

    source: Source
    record: SourceRecord
    place: Path
    links: tuple[tuple[Path, str], ...]
    archive: Path | None = None
    certain: bool = True
    note: str = ""


@dataclass(frozen=True)
class _Gathering:
    """One data set whose sources are gathered, with its folders, settings and notes for the user."""

    spec: DatasetSpec
    folders: Folders
    policy: FetchPolicy
    progress: Progress
    notes: list[str]

    def pieces(self, source: Source, places: Sequence[Path], view: ReaderFolder) -> list[_Piece]:
        """Return the pieces that may be a source: a verified file alone, else the user's folders; download if none."""
        if not places:
            return [self._file(source, *self._fetched(source), "downloaded")]
        refusals: list[SourceError] = []
        for path in places:
            if path.is_file():
                try:
                    return [
                        self._file(source, path, *_verify_given(path, source, self.policy), f"given: {legible(path)}")
                    ]
                except SourceError as error:
                    refusals.append(error)
        folders = [_folder(source, path) for path in places if path.is_dir()]
        if not folders:
            raise refusals[0] if len(refusals) == 1 else SourceError("\n".join(map(str, refusals)))
        self.notes.extend(f"{refusal} A folder is used instead." for refusal in refusals)
        return _verified(view, folders) if len(folders) > 1 and source.members else folders

    def _fetched(self, source: Source) -> tuple[Path, str, str]:
        folder = download_folder(self.folders.root, source)
        with writing_to(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with hold_lock(folder / ".lock") as alone:  # another data set may be fetching the same file
            if alone or (folder / source.filename).exists():
                return fetch(source, folder, self.spec.name, self.policy, self.progress)
            own = self.folders.work / "fetched" / folder.name
            path, sha256, verified = fetch(source, own, self.spec.name, self.policy, self.progress)
            with writing_to(folder):
                return path.replace(folder / source.filename), sha256, verified

    def _file(self, source: Source, path: Path, sha256: str, verified: str, origin: str) -> _Piece:
        """Return the piece of a verified file, after unpacking it if it is an archive."""
        record = SourceRecord(filename=source.filename, sha256=sha256, verified=verified, origin=origin)
        if not is_archive(source.filename):
            return _Piece(source, record, path, ((path, f"{source.into}/{source.filename}".lstrip("/")),))
        part = self.folders.work / "parts" / source.filename
        mark = _mark(part)
        if not (part.is_dir() and mark.is_file() and mark.read_text(encoding="utf-8") == sha256):
            shutil.rmtree(part, ignore_errors=True)
            mark.unlink(missing_ok=True)
            unpack(path, part)
            write_text_atomically(mark, sha256)
        return _Piece(source, record, part, ((part, source.into),), archive=path)


def _mark(part: Path) -> Path:
    """The file with the digest of the archive that was unpacked to a folder."""
    return part.with_name(f"{part.name}.sha256")


def _folder(source: Source, place: Path) -> _Piece:
    """Return the piece of a folder that the user has unpacked."""
    several = len(source.gives) > 1
    links = tuple((place / PurePosixPath(path).name if several else place, path) for path in source.gives)
    verified, note = f"{len(source.members)} files by checksum", ""
    if not source.members:
        verified = "names and counts"
        note = (
            f"No checksums of the files in {source.filename} are published, so the folder {place} is verified by its "
            "names and counts, and by decoding every image. The archive itself could be verified by checksum."
        )
    record = SourceRecord(filename=source.filename, sha256="", verified=verified, origin=f"given: {legible(place)}")
    return _Piece(source, record, place, links, certain=has_the_name(source, place), note=note)


def _verify_given(path: Path, source: Source, policy: FetchPolicy) -> tuple[str, str]:
    """Verify the user's file. An archive that was packed anew is accepted if each file in it can be verified."""
    try:
        return verify_file(path, source, policy.accepted)
    except SourceError:
        if not (source.members and is_archive(source.filename)):
            raise
    return digests_of(path, {"sha256"})["sha256"], f"{len(source.members)} files by checksum"


def _verified(view: ReaderFolder, folders: Sequence[_Piece]) -> list[_Piece]:
    """Return the first folder whose files have the published checksums. Raises SourceError if none has."""
    refusals = []
    for piece in folders:
        try:
            _build(view, (piece,))
        except SourceError as error:
            refusals.append(str(error))
        else:
            return [piece]
    raise SourceError("\n".join(refusals))


def _build(view: ReaderFolder, pieces: Sequence[_Piece], *, trial: bool = False) -> None:
    """Fill the reader's folder with the pieces, and verify each file whose digest is known.

    Raises:
        SourceError: a file is missing or not the expected one. Except in a trial, the unpacked files of a wrong archive
            are removed.
    """
    view.clear()
    for piece in pieces:
        try:
            for origin, place in piece.links:
                view.add(origin, place, own=piece.archive is not None)
            if view.decomposed and not all((view.path / wanted).exists() for wanted in piece.source.gives):
                view.compose_names()
            _verify_content(piece, view.path)
        except SourceError:
            if piece.archive is not None and not trial:
                _mark(piece.place).unlink(missing_ok=True)
                shutil.rmtree(piece.place)
            raise


def _verify_content(piece: _Piece, view: Path) -> None:
    source = piece.source
    for wanted in source.gives:
        if piece.archive is not None and not (view / wanted).exists():
            there = ", ".join(sorted(entry.name for entry in piece.place.iterdir())[:5]) or "nothing"
            raise SourceError(f"The archive {piece.archive} does not hold '{wanted}'; it holds {there}.")
    for name, digest in source.members.items():
        path = view / name
        algorithm, _, expected = digest.partition(":")
        if not path.is_file():
            raise SourceError(f"The file '{name}' of {source.filename} is missing in {piece.archive or piece.place}.")
        found = digests_of(path, {algorithm})[algorithm]
        if found != expected:
            raise SourceError(
                f"{path.resolve()} is not the expected file: its {algorithm} is {found}, expected {expected}. "
                "It is damaged, or was changed after unpacking."
            )


def _choose(
    spec: DatasetSpec, view: ReaderFolder, choices: Sequence[Sequence[_Piece]], given: Path | None, notes: list[str]
) -> tuple[_Piece, ...]:
    """Return the pieces to use: if there is a choice, those that fit when the plugin's reader tries them.

    A folder that the user has given by its own path is preferred to one below it.

    Raises:
        SourceError: none fits, several do, or there are too many; each is named.
    """
    combinations = list(itertools.islice(itertools.product(*choices), _TRIALS + 1))
    tried = [pieces for pieces in choices if len(pieces) > 1 or not pieces[0].certain]
    if not tried:
        return combinations[0]
    if len(combinations) > _TRIALS:
        raise SourceError(_several(spec, [[piece.place for piece in pieces] for pieces in tried]))
    fitting: list[tuple[_Piece, ...]] = []
    misfits: list[str] = []
    for combination in combinations:
        try:
            _build(view, combination, trial=True)
            reason = _misfit(spec, view)
        except SourceError as error:
            reason = str(error)
        if not reason:
            fitting.append(combination)
            continue
        names = [str(piece.place) for piece, pieces in zip(combination, choices, strict=True) if pieces in tried]
        misfits.append(f"{' with '.join(names)}: {reason}")
    if not fitting:
        expected = f"Expected: {_wanted([pieces[0].source for pieces in tried])}."
        raise _NoneFitsError("\n  ".join([f"'{spec.name}' is not in {given}. {expected} Tried:", *misfits]))
    named = [combination for combination in fitting if any(piece.place == given for piece in combination)]
    if len(named or fitting) > 1:
        found = [
            list(dict.fromkeys(combination[index].place for combination in fitting)) for index in range(len(choices))
        ]
        raise SourceError(_several(spec, found))
    chosen = (named or fitting)[0]
    if misfits:
        places = [str(piece.place) for piece, pieces in zip(chosen, choices, strict=True) if pieces in tried]
        notes.append("\n  ".join([f"{' with '.join(places)} is used; others do not fit:", *misfits]))
    return chosen


def _several(spec: DatasetSpec, places: Sequence[Sequence[Path]]) -> str:
    """Return the message that sources may be at several places, for the places of each source."""
    sentences = [
        f"The folder {found[0].name} of '{spec.name}' is at {' and at '.join(map(str, found))}."
        for found in places
        if len(found) > 1
    ]
    first = next(found[0] for found in places if len(found) > 1)
    return f"{' '.join(sentences)} Give the right one, such as --from {first}, or move the others away."


def _misfit(spec: DatasetSpec, view: ReaderFolder) -> str:
    """Return the reason why the plugin's reader does not find its images, or nothing.

    Names that are stored decomposed are composed, and stay so, if the reader finds its images only then.
    """
    reason = _missed(spec, view.path)
    if reason and view.decomposed:
        view.compose_names()
        return _missed(spec, view.path) and reason
    return reason


def _missed(spec: DatasetSpec, folder: Path) -> str:
    for split in spec.splits:
        try:
            with contextlib.closing(read_samples(spec, folder, split)) as samples:
                for sample in samples:
                    if isinstance(sample.image, Path) and not sample.image.is_file():
                        return f"{sample.where} is missing."
                    if not isinstance(sample.image, Path | bytes):
                        sample.image.close()
        except DatasetError as error:
            return str(error)
    return ""


def _missing(spec: DatasetSpec, missing: Sequence[Source], found: Search) -> str:
    closed = f" Folders that can't be listed: {', '.join(map(str, found.closed[:3]))}." if found.closed else ""
    return (
        f"--from {found.given}: some sources of '{spec.name}' are missing. Missing: {_wanted(missing)}.{closed} "
        f"The search goes {DEPTH} levels deep. "
        "An archive that holds all sources in one file, such as Kaggle's, must be unpacked first; then pass its folder."
    )


def _wanted(sources: Sequence[Source]) -> str:
    return "; ".join(
        source.filename + (f" or, unpacked, {' and '.join(source.gives)}" if source.gives else "") for source in sources
    )
