"""Trackers of a run: opened, fed with epochs and results, and kept from harming the run."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import json
import queue
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from harness.api import EpochRecord, RunResult, StoppedError, TrackedRun, Tracker, TrackerSpec
from harness.catalog import Catalog, Offer
from harness.errors import CannotContinueError, PluginError, StoreError, one_line
from harness.files import write_text_atomically
from harness.guard import guarded
from harness.processes import AwakeClock
from harness.results.store import JobFolder

if TYPE_CHECKING:
    from harness.train.task import Built, Task

_POLL_SECONDS = 0.1
_METHODS = ("epoch_finished", "run_finished", "run_failed", "close")


def open_trackers(
    task: Task, built: Built, folder: JobFolder, place: Path, notice: Callable[[str], object]
) -> RunTrackers:
    """Open the trackers of a run that is about to start or resume.

    Args:
        task, built: The job, and its model before training. The task's options name the trackers.
        folder: The job's files; beside them the harness remembers what each tracker received.
        place: Each tracker gets a folder in it, unless its own configuration names another.
        notice: Takes the sentence about a tracker that fails; no tracker's error is raised.
    """
    names = task.options.trackers
    if not names:
        return RunTrackers((), _Memory(folder), notice)
    memory = _Memory.of(folder)
    run = _describe(task, built, memory.id)
    followed = []
    for name in names:
        offer = task.catalog.trackers.get(name)
        if offer is None:
            notice(f"{task.job}: this process has no tracker '{name}'; the run continues without it.")
            continue
        resumed = name in memory.told
        own = replace(copy.deepcopy(run), resumed=resumed, folder=(place / name).absolute())
        followed.append(_Followed(offer, own))
    return RunTrackers(followed, memory, notice)


def check_trackers(catalog: Catalog, names: Iterable[str]) -> tuple[str, ...]:
    """Check the names that a user gave against the installed trackers, and return each once.

    Raises:
        WrongUseError: there is no tracker of that name.
        PluginError: it may belong to a broken plugin.
        CannotContinueError: a module that it needs is not installed.
    """
    chosen = tuple(dict.fromkeys(names))
    for name in chosen:
        spec = catalog.tracker(name).spec
        if missing := missing_modules(spec):
            how = f"Install it with: {spec.install}" if spec.install else "Install it, or leave the tracker out."
            raise CannotContinueError(f"The tracker '{name}' needs {' and '.join(missing)}, not installed here. {how}")
    return chosen


def missing_modules(spec: TrackerSpec) -> list[str]:
    """Return the modules that a tracker needs and that are not installed."""
    return [name for name in spec.needs if not _is_installed(name)]


def _is_installed(module: str) -> bool:
    with contextlib.suppress(PluginError), guarded():  # to find a.b, Python imports a
        return importlib.util.find_spec(module) is not None
    return False


class RunTrackers:
    """The open trackers of one run, as a context; leaving it closes them and reports the error of the run, if any.

    No method raises an error of a tracker. A tracker that fails, or exceeds its patience, is reported and dropped. Each
    tracker gets copies, so that none can change the run's own values or those that the next tracker sees.
    """

    def __init__(self, followed: Sequence[_Followed], memory: _Memory, tell: Callable[[str], object]) -> None:
        self._all = followed
        self._memory = memory
        self._notice = tell

    def __enter__(self) -> RunTrackers:
        """Open them. The id is written first, so that a process killed meanwhile leaves no unknown run behind."""
        self._remember()
        for one in self._all:
            self._report(one, one.start())
            if one.usable:
                self._memory.told.setdefault(one.name, [])
        self._remember()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Pass on the remaining epochs and the reason of a failure, and close them."""
        if any(one.usable for one in self._all):
            self.epochs_saved(self._memory.folder.read_history())
        if isinstance(error, Exception) and not _is_stop(error):
            reason = one_line(error)
            self._ask("run_failed", lambda tracker: tracker.run_failed(reason))
        for one in self._all:
            self._report(one, one.stop())

    def epochs_saved(self, history: Iterable[EpochRecord]) -> None:
        """Pass on the epochs that the trackers have not received, of killed processes too.

        Call it once a checkpoint holds them: other epochs are repeated after a kill, with the same loss in other
        seconds, and the tracker's curve would differ from the one on disk. A run that fails passes on all of them,
        since its curve leads to the failure.
        """
        self._bring_up_to_date(history)

    def run_finished(self, result: RunResult, history: Iterable[EpochRecord]) -> None:
        """Pass on the remaining epochs, then the result."""
        self._bring_up_to_date(history)
        self._ask("run_finished", lambda tracker: tracker.run_finished(copy.deepcopy(result)))

    def _bring_up_to_date(self, history: Iterable[EpochRecord]) -> None:
        for record in history:
            for one in self._all:
                told = self._memory.told.get(one.name, [])
                if one.usable and record.epoch not in told:
                    self._report(one, one.ask("epoch_finished", _telling_of(record)))
                    if one.usable:
                        told.append(record.epoch)
                    self._remember()

    def _ask(self, what: str, call: Callable[[Tracker], object]) -> None:
        for one in self._all:
            self._report(one, one.ask(what, call))

    def _report(self, one: _Followed, problem: str) -> None:
        if problem:
            self._notice(
                f"{one.run.job}: {one.offer.owner}: tracker {one.name}: {problem}; the run continues without it."
            )

    def _remember(self) -> None:
        if self._all:
            with contextlib.suppress(StoreError):  # if the disk is full, the run itself reports it
                self._memory.save()


def _telling_of(record: EpochRecord) -> Callable[[Tracker], object]:
    return lambda tracker: tracker.epoch_finished(copy.deepcopy(record))


def _is_stop(error: Exception) -> bool:
    return isinstance(error, StoppedError)


class _Followed:
    """One tracker in a thread of its own, so that one that hangs can be left behind.

    The thread is a daemon: it does not keep a process alive whose work is done.
    """

    def __init__(self, offer: Offer[TrackerSpec], run: TrackedRun) -> None:
        self.offer = offer
        self.run = run
        self.name = offer.spec.name
        self.usable = False
        self._tracker: Tracker | None = None
        self._calls: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()

    def start(self) -> str:
        """Open the tracker; return what went wrong, or nothing."""
        threading.Thread(target=self._work, name=f"tracker-{self.name}", daemon=True).start()
        self.usable = True
        return self._wait("open", self._open)

    def ask(self, what: str, call: Callable[[Tracker], object]) -> str:
        """Call one of the tracker's methods if it is still usable; return what went wrong, or nothing."""
        tracker = self._tracker
        return self._wait(what, lambda: call(tracker)) if self.usable and tracker is not None else ""

    def stop(self) -> str:
        """Close the tracker and let its thread end; return what went wrong, or nothing."""
        problem = self.ask("close", lambda tracker: tracker.close())
        self.usable = False
        self._calls.put(None)
        return problem

    def _open(self) -> None:
        tracker = self.offer.spec.open(self.run)
        missing = [name for name in _METHODS if not callable(getattr(tracker, name, None))]
        if missing:
            raise TypeError(f"it returned a {type(tracker).__name__} without {', '.join(missing)}")
        self._tracker = tracker

    def _wait(self, what: str, call: Callable[[], object]) -> str:
        """Have the thread do something and wait for it, within the tracker's patience."""
        self._calls.put(call)
        try:
            problem = self._answer()
        except queue.Empty:
            self.usable = False
            self._calls.put(self._close)  # should it ever come back
            return f"{what} did not return within {self.offer.spec.patience:g} s"
        if not problem:
            return ""
        self.usable = False
        if what != "close":  # it may hold a file or a connection
            self._calls.put(self._close)
            with contextlib.suppress(queue.Empty):
                self._answer()
        return f"{what} raised {problem}"

    def _answer(self) -> str:
        """Return the thread's next answer. Raises queue.Empty if there is none within the tracker's patience."""
        clock, patience = AwakeClock(), self.offer.spec.patience
        while clock.seconds() < patience:  # a thread is no slower because this process was stopped for a while
            with contextlib.suppress(queue.Empty):
                return self._answers.get(timeout=min(_POLL_SECONDS, patience))
        raise queue.Empty

    def _close(self) -> None:
        if self._tracker is not None:
            self._tracker.close()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
                self._answers.put("")
            except BaseException as error:  # whatever a tracker does, even sys.exit(), ends the tracker alone
                self._answers.put(one_line(error))


@dataclass
class _Memory:
    """The file beside a job's results: the run's id in the trackers' stores, and the epochs that each received."""

    folder: JobFolder
    id: str = ""
    told: dict[str, list[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: JobFolder) -> _Memory:
        """Read it, or begin a new one where there is none or it is damaged."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            content = json.loads(folder.trackers.read_bytes())
            if content["fingerprint"] == folder.recorded_fingerprint():
                told = {str(name): [int(epoch) for epoch in epochs] for name, epochs in content["told"].items()}
                return cls(folder, str(content["id"]), told)
        # The random part tells this attempt from any other, here or in another folder, that ends in the same bits.
        return cls(folder, f"{folder.recorded_fingerprint()}-{secrets.token_hex(4)}")

    def save(self) -> None:
        """Write it down."""
        content = {"id": self.id, "fingerprint": self.folder.recorded_fingerprint(), "told": self.told}
        write_text_atomically(self.folder.trackers, json.dumps(content) + "\n")


def _describe(task: Task, built: Built, run_id: str) -> TrackedRun:
    from harness.train.environment import frozen_numerics
    from harness.train.provenance import describe_environment
    from harness.train.schedule import learning_rate_peak

    spec = task.model.spec
    with frozen_numerics():  # the flags under which it will train
        environment = describe_environment(
            task.device, task.catalog, model=task.model, job=task.job, protocol=task.protocol
        )
    lr_max = learning_rate_peak(task.protocol, spec)[0]
    job = task.job
    return TrackedRun(
        id=run_id,
        resumed=False,
        job=job,
        fingerprint=built.fingerprint,
        protocol_digest=task.protocol.digest,
        parameters=built.parameters,
        lr_max=lr_max,
        config={
            **job.as_dict(),
            **{"fingerprint": built.fingerprint, "protocol_digest": task.protocol.digest},
            **dict(_flat(_protocol_numbers(task))),
            **{"parameters": built.parameters, "lr_max": lr_max},
        },
        tags={key: str(value) for key, value in _flat(environment)},
        folder=Path(),
    )


def _protocol_numbers(task: Task) -> Mapping[str, Any]:
    import msgspec

    fields = msgspec.to_builtins(task.protocol)
    augmentations = {use.name: {"at": use.at, **use.strengths} for use in task.protocol.augmentations}
    return {k: v for k, v in fields.items() if k != "name"} | {"augmentations": augmentations}


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str | int | float | bool]]:
    """Every value of nested tables under its dotted name; lists as text, what is None left out."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, str | int | float | bool):
            yield f"{prefix}{key}", value
        elif value is not None:
            yield f"{prefix}{key}", json.dumps(value, default=str)
