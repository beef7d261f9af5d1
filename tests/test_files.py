"""Writing and locking on odd file systems: read-only, without locks, without inodes."""

from __future__ import annotations

import errno
import os
import socket
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock, Timeout

from harness.errors import StoreError
from harness.files import (
    check_writable,
    remove_leftovers,
    remove_old,
    take_lock,
    take_lock_if_possible,
    write_text_atomically,
    writing_to,
)

fcntl = pytest.importorskip("fcntl")


@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.usefixtures("no_locks")
def test_a_lock_that_cannot_be_had_is_none_and_leaves_no_marker(tmp_path: Path) -> None:
    for _ in range(2):  # nothing stays behind that a second process would wait for
        assert take_lock(tmp_path / "lock", 0) is None


def test_a_lock_of_another_user_is_no_lock_that_somebody_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    assert take_lock_if_possible(tmp_path / "lock", 0) is None
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError):
        take_lock_if_possible(tmp_path / "lock", 0)


def test_a_lock_that_somebody_has_is_a_timeout(tmp_path: Path) -> None:
    with FileLock(tmp_path / "lock"), pytest.raises(Timeout):
        take_lock(tmp_path / "lock", 0)


def test_another_error_of_locking_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="Input/output error"):
        take_lock(tmp_path / "lock", 0)


def test_only_temporary_files_of_writers_are_leftovers(tmp_path: Path) -> None:
    ours = (".result.json.node-7.example.org-123.tmp", ".result.json.node7-123-0a1b2c3d.tmp")
    for name in (*ours, ".mine.tmp", "mine-1.tmp", ".notes.txt.tmp"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert sorted(one.name for one in tmp_path.iterdir()) == [".mine.tmp", ".notes.txt.tmp", "mine-1.tmp"]


def test_a_read_only_folder_is_named_although_the_clean_up_fails_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, *_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(StoreError, match=r"it is not writable \(Read-only file system\).*make it writable or choose"):
        write_text_atomically(tmp_path / "file", "text")


@pytest.mark.parametrize(
    ("number", "free_files", "reason"),
    [
        (errno.ENOSPC, 0, "its inodes are used up"),
        (errno.ENOSPC, 9, "the disk is full"),
        (errno.EDQUOT, 9, "the disk quota, of bytes or of files, is used up"),
    ],
)
def test_a_disk_without_inodes_is_not_called_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, free_files: int, reason: str
) -> None:
    state = namedtuple("state", "f_files f_favail f_bavail")
    monkeypatch.setattr(os, "statvfs", lambda _: state(16, free_files, 1000))
    with pytest.raises(StoreError, match=f"{reason}.*make room"), writing_to(tmp_path / "not" / "there"):
        raise OSError(number, os.strerror(number))


def test_a_link_of_a_temporary_name_is_never_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda _: "foreseen")
    victim = tmp_path / "victim"
    victim.write_text("mine")
    name = f".out.{socket.gethostname()}-{os.getpid()}-foreseen.tmp"
    (tmp_path / name).symlink_to(victim)
    with pytest.raises(StoreError):
        write_text_atomically(tmp_path / "out", "text")
    assert victim.read_text() == "mine"
    assert not (tmp_path / "out").exists()


def test_temporary_files_of_writers_killed_long_ago_are_removed(tmp_path: Path) -> None:
    old, new, other = (tmp_path / name for name in (".all.zip.h-1-00.tmp", ".all.zip.h-2-00.tmp", ".b.zip.h-1-00.tmp"))
    for path in (old, new, other):
        path.touch()
    for path in (old, other):
        os.utime(path, (0, 0))
    remove_old(tmp_path / "all.zip")
    assert sorted(tmp_path.iterdir()) == [new, other]


def test_a_check_for_writing_leaves_nothing_and_makes_the_folder(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "runs")
    assert list((tmp_path / "new" / "runs").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="Cannot write in"):
        check_writable(tmp_path / "file")
