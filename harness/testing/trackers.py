"""What a tracker has to keep: it looks on, quickly and quietly, and changes nothing."""

from __future__ import annotations

import contextlib
import copy
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.api import Job
from harness.testing import fakes
from harness.testing.effects import shorten
from harness.testing.process import Done, run_python
from harness.testing.rules import RAISED, Broken, Doubtful, Rule, Untold, quote, rule
from harness.testing.watch import changed, settings, watching

_SLOW, _TOO_SLOW = 0.1, 1.0  # seconds for one epoch's hook
_REPEATS = 3


@dataclass(frozen=True)
class TrackerCase:
    """The observer hooks of a plugin, and the name by which a worker process finds them again."""

    plugin: str
    observers: fakes.Observers

    def play(self) -> None:
        """Go through a run. Raises Untold if a hook raises: ``tracker-runs`` says why."""
        try:
            self.observers.play()
        except RAISED as error:
            raise Untold(f"it raised {quote(error)}.") from error


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Work in an empty folder for a while, where trackers may leave files."""
    before = os.getcwd()  # noqa: PTH109
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.chdir(folder)
        try:
            yield Path(folder)
        finally:
            os.chdir(before)


@rule("tracker-runs")
def runs(case: TrackerCase) -> str:
    """Hooks are called with a job, the record of each epoch and the result."""
    with scratch():
        try:
            case.observers.play()
        except RAISED as error:
            raise Broken(f"a run of three epochs raised {quote(error)}.") from error
    return ", ".join(sorted(case.observers.functions))


@rule("tracker-goes-on")
def goes_on(case: TrackerCase) -> None:
    """A run that goes on after a stop is announced a second time."""
    with scratch():
        case.play()
        try:
            case.observers.play()
        except RAISED as error:
            raise Broken(f"the same job, announced again, raised {quote(error)}.") from error


@rule("tracker-silent")
def prints_nothing(case: TrackerCase) -> None:
    """Data goes to stdout, and a tracker's words would end up in the middle of it."""
    with scratch(), watching() as seen, contextlib.suppress(Untold):
        case.play()
    if found := seen.out.strip():
        raise Broken(f"it prints {found[:120]!r} to stdout, expected nothing; use the logging module.")


@rule("tracker-settings")
def leaves_settings(case: TrackerCase) -> None:
    """A global setting changed by a tracker changes the numbers that it tracks."""
    with scratch():
        case.play()  # so that what a first use sets up is not blamed on it
    with scratch():
        before = settings()
        case.play()
        found = changed(before, settings())
    if found:
        raise Broken(f"it changes {shorten(found)}.")


@rule("tracker-reads-only")
def leaves_the_result(case: TrackerCase) -> None:
    """Every observer is given the same result, one after the other."""
    with scratch():
        case.play()
    with scratch():
        result = fakes.run_result()
        before = copy.deepcopy(asdict(result))
        with contextlib.suppress(Exception):
            case.observers.play(result=result)
    if asdict(result) != before:
        raise Broken("it changes the result that it is given.")


@rule("tracker-leaves-weights")
def leaves_the_weights(case: TrackerCase) -> None:
    """A run that is looked at has to end in the same bits as one that is not."""
    with scratch():
        case.play()
    hashes = []
    for notify in (lambda *_, **__: None, case.observers.notify):
        with scratch(), tempfile.TemporaryDirectory() as other:
            try:
                hashes.append(fakes.train(notify, Path(other)).weights_sha256)
            except RAISED as error:
                raise Broken(f"with it, a real run raised {quote(error)}.") from error
    if hashes[0] != hashes[1]:
        raise Broken("with it, the same job ends in other weights.")


@rule("tracker-quick")
def is_quick(case: TrackerCase) -> str:
    """Training waits for it after every epoch."""
    with scratch():
        case.play()
    with scratch():
        case.observers.notify("harness_run_started", job=fakes.JOB)
        times = []
        for record in fakes.epoch_records()[:_REPEATS]:
            began = time.perf_counter()
            case.observers.notify("harness_epoch_finished", job=fakes.JOB, record=record)
            times.append(time.perf_counter() - began)
        case.observers.notify("harness_run_finished", job=fakes.JOB, result=fakes.run_result())
    text = f"{1000 * min(times):.3g} ms an epoch"
    if min(times) > _TOO_SLOW:
        raise Broken(f"it takes {text}, expected less than {_TOO_SLOW:g} s.")
    if min(times) > _SLOW:
        raise Doubtful(f"it takes {text}, expected less than {_SLOW:g} s.")
    return text


@rule("tracker-spawns")
def works_in_processes(case: TrackerCase) -> None:
    """Jobs may run in several processes at once, each of which finds the plugin anew."""
    code = (
        "import sys; from harness.api import Job; from harness.testing import fakes; "
        "fakes.observers_of(sys.argv[1]).play(Job('pocket-1.0', 'fake_net', 'fake_set', int(sys.argv[2])))"
    )

    def play(job: Job, folder: Path) -> Done:
        return run_python(code, case.plugin, str(job.seed), folder=folder)

    with scratch():
        case.play()
    with scratch() as folder:
        jobs = [Job(fakes.JOB.protocol, fakes.JOB.model, fakes.JOB.dataset, seed) for seed in (0, 1)]
        with ThreadPoolExecutor() as pool:
            done = list(pool.map(play, jobs, [folder, folder]))
    for one in done:
        if one.code:
            raise Broken(f"in a worker process, with another beside it, it raised {one.last_error}")


RULES: tuple[Rule, ...] = (
    runs,
    goes_on,
    prints_nothing,
    leaves_settings,
    leaves_the_result,
    leaves_the_weights,
    is_quick,
    works_in_processes,
)
