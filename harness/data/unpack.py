"""Unpacks an archive into a folder, whole or not at all. No archive can write outside the folder or fill the disk.

Refused, with nothing left behind: absolute names, names with ``..``, drive letters, backslashes, control characters,
links of both kinds, devices and pipes, repeated names, encrypted members, truncated archives, and more members or bytes
than ``Limits`` allows (first by the declared sizes, then by the bytes written).
"""

from __future__ import annotations

import errno
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from harness.errors import SourceError, StoreError
from harness.files import writing_to

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")
_CHUNK = 1 << 20
_ODD = re.compile(r"[\x00-\x1f\x7f\\]")


@dataclass(frozen=True)
class Limits:
    """The limits of an archive's content.

    Images hardly compress, so their archive unpacks to little more than its own size. Lists and labels do compress:
    ``floor`` leaves room for them.

    Attributes:
        members: Maximum number of files and folders.
        ratio: Maximum of unpacked bytes per byte of the archive.
        floor: Number of unpacked bytes that is allowed at any ratio.
    """

    members: int = 1_000_000
    ratio: float = 20.0
    floor: int = 1 << 28

    def bytes_of(self, archive: Path) -> int:
        """Return the maximum number of unpacked bytes of an archive."""
        return max(self.floor, int(archive.stat().st_size * self.ratio))


class _RefusedArchive(Exception):
    """An archive is not unpacked, for the reason in the message."""


def is_archive(filename: str) -> bool:
    """Return whether ``unpack`` takes a file of this name."""
    return filename.endswith(SUFFIXES)


def unpack(archive: Path, target: Path, limits: Limits | None = None) -> int:
    """Unpack an archive into a new folder.

    Args:
        archive: A tar, gzipped tar or zip file.
        target: The folder to make; it appears once everything is unpacked.
        limits: The limits of the content.

    Returns:
        The number of files.

    Raises:
        SourceError: the archive is damaged or refused; ``target`` is not there.
        StoreError: the disk is full or not writable; ``target`` is not there.
    """
    limits = limits or Limits()
    partial = target.with_name(f".{target.name}.unpacking")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with writing_to(target.parent):
            partial.mkdir(parents=True)
        count = (_unpack_zip if archive.name.endswith(".zip") else _unpack_tar)(archive, partial, limits)
        with writing_to(target.parent):
            partial.rename(target)
    except _RefusedArchive as reason:
        raise SourceError(f"The archive {archive} is refused: {reason}. Nothing was unpacked.") from None
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeError) as error:
        raise SourceError(
            f"The archive {archive} is damaged or incomplete: {' '.join(str(error).split()) or type(error).__name__}. "
            "Nothing was unpacked; fetch it again."
        ) from error
    except StoreError:
        raise
    except OSError as error:  # reading: gzip reports its own damage as an OSError
        raise SourceError(
            f"The archive {archive} can't be read: {error.strerror or error}. Nothing was unpacked."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return count


def _unpack_tar(archive: Path, folder: Path, limits: Limits) -> int:
    writer = _Writer(folder, limits, limits.bytes_of(archive))
    with tarfile.open(archive, "r:*") as tar:
        for info in tar:
            path = _safe_path(info.name)
            if info.issym() or info.islnk():
                raise _RefusedArchive(
                    f"its member {info.name!r} is a link to {info.linkname!r}, expected files and folders"
                )
            if not (info.isreg() or info.isdir()):
                raise _RefusedArchive(f"its member {info.name!r} is a device or a pipe, expected files and folders")
            writer.count_member(info.name)
            if path is None:
                continue
            if info.isdir():
                writer.make_folder(path)
                continue
            content = tar.extractfile(info)
            if content is None or info.sparse is not None:
                raise _RefusedArchive(f"its member {info.name!r} is no plain file")
            writer.write(path, info.size, content)
        _require_end(tar, writer.allowed)
    return writer.files


def _require_end(tar: tarfile.TarFile, allowed: int) -> None:
    """Refuse an archive with other data behind its last member, where ``tarfile`` stops silently.

    Reading to the end also makes gzip compare its checksum, which covers every member.
    """
    if tar.fileobj is None:
        return
    tar.fileobj.seek(tar.offset)
    tail = 0
    while rest := tar.fileobj.read(_CHUNK):
        tail += len(rest)
        if tail > allowed or (tail <= _CHUNK and rest[: tarfile.BLOCKSIZE].strip(b"\0")):
            raise _RefusedArchive(f"the data behind its last readable member, at byte {tar.offset:,}, are no member")


def _unpack_zip(archive: Path, folder: Path, limits: Limits) -> int:
    writer = _Writer(folder, limits, limits.bytes_of(archive))
    with zipfile.ZipFile(archive) as opened:
        for path, info in _zip_members(opened, writer):
            if info.is_dir():
                writer.make_folder(path)
                continue
            with opened.open(info) as content:
                writer.write(path, info.file_size, content)
    return writer.files


def _zip_members(opened: zipfile.ZipFile, writer: _Writer) -> Iterator[tuple[PurePosixPath, zipfile.ZipInfo]]:
    total = 0
    for info in opened.infolist():
        path = _safe_path(info.orig_filename)
        mode = info.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            kind = "a link" if stat.S_ISLNK(mode) else "a device or a pipe"
            raise _RefusedArchive(f"its member {info.filename!r} is {kind}, expected files and folders")
        if info.flag_bits & 0x1:
            raise _RefusedArchive(f"its member {info.filename!r} is encrypted")
        writer.count_member(info.filename)
        total += info.file_size
        if total > writer.allowed:
            raise _RefusedArchive(writer.too_large(total))
        if path is not None:
            yield path, info


def _safe_path(name: str) -> PurePosixPath | None:
    """Return a member's path within the folder, None for the archive's root. Refuse anything but a plain path."""
    if _ODD.search(name):
        raise _RefusedArchive(f"its member {name!r} has a backslash or a control character in its name")
    path = PurePosixPath(name)
    if path.is_absolute() or re.match(r"[A-Za-z]:", name):
        raise _RefusedArchive(f"its member {name!r} has an absolute name, expected a path within the archive")
    if ".." in path.parts:
        raise _RefusedArchive(f"its member {name!r} climbs out of the archive")
    return path if path.parts else None


class _Writer:
    """Writes members below a folder and counts them against the limits."""

    def __init__(self, folder: Path, limits: Limits, allowed: int) -> None:
        self._folder = folder
        self._limits = limits
        self.allowed = allowed
        self._written = 0
        self._members = 0
        self.files = 0

    def too_large(self, size: int) -> str:
        return (
            f"it unpacks to {size:,} bytes or more, expected at most {self.allowed:,} for an archive of this size; "
            "it looks like a decompression bomb"
        )

    def count_member(self, name: str) -> None:
        self._members += 1
        if self._members > self._limits.members:
            raise _RefusedArchive(f"it has more than {self._limits.members:,} members, the last one seen is {name!r}")

    def make_folder(self, path: PurePosixPath) -> None:
        with self._writing(path):
            (self._folder / path).mkdir(parents=True, exist_ok=True)

    def write(self, path: PurePosixPath, declared: int, content: IO[bytes]) -> None:
        if self._written + declared > self.allowed:
            raise _RefusedArchive(self.too_large(self._written + declared))
        self.make_folder(path.parent)
        with self._writing(path):
            file = (self._folder / path).open("xb")
        size = 0
        with file:
            while chunk := content.read(_CHUNK):
                size += len(chunk)
                if size > declared or self._written + size > self.allowed:
                    raise _RefusedArchive(self.too_large(self._written + size))
                with writing_to(self._folder.parent):
                    file.write(chunk)
            with writing_to(self._folder.parent):
                file.flush()
        if size != declared:
            raise _RefusedArchive(f"its member {str(path)!r} has {size:,} bytes, but declares {declared:,}")
        self._written += size
        self.files += 1

    def _writing(self, path: PurePosixPath) -> _Naming:
        return _Naming(self._folder, path)


class _Naming:
    """Turns the error of writing one member into a refusal (a bad name) or a StoreError (the disk)."""

    def __init__(self, folder: Path, path: PurePosixPath) -> None:
        self._folder, self._path = folder, path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, FileExistsError | NotADirectoryError | IsADirectoryError):
            raise _RefusedArchive(
                f"it holds the name {str(self._path)!r} twice, or as a file and as a folder"
            ) from None
        if isinstance(error, OSError):
            if error.errno == errno.ENAMETOOLONG:
                raise _RefusedArchive(f"the name {str(self._path)[:60]!r}... is longer than this disk allows") from None
            with writing_to(self._folder.parent):
                raise error
