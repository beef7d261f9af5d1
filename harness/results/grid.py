"""Jobs + the runs folder -> the state of every cell."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from harness.api import Job, RunResult
from harness.collection import without_collection
from harness.errors import HarnessError, StoreError
from harness.results.quick import quick_reader
from harness.results.store import JobFolder, RunsFolder

_MANY = 10_000
State: TypeAlias = Literal["done", "running", "failed", "stale", "missing"]


@dataclass(frozen=True, slots=True)
class Cell:
    """One job and how it stands.

    ``stale`` is a result, finished or half-way, that is not of this job any more: the model, the data, the protocol or
    a version changed, or its file is damaged. ``detail`` says which, or why a job failed.
    """

    job: Job
    state: State
    result: RunResult | None = None
    detail: str = ""
    fingerprint: str | None = None

    def as_row(self, metric: str = "top1") -> dict[str, Any]:
        """Return the row that ``run`` and ``status`` print; ``accuracy`` in percent, None unless done."""
        done = self.result if self.state == "done" else None
        return {
            "model": self.job.model,
            "dataset": self.job.dataset,
            "seed": self.job.seed,
            "state": self.state,
            "accuracy": done.metrics.get(metric) if done else None,
            "seconds": done.seconds if done else None,
            "fingerprint": done.fingerprint if done else self.fingerprint,
            "over_budget": done.over_budget if done else None,
            "detail": self.detail,
        }


def is_comparable(result: RunResult) -> bool:
    """Tell whether a result's arithmetic is that of the others; on Apple's MPS it is not."""
    return bool(result.environment.get("comparable", True))


def read_cell(folder: JobFolder, fingerprint: str | None) -> Cell:
    """Tell a job's state from its files.

    Args:
        folder: The job's folder.
        fingerprint: What the job's result must carry; None where it can't be known at present, for then a finished
            result counts as stale rather than being trusted.
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
    """Tell the state of every job.

    Args:
        runs: Where results are.
        jobs: The cells to look at.
        fingerprint_of: What a job's result must carry; a HarnessError from it makes a finished cell stale, with its
            message as the reason.
        brief: Whether the results may be without most of their environment and what was executed.
    """
    read = quick_reader(runs, brief=brief)
    with without_collection():
        cells = tuple(
            _finished(job, read(job), fingerprint_of) or _look_closely(runs, job, fingerprint_of) for job in jobs
        )
        if len(cells) > _MANY:
            gc.freeze()
    return cells


def _finished(job: Job, result: RunResult | None, fingerprint_of: Callable[[Job], str]) -> Cell | None:
    """Return the cell of a good and current result; None for anything else."""
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
        marks.append(f"went on {len(result.interruptions)} times")
    return ", ".join(marks)


def _position(folder: JobFolder) -> str:
    done = len(folder.read_history())
    return f"{done} epochs done" if done else ""
