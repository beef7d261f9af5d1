"""Trackers follow runs when they are switched on, go on where they were, and never harm a run."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.api import TrackerSpec
from harness.cli import run_command
from harness.train.options import RunOptions
from tests.support import TINY_PLUGIN, Command, cell_folder, lines_of, long_registry, read_result, wait_until

CELL = cell_folder()

DIARY = """
    import json, os, threading, time
    from pathlib import Path
    from harness.api import TrackerSpec, hookimpl

    class Diary:
        def __init__(self, run):
            self.path = run.folder / f"{run.id}.jsonl"
            run.folder.mkdir(parents=True, exist_ok=True)
            self.write("open", resumed=run.resumed, config=dict(run.config), tags=dict(run.tags), job=str(run.job))
        def write(self, what, **more):
            with self.path.open("a") as file:
                file.write(json.dumps({"what": what, **more}) + "\\n")
            wish = os.environ.get("DIARY", "")
            if wish == f"fail {what}":
                raise ConnectionError("the server is away")
            if wish == f"exit {what}":
                raise SystemExit(3)
            if wish == f"hang {what}":
                threading.Event().wait()  # for good: a run that waited for it would not end
            time.sleep(float(os.environ.get("DIARY_SECONDS", "0")))
        def epoch_finished(self, record):
            self.write("epoch", epoch=record.epoch, loss=record.loss, seconds=record.seconds)
        def run_finished(self, result):
            self.write("finished", top1=result.metrics["top1"])
        def run_failed(self, reason):
            self.write("failed", reason=reason)
        def close(self):
            self.write("close")

    @hookimpl
    def harness_trackers():
        return [
            TrackerSpec(name="diary", title="A diary", open=Diary, patience=1.0),
            TrackerSpec(
                name="absent", title="Not there", open=Diary, needs=("nothing_of_the_kind",), install="pip install it"
            ),
        ]
"""


@pytest.fixture
def diary(tiny_harness: Command, install: Callable[..., Path]) -> Command:
    """The command line with a tracker that writes down every call."""
    install("diary_plugin", DIARY)
    return tiny_harness


def entries(folder: Path = Path("runs/tracking/diary")) -> list[list[dict[str, Any]]]:
    """What each tracked run's diary says, one list a run."""
    return [[json.loads(line) for line in path.read_text().splitlines()] for path in sorted(folder.glob("*.jsonl"))]


def happened(run: list[dict[str, Any]]) -> list[str]:
    return [entry["what"] + str(entry.get("epoch", "")) for entry in run]


def weights() -> str:
    return str(read_result(CELL)["weights_sha256"])


def test_a_tracker_follows_only_where_it_is_switched_on(diary: Command) -> None:
    assert diary("run", "tiny", "--dataset", "dots").code == 0
    assert not Path("runs/tracking").exists()
    assert not (CELL / "trackers.json").exists()


def test_a_tracker_is_told_everything_in_order(diary: Command) -> None:
    ran = diary("run", "tiny", "--dataset", "dots", "--track", "diary", "--track", "diary", "--format", "json")
    assert ran.code == 0
    (run,) = entries()
    assert happened(run) == ["open", "epoch0", "epoch1", "epoch2", "finished", "close"]
    assert run[0]["resumed"] is False
    assert run[0]["job"] == "tiny on dots, seed 0"
    config = run[0]["config"]
    assert (config["protocol"], config["model"], config["dataset"], config["seed"]) == ("tiny-1.0", "tiny", "dots", 0)
    assert (config["epochs"], config["augmentations.cutmix.alpha"], config["parameters"]) == (3, 1.0, 268)
    assert config["fingerprint"] == ran.rows[0]["fingerprint"]
    assert run[0]["tags"]["versions.torch"]
    assert run[0]["tags"]["deterministic"] == "True"
    assert run[4]["top1"] == pytest.approx(ran.rows[0]["accuracy"])
    history = [json.loads(line) for line in (CELL / "history.jsonl").read_text().splitlines()]
    assert [entry["loss"] for entry in run[1:4]] == [record["loss"] for record in history]


def test_the_environment_switches_trackers_on_too(diary: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_TRACK", "diary")
    assert diary("run", "tiny", "tiny2", "--dataset", "dots").code == 0
    assert len(entries()) == 2
    assert diary("run", "tiny", "--dataset", "bars", "--runs", "my runs").code == 0
    assert len(entries(Path("my runs/tracking/diary"))) == 1


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("dairy", 2, "no tracker named 'dairy'. Did you mean 'diary'?"),
        ("absent", 3, "needs nothing_of_the_kind, not installed here. Install it with: pip install it"),
    ],
)
def test_a_tracker_that_cannot_work_is_refused_before_training(
    name: str, code: int, message: str, diary: Command
) -> None:
    ran = diary("run", "tiny", "--track", name)
    assert ran.code == code
    assert message in " ".join(ran.err.split())
    assert not Path("runs/tiny-1.0").exists()


@pytest.mark.parametrize("wish", ["fail open", "fail epoch", "fail finished", "fail close", "exit epoch", "hang epoch"])
def test_tracker_that_fails_or_hangs_is_reported_once(
    wish: str, diary: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert diary("run", "tiny", "--dataset", "dots").code == 0
    plain = weights()
    CELL.rename("plain")
    monkeypatch.setenv("DIARY", wish)
    ran = diary("run", "tiny", "--dataset", "dots", "--track", "diary")
    assert ran.code == 0
    (line,) = [line for line in ran.err.splitlines() if "Note:" in line]
    assert "tiny on dots, seed 0: plugin 'diary_plugin' of diary-plugin 1.0: tracker diary: " in line
    reason = {
        "fail": "raised ConnectionError: the server is away",
        "exit": "raised SystemExit: 3",
        "hang": "did not return within 1 s",
    }
    assert reason[wish.partition(" ")[0]] in line
    assert weights() == plain


def test_a_tracker_without_its_methods_is_reported(tiny_harness: Command, install: Callable[..., Path]) -> None:
    install(
        "empty_plugin",
        """
        from harness.api import TrackerSpec, hookimpl

        @hookimpl
        def harness_trackers():
            return [TrackerSpec(name="empty", title="Nothing", open=lambda run: object())]
        """,
    )
    ran = tiny_harness(*("run", "tiny", "--dataset", "dots"), "--track", "empty")
    assert ran.code == 0
    assert "raised TypeError: it returned a object without epoch_finished, run_finished, run_failed, close" in ran.err


def test_failed_tracker_gets_every_epoch_when_the_run_resumes(diary: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is closed after one epoch, as if the process had been killed before the result was written."""
    monkeypatch.setenv("DIARY", "fail finished")
    diary("run", "tiny", "--dataset", "dots", "--track", "diary")
    (CELL / "result.json").unlink()
    monkeypatch.delenv("DIARY")
    assert diary("run", "tiny", "--dataset", "dots", "--track", "diary").code == 0
    (run,) = entries()
    assert happened(run) == [
        *["open", "epoch0", "epoch1", "epoch2", "finished", "close"],
        *["open", "finished", "close"],
    ]
    assert run[6]["resumed"] is True


def test_a_tracker_switched_on_late_gets_the_earlier_epochs(diary: Command) -> None:
    diary("run", "tiny", "--dataset", "dots")
    (CELL / "result.json").unlink()
    diary("run", "tiny", "--dataset", "dots", "--track", "diary")
    (run,) = entries()
    assert happened(run) == ["open", "epoch0", "epoch1", "epoch2", "finished", "close"]


def test_a_run_that_is_begun_anew_has_another_id(diary: Command) -> None:
    diary("run", "tiny", "--dataset", "dots", "--track", "diary")
    CELL.rename("earlier")
    diary("run", "tiny", "--dataset", "dots", "--track", "diary")
    assert [happened(run)[0] for run in entries()] == ["open", "open"]
    assert [run[0]["resumed"] for run in entries()] == [False, False]


def test_a_failed_job_is_told_to_the_tracker(diary: Command) -> None:
    assert diary("run", "diverging", "--dataset", "dots", "--track", "diary").code == 1
    (run,) = entries()
    assert happened(run) == ["open", "epoch0", "failed", "close"]
    assert "The loss became nan in epoch 2 of 3" in run[2]["reason"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no such signals")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL"])
def test_stopped_run_resumes_under_its_id_without_repeats(name: str, diary: Command, tmp_path: Path) -> None:
    registry = long_registry(tmp_path, epochs=40)
    arguments = ["run", "tiny", "--dataset", "dots", "--in-process", "--track", "diary", "--registry", str(registry)]
    arguments += ["--checkpoint-every", "0"]  # the tracker is told of saved epochs
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(TINY_PLUGIN), str(tmp_path / "site")))}
    process = subprocess.Popen(
        [sys.executable, "-m", "harness", *arguments], env=environment | {"DIARY_SECONDS": "0.02"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    wait_until(lambda: entries() and len(entries()[0]) > 4, process=process)
    process.send_signal(signal.Signals[name])
    process.communicate(timeout=60)
    (stopped,) = entries()
    assert happened(stopped)[-1].startswith("close" if name == "SIGTERM" else "epoch")
    assert run_command(arguments) == 0
    (run,) = entries()
    epochs = [entry["epoch"] for entry in run if entry["what"] == "epoch"]
    # A process killed between telling and remembering repeats one epoch.
    repeated = len(epochs) - len(set(epochs))
    assert repeated <= (name == "SIGKILL")
    assert sorted(set(epochs)) == list(range(40))
    assert happened(run)[-2:] == ["finished", "close"]
    assert [entry["resumed"] for entry in run if entry["what"] == "open"] == [False, True]


def test_epochs_without_a_checkpoint_are_not_sent_to_trackers(diary: Command, tmp_path: Path) -> None:
    """Epochs that no checkpoint holds are trained again, in other seconds: told early, the curve would be another."""
    registry = long_registry(tmp_path, epochs=150)
    arguments = ["run", "tiny", "--dataset", "dots", "--in-process", "--track", "diary", "--registry", str(registry)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(TINY_PLUGIN), str(tmp_path / "site")))}
    process = subprocess.Popen(
        [sys.executable, "-m", "harness", *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    history = CELL / "history.jsonl"
    wait_until(lambda: len(lines_of(history)) >= 3, process=process)
    process.kill()
    process.communicate(timeout=60)
    assert history.read_text().count("\n") >= 3
    assert [happened(run) for run in entries()] == [["open"]]
    assert run_command(arguments) == 0
    (run,) = entries()
    told = [(entry["epoch"], entry["seconds"]) for entry in run if entry["what"] == "epoch"]
    kept = [json.loads(line) for line in history.read_text().splitlines()]
    assert told == [(record["epoch"], record["seconds"]) for record in kept]
    assert len(told) == 150


@pytest.mark.slow
def test_trackers_follow_runs_in_worker_processes(diary: Command) -> None:
    assert diary("run", "tiny", "tiny2", "--jobs", "2", "--threads", "1", "--track", "diary").code == 0
    runs = entries()
    assert len(runs) == 4
    assert {tuple(happened(run)) for run in runs} == {("open", "epoch0", "epoch1", "epoch2", "finished", "close")}
    assert len({run[0]["job"] for run in runs}) == 4


def test_the_choice_of_trackers_travels_to_other_processes() -> None:
    choice = RunOptions(trackers=("diary",))
    assert pickle.loads(pickle.dumps(choice)) == choice


@pytest.mark.parametrize("patience", [0, -1, float("inf"), float("nan")])
def test_a_tracker_needs_a_finite_patience(patience: float) -> None:
    with pytest.raises(ValueError, match="expected seconds, above 0"):
        TrackerSpec(name="mine", title="Mine", open=print, patience=patience)  # type: ignore[arg-type]


def test_list_trackers_says_what_is_missing(diary: Command) -> None:
    rows = {row["name"]: row for row in diary("list", "trackers", "--format", "json").rows}
    assert rows["diary"]["missing"] == []
    assert rows["absent"]["missing"] == ["nothing_of_the_kind"]
    assert rows["diary"]["distribution"] == "diary-plugin"
