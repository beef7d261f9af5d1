"""Every rule about observers catches its offender, and no other rule complains."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.testing.observers import RULES, ObserverCase, observers_of
from harness.testing.rules import Outcome
from tests.testing.offending import Offender, assert_exactly, complaints

OBSERVER = """
    from pathlib import Path
    from harness.api import hookimpl

    @hookimpl
    def harness_run_started(job):
        folder = Path("log") / str(job)
        {started}
        folder.mkdir(parents=True, exist_ok=True)

    @hookimpl
    def harness_epoch_finished(job, record):
        {epoch}
        with (Path("log") / str(job) / "losses").open("a") as file:
            file.write(str(record.loss))

    @hookimpl
    def harness_run_finished(job, result):
        {finished}
        (Path("log") / str(job) / "score").write_text(str(result.metrics))
"""

HALVE_THE_NETWORK = """import sys
        frame = sys._getframe()
        while frame := frame.f_back:
            module = getattr(frame.f_locals.get("state"), "module", None)
            for weights in module.parameters() if module is not None else ():
                weights.data.mul_(0.5)"""

OFFENDERS = (
    Offender("observer-runs", {"finished": "result.metrics['top-1']"}, says="KeyError"),
    Offender("observer-runs", {"epoch": "raise SystemExit(1)"}, says="SystemExit"),
    Offender("observer-goes-on", {"started": "folder.mkdir(parents=True)"}, says="FileExistsError"),
    Offender("observer-silent", {"epoch": "print(record.loss)"}, says="2.0"),
    Offender("observer-settings", {"started": "import os; os.environ['SEEN'] = os.environ.get('SEEN', '') + '.'"}),
    Offender("observer-reads-only", {"finished": "result.metrics['top1'] = 100.0"}, says="changes the result"),
    Offender("observer-leaves-weights", {"epoch": HALVE_THE_NETWORK}, says="different weights"),
    Offender("observer-quick", {"epoch": "import time; time.sleep(0.11)"}, "warning", says="ms per epoch"),
    Offender(
        "observer-spawns",
        {"epoch": "import sys\n        if 'pytest' not in sys.modules: raise RuntimeError('this is no main process')"},
        says="RuntimeError: this is no main process",
    ),
)


def examine(install: Callable[..., Path], changes: dict[str, str]) -> dict[str, Outcome]:
    source = textwrap.dedent(OBSERVER)
    places = ("started", "epoch", "finished")
    filled = {place: changes.get(place, "pass").replace("\n        ", "\n    ") for place in places}
    install("my_observer", source.format(**filled))
    return complaints(RULES, ObserverCase("my_observer", observers_of("my_observer")))


@pytest.mark.parametrize("number", range(len(OFFENDERS)), ids=lambda number: f"{number}-{OFFENDERS[number].rule}")
def test_exactly_the_intended_rule_complains(number: int, install: Callable[..., Path]) -> None:
    offender = OFFENDERS[number]
    assert_exactly(offender, examine(install, offender.what))


def test_a_healthy_observer_keeps_every_rule_and_leaves_nothing_behind(
    install: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert examine(install, {}) == {}
    assert list((tmp_path / "here").iterdir()) == []


def test_an_observer_that_workers_do_not_find_is_caught(install: Callable[..., Path]) -> None:
    install("my_observer", textwrap.dedent(OBSERVER).format(started="pass", epoch="pass", finished="pass"))
    found = complaints(RULES[-1:], ObserverCase("another", observers_of("my_observer")))
    assert "no plugin named 'another'" in found["observer-spawns"].detail
