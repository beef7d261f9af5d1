"""Unpacks an archive into a folder, whole or not at all. No archive can write outside the folder or fill the disk.

The content decides the kind of an archive, since people rename archives and browsers unpack one layer of them. Refused,
with nothing left behind: absolute names, names with ``..``, drive letters, backslashes, control characters, links of
both kinds, devices and pipes, repeated names, encrypted members, methods of compression that the standard library
lacks, truncated archives, and more members or bytes than ``Limits`` allows (first by the declared sizes, then by the
bytes written).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from harness.errors import SourceError, StoreError
from harness.files import writing_to

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".zip")
_CHUNK = 1 << 20
_TIME = 315_532_800  # 1980-01-01: files that are unpacked again, as on another machine, are recognised
_ODD = re.compile(r"[\x00-\x1f\x7f\\]")
_FOREIGN = {
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "RAR",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"\x04\x22\x4d\x18": "LZ4",
    b"\x1f\x9d": "compress",
}
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_OTHER_ZIP_METHODS = {1: "Shrink", 6: "Implode", 9: "Deflate64", 93: "Zstandard", 95: "XZ", 98: "PPMd"}
_ENCRYPTED, _UTF8 = 0x1, 0x800  # flags of a zip member
_AES = 99
_WINDOWS = (0, 10, 14)  # systems of the program that made a zip: MS-DOS, and two of Windows
_UNICODE_PATH = 0x7075  # Info-ZIP's extra field with the name of a member in UTF-8
_GNU_FOLDER, _GNU_LABEL = b"D", b"V"  # members that GNU tar writes in incremental archives and with --label


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


class _Bytes(Protocol):
    """An open file of bytes."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes."""

    def seek(self, position: int, /) -> object:
        """Go to a position."""


class _RefusedArchive(Exception):
    """An archive is not unpacked, for the reason in the message."""


def is_archive(filename: str) -> bool:
    """Return whether ``unpack`` takes a file of this name."""
    return filename.lower().endswith(SUFFIXES)


def unpack(archive: Path, target: Path, limits: Limits | None = None) -> int:
    """Unpack an archive into a new folder.

    Args:
        archive: A zip file or a tar file, plain or packed by gzip, bzip2 or xz.
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
        count = (_unpack_zip if _is_zip(archive) else _unpack_tar)(archive, partial, limits)
        with writing_to(target.parent):
            partial.rename(target)
    except _RefusedArchive as reason:
        raise SourceError(
            f"The archive {archive} is refused: {reason}. Nothing was unpacked. If you trust it, unpack it by another "
            "program, such as 7-Zip, and pass the folder with --from."
        ) from None
    except StoreError:
        raise
    except OSError as error:  # reading: gzip reports its own damage as an OSError
        raise SourceError(
            f"The archive {archive} can't be read: {error.strerror or error}. Nothing was unpacked."
        ) from error
    except Exception as error:  # damaged bytes make the libraries raise more kinds than they document
        raise SourceError(
            f"The archive {archive} is damaged or incomplete: {' '.join(str(error).split()) or type(error).__name__}. "
            "Nothing was unpacked; fetch it again."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return count


def _is_zip(archive: Path) -> bool:
    """Return whether an archive is a zip file. Refuse one of a kind that needs another program."""
    with archive.open("rb") as file:
        start = file.read(8)
    for mark, kind in _FOREIGN.items():
        if start.startswith(mark):
            raise _RefusedArchive(f"it is packed by {kind}, expected tar or zip")
    # A zip that unpacks itself begins with a program.
    return start.startswith(b"PK") or (archive.name.lower().endswith(".zip") and not tarfile.is_tarfile(archive))


def _unpack_tar(archive: Path, folder: Path, limits: Limits) -> int:
    writer = _Writer(folder, limits, limits.bytes_of(archive))
    with tarfile.open(archive, "r:*") as first:
        for tar in _joined_tars(first, writer.allowed):
            for info in tar:
                _unpack_tar_member(tar, info, writer)
    return writer.files


def _unpack_tar_member(tar: tarfile.TarFile, info: tarfile.TarInfo, writer: _Writer) -> None:
    if info.type == _GNU_LABEL:
        return
    path = _safe_path(info.name)
    if info.issym() or info.islnk():
        raise _RefusedArchive(f"its member {info.name!r} is a link to {info.linkname!r}, expected files and folders")
    folder = info.isdir() or info.type == _GNU_FOLDER
    if not (info.isreg() or folder):
        raise _RefusedArchive(f"its member {info.name!r} is a device or a pipe, expected files and folders")
    writer.count_member(info.name)
    if path is None:
        return
    if folder:
        writer.make_folder(path)
        return
    content = tar.extractfile(info)
    if content is None:
        raise _RefusedArchive(f"its member {info.name!r} is no plain file")
    writer.write(path, info.size, content)


def _joined_tars(first: tarfile.TarFile, allowed: int) -> Iterator[tarfile.TarFile]:
    """Yield an archive, and those behind it in the same file, as ``cat a.tar b.tar`` joins them.

    ``tarfile`` stops silently at the end mark of the first archive, and at a damaged header. Each archive must be read
    to its end before the next one is asked for. Data that are no archive are refused, unless an end mark stands before
    them: tar ignores such data. Reading to the end also makes gzip compare its checksum.
    """
    tar, file = first, first.fileobj
    while True:
        yield tar
        if file is None:
            return
        end = tar.offset
        start = _first_block_with_data(file, end, allowed)
        if start is None:
            return
        file.seek(start)
        tar = tarfile.TarFile(fileobj=file)
        if tar.offset == start:  # no header
            if start - end < 2 * tarfile.BLOCKSIZE:
                raise _RefusedArchive(f"the data behind its last readable member, at byte {end:,}, are no member")
            _read_to_the_end(file, start, allowed)
            return


def _first_block_with_data(file: _Bytes, position: int, allowed: int) -> int | None:
    """Return the position of the first block that is not zero, or None after reading to the end."""
    file.seek(position)
    begin = position
    while rest := file.read(_CHUNK):
        if data := rest.lstrip(b"\0"):
            skipped = len(rest) - len(data)
            return position + skipped - skipped % tarfile.BLOCKSIZE
        position += len(rest)
        if position - begin > allowed:
            raise _RefusedArchive(f"it ends in more than {allowed:,} bytes without a member")
    return None


def _read_to_the_end(file: _Bytes, position: int, allowed: int) -> None:
    file.seek(position)
    length = 0
    while rest := file.read(_CHUNK):
        length += len(rest)
        if length > allowed:
            raise _RefusedArchive(f"it ends in more than {allowed:,} bytes without a member")


def _unpack_zip(archive: Path, folder: Path, limits: Limits) -> int:
    writer = _Writer(folder, limits, limits.bytes_of(archive))
    with zipfile.ZipFile(archive) as opened:
        for path, info in _zip_members(opened, writer):
            if info.is_dir() or _name_in_zip(info).endswith("/"):
                writer.make_folder(path)
                continue
            with opened.open(info) as content:
                writer.write(path, info.file_size, content)
    return writer.files


def _zip_members(opened: zipfile.ZipFile, writer: _Writer) -> Iterator[tuple[PurePosixPath, zipfile.ZipInfo]]:
    total = 0
    for info in opened.infolist():
        name = _name_in_zip(info)
        path = _safe_path(name)
        mode = info.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            kind = "a link" if stat.S_ISLNK(mode) else "a device or a pipe"
            raise _RefusedArchive(f"its member {name!r} is {kind}, expected files and folders")
        if info.flag_bits & _ENCRYPTED or info.compress_type == _AES:
            raise _RefusedArchive(f"its member {name!r} is encrypted")
        if info.compress_type not in _ZIP_METHODS:
            method = _OTHER_ZIP_METHODS.get(info.compress_type, f"method {info.compress_type}")
            raise _RefusedArchive(f"its member {name!r} is packed by {method}, which can't be read here")
        writer.count_member(name)
        total += info.file_size
        if total > writer.allowed:
            raise _RefusedArchive(writer.too_large(total))
        if path is not None:
            yield path, info


def _name_in_zip(info: zipfile.ZipInfo) -> str:
    """Return a member's name, with folders apart by slashes; programs for Windows store backslashes."""
    name = _stored_name(info)
    return name.replace("\\", "/") if info.create_system in _WINDOWS else name


def _stored_name(info: zipfile.ZipInfo) -> str:
    """Return a member's name as stored. Macs store UTF-8 without its flag, and Info-ZIP has a field beside the name."""
    name = info.orig_filename
    if info.flag_bits & _UTF8:
        return name
    stored = name.encode("cp437")  # the bytes: zipfile has decoded them by the code page of the first PCs
    extra = info.extra
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == _UNICODE_PATH and field[:5] == struct.pack("<BI", 1, zlib.crc32(stored)):
            return field[5:].decode()
    with contextlib.suppress(UnicodeDecodeError):
        return stored.decode()
    return name


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
        os.utime(self._folder / path, (_TIME, _TIME))
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
