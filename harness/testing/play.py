"""Plays: work for an executor in a fresh interpreter, and the record of it that the rules for executors examine."""

from __future__ import annotations

import contextlib
import inspect
import os
import pickle
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pluggy

from harness import hookspecs
from harness.api import PROJECT, Cell, ExecutorSpec, Job, Reporter, StoppedError
from harness.errors import HarnessError, one_line
from harness.testing import fakes
from harness.testing.sandbox import changed, settings

PROGRAM = "import sys; from harness.testing.play import main; main(*sys.argv[1:])"
RESULTS = "results.pickle"
_DRAIN_SECONDS = 60.0
_STOP_SECONDS = 1.0  # after which the user wants to stop, if no job has started before


@dataclass(frozen=True)
class _Play:
    """Work for an executor: which of the three jobs fail, or end their process, and how long each takes."""

    failing: tuple[int, ...] = ()
    dying: tuple[int, ...] = ()
    seconds: float = 0.0
    stop: bool = False


PLAYS = {
    "whole": _Play(seconds=0.1),
    "failing": _Play(failing=(1,)),
    "dying": _Play(dying=(0,)),
    "stop": _Play(seconds=2.0, stop=True),
}


@dataclass(frozen=True, kw_only=True)
class Played:
    """A play, as the executor carried it out.

    Attributes:
        calls: The calls of ``run_one``.
        outcomes: The seed and the state of each Cell that it yielded; the type of anything else.
        expected: The state of each job's outcome, by seed.
        reported: The seeds of the jobs that it reported as finished.
        mistakes: Wrong calls of the reporter.
        raised: The error that it raised; empty for a HarnessError and for StoppedError.
        refused: The text of a HarnessError that it raised.
        stopped: Whether it raised StoppedError.
        changed: Global settings that it changed.
        litter: Files that it left in the current folder.
        imported: Packages of others that are imported afterwards.
        imported_at_once: Those that the plugin's module imports.
        waiting: The mistake in what ``waiting`` returned.
    """

    calls: tuple[fakes.Call, ...]
    outcomes: tuple[tuple[int, str] | str, ...]
    expected: Mapping[int, str]
    reported: tuple[int, ...]
    mistakes: tuple[str, ...]
    raised: str
    refused: str
    stopped: bool
    changed: tuple[str, ...]
    litter: tuple[str, ...]
    imported: tuple[str, ...]
    imported_at_once: tuple[str, ...]
    waiting: str


def read_plays(folder: Path) -> dict[str, Played]:
    """Return the plays that ``main`` has written, which are not all of them if the process ended early."""
    plays: dict[str, Played] = {}
    if (folder / RESULTS).exists():
        with (folder / RESULTS).open("rb") as file:
            while file.peek(1):
                plays |= pickle.load(file)
    return plays


def main(module: str, name: str, folder: str, *arguments: str) -> None:
    """Let an executor carry out plays in this interpreter, a fresh one, and write them to a file.

    Args:
        module: The value of the plugin's entry point.
        name: The executor.
        folder: An absolute path.
        arguments: None for the usual plays; else ``bare`` and the packages that can't be imported.
    """
    before = set(sys.modules)
    spec = _executor(module, name)
    imported = partial(_foreign, before, module)
    at_once, plays = imported(), PLAYS
    if arguments:
        os.environ["PATH"] = str(Path(folder) / "no programs")
        sys.meta_path.insert(0, _Hidden(frozenset(arguments[1:])))
        plays = {arguments[0]: _Play()}
    with (Path(folder) / RESULTS).open("ab") as file:
        for title, play in plays.items():
            played = _carry_out(spec, play, Path(folder) / title)
            pickle.dump({title: replace(played, imported_at_once=at_once, imported=imported())}, file)
            file.flush()
    if spec.remote and spec.waiting:
        _let_queue_drain(spec.waiting, Path(folder) / title / "executor")


def _let_queue_drain(waiting: Callable[[Path], object], folder: Path) -> None:
    """Wait a while for jobs that run on after a stop, because the folder that they write to will be removed."""
    patience = time.monotonic() + _DRAIN_SECONDS
    with contextlib.suppress(Exception):  # the record of the play has the mistake of ``waiting``
        while waiting(folder) and time.monotonic() < patience:
            time.sleep(0.5)


def _executor(module: str, name: str) -> ExecutorSpec:
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(EntryPoint("examined", module, PROJECT).load())
    offered: list[Iterable[ExecutorSpec]] = manager.hook.harness_executors()
    return next(spec for specs in offered for spec in specs if spec.name == name)


def _foreign(before: set[str], module: str) -> tuple[str, ...]:
    """Return the packages imported since, but those of Python, the harness and the plugin itself."""
    own = {*sys.stdlib_module_names, "harness", module.partition(":")[0].partition(".")[0]}
    tops = {name.partition(".")[0] for name in set(sys.modules) - before}
    return tuple(sorted(name for name in tops - own if not name.startswith("__")))


@dataclass(frozen=True)
class _Hidden(MetaPathFinder):
    """Refuses to import packages that are not imported yet, as if they were not installed."""

    names: frozenset[str]

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Raise ModuleNotFoundError for a hidden package."""
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def _carry_out(spec: ExecutorSpec, play: _Play, folder: Path) -> Played:
    def seeded(seeds: tuple[int, ...]) -> frozenset[Job]:
        return frozenset(replace(fakes.JOB, seed=seed) for seed in seeds)

    run_one = fakes.FakeRunOne(folder / "runs", seeded(play.failing), seeded(play.dying), seconds=play.seconds)
    reporter = _Recorder(play.stop)
    work = fakes.executor_work(run_one, folder / "executor", reporter)
    outcomes: list[tuple[int, str] | str] = []
    raised, refused, stopped, before = "", "", False, settings()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # as ``harness run`` does
            for cell in spec.execute(work):
                outcomes.append((cell.job.seed, cell.state) if isinstance(cell, Cell) else type(cell).__name__)
    except StoppedError:
        stopped = True
    except HarnessError as error:
        refused = str(error) or type(error).__name__
    except BaseException as error:  # a plugin may raise anything, and the parent process reports it
        raised = one_line(error)
    failed = {*play.failing, *play.dying}
    return Played(
        calls=tuple(run_one.calls()),
        outcomes=tuple(outcomes),
        expected={job.seed: "failed" if job.seed in failed else "done" for job in work.jobs},
        reported=tuple(reporter._finished),
        mistakes=tuple(reporter._mistakes),
        raised=raised,
        refused=refused,
        stopped=stopped,
        changed=tuple(changed(before, settings())),
        litter=tuple(sorted(path.name for path in Path.cwd().iterdir())),
        imported=(),
        imported_at_once=(),
        waiting=waiting_mistake(spec, work.folder) if spec.waiting else "",
    )


class _Recorder(Reporter):
    """Records how its methods are called, and that methods are called which a Reporter does not have."""

    def __init__(self, stop: bool) -> None:
        self._stops_at = time.monotonic() + _STOP_SECONDS if stop else None
        self._finished: list[int] = []
        self._mistakes: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_") or name == "should_stop":
            return object.__getattribute__(self, name)
        return partial(self._record, name)

    def should_stop(self) -> bool:
        """Return whether the play is one that the user stops, and the time has come."""
        return self._stops_at is not None and time.monotonic() >= self._stops_at

    def _record(self, name: str, *values: object, **named: object) -> None:
        method = getattr(Reporter, name, None)
        if method is None:
            self._mistakes.append(f"it calls reporter.{name}, which a Reporter does not have")
            return
        try:
            given = inspect.signature(method).bind(self, *values, **named).arguments
        except TypeError as error:
            self._mistakes.append(f"it calls reporter.{name} with wrong arguments: {error}")
            return
        for argument, kind in (("job", Job), ("cell", Cell), ("text", str)):
            if argument in given and not isinstance(given[argument], kind):
                found = type(given[argument]).__name__
                self._mistakes.append(f"it calls reporter.{name} with a {found}, expected a {kind.__name__}")
                return
        if name == "job_finished":
            self._finished.append(given["cell"].job.seed)
        elif name == "job_started" and self._stops_at is not None:
            self._stops_at = min(self._stops_at, time.monotonic())


def waiting_mistake(spec: ExecutorSpec, folder: Path) -> str:
    """Return the mistake in what an executor's ``waiting`` returns for a folder; empty if there is none."""
    assert spec.waiting is not None
    try:
        found: object = spec.waiting(folder)
    except HarnessError:  # the queue does not answer, which ``harness status`` shows
        return ""
    except Exception as error:
        return f"waiting raised {one_line(error)}"
    if not isinstance(found, Mapping):
        return f"waiting returns a {type(found).__name__}, expected a mapping of Job to text"
    wrong = [item for item in found.items() if not isinstance(item[0], Job) or not isinstance(item[1], str)]
    return f"waiting returns {wrong[0]!r}, expected a mapping of Job to text" if wrong else ""
