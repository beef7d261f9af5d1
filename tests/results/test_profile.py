"""``profile.json`` and ``harness run --profile``: the numbers are the run's, and change nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.api import EpochRecord, Job, LogReporter, Shares, StoppedError, StopSignal
from harness.catalog import Catalog
from harness.execute.runner import JobRunner
from harness.registry import Benchmark
from harness.results.profile import Profile, read_profile, run_clock, write_profile
from harness.results.store import JobFolder, RunsFolder
from harness.train.checkpoint import Found
from harness.train.clock import OFF, TRAINING, Clock, HostWatch, Phase, Piece, RunClock
from harness.train.in_progress import JobInProgress
from harness.train.job import run_task
from harness.train.options import RunOptions
from harness.train.task import Task, build_model
from harness.workspace import Workspace
from tests.support import Command, Shell, cell_folder, read_result
from tests.training import FakeTime, Watch, state_at

JOB = Job("tiny-1.0", "tiny", "dots", 0)
PROFILED = ("tiny", "--dataset", "dots", "--threads", "1", "--profile")

RECORD = EpochRecord(epoch=0, lr=1e-3, loss=1.0, images_per_second=1.0, seconds=1.0)


def folder(runs: str | Path = "runs", job: Job = JOB) -> JobFolder:
    return RunsFolder(Path(runs)).of(job)


def profile(runs: str | Path = "runs") -> Profile:
    found = read_profile(folder(runs))
    assert found is not None
    return found


# ------------------------------------------------------------------------------------------------ what a profile holds


def test_phases_sum_up_to_the_wall_clock_time(task: Task, tmp_path: Path, fake_time: FakeTime) -> None:
    fake_time.per_reading = 0.125
    place = JobFolder(task.job, tmp_path)
    built = build_model(task)
    began = fake_time.seconds + fake_time.per_reading  # the first reading
    clock = run_clock(task, built, place, Found(None), Stopping(99))
    run_task(replace(task, clock=clock), built, Found(None), Watch())
    clock.close()
    found = read_profile(place)
    assert found is not None
    assert sum(found.phases.values()) == found.seconds == fake_time.seconds - began


def test_files_content(tiny_harness: Command, fake_time: FakeTime) -> None:
    fake_time.per_reading = 0.125
    ran = tiny_harness("run", *PROFILED, "--format", "json")
    assert ran.code == 0
    content = json.loads(folder().profile.read_text())
    assert sum(phase["seconds"] for phase in content["phases"].values()) == content["seconds"]
    assert sum(phase["share"] for phase in content["phases"].values()) == pytest.approx(1, abs=1e-3)
    used = {name for name, phase in content["phases"].items() if phase["seconds"] > 0}
    assert used == {phase.value for phase in Phase} - {"profiling"}
    assert {key: content[key] for key in ("model", "dataset", "seed", "device", "threads", "batch_size")} == {
        "model": "tiny", "dataset": "dots", "seed": 0, "device": "cpu", "threads": 1, "batch_size": 8,
    }  # fmt: skip
    assert content["fingerprint"] == read_result(cell_folder())["fingerprint"]
    assert (content["epochs"], content["steps_per_epoch"], content["steps_profiled"]) == (3, 8, 24)
    assert content["device_idle"] == 1  # no CPU time passed


def test_epochs_are_those_of_the_history(tiny_harness: Command, fake_time: FakeTime) -> None:
    fake_time.per_reading = 0.125
    tiny_harness("run", *PROFILED)
    by_epoch = json.loads(folder().profile.read_text())["by_epoch"]
    assert by_epoch["epoch"] == [0, 1, 2]
    assert by_epoch["steps"] == [8, 8, 8]
    assert [record.epoch for record in folder().read_history()] == by_epoch["epoch"]
    seconds = [sum(by_epoch[phase][epoch] for phase in TRAINING) for epoch in range(3)]
    assert by_epoch["images_per_second"] == [round(8 * 8 / whole, 1) for whole in seconds]
    assert all(len(column) == 3 for column in by_epoch.values())
    assert min(by_epoch["backward"]) > 0


def test_profile_table_is_on_stderr_and_rows_are_unchanged(tiny_harness: Command) -> None:
    plain = tiny_harness("run", "tiny", "--threads", "1", "--runs", "plain", "--format", "json")
    ran = tiny_harness("run", "tiny", "--threads", "1", "--profile", "--format", "json")
    assert [set(row) for row in ran.rows] == [set(row) for row in plain.rows]
    lines = ran.err.splitlines()
    head = next(line for line in lines if line.startswith("model "))
    phases = ["start", "data", "augment", "forward", "backward", "optim.", "eval.", "save", "other"]
    assert head.split() == ["model", "data", "set", "seed", "images/s", *phases, "idle"]
    rows = lines[lines.index(head) + 2 :][:3]
    assert [row.split()[:2] for row in rows] == [["tiny", "dots"], ["tiny", "bars"], ["all", "2"]]
    for row in rows:
        assert sum(float(share) for share in row.split()[-10:-1]) == pytest.approx(100, abs=0.5)
    assert max(map(len, lines[lines.index(head) :][:5])) <= 120


def test_profile_of_100_epochs_is_small_and_reads_back(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pieces = [
        Piece(epoch, 31, {phase.value: round(random.random(), 4) for phase in Phase}, idle=0.25) for epoch in range(100)
    ]
    facts = {"fingerprint": "f", "device": "cpu", "device_name": "a processor", "threads": 2, "batch_size": 32}
    written = Profile(**facts, epochs=100, steps_per_epoch=31, pieces=pieces, outside={"start": 1.5, "evaluation": 2.0})
    place = JobFolder(JOB, tmp_path)
    write_profile(place, written)
    assert place.profile.stat().st_size < 12_000
    read = read_profile(place)
    assert read is not None
    assert list(read.pieces) == pieces
    assert read.phases == pytest.approx(written.phases, abs=1e-3)
    assert read.outside["start"] == pytest.approx(1.5, abs=1e-3)
    assert read.idle == pytest.approx(0.25)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 2}', '{"schema": 1}', '{"schema": 1, "by_epoch": {}}'])
def test_damaged_profile_is_none(tmp_path: Path, content: str) -> None:
    place = JobFolder(JOB, tmp_path)
    place.profile.write_text(content)
    assert read_profile(place) is None


# -------------------------------------------------------------------------------------------------- it changes nothing


def test_same_bits_with_and_without(tiny_harness: Command) -> None:
    for model in ("tiny", "tiny2"):
        tiny_harness("run", model, "--threads", "1", "--runs", "plain")
        tiny_harness("run", model, "--threads", "1", "--runs", "profiled", "--profile")
    for model in ("tiny", "tiny2"):
        for dataset in ("dots", "bars"):
            job = Job("tiny-1.0", model, dataset, 0)
            plain, profiled = (json.loads(folder(runs, job).result.read_text()) for runs in ("plain", "profiled"))
            for key in ("weights_sha256", "metrics", "executed_digest", "fingerprint", "test_reads"):
                assert plain[key] == profiled[key]
            assert not folder("plain", job).profile.exists()
            assert folder("profiled", job).profile.exists()


class _Forbidden(RunClock):
    def __init__(self, *_: Any, **__: Any) -> None:
        raise AssertionError("a clock was made without --profile")


def test_run_without_profile_has_the_clock_that_does_nothing(
    tiny_harness: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr("harness.results.profile.RunClock", _Forbidden)
    train = JobInProgress.train
    monkeypatch.setattr(
        JobInProgress,
        "train",
        lambda self, *given, **named: seen.append(self.task.clock) or train(self, *given, **named),
    )
    assert tiny_harness("run", "tiny", "--dataset", "dots").code == 0
    assert seen == [OFF]
    assert type(OFF) is Clock
    assert vars(OFF) == {}
    ran = tiny_harness("run", "tiny", "--dataset", "dots", "--profile", "--runs", "other", "--format", "json")
    assert ran.rows[0]["detail"] == "AssertionError: a clock was made without --profile"


def test_what_is_done_is_not_trained_for_a_profile(tiny_harness: Command) -> None:
    tiny_harness("run", "tiny", "--dataset", "dots")
    before = folder().result.stat().st_mtime_ns
    ran = tiny_harness("run", "tiny", "--dataset", "dots", "--profile")
    assert ran.code == 0
    assert "Nothing was left to train. 1 job was finished before and has no profile" in ran.err
    assert folder().result.stat().st_mtime_ns == before
    assert not folder().profile.exists()
    ran = tiny_harness("run", "tiny", "--profile")
    assert "1 job was finished before and has no profile" in ran.err
    assert "Nothing was left" not in ran.err
    assert "bars" in ran.err.partition("Time by phase")[2]
    again = tiny_harness("run", "tiny", "--dataset", "bars", "--profile")
    assert "bars" in again.err.partition("Time by phase")[2]
    assert "no profile" not in again.err


def test_other_commands_let_a_profile_be(harness: Command, tiny_harness: Command) -> None:
    tiny_harness("run", *PROFILED)
    tiny_harness("run", "tiny", "--dataset", "dots", "--threads", "1", "--runs", "plain")
    kept = folder().profile.read_bytes()
    assert tiny_harness("status", "tiny", "--dataset", "dots", "--format", "json").rows[0]["state"] == "done"
    assert tiny_harness("verify", str(folder().path), "--format", "json").code == 0
    assert tiny_harness("bundle", "tiny", "--dataset", "dots", "-o", "one.zip").code == 0
    assert harness("merge", "one.zip", "--runs", "merged").code == 0
    assert folder("merged").result.exists()
    assert not folder("merged").profile.exists()
    merged = harness("merge", "plain", "--runs", "runs", "--format", "json")
    assert merged.rows[0]["outcome"] == "identical"
    assert folder().profile.read_bytes() == kept
    moved = folder().set_aside(folder().path)
    assert (moved / "profile.json").read_bytes() == kept


def test_profile_of_an_unknown_device_or_a_dry_run_is_none(tiny_harness: Command) -> None:
    assert tiny_harness("run", "tiny", "--dry-run", "--profile").code == 0
    assert tiny_harness("run", "tiny", "--profile", "--device", "toaster").code == 2
    assert tiny_harness("run", "tiny", "--profile=yes").code == 2
    assert not list(Path().rglob("profile.json"))


# ------------------------------------------------------------------------------------------------- stops, and going on


class Stopping(LogReporter):
    """Stops after some steps, and keeps what it is told of the profile."""

    def __init__(self, after: int) -> None:
        super().__init__(StopSignal())
        self.after = after
        self.told: list[Shares] = []

    def step_finished(self, *_: Any) -> None:
        self.after -= 1

    def should_stop(self) -> bool:
        return self.after <= 0

    def profiled(self, job: Job, shares: Shares) -> None:
        self.told.append(shares)


def carry_out(benchmark: Benchmark, catalog: Catalog, place: Path, reporter: LogReporter, *, profile: bool) -> None:
    workspace = Workspace(benchmark, catalog, RunsFolder(place / "runs"), place / "data")
    runner = JobRunner(workspace, torch.device("cpu"), reporter, RunOptions(save_every=1e9, profile=profile))
    assert runner(JOB).state == "done"


def test_stopped_run_resumes_its_profile(
    tiny_benchmark: Benchmark, tiny_catalog: Catalog, tmp_path: Path, fake_time: FakeTime
) -> None:
    fake_time.per_reading = 0.125
    stopping = Stopping(8 + 3)
    with pytest.raises(StoppedError):
        carry_out(tiny_benchmark, tiny_catalog, tmp_path, stopping, profile=True)
    half = profile(tmp_path / "runs")
    assert [(piece.epoch, piece.steps) for piece in half.pieces] == [(0, 8), (1, 3)]
    assert half.steps < half.epochs * half.steps_per_epoch
    carry_out(tiny_benchmark, tiny_catalog, tmp_path, Stopping(99), profile=True)
    whole = profile(tmp_path / "runs")
    assert [(piece.epoch, piece.steps) for piece in whole.pieces] == [(0, 8), (1, 3), (1, 5), (2, 8)]
    assert list(whole.pieces[:2]) == list(half.pieces)
    assert whole.phases["start"] > half.phases["start"] > 0


def test_profile_says_which_epochs_it_covers(tiny_benchmark: Benchmark, tiny_catalog: Catalog, tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        carry_out(tiny_benchmark, tiny_catalog, tmp_path, Stopping(11), profile=False)
    carry_out(tiny_benchmark, tiny_catalog, tmp_path, Stopping(99), profile=True)
    content = json.loads(folder(tmp_path / "runs").profile.read_text())
    assert (content["by_epoch"]["epoch"], content["by_epoch"]["steps"]) == ([1, 2], [5, 8])
    assert content["steps_profiled"] == 13


def test_what_is_trained_again_is_measured_again(task: Task, tmp_path: Path) -> None:
    """A profile that is ahead of the checkpoint, as after a kill or a damaged file."""
    clock = RunClock(
        HostWatch(1),
        tell=lambda shares: None,
        save=lambda clock: None,
        pieces=[Piece(0, 8, {"forward": 1.0}), Piece(1, 6, {"forward": 1.0}), Piece(2, 2, {"forward": 1.0})],
    )
    clock.epoch_started(state_at(1, 4, steps=8))
    assert [piece.epoch for piece in clock.pieces] == [0, 1]
    assert clock.pieces[1].steps == 0
    clock.close()
    assert [piece.epoch for piece in clock.pieces] == [0]
    place = JobFolder(task.job, tmp_path)
    built = build_model(task)
    save = run_clock(task, built, place, Found(None), Stopping(9))
    save.epoch_started(state_at(0, 0, steps=8))
    save.step_finished(state_at(0))
    save.close()
    afresh = run_clock(task, built, place, Found(None), Stopping(9))
    assert afresh.pieces == []  # begun from nothing: what was measured before is of another attempt


def test_run_that_fails_keeps_what_was_measured(tiny_harness: Command) -> None:
    ran = tiny_harness("run", "diverging", "--dataset", "dots", "--profile", "--format", "json")
    assert ran.code == 1
    found = read_profile(folder(job=replace(JOB, model="diverging")))
    assert found is not None
    assert [(piece.epoch, piece.steps) for piece in found.pieces] == [(0, 8), (1, 8)]
    assert "Time by phase" not in ran.err


def test_full_disk_does_not_end_a_run_for_its_profile(task: Task, tmp_path: Path) -> None:
    nowhere = JobFolder(task.job, tmp_path / "missing" / "folder")
    clock = run_clock(task, build_model(task), nowhere, Found(None), Stopping(9))
    clock.epoch_started(state_at(0, 0, steps=8))
    clock.step_finished(state_at(0))
    clock.epoch_finished(state_at(1), RECORD)
    clock.close()
    assert not nowhere.path.exists()
    assert [piece.steps for piece in clock.pieces] == [1]


def test_shares_are_reported_before_the_epoch_ends(task: Task, tmp_path: Path, fake_time: FakeTime) -> None:
    reporter = Stopping(99)
    clock = run_clock(task, build_model(task), JobFolder(task.job, tmp_path), Found(None), reporter)
    clock.epoch_started(state_at(0, 0, steps=8))
    for phase in (Phase.AUGMENTATION, Phase.FORWARD):
        assert reporter.told == []
        clock.enter(phase)
        fake_time.spend(0.75)
        clock.enter(Phase.OTHER)
        clock.step_finished(state_at(0))
    assert reporter.told == [Shares(0, waiting=0.0, augmentation=0.5, idle=1.0)]


def test_worker_processes_write_profiles(shell: Shell) -> None:
    ran = shell.run("run", "tiny", "--threads", "1", "--jobs", "2", "--profile", "--format", "json")
    assert ran.code == 0
    assert "Time by phase" in ran.err
    for dataset in ("dots", "bars"):
        found = read_profile(JobFolder(replace(JOB, dataset=dataset), shell.cell("tiny", dataset)))
        assert found is not None
        assert found.seconds > found.phases["start"] > 0
        assert (found.steps, found.threads) == (24, 1)
