"""Kill runs at random instants and prove that nothing is lost: ``python benchmarks/kill.py [--kills 100] [--seed N]``.

Jobs of the pocket suite are trained once undisturbed. Then they are trained again by ``harness run`` with worker
processes, and the command or a worker gets SIGKILL at random, again and again, until that has happened often enough.
At the end every job must be done exactly once, with the same weights, losses and metrics, bit for bit.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

MODELS = ("shufflenet", "mobilenet", "tinynet")
DATASETS = ("pocket_digits", "pocket_textures")


def command(folder: Path, runs: str) -> list[str]:
    data = [word for name in DATASETS for word in ("--dataset", name)]
    return [
        *(sys.executable, "-m", "harness", "run", *MODELS, "--suite", "pocket", *data, "--format", "json"),
        *("--runs", str(folder / runs), "--data", str(folder / "data")),
        *("--jobs", "2", "--threads", "1", "--checkpoint-every", "1s"),
    ]


def children(process: int) -> list[int]:
    """Return the worker processes of a command."""
    ran = subprocess.run(["pgrep", "-P", str(process)], capture_output=True, text=True)
    found = []
    for line in ran.stdout.split():
        with contextlib.suppress(OSError):
            if b"spawn_main" in Path(f"/proc/{line}/cmdline").read_bytes():
                found.append(int(line))
    return found


def results(runs: Path) -> dict[str, Any]:
    found = {}
    for path in sorted(runs.rglob("result.json")):
        result = json.loads(path.read_text())
        history = [json.loads(line)["loss"] for line in (path.parent / "history.jsonl").read_text().splitlines()]
        found[str(path.parent.relative_to(runs))] = (result["weights_sha256"], result["metrics"], history)
    return found


def interruptions(runs: Path) -> int:
    return sum(len(json.loads(path.read_text())["interruptions"]) for path in runs.rglob("result.json"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    chance = random.Random(arguments.seed)
    folder = Path(tempfile.mkdtemp(prefix="harness kill "))
    began = time.monotonic()
    subprocess.run(command(folder, "whole"), check=True, capture_output=True)
    whole = results(folder / "whole")
    print(f"{len(whole)} jobs undisturbed: {time.monotonic() - began:.0f} s", flush=True)

    killed: Counter[str] = Counter()
    rounds = 0
    kept: dict[str, float] = {}
    while sum(killed.values()) < arguments.kills:
        process = subprocess.Popen(
            command(folder, f"killed-{rounds}"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True
        )
        while process.poll() is None and sum(killed.values()) < arguments.kills:
            time.sleep(chance.uniform(0.2, 4.0))
            workers = children(process.pid)
            if not workers or process.poll() is not None:
                continue
            if chance.random() < 0.3:
                killed["command"] += 1
                process.kill()
            else:
                killed["worker"] += 1
                with contextlib.suppress(ProcessLookupError):
                    os.kill(chance.choice(workers), signal.SIGKILL)
        process.wait()
        runs = folder / f"killed-{rounds}"
        finished = {str(path): path.stat().st_mtime_ns for path in runs.rglob("result.json")}
        if any(finished.get(path) != stamp for path, stamp in kept.items()):
            print("A finished result was written a second time.")
            return 1
        kept = dict(finished)
        print(f"{sum(killed.values()):>4} kills, {len(finished)} of {len(whole)} jobs done", flush=True)
        if len(finished) == len(whole):  # so often killed and yet complete: begin another set
            rounds, kept = rounds + 1, {}
    subprocess.run(command(folder, f"killed-{rounds}"), check=True, capture_output=True)

    wrong = 0
    went_on = 0
    for number in range(rounds + 1):
        runs = folder / f"killed-{number}"
        went_on += interruptions(runs)
        found = results(runs)
        for name, expected in whole.items():
            if found.get(name) != expected:
                wrong += 1
                print(f"Not the same: {name} of set {number}")
        leftovers = list(runs.rglob("*.tmp"))
        if leftovers:
            wrong += 1
            print(f"Left behind: {leftovers}")
    sets = rounds + 1
    print(
        f"{sum(killed.values())} SIGKILLs (seed {arguments.seed}; {killed['worker']} to workers, "
        f"{killed['command']} to the command) over {sets * len(whole)} jobs, which went on {went_on} times: "
        f"{sets * len(whole) - wrong} ended bit-identical, {wrong} did not. {time.monotonic() - began:.0f} s"
    )
    shutil.rmtree(folder)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
