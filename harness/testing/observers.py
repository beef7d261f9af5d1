"""What observers have to keep, the three hooks that are always on: they look on, quickly and quietly."""

from __future__ import annotations

import contextlib
import copy
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.api import Job
from harness.errors import one_line
from harness.testing import fakes
from harness.testing.rules import RAISED, Broken, Doubtful, Rule, Untold, rule, shorten
from harness.testing.sandbox import Done, changed, run_python, scratch, settings, watching

_SLOW, _TOO_SLOW = 0.1, 1.0  # seconds for one epoch's hook
_REPEATS = 3


@dataclass(frozen=True)
class ObserverCase:
    """The observer hooks of a plugin, and the name by which a worker process finds them again."""

    plugin: str
    observers: fakes.Observers

    def play(self) -> None:
        """Go through a run. Raises Untold if a hook raises: ``observer-runs`` says why."""
        try:
            self.observers.play()
        except RAISED as error:
            raise Untold(f"it raised {one_line(error)}.") from error


@rule("observer-runs")
def runs(case: ObserverCase) -> str:
    """Hooks are called with a job, the record of each epoch and the result."""
    with scratch():
        try:
            case.observers.play()
        except RAISED as error:
            raise Broken(f"a run of three epochs raised {one_line(error)}.") from error
    return ", ".join(sorted(case.observers.functions))


@rule("observer-goes-on")
def goes_on(case: ObserverCase) -> None:
    """A run that goes on after a stop is announced a second time."""
    with scratch():
        case.play()
        try:
            case.observers.play()
        except RAISED as error:
            raise Broken(f"the same job, announced again, raised {one_line(error)}.") from error


@rule("observer-silent")
def prints_nothing(case: ObserverCase) -> None:
    """Data goes to stdout, and an observer's words would end up in the middle of it."""
    with scratch(), watching() as seen, contextlib.suppress(Untold):
        case.play()
    if found := seen.out.strip():
        raise Broken(f"it prints {found[:120]!r} to stdout, expected nothing; use the logging module.")


@rule("observer-settings")
def leaves_settings(case: ObserverCase) -> None:
    """A global setting changed by an observer changes the numbers that it looks at."""
    with scratch():
        case.play()  # so that what a first use sets up is not blamed on it
    with scratch():
        before = settings()
        case.play()
        found = changed(before, settings())
    if found:
        raise Broken(f"it changes {shorten(found)}.")


@rule("observer-reads-only")
def leaves_the_result(case: ObserverCase) -> None:
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


@rule("observer-leaves-weights")
def leaves_the_weights(case: ObserverCase) -> None:
    """A run that is looked at has to end in the same bits as one that is not."""
    with scratch():
        case.play()
    hashes = []
    for notify in (lambda *_, **__: None, case.observers.notify):
        with scratch(), tempfile.TemporaryDirectory() as other:
            try:
                hashes.append(fakes.train(notify, Path(other)).weights_sha256)
            except RAISED as error:
                raise Broken(f"with it, a real run raised {one_line(error)}.") from error
    if hashes[0] != hashes[1]:
        raise Broken("with it, the same job ends in other weights.")


@rule("observer-quick")
def is_quick(case: ObserverCase) -> str:
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


@rule("observer-spawns")
def works_in_processes(case: ObserverCase) -> None:
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
