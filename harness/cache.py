"""Keeps JSON files in the user's cache folder between commands. Losing one costs time only."""

from __future__ import annotations

import contextlib
import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import platformdirs

from harness.errors import HarnessError, StoreError
from harness.files import absolute_path, write_text_atomically

T = TypeVar("T")
_MOST = 10_000  # entries of a file; the oldest go first, for the keys of edited plugins come up no more


NOWHERE = Path(os.devnull)
"""A folder for files that can be neither written nor found."""


def cache_folder() -> Path:
    """Return the user's cache folder, which need not exist; NOWHERE for a user without a home."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:
        if given.startswith("~"):  # platformdirs ignores a path that is not absolute
            return absolute_path(given) / "xscore-harness"
        return absolute_path(platformdirs.user_cache_dir("xscore-harness"))
    except (HarnessError, RuntimeError):
        return NOWHERE


class Cache:
    """Values by key in one file. A file that is missing or damaged counts as empty."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._new: dict[str, Any] = {}

    def get(self, key: str, kind: type[T]) -> T | None:
        """Return the value of a key; None where there is none, or none of this kind."""
        found = self._new.get(key, self._stored.get(key))
        if found is None:
            return None
        try:
            return msgspec.convert(found, kind)
        except msgspec.ValidationError:
            return None

    def put(self, key: str, value: object) -> None:
        """Remember a value, such as a number or a dataclass of numbers and texts."""
        self._new[key] = msgspec.to_builtins(value)

    def save(self) -> None:
        """Write the new values into the file, beside those that other commands have written since."""
        if not self._new:
            return
        with contextlib.suppress(OSError, StoreError):  # without the file the next command takes longer, no more
            self._path.parent.mkdir(parents=True, exist_ok=True)
            entries = list((self._read() | self._new).items())
            write_text_atomically(self._path, json.dumps(dict(entries[-_MOST:])))
        self._stored.update(self._new)
        self._new = {}

    @cached_property
    def _stored(self) -> dict[str, Any]:
        return self._read()

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads(self._path.read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        return content if isinstance(content, dict) else {}
