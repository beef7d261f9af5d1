"""Rules for observers, the three hooks that every run calls, and the rules that observers share with trackers."""

from __future__ import annotations

import contextlib
import copy
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar

from harness.catalog import Catalog, Plugin, discover
from harness.errors import one_line
from harness.testing import fakes
from harness.testing.rules import RAISED, Failed, Kind, Rule, Skipped, Warned, rule, shorten
from harness.testing.sandbox import Done, changed, random_states, run_python, scratch, settings, watching

_SLOW, _TOO_SLOW = 0.1, 1.0  # seconds per epoch
_SLOW_OPENING = 5.0  # seconds


class FollowerCase(ABC):
    """A plugin that follows runs: a tracker, or the observers of a plugin."""

    in_process: ClassVar[str]
    """A program that follows a run in a fresh interpreter. Its arguments are a name, a seed and a folder."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Return the name by which ``in_process`` finds the plugin."""

    @property
    @abstractmethod
    def longest_opening(self) -> float | None:
        """Return the seconds that the plugin may take before the first epoch; None if it has nothing to open."""

    @abstractmethod
    def require(self) -> None:
        """Raise Skipped if the plugin can't be examined here."""

    @abstractmethod
    def attached(self, folder: Path) -> AbstractContextManager[fakes.Notify]:
        """Attach the plugin to a run in a folder. The value is called as the harness calls the three hooks."""

    def follow(self, folder: Path) -> None:
        """Follow a run without training. Raises Skipped if the plugin raises, which another rule reports."""
        self.require()
        try:
            with self.attached(folder) as notify:
                fakes.play(notify)
        except RAISED as error:
            raise Skipped(f"it raised {one_line(error)}.") from error


def following_rules(kind: Kind) -> tuple[Rule, ...]:
    """Make the rules about a FollowerCase: it stays silent, changes nothing and is quick."""
    examined = {
        "silent": _prints_nothing,
        "settings": _leaves_settings,
        "leaves-weights": _leaves_the_weights,
        "quick": _is_quick,
        "spawns": _works_in_processes,
    }
    return tuple(rule(f"{kind}-{name}")(examine) for name, examine in examined.items())


def _prints_nothing(case: FollowerCase) -> None:
    """Stdout belongs to the data, and other output would land in the middle of it."""
    case.require()
    with scratch() as folder, watching() as seen, contextlib.suppress(Skipped):
        case.follow(folder)
    if found := seen.out.strip():
        raise Failed(f"it prints {found[:120]!r} to stdout, expected nothing; use the logging module.")


def _leaves_settings(case: FollowerCase) -> None:
    """A global setting or torch's generator, changed while a run is followed, changes the run's numbers."""
    import torch  # noqa: F401 - settings() reports torch's settings once it is imported

    generator = "torch's global generator"
    _follow_once(case)  # a first use may change settings, which is not held against the plugin
    with scratch() as folder:
        before, state = settings(), random_states()[generator]
        case.follow(folder)
        found = changed(before, settings())
        if random_states()[generator] != state:
            found.append(f"the state of {generator}")
    if found:
        raise Failed(f"it changes {shorten(found)}.")


def _leaves_the_weights(case: FollowerCase) -> None:
    """A run that is followed has to end in the same bits as one that is not."""
    _follow_once(case)
    with tempfile.TemporaryDirectory() as place:
        alone = fakes.train(lambda *_, **__: None, Path(place)).weights_sha256
    with scratch() as folder, tempfile.TemporaryDirectory() as place:
        try:
            with case.attached(folder) as notify:
                followed = fakes.train(notify, Path(place)).weights_sha256
        except RAISED as error:
            raise Failed(f"with it, a real run raised {one_line(error)}.") from error
    if followed != alone:
        raise Failed("with it, the same job ends in different weights.")


def _is_quick(case: FollowerCase) -> str:
    """Training waits for it after every epoch."""
    _follow_once(case)
    opening, epoch = _times(case)
    text, limit = f"{1000 * epoch:.3g} ms per epoch", f"{_TOO_SLOW:g} s per epoch"
    advised, slow, too_slow = f"{_SLOW:g} s per epoch", epoch > _SLOW, epoch > _TOO_SLOW
    if case.longest_opening is not None:
        text = f"{1000 * opening:.3g} ms to open and {text}"
        limit = f"{case.longest_opening:g} s (TrackerSpec.patience) to open and {limit}"
        advised = f"{_SLOW_OPENING:g} s to open and {advised}"
        slow, too_slow = slow or opening > _SLOW_OPENING, too_slow or opening > case.longest_opening
    if too_slow:
        raise Failed(f"it takes {text}, expected less than {limit}.")
    if slow:
        raise Warned(f"it takes {text}, expected less than {advised}.")
    return text


def _works_in_processes(case: FollowerCase) -> None:
    """Several jobs may run at once, in worker processes that import the plugin anew and share its folder."""
    _follow_once(case)

    def follow(seed: int, folder: Path) -> Done:
        return run_python(case.in_process, case.name, str(seed), str(folder), folder=folder)

    with scratch() as folder, ThreadPoolExecutor() as pool:
        done = list(pool.map(partial(follow, folder=folder), (0, 1)))
    for one in done:
        if one.code:
            raise Failed(f"in a worker process, with another beside it, it raised {one.last_error}")


def _follow_once(case: FollowerCase) -> None:
    with scratch() as folder:
        case.follow(folder)


def _times(case: FollowerCase) -> tuple[float, float]:
    """Return the seconds that opening took, and those of the quickest epoch."""
    with scratch() as folder:
        began = time.perf_counter()
        with case.attached(folder) as notify:
            notify("harness_run_started", job=fakes.JOB)
            opening, epochs = time.perf_counter() - began, []
            for record in fakes.epoch_records():
                began = time.perf_counter()
                notify("harness_epoch_finished", job=fakes.JOB, record=record)
                epochs.append(time.perf_counter() - began)
            notify("harness_run_finished", job=fakes.JOB, result=fakes.run_result())
    return opening, min(epochs)


@dataclass(frozen=True)
class ObserverHooks:
    """The observer hooks of one plugin: functions and the names of their arguments, by hook."""

    functions: Mapping[str, tuple[Callable[..., object], tuple[str, ...]]] = field(default_factory=dict)

    def notify(self, hook: str, **arguments: object) -> None:
        """Call a hook with the arguments that it takes, if the plugin has it. Raises what the hook raises."""
        if hook in self.functions:
            function, names = self.functions[hook]
            function(*(arguments[name] for name in names))


def observers_in(catalog: Catalog, plugin: Plugin) -> ObserverHooks:
    """Return the observer hooks of a plugin, which may be none."""
    return ObserverHooks(
        {
            hook: (implementation.function, tuple(implementation.argnames))
            for hook, implementations in catalog.observers.items()
            for owner, implementation in implementations
            if owner == plugin
        }
    )


def observers_of(plugin: str) -> ObserverHooks:
    """Return the observer hooks of a plugin by the name of its entry point. Raises LookupError if there are none."""
    catalog = discover()
    for found in (observers_in(catalog, one) for one in catalog.plugins if one.name == plugin):
        if found.functions:
            return found
    raise LookupError(f"no plugin named {plugin!r} with observer hooks was discovered")


@dataclass(frozen=True)
class ObserverCase(FollowerCase):
    """The observers of a plugin.

    Attributes:
        plugin: The name of the plugin's entry point.
        observers: Its hooks.
    """

    plugin: str
    observers: ObserverHooks
    in_process: ClassVar[str] = (
        "import sys; from dataclasses import replace; from harness.testing.fakes import JOB, play; "
        "from harness.testing.observers import observers_of; "
        "play(observers_of(sys.argv[1]).notify, replace(JOB, seed=int(sys.argv[2])))"
    )

    @property
    def name(self) -> str:
        """Return the name of the plugin's entry point."""
        return self.plugin

    @property
    def longest_opening(self) -> None:
        """Return None."""

    def require(self) -> None:
        """Do nothing: hooks that were discovered can be examined."""

    @contextlib.contextmanager
    def attached(self, folder: Path) -> Iterator[fakes.Notify]:
        """Give the hooks themselves."""
        yield self.observers.notify


@rule("observer-runs")
def runs(case: ObserverCase) -> str:
    """Hooks are called with a job, the record of each epoch and the result."""
    with scratch():
        try:
            fakes.play(case.observers.notify)
        except RAISED as error:
            raise Failed(f"a run of three epochs raised {one_line(error)}.") from error
    return ", ".join(sorted(case.observers.functions))


@rule("observer-goes-on")
def resumes(case: ObserverCase) -> None:
    """A run that resumes after a stop is announced a second time."""
    with scratch() as folder:
        case.follow(folder)
        try:
            fakes.play(case.observers.notify)
        except RAISED as error:
            raise Failed(f"the same job, announced again, raised {one_line(error)}.") from error


@rule("observer-reads-only")
def leaves_the_result(case: ObserverCase) -> None:
    """All observers get the same result, one after the other."""
    _follow_once(case)
    with scratch():
        result = fakes.run_result()
        before = copy.deepcopy(asdict(result))
        with contextlib.suppress(Exception):
            fakes.play(case.observers.notify, fakes.JOB, result)
    if asdict(result) != before:
        raise Failed("it changes the result.")


RULES: tuple[Rule, ...] = (runs, resumes, leaves_the_result, *following_rules("observer"))
