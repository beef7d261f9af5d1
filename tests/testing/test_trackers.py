"""Every rule about trackers catches its offender, and no other rule complains."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.catalog import discover
from harness.testing import fakes
from harness.testing.find import find_checks
from harness.testing.rules import Outcome, RuleCheck
from harness.testing.sandbox import run_python
from harness.testing.trackers import RULES, TrackerCase
from tests.testing.offending import Offender, assert_exactly, complaints

TRACKER = """
    import json
    import sys
    import threading
    import time
    from pathlib import Path

    from harness.api import TrackerSpec, hookimpl

    class MyTracker:
        def __init__(self, run):
            run.folder.mkdir(parents=True, exist_ok=True)
            self.path = run.folder / (run.id + ".json")
            self.epochs = json.loads(self.path.read_text()) if self.path.exists() else []
            {opened}

        def epoch_finished(self, record):
            {epoch}
            if [record.epoch, record.loss] not in self.epochs:
                self.epochs.append([record.epoch, record.loss])

        def run_finished(self, result):
            {finished}

        def run_failed(self, reason):
            {failed}

        def close(self):
            self.path.write_text(json.dumps(self.epochs))
            {closed}

    @hookimpl
    def harness_trackers():
        return [TrackerSpec(name="my_tracker", open=MyTracker, {spec})]
"""
PLACES = ("opened", "epoch", "finished", "failed", "closed")
HALVE_THE_NETWORK = """frame = sys._getframe()
while frame := frame.f_back:
    module = getattr(frame.f_locals.get("state"), "module", None)
    for weights in module.parameters() if module is not None else ():
        weights.data.mul_(0.5)"""
CONNECT = """import contextlib, socket
with contextlib.suppress(OSError):
    socket.create_connection(("127.0.0.1", 9), timeout=0.1)"""
FAIL_AND_REFUSE = "self.path.with_suffix('.failed').mkdir()"
REFUSE = "if self.path.with_suffix('.failed').exists(): raise RuntimeError('it has failed')"
LINGER = "threading.Thread(target=time.sleep, args=(4,), name='a sender', daemon=False).start()"

OFFENDERS = (
    Offender("tracker-follows", {"finished": "result.metrics['top-1']"}, says="KeyError"),
    Offender("tracker-follows", {"epoch": "raise SystemExit(1)"}, says="SystemExit"),
    Offender("tracker-follows", {"opened": "self.run_failed = None"}, says="without run_failed"),
    Offender("tracker-fails", {"failed": "raise ValueError(reason)"}, says="the loss is not finite"),
    Offender("tracker-fails", {"failed": FAIL_AND_REFUSE, "opened": REFUSE}, says="it has failed"),
    Offender("tracker-goes-on", {"opened": "if run.resumed: self.epochs = []"}, says="lost epoch 0, 1"),
    Offender(
        "tracker-goes-on",
        {"closed": "self.path.with_suffix(f'.{time.time_ns()}').write_text(json.dumps(self.epochs))"},
        says="hold epoch 0, 1 once more",
    ),
    Offender(
        "tracker-repeats",
        {
            "epoch": "self.epochs += [[0, record.loss]] * (record.loss == 1.4375 and bool(self.again))",
            "opened": "self.again = [one for one in self.epochs if one[0] == 1]",
        },
        "warning",
        says="twice",
    ),
    Offender(
        "tracker-thread", {"opened": "import signal; signal.signal(signal.SIGINT, signal.getsignal(signal.SIGINT))"}
    ),
    Offender("tracker-silent", {"epoch": "print(record.loss)"}, says="2.0"),
    Offender("tracker-place", {"opened": "Path('summary.txt').write_text('')"}, says="summary.txt"),
    Offender("tracker-offline", {"opened": CONNECT}, "warning", says="127.0.0.1:9"),
    Offender("tracker-settings", {"opened": "import os; os.environ['SEEN'] = os.environ.get('SEEN', '') + '.'"}),
    Offender("tracker-settings", {"finished": "import torch; torch.rand(1)"}, says="torch's global generator"),
    Offender("tracker-reads-only", {"finished": "result.metrics['top1'] = 100.0"}, says="changes the result"),
    Offender("tracker-reads-only", {"opened": "run.config.pop('title', None)"}, says="changes the run"),
    Offender("tracker-leaves-weights", {"epoch": HALVE_THE_NETWORK}, says="different weights"),
    Offender("tracker-quick", {"epoch": "time.sleep(0.11)"}, "warning", says="ms per epoch"),
    Offender("tracker-quick", {"opened": "time.sleep(0.11)", "spec": "title='Mine', patience=0.1"}, says="to open"),
    Offender("tracker-lets-go", {"closed": LINGER}, says="a sender"),
    Offender(
        "tracker-spawns",
        {"epoch": "if 'pytest' not in sys.modules: raise RuntimeError('this is no main process')"},
        says="RuntimeError: this is no main process",
    ),
    Offender("tracker-advises", {"spec": "title='Mine', needs=('json',)"}, "warning", says="install is not filled in"),
    Offender("tracker-advises", {"spec": "title='Mine', needs=['json']"}, says="expected a tuple"),
    Offender("tracker-described", {"spec": "title='todo'"}, says="title = 'todo'"),
)


def examine(install: Callable[..., Path], changes: dict[str, str]) -> dict[str, Outcome]:
    filled = {place: textwrap.indent(changes.get(place, "pass"), " " * 8).lstrip() for place in PLACES}
    filled["spec"] = changes.get("spec", "title='Mine'")
    install("my_tracker", textwrap.dedent(TRACKER).format(**filled))
    return complaints(RULES, TrackerCase(fakes.tracker_of("my_tracker")))


@pytest.mark.parametrize("number", range(len(OFFENDERS)), ids=lambda number: f"{number}-{OFFENDERS[number].rule}")
def test_exactly_the_intended_rule_complains(number: int, install: Callable[..., Path]) -> None:
    offender = OFFENDERS[number]
    assert_exactly(offender, examine(install, offender.what))


def test_a_healthy_tracker_keeps_every_rule_and_leaves_nothing_behind(
    install: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert examine(install, {}) == {}
    assert list((tmp_path / "here").iterdir()) == []


def test_a_summary_of_the_last_epoch_is_not_mistaken_for_a_doubled_one(install: Callable[..., Path]) -> None:
    """W&B leaves one in the folder of every part of a run."""
    summary = "self.path.with_suffix(f'.{time.time_ns()}').write_text(str(self.epochs[-1:]))"
    examine(install, {"closed": summary})
    case = TrackerCase(fakes.tracker_of("my_tracker"))
    outcome = {one.id: RuleCheck("it", one, case)() for one in RULES}["tracker-goes-on"]
    assert (outcome.verdict, "more cannot be checked" in outcome.detail) == ("ok", True)


def test_a_tracker_that_needs_what_is_missing_is_not_examined(install: Callable[..., Path]) -> None:
    assert examine(install, {"spec": "title='Mine', needs=('not_there',), install='pip install it'"}) == {}
    checks = [RuleCheck("it", rule, TrackerCase(fakes.tracker_of("my_tracker")))() for rule in RULES]
    assert [one.detail for one in checks if one.rule.id == "tracker-follows"] == [
        "it needs not_there, not installed here."
    ]
    assert {one.rule.id for one in checks if one.verdict == "ok"} == {"tracker-advises", "tracker-described"}


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_the_reference_trackers_are_found_by_name(name: str) -> None:
    from harness.registry import load_benchmark

    found = find_checks(name, load_benchmark(), discover(), Path("data"))
    assert {check.rule.id for check in found} >= {rule.id for rule in RULES}


@pytest.mark.slow
def test_tensorboard_keeps_every_rule(tmp_path: Path) -> None:
    """In a process of its own, for what it imports warns; MLflow's and W&B's runs are in test_trackers.py."""
    pytest.importorskip("tensorboard")
    done = run_python("from harness.cli import main; main()", "plugin", "check", "tensorboard", folder=tmp_path)
    assert done.code == 0, done.out + done.err
    assert done.out.count(" ok") >= len(RULES)
    assert "skipped" not in done.err
