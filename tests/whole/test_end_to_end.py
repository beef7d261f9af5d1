"""The product as its users get it: the whole demo, the wheel outside the source tree, and a third party's plugin."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import sysconfig
import venv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT

pytestmark = pytest.mark.slow

DATASETS = ("pocket_digits", "pocket_fashion", "pocket_textures", "pocket_earth")


@dataclass(frozen=True)
class Place:
    """A folder with results and prepared data, and the environment variables that lead there."""

    folder: Path

    def harness(self, *arguments: str, program: Sequence[str] = (sys.executable, "-m", "harness")) -> Any:
        environment = os.environ | {
            "HARNESS_DATA": str(self.folder / "data"),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
        }
        ran = subprocess.run(
            [*program, *arguments, "--format", "json"],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout), ran.stderr


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """What ``make demo`` does: all 44 jobs, in a folder with spaces in its name."""
    place = Place(tmp_path_factory.mktemp("a folder with spaces"))
    rows, _ = place.harness("run", "--all", "--suite", "pocket", "--jobs", "auto")
    assert Counter(row["state"] for row in rows) == {"done": 44}
    return place


def test_at_least_nine_models_leave_chance_on_every_data_set(demo: Place) -> None:
    """Clearly: more than four standard errors above the rate of always guessing the most frequent class."""
    rows, _ = demo.harness("status", "--suite", "pocket")
    clear: Counter[str] = Counter()
    for dataset in DATASETS:
        manifest = json.loads(next((demo.folder / "data" / dataset).glob("*/manifest.json")).read_text())
        counts = manifest["class_counts"]["test"]
        guess = max(counts) / sum(counts)
        bound = 100 * (guess + 4 * math.sqrt(guess * (1 - guess) / sum(counts)))
        clear[dataset] = sum(row["accuracy"] > bound for row in rows if row["dataset"] == dataset)
    assert min(clear.values()) >= 9, clear


def test_second_run_trains_nothing(demo: Place) -> None:
    rows, err = demo.harness("run", "--all", "--suite", "pocket")
    assert Counter(row["state"] for row in rows) == {"done": 44}
    assert "0 carried out by this command" in err


def test_leaderboard_of_the_demo(demo: Place) -> None:
    rows, err = demo.harness("leaderboard", "--suite", "pocket")
    assert len(rows) == 11
    assert [row["rank"] for row in rows] == sorted(row["rank"] for row in rows)
    assert all(set(row["accuracy"]) == set(DATASETS) for row in rows)
    for dataset in DATASETS:
        values = [row["normalized"][dataset] for row in rows]
        assert (min(values), max(values)) == (0, 1)
    assert "mobilevit was trained with lr_max 0.0001" in err


def test_same_job_in_another_process_gives_the_same_weights(demo: Place, tmp_path: Path) -> None:
    other = Place(tmp_path)
    # With --jobs auto every job has one thread, on however many cores: the numbers do not depend on the machine's size.
    other.harness("run", "ghostnet", "--suite", "pocket", "--dataset", "pocket_fashion", "--threads", "1")
    cell = "runs/pocket-1.0/ghostnet/pocket_fashion/seed-0/result.json"
    first, second = (json.loads((place.folder / cell).read_text()) for place in (demo, other))
    assert first["weights_sha256"] == second["weights_sha256"]
    assert first["metrics"] == second["metrics"]


@pytest.fixture(scope="session")
def throw_away(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel in it; torch and the like are lent by this one, to spare their download."""
    folder = tmp_path_factory.mktemp("env")
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*pip, str(ROOT)], check=True)
    (wheel,) = folder.glob("xscore_harness-*.whl")
    # Without pip of its own: the setuptools that comes along would stand before the lent one, and torch wants a newer.
    venv.create(folder / "env")
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "env")}))
    (site / "zz_lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip_install(folder / "env", str(wheel))
    return folder / "env"


def pip_install(environment: Path, what: str) -> None:
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python"), "install"]
    options = ["--quiet", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run([*pip, *options, what], check=True)


def test_wheel_works_outside_the_source_tree(throw_away: Path, tmp_path: Path) -> None:
    place, program = Place(tmp_path), [str(throw_away / "bin" / "harness")]
    where = subprocess.check_output(
        [throw_away / "bin" / "python", "-c", "from harness.registry import shipped_registry as s; print(s())"],
        cwd=tmp_path,
        text=True,
    )
    assert Path(where.strip()).is_relative_to(throw_away)
    models, _ = place.harness("list", "models", program=program)
    assert len(models) == 11
    rows, _ = place.harness("run", "convnext", "--suite", "pocket", program=program)
    assert {row["state"] for row in rows} == {"done"}


def test_third_party_plugin_by_a_real_pip_install(demo: Place, throw_away: Path) -> None:
    place, program = demo, [str(throw_away / "bin" / "harness")]
    pip_install(throw_away, str(ROOT / "examples" / "xscore-plugin-mynet"))
    models, _ = place.harness("list", "models", program=program)
    (mynet,) = [row for row in models if row["name"] == "mynet"]
    assert (mynet["distribution"], mynet["version"]) == ("xscore-plugin-mynet", "0.1.0")
    (report,), _ = place.harness("check-budget", "mynet", program=program)
    assert report["verdict"] == "within"
    before = {path: path.stat().st_mtime_ns for path in (place.folder / "runs").rglob("result.json")}
    assert len(before) == 44
    rows, err = place.harness("run", "--all", "--suite", "pocket", program=program)
    assert Counter(row["state"] for row in rows) == {"done": 48}
    assert "4 carried out by this command" in err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    board, _ = place.harness("leaderboard", "--suite", "pocket", program=program)
    assert len(board) == 12


def test_budget_of_all_eleven() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "harness", "check-budget", "--all", "--format", "json"],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = json.loads(ran.stdout)
    assert [row["verdict"] for row in rows] == ["within"] * 11
    assert all(set(row["parameters"]) == {"7", "10", "67", "100", "120"} for row in rows)
