"""Find the runs at a path and check each. A check that can't be made gives its reason and stops no other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from harness.api import Job
from harness.errors import CannotContinueError, HarnessError, StoreError, one_line
from harness.results.store import JobFolder, job_at
from harness.verify.checks import Check, ImpossibleError, Run
from harness.verify.claims import (
    check_budget,
    check_executed,
    check_fingerprint,
    check_history,
    check_job,
    check_learning_rates,
    check_metrics,
    check_protocol,
    check_schema,
    check_test_reads,
    check_weights,
)
from harness.verify.replay import check_evaluation, check_replay
from harness.workspace import Workspace

_Checks: TypeAlias = tuple[tuple[str, Callable[[Run], Iterator[Check]]], ...]

_CHECKS: _Checks = (
    ("schema", check_schema),
    ("job", check_job),
    ("protocol", check_protocol),
    ("fingerprint", check_fingerprint),
    ("weights", check_weights),
    ("history", check_history),
    ("learning rates", check_learning_rates),
    ("predictions", check_metrics),
    ("test reads", check_test_reads),
    ("budget", check_budget),
    ("executed", check_executed),
    ("evaluation", check_evaluation),
)


@dataclass(frozen=True)
class Verified:
    """A run and its checks.

    Attributes:
        label: The run's name for the user.
        checks: In a fixed order.
        readable: Whether the run has a readable result.
    """

    label: str
    checks: tuple[Check, ...]
    readable: bool = True

    @property
    def failed(self) -> bool:
        """True if any check failed."""
        return any(check.verdict == "failed" for check in self.checks)


def find_runs(path: Path) -> tuple[tuple[str, JobFolder], ...]:
    """Return the finished runs at a path, each with a label.

    Args:
        path: A job's folder, or any folder above some, such as a runs folder.

    Raises:
        CannotContinueError: there is nothing finished.
    """
    if not path.is_dir():
        raise CannotContinueError(f"There is no run, runs folder or bundle at {path}.")
    if (path / "job.json").is_file() or (path / "result.json").is_file():
        folder = JobFolder(_job_of(path), path)
        if not folder.result.is_file():
            raise CannotContinueError(
                f"{path} is not finished: it has no result.json. Resume it with 'harness run', then verify it."
            )
        return ((str(path), folder),)
    found = []
    for result in sorted(path.glob("**/seed-*/result.json")):
        job = job_at(result.parent.absolute().parts[-4:])
        if job and "set-aside" not in result.parts:
            found.append((str(result.parent), JobFolder(job, result.parent)))
    if not found:
        raise CannotContinueError(f"There is no finished run in {path}.")
    return tuple(found)


def verify_run(
    label: str, folder: JobFolder, workspace: Workspace, *, device: str = "auto", replay: bool = False
) -> Verified:
    """Check every claim of a finished run; nothing is written.

    Args:
        label: The run's name for the user.
        folder: Its files.
        workspace: Registry, plugins and folders.
        device: The device to compute on; ``auto`` takes the run's own device if this machine has it.
        replay: Whether to train a window of steps again.

    A check that can't be made here, since a plugin or the data set is missing, is ``skipped`` with the reason.
    """
    try:
        result = folder.read_result()
    except StoreError as error:
        return Verified(label, (Check("result", "failed", detail=f"{error}."),), readable=False)
    if result is None:
        detail = f"{folder.result} is not there."
        return Verified(label, (Check("result", "failed", detail=detail),), readable=False)
    run = Run(folder, result, workspace, device)
    checks: list[Check] = []
    for name, check in _CHECKS + ((("replay", check_replay),) if replay else ()):
        checks += _guarded(name, check, run)
    return Verified(label, tuple(checks))


def _guarded(name: str, check: Callable[[Run], Iterator[Check]], run: Run) -> list[Check]:
    """Make a check; keep its findings from before it proved impossible."""
    made: list[Check] = []
    try:
        for one in check(run):
            made.append(one)
    except ImpossibleError as impossible:
        made.append(Check(name, "skipped", detail=str(impossible)))
    except HarnessError as error:
        made.append(Check(name, "failed", detail=str(error)))
    except (Exception, SystemExit) as error:  # damage of any kind, or a plugin, must not stop the other checks
        made.append(Check(name, "failed", detail=f"It could not be made: {one_line(error)}."))
    return made


def _job_of(path: Path) -> Job:
    """Return the job of a folder at any place, from its files."""
    folder = JobFolder(Job("", "", "", 0), path)
    with contextlib.suppress(StoreError):
        return folder.read_request().job
    with contextlib.suppress(StoreError):
        if result := folder.read_result():
            return result.job
    raise CannotContinueError(f"Neither job.json nor result.json in {path} can be read, so its job is unknown.")
