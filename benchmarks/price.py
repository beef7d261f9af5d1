"""How true the prices of 'harness plan' are: pocket jobs are priced, then run, with --jobs 1 and with --jobs 2.

    python benchmarks/price.py                          # 3 models on the 4 data sets of the suite, twice: a few minutes
    python benchmarks/price.py --jobs 1 --models starnet --datasets pocket_digits

Prints what each job was expected to take, what it took and the ratio of the two, and the same of the whole run with its
start-up. Exits with 1 if a whole run is off by more than 25 %. Wants a quiet machine: nothing else may use the cores.
Everything is priced from timed steps alone, in folders of its own; no cache and no result of the user's is touched.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ALLOWED = 0.25
MODELS = ("mobilenet", "starnet", "convmixer")
DATASETS = ("pocket_digits", "pocket_fashion", "pocket_textures", "pocket_earth")


def harness(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """Run a command with caches of its own and return its rows; what it says goes to stderr."""
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache"), "HARNESS_DATA": str(folder / "data")}
    ran = subprocess.run(
        [sys.executable, "-m", "harness", *arguments, "--format", "json"],
        env=environment, stdout=subprocess.PIPE, text=True, cwd=folder,
    )  # fmt: skip
    if ran.returncode:
        sys.exit(f"harness {' '.join(arguments)} ended with {ran.returncode}")
    rows = json.loads(ran.stdout)
    assert isinstance(rows, list)
    return rows


def finish_of(folder: Path, *arguments: str) -> float:
    """Seconds until the whole run would end, from the machinery behind 'harness plan'."""
    script = (
        "import sys; from pathlib import Path\n"
        "from harness.catalog import discover\n"
        "from harness.price.estimate import Estimator, Setting\n"
        "from harness.machine import find_device\n"
        "from harness.price.timings import Timings, threads_per_job\n"
        "from harness.workspace.survey import survey_plan\n"
        "from harness.workspace import Workspace\n"
        "from harness.plan import Selection, build_plan\n"
        "from harness.registry import load_benchmark\n"
        "from harness.results.store import RunsFolder\n"
        "jobs, models, datasets = int(sys.argv[1]), sys.argv[2].split(), sys.argv[3].split()\n"
        "place = Workspace(load_benchmark(None), discover(), RunsFolder(Path('runs')), Path('data'))\n"
        "selection = Selection(tuple(models), suite='pocket', datasets=tuple(datasets))\n"
        "plan = build_plan(place.benchmark, place.catalog, selection)\n"
        "cells = survey_plan(place, plan).cells\n"
        "setting = Setting(find_device('cpu'), jobs, threads_per_job(jobs, None, Timings()))\n"
        "print(Estimator(place, setting).price(plan, cells).finish)\n"
    )
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
    ran = subprocess.run(
        [sys.executable, "-c", script, *arguments], env=environment, stdout=subprocess.PIPE, text=True, cwd=folder,
        check=True,
    )  # fmt: skip
    return float(ran.stdout)


def compare(jobs: int, models: list[str], datasets: list[str]) -> float:
    """Price and run a part of the suite; print both and return the ratio of the whole."""
    chosen = [*models, *(word for name in datasets for word in ("--dataset", name))]
    shared = [*chosen, "--suite", "pocket", "--device", "cpu", "--jobs", str(jobs), "--runs", "runs"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = time.monotonic()
        priced = {(row["model"], row["dataset"]): row for row in harness(folder, "plan", *shared)}
        pricing = time.monotonic() - began
        finish = finish_of(folder, str(jobs), " ".join(models), " ".join(datasets))
        began = time.monotonic()
        ran = harness(folder, "run", *shared)
        wall = time.monotonic() - began
    print(f"\n--jobs {jobs}: priced in {pricing:.0f} s\n")
    print("| model | data set | expected s | took s | expected / took |\n|:---|:---|---:|---:|---:|")
    for row in ran:
        expected, took = priced[row["model"], row["dataset"]]["estimated_seconds"], row["seconds"]
        print(f"| {row['model']} | {row['dataset']} | {expected:.1f} | {took:.1f} | {expected / took:.2f} |")
    print(f"| the whole run | | {finish:.1f} | {wall:.1f} | {finish / wall:.2f} |", flush=True)
    return finish / wall


def main() -> int:
    parser = argparse.ArgumentParser(description=re.split(r"\n\n", __doc__ or "")[0])
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS))
    given = parser.parse_args()
    ratios = [compare(jobs, given.models, given.datasets) for jobs in given.jobs]
    return 0 if all(1 - ALLOWED <= ratio <= 1 + ALLOWED for ratio in ratios) else 1


if __name__ == "__main__":
    sys.exit(main())
