"""Read the state of jobs from the runs folder."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypedDict

import msgspec

from harness.api import Cell, Job, RunResult
from harness.errors import HarnessError, StoreError
from harness.machine import gc_paused
from harness.results.schema import SCHEMA, impossible
from harness.results.store import JobFolder, RunsFolder, job_place

_MANY = 10_000


def is_comparable(result: RunResult) -> bool:
    """Return whether the result may be compared with others; results from Apple's MPS may not."""
    return bool(result.environment.get("comparable", True))


def read_cell(folder: JobFolder, fingerprint: str | None) -> Cell:
    """Return a job's state from its files.

    Args:
        folder: The job's folder.
        fingerprint: The fingerprint that the job's result must have; None if it is unknown, which makes a finished
            result stale.
    """
    job = folder.job
    try:
        result = folder.read_result()
    except StoreError as error:
        return Cell(job, "stale", detail=str(error), fingerprint=fingerprint)
    if result is not None:
        if result.fingerprint == fingerprint:
            return Cell(job, "done", result, _marks(result), fingerprint)
        return Cell(job, "stale", result, f"its fingerprint is {result.fingerprint}", fingerprint)
    if not folder.path.is_dir():
        return Cell(job, "missing", fingerprint=fingerprint)
    if folder.is_locked():
        return Cell(job, "running", detail=_position(folder), fingerprint=fingerprint)
    if (reason := folder.read_error()) is not None:
        return Cell(job, "failed", detail=reason, fingerprint=fingerprint)
    return Cell(job, "missing", detail=_position(folder), fingerprint=fingerprint)


def read_grid(
    runs: RunsFolder, jobs: Iterable[Job], fingerprint_of: Callable[[Job], str], *, brief: bool = False
) -> tuple[Cell, ...]:
    """Return the state of every job.

    Args:
        runs: The folder of the results.
        jobs: The jobs.
        fingerprint_of: Returns the fingerprint that a job's result must have; a HarnessError from it makes a finished
            cell stale, with its message as the reason.
        brief: Whether the results may lack most of their environment and the executed facts.
    """
    read = quick_reader(runs, brief=brief)
    with gc_paused():
        cells = tuple(
            _finished(job, read(job), fingerprint_of) or _look_closely(runs, job, fingerprint_of) for job in jobs
        )
        if len(cells) > _MANY:
            gc.freeze()
    return cells


def _finished(job: Job, result: RunResult | None, fingerprint_of: Callable[[Job], str]) -> Cell | None:
    """Return the cell of a good and current result; None otherwise."""
    if result is None:
        return None
    try:
        fingerprint = fingerprint_of(job)
    except HarnessError:
        return None
    if result.fingerprint != fingerprint:
        return None
    return Cell(job, "done", result, _marks(result), fingerprint)


def _look_closely(runs: RunsFolder, job: Job, fingerprint_of: Callable[[Job], str]) -> Cell:
    folder = runs.of(job)
    try:
        return read_cell(folder, fingerprint_of(job) if folder.path.is_dir() else None)
    except HarnessError as error:
        cell = read_cell(folder, None)
        return Cell(job, cell.state, cell.result, str(error), None)


def _marks(result: RunResult) -> str:
    marks = []
    if result.deviations:
        marks.append(f"not counted: {'; '.join(result.deviations)}")
    if result.over_budget:
        marks.append("over budget")
    if not is_comparable(result):
        marks.append("not comparable")
    if result.lr_exception:
        marks.append(f"lr_max {result.lr_max:g}")
    if result.interruptions:
        marks.append(f"resumed {len(result.interruptions)} times")
    return ", ".join(marks)


def _position(folder: JobFolder) -> str:
    done = len(folder.read_history())
    return f"{done} epochs done" if done else ""


_LONGEST = 1 << 16


_BEGINNING = f'{{\n  "schema": {SCHEMA},\n'.encode()


_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0)


Reader: TypeAlias = Callable[[Job], RunResult | None]
"""Returns a job's result, or None if its file needs the slower, thorough reader."""


class _Comparability(TypedDict, total=False):
    comparable: Any


class _Anything(TypedDict, total=False):
    """An object whose content is checked to be JSON and dropped."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BriefResult(RunResult):
    """A result for tables of many: its ``environment`` has only ``comparable``, and ``executed`` is empty.

    Decoding these two takes as long as all the rest.
    """

    environment: _Comparability = field(default_factory=_Comparability)
    executed: _Anything | None = None


def quick_reader(runs: RunsFolder, *, brief: bool) -> Reader:
    """Return a function that reads results of a runs folder quickly.

    Args:
        runs: The folder of the results.
        brief: Whether a BriefResult is enough.
    """
    decode: Callable[[bytes], RunResult] = msgspec.json.Decoder(BriefResult if brief else RunResult).decode
    root, sep = os.fspath(runs.root), os.sep

    def read(job: Job) -> RunResult | None:
        path = sep.join((root, *job_place(job), "result.json"))
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
        # The decoder checks that skipped parts are JSON, but not that they are UTF-8; ASCII always is.
        if len(content) == _LONGEST or not content.startswith(_BEGINNING) or not content.isascii():
            return None
        try:
            result = decode(content)
        except (msgspec.MsgspecError, RecursionError):
            return None
        return None if impossible(result) else result

    return read
