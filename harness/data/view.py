"""Builds the reader's folder: real folders that hold links to the files of the sources, without leftovers."""

from __future__ import annotations

import errno
import os
import shutil
import unicodedata
from pathlib import Path

from harness.data.given import is_leftover, kind_of
from harness.errors import SourceError, StoreError
from harness.files import writing_to

_FULL = (errno.ENOSPC, errno.EDQUOT)


class ReaderFolder:
    """The folder that a data set's reader gets.

    Its folders are real, since ``rglob`` and ``os.walk`` pass over linked ones. The harness's own files are hard links
    in it where the disk has them; the user's files are symbolic links, so that nothing of the user's changes. Where the
    disk takes no more files, a folder of the user is one link.

    Attributes:
        path: The folder.
        decomposed: Whether a name holds letters apart from their accents, as Macs store them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clear()

    def clear(self) -> None:
        """Make the folder anew, empty."""
        with writing_to(self.path.parent):
            shutil.rmtree(self.path, ignore_errors=True)
            self.path.mkdir(parents=True)
        self._left_out: list[Path] = []
        self._whole: list[Path] = []
        self._composed = False
        self.decomposed = False

    def add(self, origin: Path, place: str, *, own: bool) -> None:
        """Link a file, or a folder and all that is below it.

        Args:
            origin: The file or folder.
            place: Its path within the reader's folder; an empty one for the reader's folder itself.
            own: Whether the harness made it.

        Raises:
            SourceError: another source has a file there already, or a folder can't be listed.
            StoreError: the disk is full or not writable.
        """
        target = self.path / place
        with writing_to(self.path.parent):
            target.parent.mkdir(parents=True, exist_ok=True)
        if not origin.is_dir():
            self._add_file(str(origin), target, own=own)
            return
        merged = target.exists()
        try:
            self._add_folder(origin, target, own=own, above=frozenset())
        except StoreError as error:
            if own or merged or getattr(error.__cause__, "errno", None) not in _FULL:
                raise
            # One link per file may be more files than the disk, or a quota, allows.
            shutil.rmtree(target)
            with writing_to(self.path.parent):
                target.symlink_to(os.path.abspath(origin), target_is_directory=True)  # noqa: PTH100
            self._whole.append(origin)

    @property
    def notes(self) -> list[str]:
        """Sentences for the user about what differs from the sources."""
        notes = []
        if self._left_out:
            count = len(self._left_out)
            notes.append(f"{count:,} leftovers of other programs are left out, such as {self._left_out[0]}.")
        notes += [
            f"The disk takes no more files, so {folder} is one link; readers that search by rglob pass over it."
            for folder in self._whole
        ]
        if self._composed:
            notes.append("Names with accents are stored decomposed, as Macs do; the reader gets them composed.")
        return notes

    def compose_names(self) -> None:
        """Rename what has a decomposed name to the composed form, which Linux and Windows use."""
        self._composed = True
        for folder, names, files in os.walk(self.path, topdown=False):
            for name in (*names, *files):
                if (composed := unicodedata.normalize("NFC", name)) != name and composed not in (*names, *files):
                    with writing_to(self.path.parent):
                        Path(folder, name).rename(Path(folder, composed))

    def _add_folder(self, origin: Path, target: Path, *, own: bool, above: frozenset[str]) -> None:
        above |= {os.path.realpath(origin)}
        if not target.is_dir():
            self._require_free(target)
        with writing_to(self.path.parent):
            target.mkdir(exist_ok=True)
        try:
            with os.scandir(origin) as opened:
                entries = sorted(opened, key=lambda entry: entry.name)
        except OSError as error:
            raise SourceError(f"The folder {origin} can't be listed: {error.strerror or error}.") from error
        names = {entry.name for entry in entries}
        for entry in entries:
            path = Path(entry.path)
            if is_leftover(entry.name, names, path):
                self._left_out.append(path)
            elif kind_of(entry) == "folder" and os.path.realpath(path) not in above:  # a link may lead back up
                self._add_folder(path, self._place(target, entry.name), own=own, above=above)
            else:
                self._add_file(entry.path, self._place(target, entry.name), own=own)

    def _place(self, folder: Path, name: str) -> Path:
        self.decomposed = self.decomposed or not unicodedata.is_normalized("NFC", name)
        return folder / name

    def _add_file(self, origin: str, target: Path, *, own: bool) -> None:
        origin = os.path.abspath(origin)  # noqa: PTH100 - the user's path, with its links
        self._require_free(target)
        with writing_to(self.path.parent):
            if own and _hard_link(origin, target):
                return
            try:
                target.symlink_to(origin)
            except OSError as error:  # Windows without permission to create links, or a disk without them
                if error.errno in _FULL:
                    raise
                if os.path.isfile(origin):  # noqa: PTH113
                    shutil.copy2(origin, target)

    def _require_free(self, target: Path) -> None:
        if os.path.lexists(target):
            raise SourceError(
                f"Two sources provide '{target.relative_to(self.path).as_posix()}'; the data set's plugin must "
                "unpack them to different folders."
            )


def _hard_link(origin: str, target: Path) -> bool:
    try:
        target.hardlink_to(origin)
    except OSError:
        return False
    return True
