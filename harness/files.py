"""Atomic writing: after any crash, a file is either complete or absent."""

from __future__ import annotations

import contextlib
import errno
import glob
import importlib.metadata
import os
import re
import secrets
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from harness.errors import CannotContinueError, StoreError, WrongUseError

if TYPE_CHECKING:
    from filelock import BaseFileLock

_TEMPORARY = ".tmp"
_LEFTOVER = re.compile(r"\..+\..+-\d+(-[0-9a-f]{8})?\.tmp")  # without the last part in older versions
_DAY = 86_400.0  # seconds
_LOCKS_UNKNOWN = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)  # NFS without lockd, Lustre, some FUSE


def user_path(given: str | os.PathLike[str]) -> Path:
    """Return a path that a user gave, with ``~`` expanded. Raises WrongUseError where the system knows no such home."""
    text = os.path.expanduser(os.fspath(given))  # noqa: PTH111 - pathlib takes ./~ for ~
    if text.startswith("~"):
        raise WrongUseError(
            f"The path {given} begins with a home folder that this system does not know. Write the whole path, or "
            f"./{given} for a file of this name."
        )
    return Path(text)


def absolute_path(given: str | os.PathLike[str]) -> Path:
    """Return a path that a user gave, so that it stays the same when a plugin changes the working folder.

    Raises:
        WrongUseError: as ``user_path``.
        CannotContinueError: it is relative, and the working folder has been removed.
    """
    try:
        return user_path(given).absolute()
    except FileNotFoundError as error:
        raise CannotContinueError(
            f"The working folder has been removed, so {given} leads nowhere. Change to another folder, or write whole "
            "paths."
        ) from error


def write_atomically(path: Path, write: Callable[[IO[bytes]], object], *, spare: Path | None = None) -> None:
    """Write a file beside ``path``, flush it to the disk and put it in place.

    Args:
        path: The file to create or replace; its folder exists.
        write: Called with the open binary file.
        spare: The path to which the replaced file moves, over any file there. A stop between the two renames leaves
            only the spare, so a reader that finds no ``path`` looks there.

    Raises:
        StoreError: the disk is full or the folder can't be written; ``path`` is unchanged.
    """
    # Containers may share a folder, a host's name and process numbers; and in a folder that others write, a link of a
    # name that can be foreseen would lead elsewhere.
    writer = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    temporary = path.with_name(f".{path.name}.{writer}{_TEMPORARY}")
    try:
        with writing_to(path.parent):
            with temporary.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            if spare is not None and path.exists():
                path.replace(spare)
            temporary.replace(path)
            flush_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):  # in a read-only folder there is none, and its removal fails like the write
            temporary.unlink(missing_ok=True)
        raise


def flush_folder(folder: Path) -> None:
    """Make the names in a folder last through a power cut, where the file system can."""
    with contextlib.suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def check_writable(folder: Path) -> None:
    """Raise StoreError if a file can't be written in a folder, which is made if it is missing."""
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def remove_old(path: Path) -> None:
    """Remove the temporary files of writers of ``path`` that were killed more than a day ago."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{_TEMPORARY}"):
        with contextlib.suppress(OSError):
            if time.time() - left.lstat().st_mtime > _DAY:
                left.unlink()


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of killed writers. Only for a folder without other writers."""
    for path in folder.glob(f".*{_TEMPORARY}"):
        if is_leftover(path):
            path.unlink(missing_ok=True)


def is_leftover(path: Path) -> bool:
    """Return whether a path has the name of a temporary file of ``write_atomically``."""
    return _LEFTOVER.fullmatch(path.name) is not None


def write_text_atomically(path: Path, text: str) -> None:
    """Write UTF-8 text like ``write_atomically``."""
    write_atomically(path, lambda file: file.write(text.encode()))


def take_lock(path: Path, seconds: float) -> BaseFileLock | None:
    """Take the lock of a file, which the operating system releases if this process dies.

    Args:
        path: The lock's file, made if it is missing; its folder exists.
        seconds: Time to wait for another holder; negative to wait without a limit.

    Returns:
        The lock, or None where the file system has no locks. A lock by a file's mere existence is no substitute: it
        stays behind a process that was killed.

    Raises:
        filelock.Timeout: another process holds it.
        OSError: the file can't be opened.
        StoreError: filelock is too old to tell a missing lock from a held one.
    """
    from filelock import FileLock

    try:
        lock = FileLock(path, fallback_to_soft=False)
    except TypeError:  # the switch came with 3.30
        found = importlib.metadata.version("filelock")
        raise StoreError(
            f"filelock {found} is installed, and the harness needs 3.30 or newer. Run: pip install 'filelock>=3.30'"
        ) from None
    try:
        lock.acquire(timeout=seconds)
    except OSError as error:
        if error.errno in _LOCKS_UNKNOWN:
            return None
        raise
    return lock


def take_lock_if_possible(path: Path, seconds: float) -> BaseFileLock | None:
    """Do the same as ``take_lock``, for a lock that only saves work: None as well if its file is another user's."""
    try:
        return take_lock(path, seconds)
    except PermissionError:
        if os.access(path.parent, os.W_OK):
            return None
        raise


@contextlib.contextmanager
def hold_lock(path: Path) -> Iterator[bool]:
    """Hold the lock of a file, however long another process has it. Yield false where it can't be had.

    Raises:
        StoreError: the folder can't be written.
    """
    with writing_to(path.parent):
        lock = take_lock_if_possible(path, -1)
    try:
        yield lock is not None
    finally:
        if lock is not None:
            lock.release()


@contextlib.contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turn the operating system's errors about a folder into StoreErrors with a sentence."""
    try:
        yield
    except OSError as error:
        reason, remedy = f"it is not writable ({error.strerror or error})", "make it writable"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason, remedy = _used_up(error.errno, folder), "make room"
        raise StoreError(
            f"Cannot write in {folder}: {reason}. Everything finished so far is kept; "
            f"{remedy} or choose another folder and start again."
        ) from error
    except RuntimeError as error:
        # torch's writer reports a full disk as a RuntimeError about an "unexpected pos" or a failed write.
        if "PytorchStreamWriter" in str(error) or "unexpected pos" in str(error):
            raise StoreError(
                f"Cannot write in {folder}: the disk is full or failed while a checkpoint was written. "
                "Everything finished so far is kept; make room and start again."
            ) from error
        raise


def _used_up(number: int, folder: Path) -> str:
    """Return what is used up in a folder's file system: bytes, or files."""
    if number == errno.EDQUOT:
        return "the disk quota, of bytes or of files, is used up"
    there = next((one for one in (folder, *folder.parents) if one.exists()), None)
    if there is not None and hasattr(os, "statvfs"):
        with contextlib.suppress(OSError):
            state = os.statvfs(there)
            if state.f_files > 0 and state.f_favail == 0 and state.f_bavail > 0:
                return "the disk takes no more files, though it has free bytes: its inodes are used up"
    return "the disk is full"
