"""The five examples, installed by a real pip into an environment with the wheel: listed, examined and trained with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.cli.plugin import KINDS
from tests.support import ROOT

pytestmark = pytest.mark.slow

NAMES = ("mynet", "shapes", "shift", "kappa", "jsonl")
FOLDERS = [ROOT / "examples" / f"xscore-plugin-{name}" for name in NAMES]

# A benchmark of one cell in which all five take part.
REGISTRY = """
schema = 1
default_suite = "five"

[budget]
parameters = 2_500_000
tolerance = 0.10
classes = [3, 100]
macs_resolution = 32
macs_classes = 100

[protocols."five-1.0"]
title = "Two epochs at 32 pixels"
input_size = 32
batch_size = 24
epochs = 2
warmup_epochs = 1
lr_max = 1e-3
lr_min = 1e-5
optimizer = "adam"
betas = [0.9, 0.999]
eps = 1e-8
weight_decay = 0.0
label_smoothing = 0.05
precision = "fp32"
metric = "top1"

[[protocols."five-1.0".augmentations]]
name = "shift"
at = "stored"
strengths = { share = 0.125 }

[suites.five]
title = "One set"
protocol = "five-1.0"
datasets = ["shapes"]
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel and the five; torch and the like are lent by this one."""
    folder = tmp_path_factory.mktemp("an environment")
    wheel = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*wheel, str(ROOT)], check=True)
    (built,) = folder.glob("xscore_harness-*.whl")
    # Without pip of its own: the setuptools that comes along would stand before the lent one, and torch wants a newer.
    venv.create(folder / "env")
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "env")}))
    lent = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site / "zz_lent.pth").write_text("\n".join(lent) + "\n")
    pip_install(folder / "env", built, *FOLDERS)
    return folder / "env"


def pip_install(environment: Path, *what: Path) -> None:
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--disable-pip-version-check"]
    options = ["--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, *options, *(str(path) for path in what)], check=True)


def harness(environment: Path, place: Path, *arguments: str) -> Any:
    variables = os.environ | {
        "HARNESS_DATA": str(place / "data"),
        "XDG_CACHE_HOME": str(place / "cache"),
    }
    done = subprocess.run(
        [str(environment / "bin" / "harness"), *arguments, "--format", "json"],
        cwd=place, env=variables, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_all_five_are_listed_and_well(environment: Path, tmp_path: Path) -> None:
    gives = {row["plugin"]: (row["state"], row["gives"]) for row in harness(environment, tmp_path, "plugin", "list")}
    offers = (["model mynet"], ["data set shapes"], ["augmentation shift"], ["metric kappa"], ["tracker jsonl"])
    assert {name: gives[name] for name in NAMES} == {
        name: ("ok", given) for name, given in zip(NAMES, offers, strict=True)
    }


def test_their_own_tests_pass(environment: Path, tmp_path: Path) -> None:
    """By the installed pytest plugin, on the installed modules: their own source folders are not on the path."""
    assert run_tests(environment, tmp_path, FOLDERS) > 130


def run_tests(environment: Path, place: Path, folders: Sequence[Path]) -> int:
    """Run the tests of installed distributions and return how many passed, which is all of them."""
    done = subprocess.run(
        [environment / "bin" / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "pythonpath=",
         "--import-mode=importlib", "-W", "error::UserWarning", *(str(folder / "tests") for folder in folders)],
        cwd=place, capture_output=True, text=True,
        env=os.environ | {"HARNESS_DATA": str(place / "data"), "XDG_CACHE_HOME": str(place / "cache")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return int(done.stdout.split(" passed")[0].split()[-1])


def test_a_run_in_which_all_five_take_part(environment: Path, tmp_path: Path) -> None:
    (tmp_path / "five.toml").write_text(REGISTRY)
    (row,) = harness(environment, tmp_path, "run", "mynet", "--registry", "five.toml", "--track", "jsonl")
    assert (row["state"], row["dataset"]) == ("done", "shapes")
    (file,) = (tmp_path / "runs").rglob("result.json")
    result = json.loads(file.read_text())
    assert -1 <= result["metrics"]["kappa"] <= 1
    assert result["notes"] == []
    (lines,) = (tmp_path / "runs" / "tracking" / "jsonl").rglob("*.jsonl")
    events = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [event["event"] for event in events] == ["started", "epoch", "epoch", "finished"]
    assert events[-1]["weights_sha256"] == result["weights_sha256"]


def test_what_the_wheel_scaffolds_appears_and_its_tests_pass(environment: Path, tmp_path: Path) -> None:
    """As a new author would: nothing but the wheel, a new plugin of each kind, pip install, check."""
    for kind in KINDS:
        program = [str(environment / "bin" / "harness"), "plugin", "new", f"new_{kind}", "--kind", kind]
        subprocess.run(program, cwd=tmp_path, check=True, capture_output=True)
    folders = [tmp_path / f"xscore-plugin-new-{kind}" for kind in KINDS]
    pip_install(environment, *folders)
    names = {f"new_{kind}" for kind in KINDS}
    found = {row["plugin"]: row for row in harness(environment, tmp_path, "plugin", "list") if row["plugin"] in names}
    assert {name: row["state"] for name, row in found.items()} == dict.fromkeys(names, "ok")
    assert all(row["gives"] for row in found.values())
    (model,) = [row for row in harness(environment, tmp_path, "list") if row["name"] == "new_model"]
    assert (model["distribution"], model["version"]) == ("xscore-plugin-new-model", "0.1.0")
    (tmp_path / "five.toml").write_text(REGISTRY)
    harness(environment, tmp_path, "run", "mynet", "--registry", "five.toml", "--track", "new_tracker")
    (table,) = (tmp_path / "runs" / "tracking" / "new_tracker").rglob("*.csv")
    assert [line.split(",")[0] for line in table.read_text().splitlines()[:3]] == ["epoch", "0", "1"]
    rows = harness(environment, tmp_path, "plugin", "check", "xscore-plugin-new-metric")
    assert {row["verdict"] for row in rows} == {"ok", "skipped"}
    assert run_tests(environment, tmp_path, folders) > 130
