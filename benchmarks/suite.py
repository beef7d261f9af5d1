"""How long the whole pocket suite takes, with one job at a time and with several, and what of it is not training.

    python benchmarks/suite.py [--jobs 1 2] [--models NAME...] [--datasets NAME...] [--rounds 1] [--quick]

Runs ``harness run --suite pocket`` in a process and a folder of its own, with data that was prepared before, and
divides the whole command's time, once for each job that runs at a time, into training steps and everything else. Exits
with 1 if more than 5 % of it is something else than steps with one job at a time, which is how it runs by default.
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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measure

AIM = 0.05  # of one job at a time, as a pocket run is by default
AIM_REACHED = f"The aim is reached: with one job at a time at most {100 * AIM:.0f} % outside of steps."
NOT_JUDGED = "No aim is judged: it is about one job at a time."
PARTS = {
    "steps": "training steps, as the jobs' history tells: batches, model, optimiser, and the recorder",
    "start": "from the command's start until each worker's first job begins: imports, planning, building the model",
    "between": "from a job's end until the next begins: looking up, building the model, fingerprint",
    "around steps": "within a job: opening and hashing the training images, the optimiser, checkpoints, observers",
    "evaluation": "the test split opened, hashed and evaluated, metrics, predictions",
    "writing": "from the predictions to the result: the environment's description, hash of the weights",
    "idle": "workers that have no job left while others still train",
    "end": "from the last result until the command has ended",
}


@dataclass(frozen=True)
class JobTimes:
    """When a job did what, in seconds of the system's clock.

    Attributes:
        began: It was written down what is asked, just after the model was built.
        trained: The last checkpoint was written, after the last step and just before the test split is opened.
        predicted: The predictions were written.
        ended: The result was.
        steps: Seconds in training steps.
    """

    began: float
    trained: float
    predicted: float
    ended: float
    steps: float


def read_job(folder: Path) -> JobTimes:
    """Read a finished job's times from its files."""
    lines = (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()

    def written(name: str) -> float:
        return (folder / name).stat().st_mtime_ns / 1e9

    return JobTimes(
        began=written("job.json"),
        trained=written("checkpoint.pt"),
        predicted=written("predictions.npz"),
        ended=written("result.json"),
        steps=sum(json.loads(line)["seconds"] for line in lines),
    )


def lanes_of(jobs: Sequence[JobTimes], count: int) -> list[list[JobTimes]]:
    """Give every job to the worker that it must have run on: the one that had been without a job for least long."""
    lanes: list[list[JobTimes]] = [[] for _ in range(count)]
    for job in sorted(jobs, key=lambda job: job.began):
        free = [lane for lane in lanes if not lane or lane[-1].ended <= job.began]
        if not free:
            raise ValueError(f"More than {count} jobs ran at the same time.")
        max(free, key=lambda lane: lane[-1].ended if lane else float("inf")).append(job)
    return lanes


def divide(jobs: Sequence[JobTimes], *, count: int, began: float, ended: float) -> dict[str, float]:
    """Divide ``count`` times the seconds from ``began`` to ``ended`` into ``PARTS``; they add up to the whole."""
    parts = dict.fromkeys(PARTS, 0.0)
    last = max(job.ended for job in jobs)
    for lane in lanes_of(jobs, count):
        before = began
        for job in lane:
            parts["start" if before == began else "between"] += job.began - before
            parts["steps"] += job.steps
            parts["around steps"] += job.trained - job.began - job.steps
            parts["evaluation"] += job.predicted - job.trained
            parts["writing"] += job.ended - job.predicted
            before = job.ended
        parts["idle"] += last - before
        parts["end"] += ended - last
    return parts


def run(folder: Path, jobs: int, selection: Sequence[str], runs: str) -> tuple[float, dict[str, float]]:
    """Run the suite; return the seconds of the command and their division."""
    began, clock = time.time(), time.monotonic()
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
    environment.pop("OMP_NUM_THREADS", None)  # the harness chooses the threads
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "harness", "run", "--suite", "pocket", "--format", "json", "--jobs", str(jobs)),
            *("--data", str(folder / "data"), "--runs", str(folder / runs), *selection),
        ],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True,
    )  # fmt: skip
    wall = time.monotonic() - clock
    states = {row["state"] for row in json.loads(ran.stdout)}
    if states != {"done"}:
        sys.exit(f"Some jobs ended as {states}, expected all of them done.")
    found = [read_job(path.parent) for path in (folder / runs).rglob("result.json")]
    return wall, divide(found, count=jobs, began=began, ended=began + wall)


def page(readings: Mapping[str, Mapping[str, Any]]) -> tuple[str, list[str]]:
    """The table, and the aims that are missed."""
    columns, missed, texts = list(readings), [], []
    rows: list[list[object]] = [
        ["seconds of the command", *(f"{measure.median(readings[n]['wall']):.0f}" for n in columns)]
    ]
    shares = {}
    for name in columns:
        walls, divided = readings[name]["wall"], readings[name]["parts"]
        shares[name] = {
            part: measure.median([one[part] / (int(name) * wall) for one, wall in zip(divided, walls, strict=True)])
            for part in PARTS
        }
    for part in PARTS:
        rows.append([part, *(f"{100 * shares[name][part]:.1f} %" for name in columns)])
    outside = {name: 1 - shares[name]["steps"] for name in columns}
    rows.append(["all but steps", *(f"{100 * outside[name]:.1f} %" for name in columns)])
    texts.append(measure.table(["", *(f"--jobs {name}" for name in columns)], rows))
    texts.append("\n".join(f"- {part}: {note}" for part, note in PARTS.items()))
    for name in columns[1:]:
        faster = measure.ratio(readings[columns[0]]["wall"], readings[name]["wall"])
        texts.append(f"{faster:.2f} times as fast with --jobs {name} as with --jobs {columns[0]}.")
    for name, share in outside.items():
        if name == "1" and share > AIM:
            missed.append(f"--jobs {name}: {100 * share:.1f} % outside of steps, expected at most {100 * AIM:.0f} %")
    reached = AIM_REACHED if "1" in outside else NOT_JUDGED
    texts.append("Aims missed:\n\n" + "\n".join(f"- {text}" for text in missed) if missed else reached)
    return "\n\n".join(texts), missed


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=re.split(r"\n\n", __doc__ or "")[0])
    parser.add_argument("--models", nargs="+", help="all, if left out")
    parser.add_argument("--datasets", nargs="+", help="the suite's four, if left out")
    parser.add_argument("--jobs", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=1, help="whole runs of each; every one has 44 jobs")
    parser.add_argument("--quick", action="store_true", help="one model on one data set: proves that it works")
    given = parser.parse_args(arguments)
    models, datasets = (["shufflenet"], ["pocket_digits"]) if given.quick else (given.models, given.datasets)
    selection = [*(models or ["--all"]), *(word for name in datasets or () for word in ("--dataset", name))]
    readings: dict[str, Any] = {str(jobs): {"wall": [], "parts": []} for jobs in given.jobs}
    with tempfile.TemporaryDirectory(prefix="harness suite ") as name:
        folder = Path(name)
        # Prepares the data sets, and has the files of torch in the system's cache.
        run(folder, 1, ["shufflenet", *selection[len(models or ["--all"]) :]], "warm-up")
        for number in range(given.rounds):
            for jobs in given.jobs if number % 2 == 0 else given.jobs[::-1]:
                wall, parts = run(folder, jobs, selection, f"runs-{jobs}-{number}")
                readings[str(jobs)]["wall"].append(wall)
                readings[str(jobs)]["parts"].append(parts)
                print(f"--jobs {jobs}: {wall:.0f} s", file=sys.stderr)
    text, missed = page(readings)
    measure.write(
        "suite-quick" if given.quick else "suite",
        title="The whole pocket suite",
        command=" ".join(["python benchmarks/suite.py", *(sys.argv[1:] if arguments is None else arguments)]),
        text=HOW.format(rounds=given.rounds) + "\n\n" + text,
        readings={"rounds": given.rounds, "jobs": readings},
    )
    return 1 if missed else 0


HOW = (
    "`harness run --all --suite pocket`, the whole command, whole runs of each: {rounds}. Shares are of the command's "
    "time multiplied by the number of jobs at a time. With one job at a time that job has all cores."
)


if __name__ == "__main__":
    sys.exit(main())
