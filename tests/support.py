"""Values that tests share: the folders of the project and the outcome of a command."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent
ROOT = TESTS.parent
FILES = TESTS / "files"  # data files; tests/data holds the tests of harness.data
TINY_PLUGIN = TESTS / "plugins" / "tiny"
TINY_REGISTRY = FILES / "tiny.toml"
UNRULY_PLUGIN = TESTS / "plugins" / "unruly"


@dataclass(frozen=True)
class Ran:
    """The outcome of a command."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        rows = json.loads(self.out)
        assert isinstance(rows, list)
        return rows


Command = Callable[..., Ran]
Rows = Callable[..., list[dict[str, Any]]]
