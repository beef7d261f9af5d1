"""What a tracker has to keep: it follows a run in a place of its own, goes on after a stop, and changes nothing."""

from __future__ import annotations

import contextlib
import copy
import re
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from harness.api import EpochRecord, Job, RunResult, TrackedRun, TrackerSpec
from harness.errors import one_line
from harness.execute.tracking import missing_modules
from harness.testing import fakes
from harness.testing.rules import RAISED, Broken, Doubtful, Rule, Untold, description_rule, rule, shorten
from harness.testing.sandbox import Done, Seen, changed, random_states, run_python, scratch, settings, watching

_SLOW, _TOO_SLOW = 0.1, 1.0  # seconds for one epoch
_SLOW_OPEN = 5.0  # seconds for open
_GRACE = 1.0  # seconds in which threads may end after close
_LOSSES = (1.8125, 1.4375, 1.1875)  # short as text, and found nowhere else in a run


@dataclass(frozen=True)
class TrackerCase:
    """A tracking tool."""

    spec: TrackerSpec

    def follow(
        self,
        run: TrackedRun,
        records: Iterable[EpochRecord] | None = None,
        *,
        result: RunResult | None = None,
        failure: str = "",
    ) -> None:
        """Follow a run. Raises Untold if that can't be: ``tracker-follows`` says why."""
        self.require_modules()
        try:
            fakes.follow(self.spec, run, records, result=result, failure=failure)
        except RAISED as error:
            raise Untold(f"it raised {one_line(error)}.") from error

    def whole(self, folder: Path) -> None:
        """Follow a run from its start to its result."""
        self.follow(fakes.tracked_run(self.place(folder)), result=fakes.run_result())

    def require_modules(self) -> None:
        """Raise Untold if what the tracker needs is not installed."""
        if missing := missing_modules(self.spec):
            raise Untold(f"it needs {shorten(missing)}, not installed here.")

    def place(self, folder: Path) -> Path:
        """Where the harness would let it write, in a folder of runs; not made yet."""
        return folder / "runs" / "tracking" / self.spec.name


@rule("tracker-follows")
def follows(case: TrackerCase) -> None:
    """A tracker is opened with the run, told of every epoch and of the result, and closed."""
    case.require_modules()
    with scratch() as folder:
        try:
            fakes.follow(case.spec, fakes.tracked_run(case.place(folder)), result=fakes.run_result())
        except RAISED as error:
            raise Broken(f"a run of three epochs raised {one_line(error)}.") from error


@rule("tracker-fails")
def bears_failures(case: TrackerCase) -> None:
    """A run that fails is told with its reason and closed, and a later attempt goes on under the same id."""
    with scratch() as folder:
        case.whole(folder)
    with scratch() as folder:
        run = fakes.tracked_run(case.place(folder))
        try:
            fakes.follow(case.spec, run, [], failure="RuntimeError: the loss is not finite\nin epoch 0")
            fakes.follow(case.spec, replace(run, resumed=True), result=fakes.run_result())
        except RAISED as error:
            raise Broken(f"a run that failed, and went on, raised {one_line(error)}.") from error


@rule("tracker-goes-on")
def goes_on(case: TrackerCase) -> str:
    """A stopped run is opened again under the same id, and no epoch may be lost or stand there twice."""
    with scratch() as folder:
        case.follow(fakes.tracked_run(case.place(folder)), _records(), result=fakes.run_result())
        whole = _counts(folder)
    with scratch() as folder:
        run = fakes.tracked_run(case.place(folder))
        case.follow(run, _records()[:2])
        try:
            fakes.follow(case.spec, replace(run, resumed=True), _records()[2:], result=fakes.run_result())
        except RAISED as error:
            raise Broken(f"the same run, opened again after a stop, raised {one_line(error)}.") from error
        found = _counts(folder)
    if not _tells(whole):
        return "that it raises nothing is all that can be told: none of its text files has the loss of every epoch"
    lost = [str(epoch) for epoch in range(fakes.EPOCHS) if found[epoch] < whole[epoch]]
    twice = [str(epoch) for epoch in range(fakes.EPOCHS) if found[epoch] > whole[epoch]]
    if lost:
        raise Broken(f"after a stop, its files have lost epoch {shorten(lost)}; go on with what is there.")
    if twice:
        raise Broken(f"after a stop, its files hold epoch {shorten(twice)} once more.")
    return ""


@rule("tracker-repeats")
def notices_repeats(case: TrackerCase) -> None:
    """After a process was killed, the last epoch may be told again, and should not stand there twice."""
    with scratch() as folder:
        run = fakes.tracked_run(case.place(folder))
        case.follow(run, _records()[:2])
        case.follow(replace(run, resumed=True), _records()[2:], result=fakes.run_result())
        once = _counts(folder)
    with scratch() as folder:
        case.follow(run := fakes.tracked_run(case.place(folder)), _records()[:2])
        try:
            fakes.follow(case.spec, replace(run, resumed=True), _records()[1:], result=fakes.run_result())
        except RAISED as error:
            raise Broken(f"an epoch that was told before raised {one_line(error)}.") from error
        found = _counts(folder)
    if _tells(once) and found[1] > once[1]:
        raise Doubtful("an epoch that is told again stands there twice; look when opened which epochs are there.")


@rule("tracker-thread")
def works_in_a_thread(case: TrackerCase) -> None:
    """It is opened and called in a thread of its own, which is not the main one."""
    with scratch() as folder:
        case.whole(folder)
    with scratch() as folder, ThreadPoolExecutor(1) as pool:
        run = fakes.tracked_run(case.place(folder))
        try:
            pool.submit(fakes.follow, case.spec, run, result=fakes.run_result()).result()
        except RAISED as error:
            raise Broken(f"in another thread than the main one it raised {one_line(error)}.") from error


@rule("tracker-silent")
def prints_nothing(case: TrackerCase) -> None:
    """Data goes to stdout, and a tracker's words would end up in the middle of it."""
    with scratch() as folder:
        seen = _watched(case, folder)
    if found := seen.out.strip():
        raise Broken(f"it prints {found[:120]!r} to stdout, expected nothing; use the logging module.")


@rule("tracker-place")
def writes_in_its_place(case: TrackerCase) -> None:
    """Files outside the folder that a run gives litter the user's, and collide between parallel jobs."""
    with scratch() as folder:
        place = case.place(folder).resolve()
        paths = {Path(name).absolute().resolve() for name in _watched(case, folder).written}
        # A temporary file that is gone again bothers nobody.
        kept = [path for path in paths if path.exists() and path not in place.parents]
        outside = sorted(str(path) for path in kept if not path.is_relative_to(place))
    if outside:
        raise Broken(f"it writes {shorten(outside)}, expected no file outside of run.folder.")


@rule("tracker-offline")
def stays_offline(case: TrackerCase) -> None:
    """Compute nodes have no network; a tracker should reach for one only where its user configured that."""
    with scratch() as folder:
        seen = _watched(case, folder)
    if seen.connections:
        raise Doubtful(f"as it comes, it wants to connect to {shorten(sorted(set(seen.connections)))}.")


@rule("tracker-settings")
def leaves_settings(case: TrackerCase) -> None:
    """A global setting or torch's generator, changed by a tracker, changes the numbers that it tracks."""
    import torch  # noqa: F401 - so that its settings are looked at

    with scratch() as folder:
        case.whole(folder)  # so that what a first use sets up is not blamed on it
    with scratch() as folder:
        before = settings(), random_states()["torch's global generator"]
        case.whole(folder)
        found = changed(before[0], settings())
        if random_states()["torch's global generator"] != before[1]:
            found.append("the state of torch's global generator")
    if found:
        raise Broken(f"it changes {shorten(found)}.")


@rule("tracker-reads-only")
def leaves_what_it_is_given(case: TrackerCase) -> None:
    """Every tracker is given the same run and result, one after the other."""
    with scratch() as folder:
        case.whole(folder)
    with scratch() as folder:
        run, result = fakes.tracked_run(case.place(folder)), fakes.run_result()
        before = copy.deepcopy((asdict(run), asdict(result)))
        case.follow(run, result=result)
    for name, then, now in zip(("run", "result"), before, (asdict(run), asdict(result)), strict=True):
        if then != now:
            raise Broken(f"it changes the {name} that it is given.")


@rule("tracker-leaves-weights")
def leaves_the_weights(case: TrackerCase) -> None:
    """A run that is followed has to end in the same bits as one that is not."""
    with scratch() as folder:
        case.whole(folder)
    with tempfile.TemporaryDirectory() as other:
        alone = fakes.train(lambda *_, **__: None, Path(other)).weights_sha256
    with scratch() as folder, tempfile.TemporaryDirectory() as other:
        try:
            tracker = case.spec.open(fakes.tracked_run(case.place(folder)))

            def notify(_: str, *, record: EpochRecord | None = None, **__: object) -> None:
                if record is not None:
                    tracker.epoch_finished(record)

            try:
                result = fakes.train(notify, Path(other))
                tracker.run_finished(result)
            finally:
                tracker.close()
        except RAISED as error:
            raise Broken(f"with it, a real run raised {one_line(error)}.") from error
    if result.weights_sha256 != alone:
        raise Broken("with it, the same job ends in other weights.")


@rule("tracker-quick")
def is_quick(case: TrackerCase) -> str:
    """Training waits for it before the first step and after every epoch."""
    with scratch() as folder:
        case.whole(folder)
    with scratch() as folder:
        began = time.perf_counter()
        tracker = case.spec.open(fakes.tracked_run(case.place(folder)))
        opening, times = time.perf_counter() - began, []
        for record in fakes.epoch_records():
            began = time.perf_counter()
            tracker.epoch_finished(record)
            times.append(time.perf_counter() - began)
        tracker.close()
    text = f"{1000 * opening:.3g} ms to open and {1000 * min(times):.3g} ms an epoch"
    if min(times) > _TOO_SLOW or opening > case.spec.patience:
        limit = f"{_TOO_SLOW:g} s an epoch and TrackerSpec.patience, {case.spec.patience:g} s, to open"
        raise Broken(f"it takes {text}, expected less than {limit}.")
    if min(times) > _SLOW or opening > _SLOW_OPEN:
        raise Doubtful(f"it takes {text}, expected less than {_SLOW_OPEN:g} s to open and {_SLOW:g} s an epoch.")
    return text


@rule("tracker-lets-go")
def lets_go(case: TrackerCase) -> None:
    """A thread that goes on after close keeps the process from ending."""
    before = set(threading.enumerate())
    with scratch() as folder:
        case.whole(folder)
        ends = time.monotonic() + _GRACE
        for thread in (left := _workers(before)):
            thread.join(max(0.0, ends - time.monotonic()))
    if found := [thread.name for thread in left if thread.is_alive()]:
        raise Broken(f"after close it leaves threads that are no daemons: {shorten(found)}.")


@rule("tracker-spawns")
def works_in_processes(case: TrackerCase) -> None:
    """Several runs may be open at once, in worker processes that find the plugin anew and share one folder."""
    code = (
        "import sys; from pathlib import Path; from harness.api import Job; from harness.testing import fakes; "
        "number = int(sys.argv[2]); job = Job('pocket-1.0', 'fake_net', 'fake_set', number); "
        "run = fakes.tracked_run(Path(sys.argv[3]), number, job=job); "
        "fakes.follow(fakes.tracker_of(sys.argv[1]), run, result=fakes.run_result(job))"
    )

    def play(job: Job, folder: Path) -> Done:
        return run_python(code, case.spec.name, str(job.seed), str(case.place(folder)), folder=folder)

    with scratch() as folder:
        case.whole(folder)
    with scratch() as folder, ThreadPoolExecutor() as pool:
        done = list(pool.map(play, [replace(fakes.JOB, seed=seed) for seed in (0, 1)], [folder, folder]))
    for one in done:
        if one.code:
            raise Broken(f"in a worker process, with another beside it, it raised {one.last_error}")


@rule("tracker-advises")
def says_how_to_install(case: TrackerCase) -> None:
    """Where what it needs is missing, the refusal tells the user how to install it."""
    needs: object = case.spec.needs
    if not isinstance(needs, tuple) or not all(isinstance(name, str) and name for name in needs):
        raise Broken(f"needs is {needs!r}, expected a tuple of names of modules, such as ('mlflow',).")
    if needs and not case.spec.install.strip():
        raise Doubtful(f"it needs {shorten(needs)}, and install is not filled in.")


def _records() -> list[EpochRecord]:
    """Epochs whose losses can be found again in text."""
    return [replace(one, loss=loss) for one, loss in zip(fakes.epoch_records(), _LOSSES, strict=True)]


def _counts(folder: Path) -> list[int]:
    """How often the loss of each epoch stands in the text files of a folder."""
    texts = []
    for path in sorted(folder.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        if b"\0" not in content:  # the rest is some tool's own format, in which text may stand for other reasons
            texts.append(content.decode("utf-8", errors="replace"))
    patterns = [re.compile(r"(?<![\d.])" + re.escape(f"{loss:g}") + r"0*(?!\d)") for loss in _LOSSES]
    return [sum(len(pattern.findall(text)) for text in texts) for pattern in patterns]


def _tells(counts: Sequence[int]) -> bool:
    """Whether there is a line for each epoch; a summary of the last one, say, would make the numbers differ."""
    return min(counts) > 0 and len(set(counts)) == 1


def _watched(case: TrackerCase, folder: Path) -> Seen:
    """Look on while a run is followed, without a network. What it raises is another rule's concern."""
    case.require_modules()
    with watching() as seen, contextlib.suppress(Untold):
        case.whole(folder)
    return seen


def _workers(before: set[threading.Thread]) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread not in before and not thread.daemon]


RULES: tuple[Rule, ...] = (
    follows,
    bears_failures,
    goes_on,
    notices_repeats,
    works_in_a_thread,
    prints_nothing,
    writes_in_its_place,
    stays_offline,
    leaves_settings,
    leaves_what_it_is_given,
    leaves_the_weights,
    is_quick,
    lets_go,
    works_in_processes,
    says_how_to_install,
    description_rule("tracker", "A tracker is chosen from a table by what it is called there.", ("title",)),
)
