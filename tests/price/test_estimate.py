"""Estimates of a plan: from finished runs, from timed steps and by scaling; and their place in the commands."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from harness.api import Job
from harness.catalog import Catalog, discover
from harness.data.ingest import require_prepared
from harness.machine import Device, find_device
from harness.plan import Plan, Selection, build_plan
from harness.price.estimate import Estimator, Setting
from harness.price.price import Price, longest_first
from harness.price.timings import Timing
from harness.price.trial import THOROUGH, Effort, Trial, invented_dataset, time_trial, time_trials
from harness.registry import Benchmark
from harness.results.store import RunsFolder
from harness.workspace import Workspace
from harness.workspace.survey import survey_plan
from tests.support import TINY_PLUGIN, TINY_REGISTRY, Command, cell_folder, read_result

HERE = Setting(Device("cpu", "cpu", "a chip"), 1, 1)
TIMING = Timing(build=0.5, setup=1.0, step=0.1, image=0.01, checkpoint=0.2)
BRIEF = Effort(warm=1, steps=2, seconds=0.0, images=8)


def jobs(*names: str) -> list[Job]:
    return [Job("tiny-1.0", name, "dots", 0) for name in names]


# ------------------------------------------------------------------------------------------------------------- speed


def trial(model: str, folder: Path, benchmark: Benchmark, catalog: Catalog, effort: Effort = BRIEF) -> Trial:
    data = require_prepared(catalog.dataset("dots"), folder / "data", 12)
    return Trial(benchmark.protocol("tiny-1.0"), model, data, "cpu", 1, effort, folder)


def test_timing_of_a_real_model(tmp_path: Path, tiny_benchmark: Benchmark, tiny_catalog: Catalog) -> None:
    threads = torch.get_num_threads()
    timing = time_trial(trial("tiny", tmp_path, tiny_benchmark, tiny_catalog, THOROUGH), tiny_catalog)
    assert all(0 < value < 5 for value in (timing.build, timing.step, timing.image, timing.checkpoint))
    assert timing.setup >= 0
    assert timing.image < timing.step
    assert torch.get_num_threads() == threads
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".timing")] == []


def test_timing_a_run_of_one_step_never_ends_it(
    tmp_path: Path, tiny_benchmark: Benchmark, tiny_catalog: Catalog
) -> None:
    import msgspec

    protocol = msgspec.structs.replace(tiny_benchmark.protocol("tiny-1.0"), epochs=1, warmup_epochs=0)
    data = invented_dataset(tmp_path / "one", name="dots", classes=4, side=10, images=protocol.batch_size)
    # The invented set has no test split: opening it would raise.
    timing = time_trial(Trial(protocol, "tiny", data, "cpu", 1, THOROUGH, tmp_path), tiny_catalog)
    assert timing.step > 0


def test_model_that_cannot_be_trained_costs_the_others_nothing(
    tmp_path: Path, tiny_benchmark: Benchmark, tiny_catalog: Catalog
) -> None:
    trials = [trial(name, tmp_path, tiny_benchmark, tiny_catalog) for name in ("misshapen", "tiny")]
    (_, bad), (_, good) = time_trials(trials, tiny_catalog, together=1)
    assert isinstance(good, Timing)
    assert str(bad).startswith("misshapen could not be timed: TrainingError: The model returns logits of shape (8, 5)")


def test_trials_in_several_processes_fill_them_all(
    tmp_path: Path, tiny_benchmark: Benchmark, tiny_catalog: Catalog
) -> None:
    one = trial("tiny", tmp_path, tiny_benchmark, tiny_catalog)
    found = list(time_trials([one], tiny_catalog, together=2))
    assert [index for index, _ in found] == [0, 0]
    assert all(isinstance(timing, Timing) for _, timing in found), found


# --------------------------------------------------------------------------------------------------------- appraisal


def setting() -> Setting:
    return Setting(find_device("cpu"), 1, torch.get_num_threads())


def tiny_plan(benchmark: Benchmark, catalog: Catalog, *models: str, seeds: int = 1) -> Plan:
    return build_plan(benchmark, catalog, Selection(models, suite="tiny", seeds=seeds))


def estimate(
    benchmark: Benchmark, catalog: Catalog, plan: Plan, where: Setting, *, said: list[str] | None = None
) -> Price:
    workspace = Workspace(benchmark, catalog, RunsFolder(Path("runs")), Path("data"))
    cells = survey_plan(workspace, plan).cells
    estimator = Estimator(workspace, where)
    if said is not None:
        estimator.time_missing(plan, cells, said.append)
    return estimator.price(plan, cells)


@pytest.fixture
def quick_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the one measurement that starts a process."""
    from harness.price import trial

    monkeypatch.setattr(trial, "import_seconds", lambda: 2.0)


def test_what_was_timed_once_is_remembered(
    tiny_benchmark: Benchmark, tiny_catalog: Catalog, tiny_harness: Command, quick_start: None
) -> None:
    plan = tiny_plan(tiny_benchmark, tiny_catalog, "tiny", "unbuildable")
    first: list[str] = []
    price = estimate(tiny_benchmark, tiny_catalog, plan, setting(), said=first)
    assert [line for line in first if line.startswith("Timing tiny on")]
    assert {one.job.model: one.basis for one in price.jobs} == {"tiny": "timed", "unbuildable": None}
    assert any("unbuildable" in note for note in price.notes)
    again: list[str] = []
    assert estimate(tiny_benchmark, tiny_catalog, plan, setting(), said=again).seconds == price.seconds
    assert again == []
    # Another number of threads is another machine.
    other = replace(setting(), threads=setting().threads + 1)
    assert {one.basis for one in estimate(tiny_benchmark, tiny_catalog, plan, other).jobs} == {None}


def test_single_job_has_the_device_to_itself(
    tiny_benchmark: Benchmark, tiny_catalog: Catalog, tiny_harness: Command, quick_start: None
) -> None:
    selection = Selection(("tiny",), suite="tiny", datasets=("dots",))
    plan = build_plan(tiny_benchmark, tiny_catalog, selection)
    estimate(tiny_benchmark, tiny_catalog, plan, setting(), said=[])
    two = replace(setting(), jobs=2)
    assert [one.basis for one in estimate(tiny_benchmark, tiny_catalog, plan, two).jobs] == ["timed"]
    seeds = build_plan(tiny_benchmark, tiny_catalog, replace(selection, seeds=2))
    shared = estimate(tiny_benchmark, tiny_catalog, seeds, two)
    assert [one.basis for one in shared.jobs] == ["timed", "timed"]
    assert "Timed one job at a time, not 2 at once" in " ".join(shared.notes)


def test_more_jobs_than_fit_are_timed_one_at_a_time(
    tiny_benchmark: Benchmark,
    tiny_catalog: Catalog,
    tiny_harness: Command,
    quick_start: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    selection = Selection(("tiny",), suite="tiny", datasets=("dots",), seeds=4)
    plan = build_plan(tiny_benchmark, tiny_catalog, selection)
    monkeypatch.setattr("harness.price.estimate.usable_cores", lambda: 4)
    asked: list[int] = []

    def time_nothing(trials: object, catalog: object, *, together: int) -> list[tuple[int, Timing]]:
        asked.append(together)
        return []

    monkeypatch.setattr("harness.price.trial.time_trials", time_nothing)
    four = replace(setting(), jobs=4, threads=1)
    for free, threads, together in ((2**40, 1, 4), (2**32, 1, 1), (2**40, 2, 1), (None, 1, 4)):
        monkeypatch.setattr("harness.price.estimate.free_memory_bytes", lambda free=free: free)
        estimate(tiny_benchmark, tiny_catalog, plan, replace(four, threads=threads), said=[])
        assert asked.pop() == together


def test_a_job_beside_more_than_there_are_cores_for_is_as_much_slower(
    tiny_benchmark: Benchmark,
    tiny_catalog: Catalog,
    tiny_harness: Command,
    quick_start: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    selection = Selection(("tiny",), suite="tiny", datasets=("dots",), seeds=4)
    plan = build_plan(tiny_benchmark, tiny_catalog, selection)
    one = estimate(tiny_benchmark, tiny_catalog, plan, replace(setting(), threads=1), said=[])
    monkeypatch.setattr("harness.price.estimate.usable_cores", lambda: 2)
    four = estimate(tiny_benchmark, tiny_catalog, plan, replace(setting(), threads=1, jobs=4))
    assert four.jobs[0].seconds == pytest.approx(2 * (one.jobs[0].seconds or 0))
    assert "since so many do not fit into the memory and cores here; each of them is taken to be 2 times" in str(four)


def test_finished_runs_on_the_same_device_are_the_better_source(
    tiny_benchmark: Benchmark, tiny_catalog: Catalog, tiny_harness: Command
) -> None:
    tiny_harness("run", "tiny", "--data", "data")
    plan = tiny_plan(tiny_benchmark, tiny_catalog, "tiny", seeds=3)
    price = estimate(tiny_benchmark, tiny_catalog, plan, setting())
    assert len(price.jobs) == 4
    recorded = read_result(cell_folder())["seconds"]
    assert {one.seconds for one in price.jobs if one.job.dataset == "dots"} == {recorded}
    assert {one.basis for one in price.jobs} == {"runs"}
    elsewhere = replace(setting(), device=Device("cpu", "cpu", "another chip"))
    assert {one.basis for one in estimate(tiny_benchmark, tiny_catalog, plan, elsewhere).jobs} == {None}


def test_models_that_were_not_timed_are_scaled_and_that_is_said(
    tiny_benchmark: Benchmark, tiny_catalog: Catalog, tiny_harness: Command, quick_start: None
) -> None:
    estimate(tiny_benchmark, tiny_catalog, tiny_plan(tiny_benchmark, tiny_catalog, "tiny"), setting(), said=[])
    plan = tiny_plan(tiny_benchmark, tiny_catalog, "tiny", "big")
    price = estimate(tiny_benchmark, tiny_catalog, plan, setting())
    bases = {one.job.model: one.basis for one in price.jobs}
    assert bases == {"tiny": "timed", "big": "scaled"}
    assert "Scaled from other models by multiply-adds, which is rough: big." in price.notes
    seconds = {one.job.model: one.seconds for one in price.jobs}
    assert seconds["big"] is not None
    assert seconds["tiny"] is not None
    assert 0 < seconds["big"] < 10 * seconds["tiny"]


def test_a_model_timed_at_one_class_count_is_timed_for_all(
    tiny_benchmark: Benchmark, tiny_catalog: Catalog, tiny_harness: Command
) -> None:
    from harness.models import Architecture
    from harness.price.price import Workload, find_rates

    def case(model: str, classes: int) -> Workload:
        return Workload(model, f"of-{classes}", Architecture(f"{model}{classes}", 1), classes, 10, 64, 40, "")

    def macs_of(case: Workload) -> float:
        return {"a": 100.0, "b": 300.0}[case.model]

    cases = {("a", "x"): case("a", 4), ("a", "y"): case("a", 9), ("b", "x"): case("b", 4)}
    timed = {("a", "x"): TIMING, ("a", "y"): None, ("b", "x"): None}
    rates = find_rates(cases, timed, batch=8, macs_of=macs_of, nominal=False)
    assert rates.timing(cases["a", "y"]) == (TIMING, "timed")
    found = rates.timing(cases["b", "x"])
    assert found is not None
    assert found[1] == "scaled"
    assert found[0].step == pytest.approx(3 * TIMING.step)
    assert found[0].image == pytest.approx(TIMING.step / 8)  # three times the work, of which a forward pass is a third
    assert found[0].checkpoint == TIMING.checkpoint
    nothing = dict.fromkeys(timed)
    assert find_rates(cases, nothing, batch=8, macs_of=macs_of, nominal=False).timing(cases["b", "x"]) is None
    assert find_rates(cases, nothing, batch=8, macs_of=macs_of, nominal=True).timing(cases["b", "x"]) is not None


def test_jobs_are_ordered_without_any_timing(
    tiny_benchmark: Benchmark, tiny_catalog: Catalog, tiny_harness: Command
) -> None:
    plan = tiny_plan(tiny_benchmark, tiny_catalog, "tiny", "big")
    workspace = Workspace(tiny_benchmark, tiny_catalog, RunsFolder(Path("runs")), Path("data"))
    expected = Estimator(workspace, HERE).expected_seconds(plan, survey_plan(workspace, plan).cells)
    assert set(expected) == set(plan.jobs)
    assert [job.model for job in longest_first(plan.jobs, expected)] == ["big", "big", "tiny", "tiny"]


def test_half_way_jobs_cost_what_is_left(
    tiny_benchmark: Benchmark, tiny_catalog: Catalog, tiny_harness: Command
) -> None:
    tiny_harness("run", "tiny", "--seeds", "2", "--dataset", "dots", "--data", "data")
    cell = Path("runs/tiny-1.0/tiny/dots/seed-1")
    (cell / "result.json").unlink()
    lines = (cell / "history.jsonl").read_text().splitlines(keepends=True)
    (cell / "history.jsonl").write_text(lines[0])
    plan = build_plan(tiny_benchmark, tiny_catalog, Selection(("tiny",), suite="tiny", datasets=("dots",), seeds=2))
    (price,) = estimate(tiny_benchmark, tiny_catalog, plan, setting()).jobs
    assert price.seconds is not None
    assert price.left == pytest.approx(2 / 3)
    assert price.remaining == pytest.approx(price.seconds * 2 / 3)


def test_unprepared_data_sets_are_priced_by_what_they_declare(harness: Command) -> None:
    from harness.registry import load_benchmark

    benchmark, catalog = load_benchmark(), discover()
    plan = build_plan(benchmark, catalog, Selection(("starnet",), suite="xscore4"))
    price = estimate(benchmark, catalog, plan, HERE)
    assert price.unprepared == ("cifar10", "ham10000", "stanford_dogs", "indoor67")
    # 60,000 images of 32 x 32 and three sets at 224 x 224, at least, and what is downloaded for them.
    assert price.data_bytes > 3 * (60_000 * 32**2 + (8_512 + 20_580 + 6_700) * 224**2)
    assert {one.seconds for one in price.jobs} == {None}


# ------------------------------------------------------------------------------------------------------ command line


def test_settings_of_several_jobs(tiny_catalog: Catalog) -> None:
    from harness.cli.plan import setting_of
    from harness.errors import WrongUseError
    from harness.execute.resources import ResourceRequest

    assert setting_of(ResourceRequest(device="cpu", jobs="3", threads=2), tiny_catalog).jobs == 3
    one = setting_of(ResourceRequest(device="cpu"), tiny_catalog, watts=5.0)
    assert (one.jobs, one.threads, one.sharing, one.used_devices, one.watts) == (1, torch.get_num_threads(), 1, 1, 5.0)
    assert setting_of(ResourceRequest(device="cpu", jobs="auto"), tiny_catalog).jobs >= 1
    with pytest.raises(WrongUseError, match="--jobs is '0', expected a number from 1 on"):
        setting_of(ResourceRequest(device="cpu", jobs="0"), tiny_catalog)
    with pytest.raises(WrongUseError, match="--jobs-per-gpu does not apply"):
        setting_of(ResourceRequest(device="cpu", jobs_per_gpu=2), tiny_catalog)
    # Four jobs on two devices: two on each slow each other down, and both draw power.
    spread = Setting(Device("cuda:0", "cuda", "a GPU"), 4, 1, devices=2)
    assert (spread.sharing, spread.used_devices) == (2, 2)


def test_run_starts_the_longest_jobs_first(
    tiny_benchmark: Benchmark, tiny_catalog: Catalog, tiny_harness: Command, tmp_path: Path
) -> None:
    from harness.cli.plan import in_order
    from harness.execute.resources import ResourceRequest

    plan = tiny_plan(tiny_benchmark, tiny_catalog, "tiny", "big")
    workspace = Workspace(tiny_benchmark, tiny_catalog, RunsFolder(tmp_path / "runs"), tmp_path / "data")
    survey = survey_plan(workspace, plan)
    for asked in (ResourceRequest(device="cpu", jobs="2"), ResourceRequest(device="cpu")):
        order = in_order(workspace, plan, survey, plan.jobs, asked)
        assert [job.model for job in order] == ["big", "big", "tiny", "tiny"]


def test_plan_prices_and_says_so(tiny_harness: Command, quick_start: None) -> None:
    options = ("--device", "cpu", "--threads", str(torch.get_num_threads()), "--format", "json")
    ran = tiny_harness("plan", "tiny", "tiny2", *options)
    assert ran.code == 0
    assert list(ran.rows[0]) == [
        "model", "dataset", "seed", "state", "accuracy", "seconds", "fingerprint", "budget", "over_budget", "detail",
        "estimated_seconds", "estimated_from", "remaining_seconds",
    ]  # fmt: skip
    assert {row["estimated_from"] for row in ran.rows} == {"timed"}
    assert all(row["estimated_seconds"] > 0 for row in ran.rows)
    assert "Timing a few training steps on" in ran.err
    assert re.search(r"of work, the longest job .*; with --jobs 1 about \d+ s, which would end ", ran.err)
    assert re.search(r"Disk: up to \d+ MB for the runs; .* are free at runs\.", ran.err)
    assert re.search(r"Energy: about \S+ kWh, if the machine draws 65 W \(an assumption", ran.err)
    again = tiny_harness("plan", "tiny", "tiny2", "--watts", "100", *options)
    assert again.rows == ran.rows
    assert "Timing" not in again.err
    assert "draws 100 W (from --watts)" in again.err
    fresh = tiny_harness("plan", "tiny", "--fresh", *options)
    assert "Timing a few" in fresh.err
    table = tiny_harness("plan", "tiny", *options[:4])
    assert "timed" in table.out
    tiny_harness("run", "tiny", "tiny2", "--device", "cpu")
    done = tiny_harness("plan", "tiny", "tiny2", *options)
    assert {row["estimated_seconds"] for row in done.rows} == {None}
    assert "4 done, 0 to run" in done.err
    assert "Energy" not in done.err


def test_quick_plan_times_nothing_and_says_what_is_unknown(tiny_harness: Command) -> None:
    ran = tiny_harness("plan", "tiny", "--quick", "--device", "cpu", "--format", "json")
    assert ran.code == 0
    assert {row["estimated_seconds"] for row in ran.rows} == {None}
    assert "There is no estimate yet on" in ran.err


def test_remembered_price_needs_no_torch(tmp_path: Path, quick_start: None, tiny_harness: Command) -> None:
    script = (
        "import sys; from harness.cli import run_command; code = run_command(sys.argv[1:]); "
        "print(code, sorted({'torch', 'timm', 'fvcore'} & set(sys.modules)))"
    )
    arguments = ["plan", "tiny", "--device", "cpu", "--threads", "1", "--registry", str(TINY_REGISTRY)]
    tiny_harness(*arguments[:-2])
    ran = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(TINY_PLUGIN)!r}); {script}", *arguments],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ran.stdout.splitlines()[-1] == "0 []"
    assert "of work, the longest job" in ran.stderr
