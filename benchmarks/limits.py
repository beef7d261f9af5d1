"""Measure what must not take long, and what two clocks must agree on, and hold each against its limit.

    python benchmarks/limits.py [--quick]

Exits with 1 if a reading is beyond its limit. The limits are about twice what two free cores need, so they show that
something became much slower; the other benchmarks measure how fast it is. ``--quick`` leaves out the demo.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measure
import startup

PROFILED = ("mobilenet", "--suite", "pocket", "--dataset", "pocket_digits", "--threads", "1", "--profile")
ROUNDS = 5


@dataclass(frozen=True)
class Reading:
    """A measured number and the largest one that is allowed."""

    name: str
    measured: float
    limit: float
    unit: str

    @property
    def within(self) -> bool:
        return self.measured <= self.limit


def harness_seconds(folder: Path, *arguments: str) -> float:
    """Seconds of a whole command with results, data sets and caches in a folder."""
    environment = os.environ | {"HARNESS_DATA": str(folder / "data"), "XDG_CACHE_HOME": str(folder / "cache")}
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "harness", *arguments], cwd=folder, env=environment, check=True, capture_output=True
    )
    return time.perf_counter() - began


def discovery(folder: Path) -> Reading:
    """Discovery with 200 more plugins, within a process."""
    startup.install_plugins(folder, 200)
    readings = [startup.discovery_ms(folder) for _ in range(ROUNDS + 1)][1:]  # the first one writes byte code
    return Reading("discovery with 200 more plugins", measure.median(readings) / 1000, 1.5, "s")


def profile(folder: Path) -> list[Reading]:
    """A run's profile against the times that its result and its history hold, which other clocks took."""
    harness_seconds(folder, "run", *PROFILED)
    (place,) = (folder / "runs").rglob("profile.json")
    found, result = (json.loads(path.read_text(encoding="utf-8")) for path in (place, place.with_name("result.json")))
    history = [json.loads(line) for line in place.with_name("history.jsonl").read_text(encoding="utf-8").splitlines()]
    seconds = found["seconds"] - found["phases"]["start"]["seconds"]  # a result's time begins after it
    speeds = zip(found["by_epoch"]["images_per_second"], history, strict=True)
    apart = [abs(speed / record["images_per_second"] - 1) for speed, record in speeds]
    return [
        Reading("profile and result, seconds apart", 100 * abs(seconds / result["seconds"] - 1), 3, "%"),
        Reading("profile and history, speed apart in an epoch", 100 * max(apart), 5, "%"),
    ]


def demo(folder: Path) -> list[Reading]:
    """``make demo``, and the same command when nothing is left to do."""
    command = ("run", "--all", "--suite", "pocket")
    return [
        Reading("the whole demo", harness_seconds(folder, *command, "--jobs", "auto"), 960, "s"),
        Reading("the demo once more, with nothing to train", harness_seconds(folder, *command), 20, "s"),
    ]


def report(readings: Sequence[Reading], name: str) -> int:
    """Write the page; return 1 if a reading is beyond its limit."""
    rows = [[f"{one.measured:.2f} {one.unit}", f"{one.limit:g} {one.unit}", one.name] for one in readings]
    beyond = [one.name for one in readings if not one.within]
    verdict = f"Beyond the limit: {', '.join(beyond)}." if beyond else "Every reading is within its limit."
    content: dict[str, Any] = {one.name: {"measured": one.measured, "limit": one.limit} for one in readings}
    measure.write(
        name,
        title="What must not take long",
        command="python benchmarks/limits.py",
        text=f"{measure.table(('measured', 'limit', 'name'), rows)}\n\n{verdict}",
        readings=content,
    )
    return 1 if beyond else 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="Leave out the demo.")
    quick = parser.parse_args(arguments).quick
    with tempfile.TemporaryDirectory() as temporary:
        folders = [Path(temporary) / name for name in ("plugins", "profile", "demo")]
        for folder in folders:
            folder.mkdir()
        readings = [discovery(folders[0]), *profile(folders[1]), *([] if quick else demo(folders[2]))]
    return report(readings, "limits-quick" if quick else "limits")


if __name__ == "__main__":
    raise SystemExit(main())
