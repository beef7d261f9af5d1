"""Every rule about trackers catches its offender, and no other rule complains."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.testing import fakes
from harness.testing.rules import Outcome
from harness.testing.trackers import RULES, TrackerCase
from tests.conformance.offending import Offender, assert_exactly, complaints

TRACKER = """
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
    Offender("tracker-runs", {"finished": "result.metrics['top-1']"}, says="KeyError"),
    Offender("tracker-runs", {"epoch": "raise SystemExit(1)"}, says="SystemExit"),
    Offender("tracker-goes-on", {"started": "folder.mkdir(parents=True)"}, says="FileExistsError"),
    Offender("tracker-silent", {"epoch": "print(record.loss)"}, says="2.0"),
    Offender("tracker-settings", {"started": "import os; os.environ['SEEN'] = os.environ.get('SEEN', '') + '.'"}),
    Offender("tracker-reads-only", {"finished": "result.metrics['top1'] = 100.0"}, says="changes the result"),
    Offender("tracker-leaves-weights", {"epoch": HALVE_THE_NETWORK}, says="other weights"),
    Offender("tracker-quick", {"epoch": "import time; time.sleep(0.11)"}, "warning", says="ms an epoch"),
    Offender(
        "tracker-spawns",
        {"epoch": "import sys\n        if 'pytest' not in sys.modules: raise RuntimeError('this is no main process')"},
        says="RuntimeError: this is no main process",
    ),
)


def examine(install: Callable[..., Path], changes: dict[str, str]) -> dict[str, Outcome]:
    source = textwrap.dedent(TRACKER)
    places = ("started", "epoch", "finished")
    filled = {place: changes.get(place, "pass").replace("\n        ", "\n    ") for place in places}
    install("my_tracker", source.format(**filled))
    return complaints(RULES, TrackerCase("my_tracker", fakes.observers_of("my_tracker")))


@pytest.mark.parametrize("number", range(len(OFFENDERS)), ids=lambda number: f"{number}-{OFFENDERS[number].rule}")
def test_exactly_the_intended_rule_complains(number: int, install: Callable[..., Path]) -> None:
    offender = OFFENDERS[number]
    assert_exactly(offender, examine(install, offender.what))


def test_healthy_tracker_keeps_every_rule_and_leaves_nothing_behind(
    install: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert examine(install, {}) == {}
    assert list((tmp_path / "here").iterdir()) == []


def test_a_tracker_that_workers_do_not_find_is_caught(install: Callable[..., Path]) -> None:
    install("my_tracker", textwrap.dedent(TRACKER).format(started="pass", epoch="pass", finished="pass"))
    found = complaints(RULES[-1:], TrackerCase("another", fakes.observers_of("my_tracker")))
    assert "no plugin named 'another'" in found["tracker-spawns"].detail
