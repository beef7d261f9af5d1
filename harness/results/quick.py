"""A great many result files -> results, each in some ten microseconds, or None where a file needs a closer look.

A file that ``harness`` wrote and nobody touched is ASCII, begins with its schema and fits into one read. Whatever does
not (damaged, of another schema, absent, not readable) is left to ``JobFolder.read_result``, which says what it is. So
nothing is decided here but that a result is good.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypedDict

import msgspec

from harness.api import Job, RunResult
from harness.results.store import RunsFolder
from harness.results.upgrade import SCHEMA

_LONGEST = 1 << 16
_BEGINNING = f'{{\n  "schema": {SCHEMA},\n'.encode()
_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0)

Reader: TypeAlias = Callable[[Job], RunResult | None]
"""Returns a job's result, or None where its file needs a closer look."""


class _Comparability(TypedDict, total=False):
    comparable: Any


class _Anything(TypedDict, total=False):
    """An object whose content is checked to be JSON and not kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BriefResult(RunResult):
    """A result as far as tables of many need it: ``comparable`` is all of its ``environment``, ``executed`` is empty.

    Decoding these two takes as long as all the rest.
    """

    environment: _Comparability = field(default_factory=_Comparability)
    executed: _Anything | None = None


def quick_reader(runs: RunsFolder, *, brief: bool) -> Reader:
    """Return what reads results of a runs folder quickly.

    Args:
        runs: Where they are.
        brief: Whether a BriefResult is enough.
    """
    decode: Callable[[bytes], RunResult] = msgspec.json.Decoder(BriefResult if brief else RunResult).decode
    root, sep = os.fspath(runs.root), os.sep

    def read(job: Job) -> RunResult | None:
        path = f"{root}{sep}{job.protocol}{sep}{job.model}{sep}{job.dataset}{sep}seed-{job.seed}{sep}result.json"
        try:
            file = os.open(path, _FLAGS)
        except OSError:
            return None
        try:
            content = os.read(file, _LONGEST)
        except OSError:
            return None
        finally:
            os.close(file)
        # What is skipped is checked to be JSON, but not to be UTF-8; of ASCII there is no doubt.
        if len(content) == _LONGEST or not content.startswith(_BEGINNING) or not content.isascii():
            return None
        try:
            return decode(content)
        except msgspec.MsgspecError:
            return None

    return read
