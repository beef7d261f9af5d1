"""Pack finished runs into one file, and read it: a zip archive whose manifest holds the hash of every file in it.

    bundle.json                                            schema, and by run its files' sizes and SHA-256
    runs/<protocol>/protocol.toml and protocol.json        of a user's own protocol, as kept beside its results
    runs/<protocol>/<model>/<data set>/seed-<n>/...        the files as they are on disk; <protocol>@<budget> likewise

The same runs give the same bytes: names are sorted, times are fixed and nothing is compressed, since weights do not
shrink and the predictions are compressed already.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import msgspec

from harness.api import Job, RunResult
from harness.errors import CannotContinueError, HarnessError, StoreError, one_line
from harness.files import remove_old, write_atomically
from harness.results.protocols import KEPT, check_kept, kept_beside, same_kept
from harness.results.schema import DamagedResultError, parse_result
from harness.results.store import JobFolder, job_at, job_place

SCHEMA = 1
KIND = "xscore-harness bundle"
FILES = ("job.json", "history.jsonl", "checkpoint.pt", "checkpoint.spare.pt", "predictions.npz", "result.json")
"""The files of a finished run, in the order in which they are written: the result last."""
_NEEDED = ("job.json", "history.jsonl", "checkpoint.pt", "predictions.npz", "result.json")
_MANIFEST = "bundle.json"
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_CHUNK = 1 << 20
_LONGEST_MANIFEST = 64 << 20


class DamagedBundleError(CannotContinueError):
    """A bundle is truncated, altered, or not a bundle."""


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file in a bundle: its size and SHA-256."""

    bytes: int
    sha256: str


class _Manifest(msgspec.Struct, frozen=True, kw_only=True):
    schema: int
    kind: str
    runs: dict[str, dict[str, _Entry]]
    protocols: dict[str, dict[str, _Entry]] = {}


@dataclass(frozen=True)
class BundledRun:
    """A run in an open bundle, with verified hashes.

    Attributes:
        job: The job.
        result: Its result.
        hashes: SHA-256 by file name.
        kept: The files of its user's protocol, by name; empty for a protocol of the registry.
    """

    job: Job
    result: RunResult
    hashes: Mapping[str, str]
    kept: Mapping[str, bytes]
    _archive: zipfile.ZipFile
    _prefix: str

    def open(self, name: str) -> IO[bytes]:
        """Open one of its files for reading."""
        return self._archive.open(self._prefix + name)


def write_bundle(path: Path, folders: Iterable[JobFolder]) -> int:
    """Pack finished runs.

    Args:
        path: The file to write; it must not exist.
        folders: Their folders, each with a result.

    Returns:
        The bundle's size in bytes.

    Raises:
        StoreError: it can't be written, there is a file of that name, a run lacks a file, or a user's protocol is
            damaged or not the same beside all its runs.
    """
    if path.exists():
        raise StoreError(f"{path} is there already. Choose another name, or remove it first.")
    folders = sorted(folders, key=lambda one: one.job)
    kept = _kept(folders)
    protocols = {name: {file: _entry(content) for file, content in files.items()} for name, files in kept.items()}
    runs: dict[str, dict[str, Any]] = {}

    def write(file: IO[bytes]) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for protocol, files in kept.items():
                for name, content in files.items():
                    archive.writestr(_info(f"runs/{protocol}/{name}"), content)
            for folder in folders:
                runs["/".join(job_place(folder.job))] = dict(_pack(archive, folder))
            manifest = {"schema": SCHEMA, "kind": KIND, "runs": runs, "protocols": protocols}
            archive.writestr(_info(_MANIFEST), json.dumps(manifest, indent=1, sort_keys=True) + "\n")

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"Cannot write in {path.parent}: {error.strerror or error}.") from error
    write_atomically(path, write)
    remove_old(path)
    return path.stat().st_size


def fits_bundle(job: Job) -> bool:
    """Return whether a bundle can hold a job: the names of its folders are usable everywhere."""
    return all(_PART.fullmatch(part) for part in (job.protocol, job.model, job.dataset, job.budget))


def missing_files(folder: JobFolder) -> list[str]:
    """Return the names of the missing files of a finished run."""
    return [name for name in _NEEDED if not (folder.path / name).is_file()]


def hash_files(folder: JobFolder) -> dict[str, str]:
    """Return the SHA-256 of a run's files by name."""
    hashes = {}
    for name in FILES:
        file = folder.path / name
        if file.is_file():
            with file.open("rb") as opened:
                hashes[name] = hashlib.file_digest(opened, "sha256").hexdigest()
    return hashes


@contextmanager
def open_bundle(path: Path) -> Iterator[tuple[BundledRun, ...]]:
    """Open a bundle after comparing every byte with its manifest; nothing is unpacked.

    Raises:
        DamagedBundleError: it is truncated or altered, holds files outside its manifest, or has a newer schema.
    """
    with ExitStack() as stack:
        try:
            archive = stack.enter_context(zipfile.ZipFile(path))
            runs = tuple(_verified(path, archive))
        except FileNotFoundError:
            raise CannotContinueError(f"There is no bundle at {path}.") from None
        except OSError as error:
            raise CannotContinueError(f"{path} can't be read: {error.strerror or error}.") from error
        except HarnessError:
            raise
        except Exception as error:  # for damaged bytes zipfile raises errors of many kinds
            raise _damaged(path, one_line(error)) from error
        yield runs


def _kept(folders: Iterable[JobFolder]) -> dict[str, dict[str, bytes]]:
    """Return the kept files of users' protocols beside runs, by full name."""
    found: dict[str, dict[str, bytes]] = {}
    for folder in folders:
        if kept := kept_beside(folder):
            name = folder.job.protocol
            if not same_kept(found.setdefault(name, kept), kept):
                raise StoreError(
                    f"The runs of {name} come from folders with different files of this protocol; the one beside "
                    f"{folder.path} differs from another. Pack them separately."
                )
    return found


def _entry(content: bytes) -> dict[str, Any]:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _pack(archive: zipfile.ZipFile, folder: JobFolder) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in FILES:
        source = folder.path / name
        if not source.is_file():
            if name in _NEEDED:
                raise StoreError(
                    f"{source} is not there, so {folder.job} can't be packed. 'harness verify' shows more."
                )
            continue
        digest, size = hashlib.sha256(), 0
        info = _info("/".join(("runs", *job_place(folder.job), name)))
        with source.open("rb") as file, archive.open(info, "w", force_zip64=True) as target:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
                target.write(chunk)
        yield name, {"bytes": size, "sha256": digest.hexdigest()}


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    info.create_system = 3
    return info


def _verified(path: Path, archive: zipfile.ZipFile) -> Iterator[BundledRun]:
    manifest = _manifest(path, archive)
    packed = [*manifest.runs.items(), *manifest.protocols.items()]
    expected = {f"runs/{place}/{name}": entry for place, files in packed for name, entry in files.items()}
    infos = {info.filename: info for info in archive.infolist() if info.filename != _MANIFEST}
    if len(archive.infolist()) != len(infos) + 1 or set(infos) != set(expected):
        odd = sorted(set(infos) ^ set(expected))
        raise _damaged(path, f"its manifest does not fit its content ({odd[0] if odd else 'a name is there twice'})")
    if sum(entry.bytes for entry in expected.values()) > path.stat().st_size:
        raise _damaged(path, "its files share bytes")  # nothing is compressed, so the sizes fit into the archive's
    for name, info in infos.items():
        mode = info.external_attr >> 16
        if info.is_dir() or (stat.S_IFMT(mode) and not stat.S_ISREG(mode)):
            raise _damaged(path, f"{name} is not a plain file")
        _compare(path, archive, info, expected[name])
    kept = {name: _bundled_protocol(path, archive, name) for name in manifest.protocols}
    for run, files in sorted(manifest.runs.items()):
        yield _bundled(path, archive, run, files, kept.get(_job(path, run).protocol, {}))


def _manifest(path: Path, archive: zipfile.ZipFile) -> _Manifest:
    try:
        info = archive.getinfo(_MANIFEST)
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > _LONGEST_MANIFEST:
            raise _damaged(path, f"its {_MANIFEST} is compressed, or longer than that of any bundle")
        manifest = msgspec.json.decode(archive.read(info), type=_Manifest)
    except KeyError:
        raise DamagedBundleError(f"{path} is not a bundle of harness: it holds no {_MANIFEST}.") from None
    except (ValueError, RecursionError) as error:  # msgspec's errors and those of Unicode are ValueErrors
        raise _damaged(path, f"{_MANIFEST}: {error}") from error
    if manifest.kind != KIND:
        raise DamagedBundleError(f"{path} is not a bundle of harness: its kind is {manifest.kind!r}.")
    if manifest.schema != SCHEMA:
        raise DamagedBundleError(
            f"{path} has bundle schema {manifest.schema}, and this harness knows {SCHEMA}: a newer one wrote it. "
            "Install that version of xscore-harness to read it."
        )
    for run, files in manifest.runs.items():
        _job(path, run)
        if unknown := sorted(set(files) - set(FILES)):
            raise _damaged(path, f"{run} has a file {unknown[0]!r}, which is none of a run's")
        if lacking := [name for name in _NEEDED if name not in files]:
            raise _damaged(path, f"{run} lacks {lacking[0]}")
    used = {_job(path, run).protocol for run in manifest.runs}
    for name, files in manifest.protocols.items():
        if name not in used or set(files) != set(KEPT):
            raise _damaged(
                path, f"the protocol {name!r} is of none of its runs, or has not exactly {' and '.join(KEPT)}"
            )
    return manifest


def _job(path: Path, run: str) -> Job:
    """Return the job of a path in the archive; a path that leads elsewhere is refused."""
    job = job_at(run.split("/"))
    if job is None or not fits_bundle(job):
        raise DamagedBundleError(
            f"{path} is refused: {run!r} is not the place of a run, which is <protocol>/<model>/<data set>/seed-<n>."
        )
    return job


def _compare(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, entry: _Entry) -> None:
    if info.file_size != entry.bytes or info.compress_type != zipfile.ZIP_STORED:
        raise _damaged(path, f"{info.filename} has {info.file_size} bytes, the manifest says {entry.bytes}")
    with archive.open(info) as file:
        digest = hashlib.sha256()
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != entry.sha256:
        raise _damaged(path, f"{info.filename} is not what was packed (its SHA-256 differs)")


def _bundled_protocol(path: Path, archive: zipfile.ZipFile, name: str) -> Mapping[str, bytes]:
    kept = {file: archive.read(f"runs/{name}/{file}") for file in KEPT}
    try:
        check_kept(name, kept, f"runs/{name}/")
    except StoreError as error:
        raise _damaged(path, str(error).removesuffix(".")) from error
    return kept


def _bundled(
    path: Path, archive: zipfile.ZipFile, run: str, files: Mapping[str, _Entry], kept: Mapping[str, bytes]
) -> BundledRun:
    prefix = f"runs/{run}/"
    where = f"{path}:{prefix}result.json"
    try:
        result = parse_result(archive.read(prefix + "result.json"), where)
    except DamagedResultError as error:
        raise _damaged(path, str(error)) from error
    if result.job != _job(path, run):
        raise _damaged(path, f"{prefix}result.json is the result of another job, {result.job}")
    hashes = {name: entry.sha256 for name, entry in files.items()}
    return BundledRun(result.job, result, hashes, kept, archive, prefix)


def _damaged(path: Path, reason: str) -> DamagedBundleError:
    return DamagedBundleError(f"The bundle {path} is damaged or was altered: {reason}. Nothing was taken from it.")
