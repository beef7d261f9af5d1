"""harness run --profile: the numbers are the run's, mean what they say, and change nothing."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.api import EpochRecord, Job, Shares, StoppedError
from harness.catalog import Catalog
from harness.cli.progress import RunReporter
from harness.execute.reporters import LogReporter
from harness.execute.runner import JobRunner
from harness.execute.signals import StopSignal
from harness.registry import Benchmark
from harness.results.profile import Profile, read_profile, run_clock, write_profile
from harness.results.store import JobFolder, RunsFolder
from harness.train import profile_cuda
from harness.train.checkpoint import Found
from harness.train.loop import Training
from harness.train.pipeline import InputPipeline
from harness.train.profile import OFF, Clock, HostWatch, Phase, Piece, RunClock, shares_of
from harness.train.run import JobInProgress, Task, build_model, run_task
from tests.support import Command, Shell, cell_folder, read_result
from tests.training import Watch

JOB = Job("tiny-1.0", "tiny", "dots", 0)
PROFILED = ("tiny", "--dataset", "dots", "--threads", "1", "--profile")


def folder(runs: str | Path = "runs", job: Job = JOB) -> JobFolder:
    return RunsFolder(Path(runs)).of(job)


def profile(runs: str | Path = "runs") -> Profile:
    found = read_profile(folder(runs))
    assert found is not None
    return found


def after_start(found: Profile) -> float:
    """The time that results count: without what torch loads for the first run of a process."""
    return found.seconds - found.phases["start"]


# --------------------------------------------------------------------------------------------- what a profile holds


def test_phases_sum_up_to_the_wall_clock_time(task: Task, tmp_path: Path) -> None:
    place = JobFolder(task.job, tmp_path)
    built = build_model(task)
    began = time.perf_counter()
    clock = run_clock(task, built, place, Found(None), Stopping(99))
    run_task(replace(task, clock=clock), built, Found(None), Watch())
    clock.close()
    took = time.perf_counter() - began
    found = read_profile(place)
    assert found is not None
    assert sum(found.phases.values()) == found.seconds == pytest.approx(took, rel=0.03, abs=0.05)


def test_files_content(tiny_harness: Command) -> None:
    ran = tiny_harness("run", *PROFILED, "--format", "json")
    assert ran.code == 0
    content = json.loads(folder().profile.read_text())
    assert after_start(profile()) == pytest.approx(read_result(cell_folder())["seconds"], rel=0.1, abs=0.03)
    assert sum(phase["seconds"] for phase in content["phases"].values()) == pytest.approx(content["seconds"], abs=1e-3)
    assert sum(phase["share"] for phase in content["phases"].values()) == pytest.approx(1, abs=1e-3)
    used = {name for name, phase in content["phases"].items() if phase["seconds"] > 0}
    assert used == {phase.value for phase in Phase} - {"profiling"}
    assert {key: content[key] for key in ("model", "dataset", "seed", "device", "threads", "batch_size")} == {
        "model": "tiny", "dataset": "dots", "seed": 0, "device": "cpu", "threads": 1, "batch_size": 8,
    }  # fmt: skip
    assert content["fingerprint"] == read_result(cell_folder())["fingerprint"]
    assert (content["epochs"], content["steps_per_epoch"], content["steps_profiled"]) == (3, 8, 24)
    assert 0 <= content["device_idle"] <= 1


def test_epochs_are_those_of_the_history(tiny_harness: Command) -> None:
    tiny_harness("run", *PROFILED)
    by_epoch = json.loads(folder().profile.read_text())["by_epoch"]
    assert by_epoch["epoch"] == [0, 1, 2]
    assert by_epoch["steps"] == [8, 8, 8]
    speeds = [record.images_per_second for record in folder().read_history()]
    assert by_epoch["images_per_second"] == pytest.approx(speeds, rel=0.2)
    assert all(len(column) == 3 for column in by_epoch.values())
    assert min(by_epoch["backward"]) > 0


def test_rows_on_stdout_are_those_of_any_run_and_the_table_is_on_stderr(tiny_harness: Command) -> None:
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


def test_hundred_epochs_are_a_small_file_that_reads_as_it_was_written(tmp_path: Path) -> None:
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


# ------------------------------------------------------------------------------------------------ it changes nothing


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


def test_without_the_option_the_clock_is_the_one_that_does_nothing(
    tiny_harness: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr("harness.results.profile.RunClock", _Forbidden)
    fit = Training.fit
    monkeypatch.setattr(
        Training, "fit", lambda self, *given, **named: seen.append(self.clock) or fit(self, *given, **named)
    )
    assert tiny_harness("run", "tiny", "--dataset", "dots").code == 0
    assert seen == [OFF]
    assert type(OFF) is Clock
    assert vars(OFF) == {}
    batches = iter([1, 2])
    assert OFF.waiting_for(batches) is batches
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
    assert "bars" in ran.err.partition("Where the time went")[2]
    again = tiny_harness("run", "tiny", "--dataset", "bars", "--profile")
    assert "bars" in again.err.partition("Where the time went")[2]
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


# -------------------------------------------------------------------------------------------- the numbers mean it


SLEEP = 0.01


def test_slow_augmentation_shows_as_augmentation(tiny_harness: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    make = InputPipeline.train_batch

    def slow(self: InputPipeline, *given: Any, **named: Any) -> Any:
        time.sleep(SLEEP)
        return make(self, *given, **named)

    monkeypatch.setattr(InputPipeline, "train_batch", slow)
    tiny_harness("run", *PROFILED)
    found = profile()
    assert found.phases["augmentation"] >= 24 * SLEEP
    assert max(found.phases, key=lambda name: found.phases[name]) == "augmentation"
    assert found.idle is not None
    assert found.idle > 0.3  # it sleeps, so the processor has nothing to do


def test_slow_store_shows_as_waiting(tiny_harness: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.train.feeder import Feeder

    read = Feeder._read

    def slow(self: Feeder, *given: Any) -> torch.Tensor:
        time.sleep(SLEEP / 2)  # called for the images and for the labels
        return read(self, *given)

    monkeypatch.setattr(Feeder, "_read", slow)
    tiny_harness("run", *PROFILED)
    found = profile()
    assert found.phases["waiting"] >= 24 * SLEEP
    assert max(found.phases, key=lambda name: found.phases[name]) == "waiting"


@pytest.mark.parametrize(
    ("where", "name", "phase", "calls"),
    [
        ("harness.train.run.save_checkpoint", "", "checkpoint", 1),
        ("torch.Tensor", "backward", "backward", 24),
        ("torch.optim.Adam", "step", "optimizer", 24),
        ("harness.train.loop.F", "cross_entropy", "forward", 24),
        ("harness.train.loop.Training", "predict", "evaluation", 1),
        ("harness.train.run", "pixel_digest", "start", 1),
        ("harness.train.loop.Training", "_close_epoch", "other", 3),
    ],
)
def test_sleep_is_found_in_its_phase(
    tiny_harness: Command, monkeypatch: pytest.MonkeyPatch, where: str, name: str, phase: str, calls: int
) -> None:
    target = f"{where}.{name}".rstrip(".")
    owner, _, attribute = target.rpartition(".")
    real = getattr(_resolved(owner), attribute)

    def slow(*given: Any, **named: Any) -> Any:
        time.sleep(0.1 if calls < 24 else SLEEP)
        return real(*given, **named)

    tiny_harness("run", *PROFILED, "--runs", "quick")
    monkeypatch.setattr(_resolved(owner), attribute, slow)
    tiny_harness("run", *PROFILED)
    added = profile().phases[phase] - profile("quick").phases[phase]
    assert added >= 0.8 * calls * (0.1 if calls < 24 else SLEEP)


def _resolved(dotted: str) -> Any:
    import pkgutil

    return pkgutil.resolve_name(dotted)


def test_idle_share_of_a_cpu_is_the_time_without_work() -> None:
    watch = HostWatch(threads=1)
    piece = Piece(0, 1)
    time.sleep(0.2)
    watch.lap(Phase.WAITING, piece)
    assert piece.idle is not None
    assert piece.idle > 0.9
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    watch.lap(Phase.FORWARD, piece)
    assert piece.idle < 0.9
    assert 1 - piece.idle == pytest.approx(0.2 / piece.training_seconds, abs=0.1)
    unknown = Piece(0, 1)
    HostWatch(threads=None).lap(Phase.FORWARD, unknown)
    assert unknown.idle is None


# --------------------------------------------------------------------------------------------- stops, and going on


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
    runner = JobRunner(
        benchmark, catalog, RunsFolder(place / "runs"), place / "data", torch.device("cpu"), frozenset(), reporter,
        save_every=1e9, profile=profile,
    )  # fmt: skip
    assert runner(JOB).state == "done"


def test_stopped_run_goes_on_with_its_profile(tiny_benchmark: Benchmark, tiny_catalog: Catalog, tmp_path: Path) -> None:
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
    assert after_start(whole) == pytest.approx(
        read_result(cell_folder(runs=tmp_path / "runs"))["seconds"], rel=0.1, abs=0.05
    )
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
    clock.epoch_started(1, 4, 8)
    assert [piece.epoch for piece in clock.pieces] == [0, 1]
    assert clock.pieces[1].steps == 0
    clock.close()
    assert [piece.epoch for piece in clock.pieces] == [0]
    place = JobFolder(task.job, tmp_path)
    built = build_model(task)
    save = run_clock(task, built, place, Found(None), Stopping(9))
    save.epoch_started(0, 0, 8)
    save.step_finished()
    save.close()
    afresh = run_clock(task, built, place, Found(None), Stopping(9))
    assert afresh.pieces == []  # begun from nothing: what was measured before is of another attempt


def test_run_that_fails_keeps_what_was_measured(tiny_harness: Command) -> None:
    ran = tiny_harness("run", "diverging", "--dataset", "dots", "--profile", "--format", "json")
    assert ran.code == 1
    found = read_profile(folder(job=replace(JOB, model="diverging")))
    assert found is not None
    assert [(piece.epoch, piece.steps) for piece in found.pieces] == [(0, 8), (1, 8)]
    assert "Where the time went" not in ran.err


def test_full_disk_does_not_end_a_run_for_its_profile(task: Task, tmp_path: Path) -> None:
    nowhere = JobFolder(task.job, tmp_path / "missing" / "folder")
    clock = run_clock(task, build_model(task), nowhere, Found(None), Stopping(9))
    clock.epoch_started(0, 0, 8)
    clock.step_finished()
    clock.epoch_finished()
    clock.close()
    assert not nowhere.path.exists()
    assert [piece.steps for piece in clock.pieces] == [1]


# ------------------------------------------------------------------------------------------- who is told, and where


def test_display_shows_the_shares(
    tiny_benchmark: Benchmark, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = shares_of(Piece(2, 8, {"waiting": 0.01, "augmentation": 0.06, "forward": 0.93}, idle=0.02))
    assert str(shares) == "data 1 %, augment 6 %, device idle 2 %"
    assert str(replace(shares, idle=None)) == "data 1 %, augment 6 %"
    record = EpochRecord(epoch=2, lr=1e-3, loss=1.23, images_per_second=812.0, seconds=1.0)
    monkeypatch.setattr("harness.cli.progress._LINE_SECONDS", 0.0)
    monkeypatch.setattr("harness.execute.reporters._LINE_SECONDS", 0.0)
    for reporter in (RunReporter(1, tiny_benchmark.protocol("tiny-1.0"), StopSignal()), LogReporter(StopSignal())):
        reporter.job_started(JOB)
        reporter.profiled(JOB, shares)
        reporter.epoch_finished(JOB, record)
        assert "loss 1.230, 812 images/s, data 1 %, augment 6 %, device idle 2 %\n" in capsys.readouterr().err


@pytest.mark.parametrize(("columns", "broken"), [(100, True), (160, False)])
def test_bar_shows_the_shares_in_a_line_of_their_own_where_it_is_narrow(
    tiny_benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch, columns: int, broken: bool
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    reporter = RunReporter(1, tiny_benchmark.protocol("tiny-1.0"), StopSignal())
    reporter.job_started(JOB)
    reporter.profiled(JOB, Shares(0, 0.01, 0.06, 0.02))
    reporter.step_finished(JOB, 0, 3, 8, 1.5)
    assert reporter._progress is not None
    detail = reporter._progress.tasks[-1].fields["detail"]
    assert detail.startswith("epoch 1 of 3, loss 1.500")
    assert detail.endswith(("\n" if broken else ", ") + "data 1 %, augment 6 %, device idle 2 %")


def test_present_epoch_is_told_before_it_ends(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.train.profile._TELL_SECONDS", 0.0)
    reporter = Stopping(99)
    clock = run_clock(task, build_model(task), JobFolder(task.job, tmp_path), Found(None), reporter)
    clock.epoch_started(0, 0, 8)
    clock.enter(Phase.AUGMENTATION)
    time.sleep(0.05)
    clock.enter(Phase.OTHER)
    clock.step_finished()
    (shares,) = reporter.told
    assert shares.epoch == 0
    assert shares.augmentation > 0.5


def test_worker_processes_write_profiles(shell: Shell) -> None:
    ran = shell.run("run", "tiny", "--threads", "1", "--jobs", "2", "--profile", "--format", "json")
    assert ran.code == 0
    assert "Where the time went" in ran.err
    for dataset in ("dots", "bars"):
        found = read_profile(JobFolder(replace(JOB, dataset=dataset), shell.cell("tiny", dataset)))
        assert found is not None
        assert after_start(found) == pytest.approx(shell.result("tiny", dataset)["seconds"], rel=0.1, abs=0.05)
        assert (found.steps, found.threads) == (24, 1)


# ------------------------------------------------------------------------------------------------------------- CUDA


def test_idle_share_is_what_no_interval_covers() -> None:
    assert profile_cuda.idle_share([]) is None
    assert profile_cuda.idle_share([(3, 3)]) is None
    assert profile_cuda.idle_share([(0, 10)]) == 0
    assert profile_cuda.idle_share([(8, 10), (0, 2)]) == pytest.approx(0.6)
    assert profile_cuda.idle_share([(0, 6), (1, 2), (5, 8), (8, 9), (9.5, 10)]) == pytest.approx(0.05)
    random = np.random.default_rng(1)
    for _ in range(20):  # against counting moments
        starts = random.integers(0, 900, 40)
        busy = [(int(start), int(start + random.integers(1, 30))) for start in starts]
        moments = np.zeros(1000, bool)
        for begin, end in busy:
            moments[begin:end] = True
        covered = moments[min(begin for begin, _ in busy) : max(end for _, end in busy)]
        assert profile_cuda.idle_share(busy) == pytest.approx(1 - covered.mean())


def test_only_the_devices_work_counts_in_a_trace() -> None:
    def event(category: str, begin: float, seconds: float) -> dict[str, Any]:
        return {"ph": "X", "cat": category, "ts": begin, "dur": seconds, "name": "x"}

    work = [event("kernel", 10, 4), event("gpu_memcpy", 13, 3), event("gpu_memset", 18, 2)]
    noise = [event("cpu_op", 0, 99), event("gpu_user_annotation", 10, 90), {"ph": "M", "name": "process_name"}]
    assert profile_cuda.idle_in({"traceEvents": work + noise}) == pytest.approx(0.2)
    assert profile_cuda.idle_in({"traceEvents": noise}) is None


def test_trace_of_this_torch_has_the_expected_form() -> None:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        torch.ones(8) + 1
    trace = profile_cuda._trace(profiler)
    work = [event for event in trace["traceEvents"] if event.get("ph") == "X"]
    assert {"ts", "dur", "cat"} <= set(work[0])
    assert "cpu_op" in {event["cat"] for event in work}
    assert profile_cuda.idle_in(trace) is None


def test_window_is_within_an_epoch_and_after_the_first_steps() -> None:
    def turns(epochs: int, steps: int) -> list[tuple[int, int]]:
        window = profile_cuda.StepWindow()
        return [
            (epoch, step) for epoch in range(epochs) for step in range(1, steps + 1) if window.due(step, steps - step)
        ]

    assert turns(2, 1000) == [(0, 10), (0, 30)]
    assert turns(3, 31) == [(0, 10), (0, 25)]  # 15 steps, half an epoch
    assert turns(9, 4) == [(2, 2), (2, 4)]
    assert turns(2, 18) == [(1, 1), (1, 10)]
    assert turns(2, 4) == []  # too short a training to be measured
    assert turns(99, 1) == []


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_phases_on_cuda_sum_up_and_the_idle_share_is_measured(task: Task, tmp_path: Path) -> None:
    device = torch.device("cuda", 0)
    task = replace(task, device=device)
    built = build_model(task)
    clock = run_clock(task, built, JobFolder(task.job, tmp_path), Found(None), Stopping(99))
    began = time.perf_counter()
    run = JobInProgress(replace(task, clock=clock), built, Found(None))
    clock.epoch_started(0, 0, 60)
    matrix = torch.rand(2048, 2048, device=device)
    for _ in range(60):
        clock.enter(Phase.FORWARD)
        for _ in range(10):
            matrix = matrix @ matrix.softmax(dim=1)
        clock.enter(Phase.WAITING)
        clock.step_finished()
    clock.epoch_finished()
    clock.close()
    took = time.perf_counter() - began
    (piece,) = clock.pieces
    assert sum(piece.seconds.values()) + sum(clock.outside.seconds.values()) == pytest.approx(took, rel=0.05)
    assert piece.seconds["forward"] > 0.5 * piece.training_seconds
    assert piece.idle is not None
    assert 0 <= piece.idle < 0.5
    assert piece.host_waiting is not None
    assert run.training.clock is clock
