"""Owns the folders of the data store: every writer has its own, and no file is removed that the harness did not write.

    <data>/<data set>/
        .lock                 saves two processes the same work; nothing rests on it, since some file systems lack locks
        .work-<writer>/       one writer's own folder, named after its machine and process
            parts/  view/     the unpacked sources, and the reader's folder
            fetched/          downloads, where the file system has no locks
            <form>/           arrays on their way; one rename puts them in their place
            <form>.json       their journal
        <form>/               a finished form, which nobody opens for writing

A writer that stops in order renames its folder to ``.work-free-<token>``, and the next writer takes it over by another
rename. A killed writer's folder is taken over only if that process is certainly dead.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout

from harness.errors import DatasetError, SourceError, StoreError
from harness.files import is_leftover, take_lock_if_possible, writing_to

_PARTS = ("images.npy", "labels.npy", "groups.txt")
_FORM_FILES = frozenset(
    {
        "manifest.json",
        "inputs.json",
        "audit.json",
        *(f"{split}.{part}" for split in ("train", "test") for part in _PARTS),
    }
)
_LITTER = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})  # written by file managers, by themselves
_WORK = re.compile(r"\.work-(?P<machine>free|[0-9a-f]{8})(-(?P<space>\d+)-(?P<pid>\d+))?-[0-9a-f]{8}")
_BUSY_SECONDS = 3600.0  # a writer syncs its files more often
_REPLACED = "replaced-"  # begins the name of a form that is moved aside until the new one is in its place
_ABANDONED_SECONDS = 7 * 86_400.0  # a folder of another machine in which nothing has changed for so long
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR, errno.EACCES)  # EACCES: Windows


@contextlib.contextmanager
def locked(
    root: Path, dataset: str, *, wait: bool = True, say: Callable[[str], object] = lambda _: None
) -> Iterator[bool]:
    """Hold a data set's lock, which the operating system releases if this process dies.

    Yields:
        Whether the lock is held; false where it can't be had, which ``say`` is told.

    Raises:
        StoreError: the folder can't be written.
        DatasetError: another process holds the lock, and ``wait`` is false; or no folder can be in this place.
    """
    folder = root / dataset
    _require_folder(folder, f"the folder of '{dataset}'")
    with writing_to(root):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = take_lock_if_possible(folder / ".lock", -1 if wait else 0)
        except Timeout:
            raise DatasetError(
                f"Another process is preparing '{dataset}' in {root}. Try again when it has finished."
            ) from None
    if lock is None:
        say(
            f"{dataset}: files can't be locked in {root}, so another process may prepare the same set meanwhile. That "
            "costs time only, since each process writes a folder of its own."
        )
    try:
        yield lock is not None
    finally:
        if lock is not None:
            lock.release()


@dataclass(frozen=True)
class Workshop:
    """A writer's own folder.

    Attributes:
        path: The folder, with the files of an interrupted attempt that was taken over.
        strangers: Folders of writers that may be at work on another machine. Their finished pieces may be copied.
    """

    path: Path
    strangers: tuple[Path, ...]

    def journal(self, form: str) -> Path:
        """The journal of a form."""
        return self.path / f"{form}.json"

    def begin(self, form: str) -> Path:
        """Return the folder of a form on its way; it is made if it is missing."""
        folder = self.path / form
        with writing_to(self.path):
            folder.mkdir(exist_ok=True)
        return folder

    def discard(self, form: str) -> None:
        """Remove a form on its way. Its files get new inodes, so that a copy of the old ones is never a mixture."""
        shutil.rmtree(self.path / form, ignore_errors=True)
        self.journal(form).unlink(missing_ok=True)

    def inherit(self, form: str, fits: Callable[[Path], bool]) -> None:
        """Copy a form on its way from a writer that may be alive, if its journal fits and this folder has none.

        The journal is copied first: it then counts no image that was written later.
        """
        if (self.path / form).exists():
            return
        for stranger in self.strangers:
            if not fits(stranger / f"{form}.json"):
                continue
            try:
                shutil.copyfile(stranger / f"{form}.json", self.journal(form))
                shutil.copytree(stranger / form, self.path / form)
            except (OSError, shutil.Error):  # it ended meanwhile, or the disk is too full for a copy
                self.discard(form)
            else:
                return


@contextlib.contextmanager
def open_workshop(root: Path, dataset: str, *, sole: bool) -> Iterator[Workshop]:
    """Give this writer a folder of its own, with the files of an interrupted attempt if there was one.

    The folder stays after a full disk and after Ctrl-C, for the next attempt, and after an error of the sources if
    anything is unpacked or fetched. After any other end it is removed.

    Args:
        root: The data folder.
        dataset: The data set's name; its folder exists.
        sole: This process holds the data set's lock, which is no proof that nobody else does.
    """
    base = root / dataset
    path = base / f".work-{_machine()}-{_process_space()}-{os.getpid()}-{secrets.token_hex(4)}"
    others = [one for one in sorted(base.glob(".work-*")) if _WORK.fullmatch(one.name) and not one.is_symlink()]
    dead = [one for one in others if _is_dead(one, sole=sole)]
    with writing_to(base):
        if not any(_rename(one, path) for one in sorted(dead, key=_last_change, reverse=True)):
            path.mkdir()
    _put_back(path)
    for one in dead:
        _clear(one)
    for one in _outdated_work(base) if sole else ():
        shutil.rmtree(one, ignore_errors=True)
    strangers = tuple(one for one in others if one not in dead)
    try:
        yield Workshop(path, strangers)
    except (StoreError, SourceError, KeyboardInterrupt) as error:
        if isinstance(error, SourceError) and not any((*path.glob("parts/*"), *path.glob("fetched/*/*"))):
            _clear(path)
        else:
            _put_back(path)
            shutil.rmtree(path / "view", ignore_errors=True)
            _rename(path, path.with_name(f".work-free-{path.name[-8:]}"))
        raise
    except BaseException:
        _clear(path)
        raise
    _clear(path)
    for one in strangers:
        if time.time() - _last_change(one) > _ABANDONED_SECONDS:
            _clear(one)


def publish(partial: Path, final: Path, dataset: str) -> None:
    """Put a complete form in its place by one rename. A form of ours that is there is moved aside before.

    Raises:
        DatasetError: the place holds files that the harness did not write.
        StoreError: the folder can't be written.
    """
    with writing_to(final.parent):
        for attempt in range(8):  # another writer may fill the place again between two steps
            require_place(final, dataset)
            try:
                partial.rename(final)
            except OSError as error:
                if error.errno not in _TAKEN or attempt == 7 or not (final.exists() or final.is_symlink()):
                    raise
                if final.is_symlink():
                    final.unlink()  # the linked folder stays
                else:
                    _rename(final, partial.with_name(f"{_REPLACED}{final.name}-{secrets.token_hex(4)}"))
            else:
                return


def _require_folder(place: Path, expected: str) -> None:
    """Raise DatasetError if something else than a folder is in a place, or a link that leads nowhere."""
    if place.is_symlink() and not place.exists():
        raise DatasetError(_dangling(place))
    if place.exists() and not place.is_dir():
        raise DatasetError(
            f"{place} is a file, expected {expected}. Move it elsewhere, or choose another data folder with --data."
        )


def require_place(final: Path, dataset: str) -> None:
    """Raise DatasetError unless a form may be put in this place: nothing is there, or files of the harness alone."""
    _require_folder(final, "a folder of the harness")
    if found := foreign_files(final, dataset):
        raise DatasetError(
            f"{final} holds files that the harness did not write: {_some(found)}. They stay. Move them elsewhere, or "
            "choose another data folder with --data."
        )


def foreign_files(form: Path, dataset: str) -> list[str]:
    """Return the names in a form's folder that the harness did not write; none if the folder is not there."""
    if not form.is_dir():
        return []
    with writing_to(form):
        entries = sorted(form.iterdir())
    names = {one.name for one in entries}
    if not _is_form(form, names):
        return sorted(names - _LITTER)
    return [one.name for one in entries if not _is_own(one, dataset)]


def own_folders(root: Path, dataset: str) -> list[Path]:
    """Return the folders in a data set's folder that the harness made: its forms, and those of writers."""
    base = root / dataset
    if not base.is_dir():
        return []
    with writing_to(base):
        entries = sorted(one for one in base.iterdir() if one.is_dir())
    forms = [one for one in entries if not one.name.startswith(".") and _is_form(one, {file.name for file in _in(one)})]
    work = [one for one in entries if _WORK.fullmatch(one.name) and not one.is_symlink()]
    return [*forms, *work, *_outdated_work(base)]


def require_idle(root: Path, dataset: str, *, sole: bool) -> None:
    """Raise DatasetError if another writer may be at work, which a lock does not tell on every file system."""
    for one in (root / dataset).glob(".work-*"):
        if (
            _WORK.fullmatch(one.name)
            and not _is_dead(one, sole=sole)
            and time.time() - _last_change(one) < _BUSY_SECONDS
        ):
            raise DatasetError(
                f"Another process may be preparing '{dataset}': {one} has changed within the last hour. Try again "
                "when it has finished. If it is gone, remove that folder."
            )


def remove_folder(folder: Path, dataset: str) -> None:
    """Remove a folder of ``own_folders``; of a form, the files of the harness alone. A link goes, its target stays."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.name.startswith("."):
        shutil.rmtree(folder)
    else:
        remove_files([one for one in _in(folder) if _is_own(one, dataset)], folder)


def remove_files(files: list[Path], folder: Path) -> None:
    """Remove files, the manifest first, and then their folder if that is empty."""
    for file in sorted(files, key=lambda one: one.name != "manifest.json"):
        file.unlink(missing_ok=True)
    remove_if_empty(folder)


def remove_if_empty(folder: Path) -> None:
    """Remove a folder unless it holds anything."""
    with contextlib.suppress(OSError):
        folder.rmdir()


def _dangling(link: Path) -> str:
    return (
        f"{link} is a link to {link.readlink()}, which is not there. If that disk is not mounted, mount it; else "
        "remove the link and prepare the data set again."
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _in(folder: Path) -> list[Path]:
    with writing_to(folder):
        return list(folder.iterdir())


def _is_own(file: Path, dataset: str) -> bool:
    named = file.name in _FORM_FILES or file.name in _LITTER or file.name == f"audit-{dataset}.png"
    return (named or is_leftover(file)) and (file.is_symlink() or file.is_file())


def _is_form(folder: Path, names: set[str]) -> bool:
    """Return whether the harness made a folder: it has a manifest of ours, or nothing but our files and both splits."""
    try:
        found = json.loads((folder / "manifest.json").read_bytes())
        if isinstance(found, dict) and {"dataset", "definition", "fingerprint"} <= found.keys():
            return True
    except (OSError, ValueError):
        pass  # damaged, or of a removal that was interrupted
    arrays = {"train.images.npy", "test.images.npy"}
    return arrays <= names and not {
        one for one in names if one not in _FORM_FILES and not one.startswith((".", "audit"))
    }


def _outdated_work(base: Path) -> list[Path]:
    """Return the working folders of harness 0.1.0, which all writers shared."""
    found = [
        one for one in base.glob(".preparing-*") if {file.name for file in _in(one)} <= {*_FORM_FILES, "journal.json"}
    ]
    sources = base / ".sources"
    if sources.is_dir() and {one.name for one in _in(sources)} <= {"parts", "view"}:
        found.append(sources)
    return [one for one in found if not one.is_symlink()]


def _machine() -> str:
    """Name this machine until its next start."""
    try:
        start = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        start = socket.gethostname()
    return hashlib.sha256(start.encode()).hexdigest()[:8]


def _process_space() -> str:
    """Name the table of process numbers, since containers have tables of their own."""
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return "0"


def _is_dead(work: Path, *, sole: bool) -> bool:
    """Return whether no process can be at work in a folder, for certain."""
    match = _WORK.fullmatch(work.name)
    if match is None or match["machine"] == "free":
        return match is not None
    if match["machine"] != _machine() or match["space"] != _process_space():
        return False
    if os.name == "nt":  # where ``os.kill`` asks nothing, and where a lock is one
        return sole and int(match["pid"]) != os.getpid()
    try:
        os.kill(int(match["pid"]), 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


def _clear(work: Path) -> None:
    """Remove a writer's folder."""
    _put_back(work)
    shutil.rmtree(work, ignore_errors=True)


def _put_back(work: Path) -> None:
    """Put back a form that a writer has moved aside and, since it was stopped, not replaced."""
    for old in work.glob(f"{_REPLACED}*"):
        form = work.parent / old.name.removeprefix(_REPLACED).rpartition("-")[0]
        if not form.exists() and not form.is_symlink():
            _rename(old, form)


def _last_change(work: Path) -> float:
    """Return the time of the last change in a writer's folder, two levels deep; 0 if it is gone."""
    found = [0.0]
    for one in (work, *work.glob("*"), *work.glob("*/*")):
        with contextlib.suppress(OSError):
            found.append(one.lstat().st_mtime)
    return max(found)


def _rename(old: Path, new: Path) -> bool:
    """Rename a folder; false if another process was faster, or the folder is another user's."""
    try:
        old.rename(new)
    except (FileNotFoundError, PermissionError):
        return False
    return True
