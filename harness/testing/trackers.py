"""Rules for trackers: a tracker follows a run in its own folder, resumes after a stop, and changes nothing."""

from __future__ import annotations

import contextlib
import copy
import re
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar

from harness.api import EpochRecord, RunResult, TrackedRun, TrackerSpec
from harness.errors import one_line
from harness.execute.trackers import missing_modules
from harness.testing import fakes
from harness.testing.observers import FollowerCase, following_rules
from harness.testing.rules import RAISED, Failed, Rule, Skipped, Warned, description_rule, rule, shorten
from harness.testing.sandbox import Seen, scratch, watching

_GRACE = 1.0  # seconds in which threads may end after close
_LOSSES = (1.8125, 1.4375, 1.1875)  # short as text, and found nowhere else in a run


@dataclass(frozen=True)
class TrackerCase(FollowerCase):
    """A tracker.

    Attributes:
        spec: The tracker.
    """

    spec: TrackerSpec
    in_process: ClassVar[str] = (
        "import sys; from dataclasses import replace; from pathlib import Path; from harness.testing import fakes; "
        "from harness.testing.trackers import TrackerCase; seed = int(sys.argv[2]); "
        "job, case = replace(fakes.JOB, seed=seed), TrackerCase(fakes.tracker_of(sys.argv[1])); "
        "run = fakes.tracked_run(case.place(Path(sys.argv[3])), seed, job=job); "
        "fakes.follow(case.spec, run, result=fakes.run_result(job))"
    )

    @property
    def name(self) -> str:
        """Return the tracker's name."""
        return self.spec.name

    @property
    def longest_opening(self) -> float:
        """Return the tracker's patience."""
        return self.spec.patience

    def require(self) -> None:
        """Raise Skipped if a module that the tracker needs is not installed."""
        if missing := missing_modules(self.spec):
            raise Skipped(f"it needs {shorten(missing)}, not installed here.")

    def place(self, folder: Path) -> Path:
        """Return the folder that the harness would give to the tracker. It does not exist yet."""
        return folder / "runs" / "tracking" / self.spec.name

    @contextlib.contextmanager
    def attached(self, folder: Path) -> Iterator[fakes.Notify]:
        """Open the tracker, pass epochs and the result on to it, and close it."""
        with fakes.opened(self.spec, fakes.tracked_run(self.place(folder))) as tracker:

            def notify(
                _: str, *, record: EpochRecord | None = None, result: RunResult | None = None, **__: object
            ) -> None:
                if record is not None:
                    tracker.epoch_finished(record)
                if result is not None:
                    tracker.run_finished(result)

            yield notify

    def follow_part(
        self, run: TrackedRun, records: Iterable[EpochRecord] | None = None, *, result: RunResult | None = None
    ) -> None:
        """Follow a run or a part of it. Raises Skipped if the tracker raises, which another rule reports."""
        self.require()
        try:
            fakes.follow(self.spec, run, records, result=result)
        except RAISED as error:
            raise Skipped(f"it raised {one_line(error)}.") from error


@rule("tracker-follows")
def follows(case: TrackerCase) -> None:
    """A tracker is opened with the run, gets every epoch and the result, and is closed."""
    case.require()
    with scratch() as folder:
        try:
            fakes.follow(case.spec, fakes.tracked_run(case.place(folder)), result=fakes.run_result())
        except RAISED as error:
            raise Failed(f"a run of three epochs raised {one_line(error)}.") from error


@rule("tracker-fails")
def bears_failures(case: TrackerCase) -> None:
    """After a failure the tracker gets the reason and is closed, and a later attempt resumes under the same id."""
    with scratch() as folder:
        case.follow(folder)
    with scratch() as folder:
        run = fakes.tracked_run(case.place(folder))
        try:
            fakes.follow(case.spec, run, [], failure="RuntimeError: the loss is not finite\nin epoch 0")
            fakes.follow(case.spec, replace(run, resumed=True), result=fakes.run_result())
        except RAISED as error:
            raise Failed(f"a run that failed, and then resumed, raised {one_line(error)}.") from error


@rule("tracker-goes-on")
def goes_on(case: TrackerCase) -> str:
    """A stopped run is opened again under the same id, and no epoch may be lost or recorded twice."""
    with scratch() as folder:
        case.follow_part(fakes.tracked_run(case.place(folder)), _records(), result=fakes.run_result())
        whole = _counts(folder)
    with scratch() as folder:
        run = fakes.tracked_run(case.place(folder))
        case.follow_part(run, _records()[:2])
        try:
            fakes.follow(case.spec, replace(run, resumed=True), _records()[2:], result=fakes.run_result())
        except RAISED as error:
            raise Failed(f"the same run, opened again after a stop, raised {one_line(error)}.") from error
        found = _counts(folder)
    if not _has_every_epoch(whole):
        return "nothing was raised; more cannot be checked, as its text files do not hold every epoch's loss"
    lost = [str(epoch) for epoch in range(fakes.EPOCHS) if found[epoch] < whole[epoch]]
    twice = [str(epoch) for epoch in range(fakes.EPOCHS) if found[epoch] > whole[epoch]]
    if lost:
        raise Failed(f"after a stop, its files have lost epoch {shorten(lost)}; add to the existing files.")
    if twice:
        raise Failed(f"after a stop, its files hold epoch {shorten(twice)} once more.")
    return ""


@rule("tracker-repeats")
def notices_repeats(case: TrackerCase) -> None:
    """After a process was killed, the last epoch may be sent again, and should not be recorded twice."""
    with scratch() as folder:
        run = fakes.tracked_run(case.place(folder))
        case.follow_part(run, _records()[:2])
        case.follow_part(replace(run, resumed=True), _records()[2:], result=fakes.run_result())
        once = _counts(folder)
    with scratch() as folder:
        case.follow_part(run := fakes.tracked_run(case.place(folder)), _records()[:2])
        try:
            fakes.follow(case.spec, replace(run, resumed=True), _records()[1:], result=fakes.run_result())
        except RAISED as error:
            raise Failed(f"an epoch that was sent before raised {one_line(error)}.") from error
        found = _counts(folder)
    if _has_every_epoch(once) and found[1] > once[1]:
        raise Warned("an epoch that is sent again is recorded twice; look for the recorded epochs in open.")


@rule("tracker-thread")
def works_in_a_thread(case: TrackerCase) -> None:
    """It is opened and called in its own thread, which is not the main one."""
    with scratch() as folder:
        case.follow(folder)
    with scratch() as folder, ThreadPoolExecutor(1) as pool:
        run = fakes.tracked_run(case.place(folder))
        try:
            pool.submit(fakes.follow, case.spec, run, result=fakes.run_result()).result()
        except RAISED as error:
            raise Failed(f"in another thread than the main one it raised {one_line(error)}.") from error


@rule("tracker-place")
def writes_in_its_place(case: TrackerCase) -> None:
    """Files outside of the run's folder litter the user's folders, and collide between parallel jobs."""
    with scratch() as folder:
        place = case.place(folder).resolve()
        paths = {Path(name).absolute().resolve() for name in _watched(case, folder).written}
        # A temporary file that is removed again is harmless.
        kept = [path for path in paths if path.exists() and path not in place.parents]
        outside = sorted(str(path) for path in kept if not path.is_relative_to(place))
    if outside:
        raise Failed(f"it writes {shorten(outside)}, expected no file outside of run.folder.")


@rule("tracker-offline")
def stays_offline(case: TrackerCase) -> None:
    """Compute nodes have no network, so a tracker should connect only if its user configured that."""
    with scratch() as folder:
        seen = _watched(case, folder)
    if seen.connections:
        raise Warned(f"without configuration, it wants to connect to {shorten(sorted(set(seen.connections)))}.")


@rule("tracker-reads-only")
def leaves_its_arguments(case: TrackerCase) -> None:
    """All trackers get the same run and result, one after the other."""
    with scratch() as folder:
        case.follow(folder)
    with scratch() as folder:
        run, result = fakes.tracked_run(case.place(folder)), fakes.run_result()
        before = copy.deepcopy((asdict(run), asdict(result)))
        case.follow_part(run, result=result)
    for name, then, now in zip(("run", "result"), before, (asdict(run), asdict(result)), strict=True):
        if then != now:
            raise Failed(f"it changes the {name}.")


@rule("tracker-lets-go")
def ends_its_threads(case: TrackerCase) -> None:
    """A thread that runs on after close keeps the process from ending."""
    before = set(threading.enumerate())
    with scratch() as folder:
        case.follow(folder)
        ends = time.monotonic() + _GRACE
        left = [thread for thread in threading.enumerate() if thread not in before and not thread.daemon]
        for thread in left:
            thread.join(max(0.0, ends - time.monotonic()))
    if found := [thread.name for thread in left if thread.is_alive()]:
        raise Failed(f"after close, threads that are no daemons still run: {shorten(found)}.")


@rule("tracker-advises")
def names_its_installation(case: TrackerCase) -> None:
    """If a module that it needs is missing, the message tells the user how to install it."""
    needs: object = case.spec.needs
    if not isinstance(needs, tuple) or not all(isinstance(name, str) and name for name in needs):
        raise Failed(f"needs is {needs!r}, expected a tuple of names of modules, such as ('mlflow',).")
    if needs and not case.spec.install.strip():
        raise Warned(f"it needs {shorten(needs)}, and install is not filled in.")


def _records() -> list[EpochRecord]:
    """Return epochs whose losses can be found in text."""
    return [replace(one, loss=loss) for one, loss in zip(fakes.epoch_records(), _LOSSES, strict=True)]


def _counts(folder: Path) -> list[int]:
    """Return how often the text files of a folder hold each epoch's loss."""
    texts = []
    for path in sorted(folder.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        if b"\0" not in content:  # the text in a binary file may have other reasons
            texts.append(content.decode("utf-8", errors="replace"))
    patterns = [re.compile(r"(?<![\d.])" + re.escape(f"{loss:g}") + r"0*(?!\d)") for loss in _LOSSES]
    return [sum(len(pattern.findall(text)) for text in texts) for pattern in patterns]


def _has_every_epoch(counts: Sequence[int]) -> bool:
    """Return whether each epoch is recorded equally often. A summary of the last one, say, counts that one twice."""
    return min(counts) > 0 and len(set(counts)) == 1


def _watched(case: TrackerCase, folder: Path) -> Seen:
    """Return the side effects of following a run without a network. Another rule reports if that raises."""
    case.require()
    with watching() as seen, contextlib.suppress(Skipped):
        case.follow(folder)
    return seen


RULES: tuple[Rule, ...] = (
    follows,
    bears_failures,
    goes_on,
    notices_repeats,
    works_in_a_thread,
    writes_in_its_place,
    stays_offline,
    leaves_its_arguments,
    ends_its_threads,
    *following_rules("tracker"),
    names_its_installation,
    description_rule("tracker", "A user chooses a tracker from a table by its title.", ("title",)),
)
