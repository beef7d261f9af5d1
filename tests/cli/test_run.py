"""harness run, plan, status and leaderboard on tiny models, in this process and in others: what is done stays done."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support import (
    TINY_REGISTRY,
    Command,
    Ran,
    Shell,
    cell_folder,
    lines_of,
    long_registry,
    read_result,
    wait_until,
)

pytestmark = pytest.mark.portable


CELL = cell_folder()


def states(ran: Ran) -> dict[str, str]:
    return {f"{row['model']}/{row['dataset']}/{row['seed']}": row["state"] for row in ran.rows}


def stamps(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


# ------------------------------------------------------------------------------------------------------- happy path


def test_run_then_run_again_trains_nothing(tiny_harness: Command) -> None:
    ran = tiny_harness("run", "tiny", "tiny2", "--seeds", "2", "--format", "json")
    assert ran.code == 0
    assert len(ran.rows) == 8
    assert set(states(ran).values()) == {"done"}
    assert list(ran.rows[0])[:7] == ["model", "dataset", "seed", "state", "accuracy", "seconds", "fingerprint"]
    assert "8 carried out by this command" in ran.err
    before = stamps(Path("runs"))
    again = tiny_harness("run", "tiny", "tiny2", "--seeds", "2", "--format", "json")
    assert again.rows == ran.rows
    assert "0 carried out by this command" in again.err
    assert stamps(Path("runs")) == before


def test_files_of_a_job(tiny_harness: Command) -> None:
    tiny_harness("run", "tiny", "--dataset", "dots")
    assert {path.name for path in CELL.iterdir()} == {
        "job.json", "history.jsonl", "checkpoint.pt", "predictions.npz", "result.json",
    }  # fmt: skip
    result = read_result(CELL)
    assert result["schema"] == 2
    assert result["job"] == {"protocol": "tiny-1.0", "model": "tiny", "dataset": "dots", "seed": 0, "budget": "2.5M"}
    assert result["test_reads"] == 1
    assert result["environment"]["model_plugin"] == "plugin 'tiny' of tiny-plugin 1.0"
    assert result["environment"]["versions"]["torch"]
    with np.load(CELL / "predictions.npz") as predictions:
        share = (predictions["logits"].argmax(axis=1) == predictions["labels"]).mean()
    assert result["metrics"]["top1"] == pytest.approx(100 * share)
    history = [json.loads(line) for line in (CELL / "history.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in history] == [0, 1, 2]
    assert set(history[0]) == {"epoch", "lr", "loss", "images_per_second", "seconds"}
    assert json.loads((CELL / "job.json").read_text())["fingerprint"] == result["fingerprint"]


def test_only_new_cells_are_trained(tiny_harness: Command) -> None:
    tiny_harness("run", "tiny", "--dataset", "dots")
    before = stamps(CELL)
    ran = tiny_harness("run", "tiny", "tiny2", "--format", "json")
    assert "3 carried out by this command" in ran.err
    assert stamps(CELL) == before


def test_plan_and_dry_run_show_and_do_nothing(tiny_harness: Command) -> None:
    tiny_harness("run", "tiny", "--dataset", "dots")
    before = stamps(Path("runs"))
    for command in (("plan",), ("run", "--dry-run")):
        ran = tiny_harness(*command, "tiny", "tiny2", "--format", "json")
        assert ran.code == 0
        assert states(ran) == {
            "tiny/dots/0": "done", "tiny/bars/0": "missing", "tiny2/dots/0": "missing", "tiny2/bars/0": "missing",
        }  # fmt: skip
        assert "4 jobs under tiny-1.0: 1 done, 3 to run, 576 training images" in ran.err
    assert stamps(Path("runs")) == before


def test_status_without_names_shows_all_models_and_further_seeds(tiny_harness: Command) -> None:
    tiny_harness("run", "tiny", "--dataset", "dots", "--seeds", "2")
    ran = tiny_harness("status", "--format", "json")
    found = states(ran)
    assert found["tiny/dots/0"] == found["tiny/dots/1"] == "done"
    assert found["starnet/bars/0"] == "missing"
    assert "2 done" in ran.err


def test_leaderboard_scores_complete_models_and_names_the_others(tiny_harness: Command) -> None:
    tiny_harness("run", "tiny", "gentle")
    tiny_harness("run", "tiny2", "--dataset", "dots")
    ran = tiny_harness("leaderboard", "--format", "json")
    rows = {row["model"]: row for row in ran.rows}
    assert set(rows) == {"tiny", "gentle", "tiny2"}
    assert {"model", "xscore", "mean", "variance", "normalized", "accuracy", "lambda", "anchors"} <= set(rows["tiny"])
    assert rows["tiny"]["anchors"] == "measured: 2 models"
    assert rows["tiny2"]["xscore"] is None
    assert rows["tiny2"]["missing"] == ["bars"]
    values = list(rows["tiny"]["normalized"].values())
    mean = sum(values) / 2
    assert rows["tiny"]["xscore"] == pytest.approx(mean - 0.5 * sum((v - mean) ** 2 for v in values))
    assert "tiny2 is incomplete: no result on bars" in ran.err
    assert "gentle was trained with lr_max 0.0005" in ran.err


def test_known_leakage_is_marked_on_leaderboard_and_report(tiny_harness: Command) -> None:
    tiny_harness("run", "tiny", "gentle")
    board = tiny_harness("leaderboard")
    assert "bars *" in board.out
    assert "dots *" not in board.out
    assert "* bars: 3 of 40 test images show a bar that is also in train." in board.err
    pytest.importorskip("altair")
    assert tiny_harness("report", "page.html", "--suite", "tiny", "--no-patterns").code == 0
    page = Path("page.html").read_text()
    assert "Known leakage" in page
    assert "Bars *: 3 of 40 test images show a bar that is also in train" in page


def test_leaderboard_without_results_says_what_to_run(tiny_harness: Command) -> None:
    ran = tiny_harness("leaderboard")
    assert ran.code == 3
    assert "Run: harness run --all --suite tiny" in ran.err


@pytest.mark.parametrize("format_", ["table", "json", "csv", "markdown", "latex"])
def test_every_format(format_: str, tiny_harness: Command) -> None:
    tiny_harness("run", "tiny", "gentle")
    for command in (("leaderboard",), ("status", "tiny"), ("list", "models"), ("check-budget", "tiny")):
        ran = tiny_harness(*command, "--format", format_)
        assert ran.code == 0
        assert "tiny" in ran.out
        marks = {"json": "[", "csv": ",", "markdown": "|", "latex": r"\toprule", "table": "---"}
        assert marks[format_] in ran.out


def test_observers_see_the_run_and_cannot_harm_it(
    tiny_harness: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv("TINY_LOG", str(log))
    monkeypatch.setenv("TINY_OBSERVER_FAILS", "1")
    ran = tiny_harness("run", "tiny", "--dataset", "dots", "--format", "json")
    assert ran.code == 0
    lines = log.read_text().splitlines()
    assert lines == ["started tiny dots", "epoch 0", "epoch 1", "epoch 2", f"finished {ran.rows[0]['accuracy']:.1f}"]
    assert "the tracker's server is away; the run continues without it" in ran.err


# ------------------------------------------------------------------------------------------------- as a real process


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no such signals")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_stopped_process_loses_nothing_and_is_resumed(name: str, shell: Shell) -> None:
    cell, registry = shell.cell("tiny"), long_registry(shell.folder)
    process = shell.start("run", "tiny", "--dataset", "dots", registry=registry)
    wait_until(lambda: len(lines_of(cell / "history.jsonl")) >= 5, process=process)
    process.send_signal(signal.Signals[name])
    _, err = process.communicate(timeout=60)
    if name == "SIGKILL":
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130
        assert "Resume with: harness run tiny --dataset dots" in err
        assert "Traceback" not in err
    assert not (cell / "result.json").exists()
    went_on = shell.run("run", "tiny", "--dataset", "dots", "--format", "json", registry=registry)
    assert went_on.code == 0, went_on.err
    assert went_on.rows[0]["state"] == "done"
    assert shell.result("tiny")["interruptions"][0]["epoch"] >= 4
    assert [json.loads(line)["epoch"] for line in lines_of(cell / "history.jsonl")] == list(range(100))


def test_two_processes_on_one_folder_train_every_job_once(shell: Shell) -> None:
    log, runs = shell.folder / "log", shell.folder / "runs"
    processes = [shell.start("run", "tiny", "tiny2", "--seeds", "2", TINY_LOG=str(log)) for _ in range(2)]
    for process in processes:
        process.communicate(timeout=120)
    assert [process.returncode for process in processes] == [0, 0]
    assert sum(line.startswith("finished") for line in lines_of(log)) == 8
    assert len(list(runs.rglob("result.json"))) == 8
    assert not list(runs.rglob("set-aside"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 kB."""
    mount = tmp_path / "small"
    mount.mkdir()
    options = ["-t", "tmpfs", "-o", "size=200k", "tmpfs", str(mount)]
    if subprocess.run(["mount", *options], capture_output=True).returncode:
        pytest.skip("this user can't mount a small file system")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def test_full_disk_ends_with_a_sentence_and_loses_no_result(tiny_harness: Command, small_disk: Path) -> None:
    options = ("--dataset", "dots", "--runs", str(small_disk))
    first = tiny_harness("run", "tiny", *options, "--format", "json")
    (small_disk / "filler").write_bytes(bytes(os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize - 4096))
    full = tiny_harness("run", "tiny2", *options)
    assert full.code == 3
    assert f"Cannot write in {small_disk}" in full.err
    assert "the disk is full" in full.err
    assert "Traceback" not in full.err
    assert not list(small_disk.rglob("*.tmp"))
    (small_disk / "filler").unlink()
    again = tiny_harness("run", "tiny", "tiny2", *options, "--format", "json")
    assert again.code == 0
    assert again.rows[0] == first.rows[0]
    assert "1 carried out by this command" in again.err


def test_status_piped_to_head_is_no_error(shell: Shell) -> None:
    command = [sys.executable, "-m", "harness", "list", "models", "--registry", str(TINY_REGISTRY)]
    line = shlex.join(command) + " | head -1"
    ran = subprocess.run(line, shell=True, env=shell.environment, capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("name")
    assert "Traceback" not in ran.stderr
