"""Checks the outcomes that an executor yields, and turns whatever else it does into a sentence about its plugin."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, get_args

from harness.api import Cell, ExecutorSpec, State, StoppedError, Work, write_text_atomically
from harness.errors import HarnessError, PluginError, StoreError
from harness.guard import guarded

if TYPE_CHECKING:
    from harness.catalog import Offer

T = TypeVar("T")
_TRACE = "error.txt"


@dataclass(frozen=True)
class _Raised:
    """An error that an executor may raise."""

    error: HarnessError | StoppedError


def checked_outcomes(executor: Offer[ExecutorSpec], work: Work) -> Iterator[Cell]:
    """Let an executor carry out the work, and yield each outcome as it comes.

    Raises:
        PluginError: it raises an error of its own, yields something else than a job's Cell, or leaves jobs out.
        HarnessError, StoppedError: it raises that.
    """
    called = f"The executor '{executor.spec.name}' of {executor.owner}"
    left = set(work.jobs)
    for cell in _steps(executor, work, called):
        if mistake := _mistake(cell, work):
            raise PluginError(f"{called} yields {mistake}. Expected the Cell of a job, as run_one returns it.")
        assert isinstance(cell, Cell)
        left.discard(cell.job)
        yield cell
    if left and not work.resources.detach:
        raise PluginError(
            f"{called} ended without an outcome of {len(left)} of {len(work.jobs)} jobs. Expected one of each. "
            "'harness status' shows what is done."
        )


def _steps(executor: Offer[ExecutorSpec], work: Work, called: str) -> Iterator[object]:
    end = object()
    try:
        items: Iterator[object] = _call(lambda: iter(executor.spec.execute(work)))
        while (item := _call(lambda: next(items, end))) is not end:
            yield item
    except _Failed as failed:
        path = work.folder / _TRACE
        trace = ""
        with contextlib.suppress(OSError, StoreError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text_atomically(path, "".join(traceback.format_exception(failed.cause)))
            trace = f" The traceback is in {path}."
        raise PluginError(
            f"{called} failed: {failed}.{trace} Finished jobs are kept; the same command goes on with the others, and "
            "--executor local trains them on this machine."
        ) from failed.cause


class _Failed(Exception):
    """An executor raised an error of its own; the text is that error in one line."""

    def __init__(self, text: str, cause: BaseException) -> None:
        super().__init__(text)
        self.cause = cause


def _call(function: Callable[[], T]) -> T:
    """Call an executor's code. Raises HarnessError or StoppedError if it does, and _Failed for any other error."""
    found: T | _Raised
    try:
        with guarded():
            try:
                found = function()
            except (HarnessError, StoppedError) as error:
                found = _Raised(error)
    except PluginError as error:
        raise _Failed(str(error), error.__cause__ or error) from None
    if isinstance(found, _Raised):
        raise found.error
    return found


def _mistake(cell: object, work: Work) -> str:
    """Describe an item that is no outcome of the work; empty for one that is."""
    if not isinstance(cell, Cell):
        return f"a {type(cell).__name__}"
    if cell.job not in work.jobs:
        return f"a Cell of a job that it was not given, {cell.job}"
    return "" if cell.state in get_args(State) else f"a Cell with the state {cell.state!r}"
