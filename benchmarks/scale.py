"""Commands over 100,000 finished results: status and leaderboard, the first time and later.

    python benchmarks/scale.py                    # minutes, of which making the results takes most; 2.5 GB of disk
    python benchmarks/scale.py --keep /tmp/many   # makes them there once, and uses them again

All installed models on the 4 pocket data sets, with as many seeds as it takes. The files have been read before: what
is timed is the command, not the disk. "First" is a command on a machine that has no cache of ours, which builds every
model once to know its structure; a machine that ran any of them has that already. "Later" is any other command.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import measure
from invent import SUITE, invent_results, train_one

from harness.results.store import RunsFolder

RESULTS, CELLS, ROUNDS = 100_000, 44, 5
PROTOCOL = "pocket-1.0"
COMMANDS = {
    "status": ("status", "--all"),
    "status --format csv": ("status", "--all", "--format", "csv"),
    "status --format json": ("status", "--all", "--format", "json"),
    "leaderboard": ("leaderboard",),
}


@contextlib.contextmanager
def results_in(given: Path | None, seeds: int) -> Iterator[Path]:
    """A folder with ``runs`` and ``data``: the one given, which stays, or one that is removed."""
    with tempfile.TemporaryDirectory() as temporary:
        place = given or Path(temporary)
        if not (place / "runs").is_dir():
            place.mkdir(parents=True, exist_ok=True)
            os.environ["XDG_CACHE_HOME"] = str(place / "cache")
            began = time.perf_counter()
            template = train_one(place / "one", place / "data")
            plan = invent_results(RunsFolder(place / "runs"), place / "data", template, seeds=seeds)
            print(f"{len(plan.jobs):,} results made in {time.perf_counter() - began:.0f} s", file=sys.stderr)
        yield place


def seconds_of(place: Path, *arguments: str, first: bool) -> float:
    """Seconds of a whole command."""
    cache = place / ("no-cache" if first else "cache")
    if first:
        shutil.rmtree(cache, ignore_errors=True)
    where = ["--suite", SUITE, "--runs", str(place / "runs"), "--data", str(place / "data")]
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "harness", *arguments, *where], check=True, capture_output=True, env=environment
    )
    return time.perf_counter() - began


def candidate(place: Path, arguments: tuple[str, ...], *, first: bool) -> Callable[[], float]:
    return lambda: seconds_of(place, *arguments, first=first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="Where the results are made, unless they are there, and left.")
    parser.add_argument("--results", type=int, default=RESULTS)
    asked = parser.parse_args()
    with results_in(asked.keep, -(-asked.results // CELLS)) as place:
        count = sum(1 for _ in RunsFolder(place / "runs").jobs(PROTOCOL))
        candidates = {name: candidate(place, arguments, first=False) for name, arguments in COMMANDS.items()}
        candidates["status, first"] = candidate(place, COMMANDS["status"], first=True)
        readings = measure.take_turns(candidates, rounds=ROUNDS)
    rows = [[f"{measure.median(values):.2f}", name] for name, values in readings.items()]
    measure.write(
        "scale",
        title=f"Commands over {count:,} results",
        command="python benchmarks/scale.py",
        text=f"Medians of {ROUNDS} whole commands each, in turns.\n\n{measure.table(('seconds', 'command'), rows)}",
        readings={"results": count, "seconds": readings},
    )


if __name__ == "__main__":
    main()
