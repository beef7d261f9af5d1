"""Rules for executors: an executor carries out every job once, reports it, and stops if the user wants to.

An executor imports an engine and starts processes, so it is examined in fresh interpreters, which
run ``harness.testing.play``.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from harness.api import ExecutorSpec
from harness.catalog import Offer
from harness.testing.play import PROGRAM, Played, read_plays, waiting_mistake
from harness.testing.plugins import required_packages
from harness.testing.rules import Failed, Rule, Skipped, description_rule, is_vague, rule, shorten
from harness.testing.sandbox import run_python


@dataclass(frozen=True)
class ExecutorCase:
    """An executor.

    Attributes:
        offer: The executor and its plugin.
    """

    offer: Offer[ExecutorSpec]

    @property
    def spec(self) -> ExecutorSpec:
        """Return the executor."""
        return self.offer.spec

    @cached_property
    def plays(self) -> tuple[Mapping[str, Played], str, str]:
        """Let a fresh interpreter carry out the plays; return them, its stdout, and its last words if it failed."""
        return self._run()

    @cached_property
    def without_engine(self) -> tuple[Mapping[str, Played], str, str]:
        """Repeat the first play without programs and without the packages that the executor imported."""
        whole = self.plays[0].get("whole")
        imported = set(whole.imported) if whole else set()
        return self._run("bare", *(imported and imported - required_packages(self.offer.owner.distribution)))

    def tried(self, name: str) -> Played:
        """Return one play. Raises Skipped if the executor refuses to work here, and Failed if it raises."""
        plays, _, end = self.plays
        if name not in plays:
            raise Failed(f"the process that called execute did not return from it: {end}")
        if plays[name].refused:
            raise Skipped(plays[name].refused)
        if plays[name].raised:
            raise Failed(f"execute raised {plays[name].raised}.")
        return plays[name]

    def play(self, name: str) -> Played:
        """Return one play. Raises Skipped if the executor raises, which another rule reports."""
        try:
            return self.tried(name)
        except Failed as error:
            raise Skipped(str(error)) from error

    def sound(self, *names: str) -> None:
        """Raise Skipped unless these plays went well, which another rule reports."""
        for name in names:
            played = self.play(name)
            try:
                expect_calls(played)
                expect_outcomes(played)
            except Failed as error:
                raise Skipped(str(error)) from error

    def _run(self, *arguments: str) -> tuple[Mapping[str, Played], str, str]:
        # The nodes of a cluster see the current folder, but seldom this machine's folder for temporary files.
        place = Path.cwd() if self.spec.remote and os.access(Path.cwd(), os.W_OK) else None
        with tempfile.TemporaryDirectory(prefix="harness-check-", dir=place, ignore_cleanup_errors=True) as name:
            folder = Path(name)
            (folder / "here").mkdir()
            out, end = "", ""
            try:
                asked = (self.offer.owner.module, self.spec.name, name, *arguments)
                done = run_python(PROGRAM, *asked, folder=folder / "here")
                out, end = done.out, done.last_error
            except subprocess.TimeoutExpired as error:
                end = f"it took longer than {error.timeout:.0f} seconds"
            return read_plays(folder), out, end


def expect_calls(played: Played) -> None:
    """Raise Failed unless run_one was called once per job."""
    calls = Counter(call.job.seed for call in played.calls)
    for seed in played.expected:
        if calls[seed] != 1:
            raise Failed(f"it calls run_one {calls[seed]} times for job {seed + 1} of 3, expected once.")


def expect_outcomes(played: Played) -> None:
    """Raise Failed unless one Cell per job was yielded, with the job's state."""
    for one in played.outcomes:
        if isinstance(one, str):
            raise Failed(f"it yields a {one}, expected the Cell that run_one returned.")
    for seed, state in played.expected.items():
        states = [one[1] for one in played.outcomes if one[0] == seed]
        if states != [state]:
            found = " and ".join(states) or "nothing"
            raise Failed(f"for job {seed + 1} of 3 it yields {found}, expected one outcome, {state}.")


@rule("executor-trains")
def trains(case: ExecutorCase) -> None:
    """Every job has to be trained, and training one twice wastes hours."""
    expect_calls(case.tried("whole"))


@rule("executor-outcomes")
def yields_outcomes(case: ExecutorCase) -> None:
    """The command shows one line per job, made from what the executor yields."""
    played = case.play("whole")
    try:
        expect_calls(played)
    except Failed as error:
        raise Skipped(str(error)) from error
    expect_outcomes(played)


@rule("executor-fails")
def bears_failures(case: ExecutorCase) -> None:
    """One job's failure must not cost the others, and the user has to see it."""
    case.sound("whole")
    played = case.tried("failing")
    expect_calls(played)
    expect_outcomes(played)


@rule("executor-survives")
def bears_crashes(case: ExecutorCase) -> str:
    """A crash, or a system without free memory, ends a job's process, and must not cost the other jobs."""
    case.sound("whole", "failing")
    played = case.tried("dying")
    expect_outcomes(played)
    return "" if any(call.ended is None for call in played.calls) else "no process ended, as jobs run in the caller's"


@rule("executor-stops")
def stops(case: ExecutorCase) -> None:
    """After Ctrl-C the command has to end soon, and has to know that jobs are left."""
    case.sound("whole")
    played = case.tried("stop")
    if not played.stopped:
        raise Failed("execute returns although reporter.should_stop() is true, expected it to raise StoppedError.")


@rule("executor-reports")
def reports(case: ExecutorCase) -> None:
    """The progress display uses the reporter's methods, and counts the jobs that are reported as finished."""
    case.sound("whole")
    played = case.play("whole")
    if played.mistakes:
        raise Failed(f"{shorten(played.mistakes)}.")
    reported = Counter(played.reported)
    for seed in played.expected:
        if reported[seed] != 1:
            raise Failed(
                f"it reports job {seed + 1} of 3 as finished {reported[seed]} times, expected once: by run_one if that "
                "gets the reporter, else by reporter.job_finished."
            )


@rule("executor-resources")
def keeps_to_its_resources(case: ExecutorCase) -> None:
    """The user's --device, --threads and --jobs hold on every machine; more jobs at once may exhaust its memory."""
    case.sound("whole")
    calls = case.play("whole").calls
    for call in calls:
        if call.device != "cpu":
            raise Failed(f"it calls run_one with device={call.device!r}, expected one of resources.devices, 'cpu'.")
        if call.threads != 1:
            raise Failed(f"it calls run_one with threads={call.threads!r}, expected resources.threads, 1.")
    for earlier, later in pairwise(calls):
        if earlier.ended is not None and later.began < earlier.ended:
            raise Failed("it runs two jobs at once, expected resources.jobs, 1.")


@rule("executor-silent")
def prints_nothing(case: ExecutorCase) -> None:
    """Stdout belongs to the data, and other output would land in the middle of it."""
    case.play("whole")  # in which, as in ``harness run``, print writes to stderr
    if printed := case.plays[1].strip():
        raise Failed(f"it prints {printed[:120]!r} to stdout, expected nothing; use reporter.notice.")


@rule("executor-settings")
def leaves_settings(case: ExecutorCase) -> None:
    """A global setting that an executor changes affects the rest of the command and its worker processes."""
    case.sound("whole")
    # The first play is not held against the executor: its engine's first import may change settings.
    if found := case.play("failing").changed:
        raise Failed(f"it changes {shorten(found)}.")


@rule("executor-place")
def writes_in_its_place(case: ExecutorCase) -> None:
    """Files outside of the executor's folder litter the folder that the user works in."""
    if found := case.play("whole").litter:
        raise Failed(f"it writes {shorten(found)}, expected no file outside of work.folder.")


@rule("executor-light")
def imports_no_engine(case: ExecutorCase) -> None:
    """Every command imports every executor, and an engine takes seconds."""
    plays, _, end = case.plays
    if not plays:
        raise Skipped(f"it can't be imported: {end}")
    if found := next(iter(plays.values())).imported_at_once:
        raise Failed(f"importing it imports {shorten(found)}; import that in execute.")


@rule("executor-engine")
def advises(case: ExecutorCase) -> str:
    """If the engine is not installed, the user needs advice and no traceback."""
    plays, _, end = case.without_engine
    bare = plays.get("bare")
    if bare is None or bare.raised:
        case.sound("whole")
        found = f"execute raises {bare.raised}" if bare else f"the process that called execute ended: {end}"
        raise Failed(f"without its engine, {found}, expected CannotContinueError with advice.")
    return bare.refused or "it needs no engine"


@rule("executor-waiting")
def has_a_queue(case: ExecutorCase) -> None:
    """The command harness status shows the queue, even before a submission and on other machines."""
    if case.spec.waiting is None:
        raise Skipped("it has no waiting.")
    with tempfile.TemporaryDirectory() as folder:
        if mistake := waiting_mistake(case.spec, Path(folder) / "absent"):
            raise Failed(f"for a folder that is absent, {mistake}.")
    if mistake := case.play("whole").waiting:
        raise Failed(f"{mistake}.")


@rule("executor-options")
def documents_options(case: ExecutorCase) -> str:
    """A user reads an option's help and types the option as KEY=VALUE."""
    options: object = case.spec.options
    if not isinstance(options, Mapping):
        raise Failed(f"options is a {type(options).__name__}, expected a mapping of names to a line of help.")
    for name, text in options.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise Failed(f"the option {name!r} can't be typed as KEY=VALUE, expected a name such as 'partition'.")
        if not isinstance(text, str) or is_vague(text):
            raise Failed(f"the option {name} has the help {text!r}, expected words that people can use.")
    return shorten(list(options)) or "none"


RULES: tuple[Rule, ...] = (
    trains,
    yields_outcomes,
    bears_failures,
    bears_crashes,
    stops,
    reports,
    keeps_to_its_resources,
    prints_nothing,
    leaves_settings,
    writes_in_its_place,
    imports_no_engine,
    advises,
    has_a_queue,
    documents_options,
    description_rule("executor", "A user chooses an executor from a table by its title.", ("title",)),
)
