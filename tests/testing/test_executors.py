"""Every rule about executors catches its offender, and no other rule complains."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.catalog import discover
from harness.scaffold import scaffold
from harness.testing.executors import RULES, ExecutorCase
from harness.testing.find import find_checks
from harness.testing.rules import Outcome, RuleCheck
from tests.execute.test_clusters import needs_slurm
from tests.support import ROOT, Command
from tests.testing.offending import Offender, assert_exactly, complaints

EXECUTOR = """
    import os
    import subprocess
    import time
    from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
    from functools import partial
    from multiprocessing import get_context
    from pathlib import Path

    from harness.api import CannotContinueError, ExecutorSpec, Reporter, StoppedError, hookimpl
    {top}

    def execute(work):
        how = {{"device": work.resources.devices[0], "threads": work.resources.threads, "reporter": work.reporter}}
        {begin}
        for job in work.jobs:
            {job}
            cell = work.run_one(job, **how)
            {ended}
            yield cell

    {bottom}

    @hookimpl
    def harness_executors():
        return [ExecutorSpec(name="mine", execute=execute, {spec})]
"""
PLACES = {"top": 0, "begin": 4, "job": 8, "ended": 8, "bottom": 0}
STOP = "if work.reporter.should_stop(): raise StoppedError"
FINISHED = "work.reporter.job_finished(cell)"
PARALLEL = """def execute(work):
    how = {"device": "cpu", "threads": 1, "reporter": work.reporter}
    with ThreadPoolExecutor() as pool:
        yield from pool.map(partial(work.run_one, **how), work.jobs)"""
PROCESSES = """def execute(work):
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        for job in work.jobs:
            if work.reporter.should_stop():
                raise StoppedError
            work.reporter.job_started(job)
            cell = pool.submit(work.run_one, job, device="cpu", threads=1).result()
            work.reporter.job_finished(cell)
            yield cell"""
RETURNS_WHEN_STOPPED = """def execute(work):
    try:
        for job in work.jobs:
            yield work.run_one(job, device="cpu", threads=1, reporter=work.reporter)
    except StoppedError:
        return"""
TITLE = 'title="Mine", '

OFFENDERS = (
    Offender("executor-trains", {"job": "if job == work.jobs[-1]: break"}, says="0 times for job 3 of 3"),
    Offender("executor-trains", {"ended": "cell = work.run_one(job, **how)"}, says="2 times for job 1 of 3"),
    Offender("executor-trains", {"begin": "raise RuntimeError('no route to host')"}, says="no route to host"),
    Offender("executor-trains", {"bottom": "def execute(work): return None"}, says="TypeError"),
    Offender("executor-trains", {"ended": "os._exit(3)"}, says="did not return"),
    Offender("executor-outcomes", {"ended": "cell = (job, cell)"}, says="yields a tuple"),
    Offender("executor-outcomes", {"ended": "continue"}, says="it yields nothing, expected one outcome, done"),
    Offender("executor-outcomes", {"ended": "yield cell"}, says="it yields done and done"),
    Offender("executor-fails", {"ended": "if cell.state == 'failed': break"}, says="0 times for job 3 of 3"),
    Offender("executor-fails", {"ended": "if cell.state == 'failed': raise ValueError(job)"}, says="ValueError"),
    Offender("executor-survives", {"bottom": PROCESSES}, says="BrokenProcessPool"),
    Offender("executor-stops", {"begin": "how['reporter'] = Reporter()", "ended": FINISHED}, says="StoppedError"),
    Offender("executor-stops", {"bottom": RETURNS_WHEN_STOPPED}, says="StoppedError"),
    Offender("executor-reports", {"ended": "work.reporter.progress(0.5)"}, says="reporter.progress"),
    Offender("executor-reports", {"ended": "work.reporter.notice(1)"}, says="notice with a int, expected a str"),
    Offender("executor-reports", {"ended": "work.reporter.job_started()"}, says="missing a required argument"),
    Offender("executor-reports", {"ended": FINISHED}, says="finished 2 times"),
    Offender("executor-reports", {"begin": "how['reporter'] = Reporter()", "job": STOP}, says="finished 0 times"),
    Offender("executor-resources", {"begin": "del how['device']"}, says="device='auto'"),
    Offender("executor-resources", {"begin": "del how['threads']"}, says="threads=None"),
    Offender("executor-resources", {"bottom": PARALLEL}, says="two jobs at once"),
    Offender("executor-silent", {"ended": "os.write(1, b'hello')"}, says="hello"),
    Offender("executor-settings", {"begin": "os.environ['SEEN'] = os.environ.get('SEEN', '') + '.'"}),
    Offender("executor-place", {"begin": "Path('log.txt').write_text('')"}, says="log.txt"),
    Offender("executor-light", {"top": "import an_engine"}, says="an_engine"),
    Offender("executor-engine", {"begin": "import an_engine"}, says="ModuleNotFoundError"),
    Offender("executor-waiting", {"spec": TITLE + "waiting=lambda folder: []"}, says="a list"),
    Offender("executor-waiting", {"spec": TITLE + "waiting=lambda folder: {1: 'queued'}"}, says="(1, 'queued')"),
    Offender(
        "executor-waiting",
        {"spec": TITLE + "waiting=lambda folder: {path: '' for path in folder.iterdir()}"},
        says="absent, waiting raised FileNotFoundError",
    ),
    Offender("executor-options", {"spec": TITLE + "options={'queue': 'TODO'}"}, says="'TODO'"),
    Offender("executor-options", {"spec": TITLE + "options={'the queue': 'where'}"}, says="KEY=VALUE"),
    Offender("executor-described", {"spec": "title='todo'"}, says="title = 'todo'"),
)
if os.name == "posix":
    OFFENDERS += (Offender("executor-engine", {"begin": "subprocess.run(['true'])"}, says="FileNotFoundError"),)


def case_of(install: Callable[..., Path], changes: dict[str, str]) -> ExecutorCase:
    filled = {place: textwrap.indent(changes.get(place, "pass"), " " * n) for place, n in PLACES.items()}
    source = textwrap.dedent(EXECUTOR).format(
        **{place: text.lstrip() for place, text in filled.items()}, spec=changes.get("spec", "title='Mine'")
    )
    root = install("my_executor", source)
    (root / "an_engine.py").write_text("")
    return ExecutorCase(discover().executors["mine"])


def outcomes(case: ExecutorCase) -> dict[str, Outcome]:
    return {one.id: RuleCheck("it", one, case)() for one in RULES}


@pytest.mark.parametrize("number", range(len(OFFENDERS)), ids=lambda number: f"{number}-{OFFENDERS[number].rule}")
def test_exactly_the_intended_rule_complains(number: int, install: Callable[..., Path]) -> None:
    offender = OFFENDERS[number]
    assert_exactly(offender, complaints(RULES, case_of(install, offender.what)))


def test_a_healthy_executor_keeps_every_rule_and_leaves_nothing_behind(
    install: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    found = outcomes(case_of(install, {}))
    assert {one.verdict for name, one in found.items() if name != "executor-waiting"} == {"ok"}
    assert found["executor-waiting"].detail == "it has no waiting."
    assert found["executor-engine"].detail == "it needs no engine"
    assert list((tmp_path / "here").iterdir()) == []


def test_a_refusal_skips_the_rules_with_its_reason(install: Callable[..., Path]) -> None:
    advice = "This needs Pigeons. Run: pip install pigeons"
    refusal = f"try: import pigeons\nexcept ImportError: raise CannotContinueError({advice!r}) from None"
    found = outcomes(case_of(install, {"begin": refusal}))
    assert found["executor-trains"].verdict == "skipped"
    assert found["executor-trains"].detail == advice
    assert (found["executor-engine"].verdict, found["executor-engine"].detail) == ("ok", advice)
    assert {name for name, one in found.items() if one.verdict == "ok"} == {
        "executor-light", "executor-engine", "executor-options", "executor-described",
    }  # fmt: skip


def test_a_remote_executor_works_below_the_current_folder(
    install: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The nodes of a cluster do not see this machine's folder for temporary files."""
    (tmp_path / "shared").mkdir()
    monkeypatch.chdir(tmp_path / "shared")
    record = f"Path({str(tmp_path / 'seen.txt')!r}).write_text(str(work.folder))"
    case = case_of(install, {"begin": record, "spec": "title='Mine', remote=True"})
    assert complaints(RULES, case) == {}
    assert Path((tmp_path / "seen.txt").read_text()).is_relative_to(tmp_path / "shared")
    assert list((tmp_path / "shared").iterdir()) == []


class TestTheDocumentedExample:
    @pytest.fixture
    def example(self) -> str:
        page = (ROOT / "docs" / "plugins" / "executor.md").read_text(encoding="utf-8")
        (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
        return str(code)

    def test_it_is_the_one_that_plugin_new_writes(self, example: str, tmp_path: Path) -> None:
        folder = scaffold("fresh", "executor", tmp_path, discover())
        written = (folder / "src" / "xscore_plugin_fresh" / "__init__.py").read_text(encoding="utf-8")
        assert example == written

    def test_it_keeps_every_rule(self, example: str, install: Callable[..., Path]) -> None:
        install("my_executor", example)
        assert complaints(RULES, ExecutorCase(discover().executors["fresh"])) == {}

    @pytest.mark.slow
    def test_it_trains(self, example: str, install: Callable[..., Path], tiny_harness: Command) -> None:
        install("my_executor", example)
        ran = tiny_harness("run", "tiny", "--dataset", "dots", "--executor", "fresh", "--format", "json")
        assert ran.code == 0, ran.err
        assert [row["state"] for row in ran.rows] == ["done"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["local", pytest.param("ray", marks=pytest.mark.slow), pytest.param("slurm", marks=needs_slurm)]
)
def test_our_own_executors_keep_every_rule(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip({"slurm": "submitit"}.get(name, "harness" if name == "local" else name))
    monkeypatch.chdir(tmp_path)
    found = outcomes(ExecutorCase(discover().executors[name]))
    assert {id_: one.detail for id_, one in found.items() if one.verdict in ("failed", "warning")} == {}
    skipped = {id_ for id_, one in found.items() if one.verdict == "skipped"}
    assert skipped == (set() if name == "slurm" else {"executor-waiting"})


def test_executors_are_found_by_name() -> None:
    from harness.registry import load_benchmark

    found = find_checks("slurm", load_benchmark(), discover(), Path("data"))
    assert {check.rule.id for check in found} >= {rule.id for rule in RULES}
