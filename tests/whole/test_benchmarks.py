"""The benchmarks still run, and their arithmetic is right. What they measure is no business of a test."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from harness.catalog import Catalog
from tests.support import ROOT, read_result

BENCHMARKS = ROOT / "benchmarks"
# From Python 3.12 on a fork beside threads is warned of; torch's DataLoader forks on Linux.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Import a benchmark, as running it would, with its results in a folder of the test's own."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def load(name: str) -> ModuleType:
        measure = importlib.import_module("measure")
        monkeypatch.setattr(measure, "RESULTS", tmp_path / "results")
        return importlib.import_module(name)

    yield load
    for name in {path.stem for path in BENCHMARKS.glob("*.py")}:
        sys.modules.pop(name, None)


def _written(tmp_path: Path, name: str) -> Any:
    page = (tmp_path / "results" / f"{name}-quick.md").read_text(encoding="utf-8")
    assert page.startswith("# ")
    return json.loads((tmp_path / "results" / f"{name}-quick.json").read_text(encoding="utf-8"))["readings"]


def test_the_data_path_is_measured_part_by_part(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: None
) -> None:
    data_path = script("data_path")
    monkeypatch.setitem(data_path.SHAPES, "cifar10", (16, 32, 192, 100))
    threads, cores = torch.get_num_threads(), getattr(os, "sched_getaffinity", lambda _: None)(0)
    assert data_path.main(["--quick", "--shapes", "cifar10", "--without-kornia"]) in (0, 1)
    assert torch.get_num_threads() == threads
    assert getattr(os, "sched_getaffinity", lambda _: None)(0) == cores
    found = _written(tmp_path, "data_path")["shapes"]["cifar10"]
    assert set(found["images_per_second"]) == set(data_path.NOTES) - {"PIL, DataLoader, JPEG", "kornia, batched"}
    assert all(value > 0 for values in found["images_per_second"].values() for value in values)
    parts = found["microseconds_per_image"]
    for name in ("gather from the store, shuffle, layout", "horizontal_flip", "color_jitter", "upsample", "cutmix"):
        assert min(parts[name]) > 0, name


def test_the_data_path_says_how_to_get_kornia(
    script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data_path = script("data_path")
    monkeypatch.setattr(data_path, "find_spec", lambda name: None)
    assert data_path.main(["--quick"]) == 2
    assert "xscore-harness[bench]" in capsys.readouterr().err


def test_kornia_does_the_same_chain(script: Any, tmp_path: Path) -> None:
    pytest.importorskip("kornia")
    rivals = script("rivals")
    dataset = rivals.invent(tmp_path / "data", side=16, images=40)
    recipe = rivals.Recipe.of(rivals.frozen_protocol(32), dataset)
    batches = rivals.gathered(dataset, 8, torch.device("cpu"), rivals.kornia_transform(recipe, 16), floats=True)
    assert next(batches)[0].shape == (8, 3, 32, 32)


@pytest.mark.parametrize("first", [True, False])
def test_rivals_bring_one_picture_to_the_input(script: Any, tmp_path: Path, first: bool) -> None:
    rivals = script("rivals")
    dataset = rivals.invent(tmp_path / "data", side=16, images=40)
    recipe = rivals.Recipe.of(rivals.frozen_protocol(32), dataset)
    assert recipe.jitter == {"brightness": 0.2, "contrast": 0.3, "saturation": 0.3, "hue": 0.2}
    for form, transform in (
        ("pil", rivals.pil_transform(recipe, 16, resize_first=first)),
        ("jpeg", rivals.pil_transform(recipe, 16, resize_first=first)),
        ("tensor", rivals.v2_transform(recipe, 16)),
    ):
        image, label = rivals.Stored(dataset, transform, form=form)[13]
        assert (image.shape, image.dtype, label) == ((3, 32, 32), torch.float32, 3)


def test_the_users_cutmix_keeps_what_it_says(script: Any) -> None:
    rivals = script("rivals")
    np.random.seed(0)
    torch.manual_seed(0)
    before = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 3, 20, 20)
    for _ in range(20):
        mixed, partner, kept = rivals.cutmix(before.clone(), 1.0)
        moved = partner != torch.arange(8)
        if moved.any():
            assert (mixed == before).float().mean(dim=(1, 2, 3))[moved].tolist() == pytest.approx(
                [kept] * int(moved.sum())
            )


def test_training_is_measured_for_every_loop(script: Any, tmp_path: Path, tiny: None) -> None:
    training = script("training")
    threads = torch.get_num_threads()
    assert training.main(["--quick", "--models", "tiny", "--sizes", "32", "--threads", "1"]) in (0, 1)
    assert torch.get_num_threads() == threads
    found = _written(tmp_path, "training")["32"]["tiny"]
    assert set(found["images_per_second"]) == set(training.LOOPS)
    assert all(value > 0 for values in found["images_per_second"].values() for value in values)
    assert all(0 < share < 1 for share in found["data_share"])
    assert not multiprocessing.active_children()


def test_missed_aims_are_told(script: Any) -> None:
    training = script("training")
    good = {"plain": [1.5, 1.6], "timm": [0.5, 0.5], "expert": [0.98, 0.99]}
    assert training.missed_aims(good, {"a": 0.04, "b": 0.05}, ["a", "b"], 0.05) == []
    slow = {"plain": [0.9, 2.0], "expert": [0.9, 1.0]}
    told = training.missed_aims(slow, {"a": 0.06}, ["a", "b"], 0.05)
    assert len(told) == 4
    assert told[1].startswith("a at 0.900")
    assert training.steps_in(1.0, 0.1) == 10
    assert training.steps_in(1.0, 0.9) == 2
    assert training.steps_in(1.0, 3.0) == 1


def test_layouts_are_measured(script: Any, tmp_path: Path, tiny: None) -> None:
    layouts = script("layouts")
    assert layouts.main(["--quick", "--models", "tiny", "--sizes", "16", "--threads", "1"]) in (0, 1)
    case = _written(tmp_path, "layouts")["images_per_second"]["tiny"]["16 px, 1 thread"]
    assert set(case) == {"channels_last", "contiguous"}


def test_a_wrongly_declared_layout_is_told(script: Any, tiny_catalog: Catalog) -> None:
    layouts = script("layouts")
    speeds = {"64 px": {"channels_last": [10.0, 10.0], "contiguous": [20.0, 20.0]}}
    assert layouts.page({"tiny": speeds}, tiny_catalog)[1] == ["tiny"]


def test_the_time_of_a_suite_is_divided_without_a_rest(script: Any) -> None:
    suite = script("suite")
    times = suite.JobTimes
    jobs = [
        times(began=2.0, trained=7.0, predicted=8.0, ended=8.5, steps=4.0),
        times(began=3.0, trained=4.0, predicted=4.5, ended=5.0, steps=0.5),
        times(began=5.5, trained=9.0, predicted=9.5, ended=10.0, steps=3.0),
    ]
    parts = suite.divide(jobs, count=2, began=0.0, ended=11.0)
    assert sum(parts.values()) == pytest.approx(22.0)
    assert parts["start"] == 5.0
    assert parts["between"] == pytest.approx(0.5)
    assert parts["steps"] == 7.5
    assert parts["idle"] == pytest.approx(1.5)
    assert parts["end"] == 2.0
    with pytest.raises(ValueError, match="More than 1"):
        suite.divide(jobs, count=1, began=0.0, ended=11.0)


def test_the_times_of_finished_jobs_are_in_order(script: Any, finished_runs: Path) -> None:
    suite = script("suite")
    jobs = [suite.read_job(path.parent) for path in finished_runs.rglob("result.json")]
    assert len(jobs) == 3
    for job in jobs:
        assert job.began <= job.trained <= job.predicted <= job.ended
        assert 0 < job.steps <= job.trained - job.began + 0.05


def test_two_checkouts_are_compared_by_ratios(script: Any) -> None:
    old_new = script("old_new")
    commits = {"old": "abcdef0", "new": "1234567"}
    fine = {"images_per_second": {"old": [10.0, 20.0, 10.0], "new": [9.8, 19.8, 20.0]}, "commits": commits}
    slow = {"images_per_second": {"old": [10.0, 10.0], "new": [9.6, 9.6]}, "commits": commits}
    text, missed = old_new.page({"training": {"tiny at 32 px": fine}, "data path": {"cifar10": slow}})
    assert missed == ["data path"]
    assert "Old: commit abcdef0. New: commit 1234567." in text
    assert "| tiny at 32 px | 10.0 | 19.8 | 0.990 |" in text
    assert "| cifar10 | 10.0 | 9.6 | 0.960 |" in text


def test_a_folder_without_benchmarks_is_no_old_checkout(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        script("old_new").main([str(tmp_path)])
    assert stopped.value.code == 2
    assert f"{tmp_path} has no benchmarks/real_run.py" in capsys.readouterr().err


@pytest.mark.slow
def test_this_checkout_is_compared_with_itself(script: Any, tmp_path: Path) -> None:
    given = ["--quick", "--models", "shufflenet", "--sizes", "32", "--shapes", "stored64", "--threads", "1"]
    assert script("old_new").main([str(ROOT), *given]) in (0, 1)
    found = _written(tmp_path, "old_new")
    for case in (found["training"]["shufflenet at 32 px"], found["data path"]["stored64"]):
        assert all(value > 0 for side in ("old", "new") for value in case["images_per_second"][side])


def test_limits_are_held_against_the_readings(script: Any, tmp_path: Path) -> None:
    limits = script("limits")
    short, long = limits.Reading("short", 1.0, 2.0, "s"), limits.Reading("long", 2.5, 2.0, "s")
    assert limits.report([short], "limits") == 0
    assert limits.report([short, long], "limits") == 1
    assert "Beyond the limit: long." in (tmp_path / "results" / "limits.md").read_text()


# ----------------------------------------------------------------------------------------------------- the same bits

CELLS = [(model, dataset) for model in ("first", "second") for dataset in ("pocket_digits", "pocket_textures")]
STUB = """
import json, os, sys
from pathlib import Path
import numpy as np

value = lambda option: sys.argv[sys.argv.index(option) + 1]
asked = {"arguments": sys.argv[1:], "empty": not any(Path().iterdir()), "data": os.environ["HARNESS_DATA"]}
Path(__file__).with_name("asked.json").write_text(json.dumps(asked))
for model in ("first", "second"):
    for dataset in [word for option, word in zip(sys.argv, sys.argv[1:]) if option == "--dataset"]:
        cell = Path(value("--runs"), "pocket-1.0", model, dataset, "seed-0")
        cell.mkdir(parents=True)
        np.savez(cell / "predictions.npz", logits=np.arange(4.0).reshape(2, 2), labels=np.arange(2))
        environment = {"harness": {"commit": COMMIT}, "versions": {"torch": "2.0"}, "threads": 1}
        result = {"weights_sha256": model * 9, "metrics": {"top1": 50.0}, "environment": environment}
        (cell / "result.json").write_text(json.dumps(result))
sys.exit(CODE)
"""


def checkout(place: Path, *, commit: str = "abcdef0", code: int = 0) -> Path:
    """A checkout whose ``harness run`` only writes results."""
    (place / "harness").mkdir(parents=True)
    (place / "harness" / "__init__.py").write_text("")
    (place / "harness" / "__main__.py").write_text(f"COMMIT, CODE = {commit!r}, {code}\n{STUB}")
    return place


@pytest.fixture
def trained(script: Any, tmp_path: Path) -> Path:
    """A runs folder that a checkout filled."""
    same_bits = script("same_bits")
    assert same_bits.train(checkout(tmp_path / "filled by"), tmp_path / "filled", (), same_bits.DATASETS) == 0
    return tmp_path / "filled" / "runs"


def test_two_checkouts_with_the_same_bits(script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    same_bits = script("same_bits")
    old, new = checkout(tmp_path / "old tree"), checkout(tmp_path / "new tree", commit="1234567")
    assert same_bits.main([str(old), str(new), "--write"]) == 0
    page = (tmp_path / "results" / "same_bits.md").read_text(encoding="utf-8")
    assert page in capsys.readouterr().out
    assert "Old: commit abcdef0. New: commit 1234567." in page
    assert "| second | pocket_textures | `secondsecondseco` | `secondsecondseco` | yes |" in page
    assert "4 of 4 jobs have equal bits." in page
    found = json.loads((tmp_path / "results" / "same_bits.json").read_text(encoding="utf-8"))["readings"]
    assert found["commits"] == {"old": ["abcdef0"], "new": ["1234567"]}
    assert [(job["model"], job["dataset"], job["equal"]) for job in found["jobs"]] == [(*cell, "yes") for cell in CELLS]
    assert all(job["old"] == job["new"] for job in found["jobs"])
    asked = [json.loads((tree / "harness" / "asked.json").read_text()) for tree in (old, new)]
    for one in asked:
        assert {"run", "--all", "--in-process"} <= set(one["arguments"])
        assert one["empty"], "a checkout trained in a folder that holds modules"
    assert asked[0]["data"] != asked[1]["data"]


def _other_weights(cell: Path) -> None:
    result = read_result(cell)
    (cell / "result.json").write_text(json.dumps(result | {"weights_sha256": "other"}))


def _other_accuracy(cell: Path) -> None:
    result = read_result(cell)
    (cell / "result.json").write_text(json.dumps(result | {"metrics": {"top1": 50.0 + 1e-13}}))


def _other_predictions(cell: Path) -> None:
    logits = np.arange(4.0).reshape(2, 2)
    logits[1, 1] = np.nextafter(logits[1, 1], 4.0)
    np.savez(cell / "predictions.npz", logits=logits, labels=np.arange(2))


@pytest.mark.parametrize(
    ("plant", "verdict"),
    [
        (_other_weights, "no: weights"),
        (_other_accuracy, "no: top1"),
        (_other_predictions, "no: predictions"),
        (lambda cell: (cell / "result.json").unlink(), "no: missing from new"),
    ],
)
def test_a_planted_difference_of_bits_is_found(
    plant: Any, verdict: str, script: Any, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same_bits = script("same_bits")
    shutil.copytree(trained, tmp_path / "new")
    assert same_bits.main([str(trained), str(tmp_path / "new")]) == 0
    assert "4 of 4 jobs have equal bits." in capsys.readouterr().out
    plant(tmp_path / "new" / "pocket-1.0" / "second" / "pocket_digits" / "seed-0")
    assert same_bits.main([str(trained), str(tmp_path / "new")]) == 1
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if "| no" in line] == [
        line for line in out.splitlines() if line.startswith("| second | pocket_digits |") and f"| {verdict} |" in line
    ]
    assert out.count("| yes |") == 3
    assert "3 of 4 jobs have equal bits." in out
    assert not (tmp_path / "results").exists()


def test_bits_of_an_incomplete_side_are_not_the_same(
    script: Any, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same_bits = script("same_bits")
    assert same_bits.main([str(trained), str(checkout(tmp_path / "failing", code=1))]) == 1
    assert "'harness run' of failing ended with exit code 1, expected 0." in capsys.readouterr().out
    assert same_bits.main([str(trained), str(trained), "--models", "first", "third"]) == 1
    assert capsys.readouterr().out.count("| no: missing from old and new |") == 2
    with pytest.raises(SystemExit) as stopped:
        same_bits.main([str(trained), str(tmp_path)])
    assert stopped.value.code == 2
    assert f"{tmp_path} is neither a checkout" in capsys.readouterr().err


def test_a_kept_checkout_is_not_trained_again(script: Any, trained: Path, tmp_path: Path) -> None:
    same_bits = script("same_bits")
    tree, kept = checkout(tmp_path / "tree"), tmp_path / "kept"
    assert same_bits.main([str(tree), str(trained), "--keep", str(kept)]) == 0
    assert same_bits.main([str(kept / "old" / "runs"), str(trained)]) == 0
    with pytest.raises(SystemExit):
        same_bits.main([str(tree), str(trained), "--keep", str(kept)])


@pytest.mark.slow
def test_this_checkout_has_its_own_bits(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    same_bits = script("same_bits")
    tree = str(BENCHMARKS.parent)
    assert same_bits.main([tree, tree, "--models", "shufflenet", "--datasets", "pocket_digits"]) == 0
    assert "1 of 1 jobs have equal bits." in capsys.readouterr().out
