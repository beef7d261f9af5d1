"""What the benchmarks share: turns taken round by round, medians, and one JSON and one Markdown file for each.

A machine's speed drifts, with its temperature and with its neighbours. Candidates therefore take turns: every round
runs each of them once, and a ratio is the median of the rounds' ratios, of which both halves saw the same minute.
Results go to ``benchmarks/results/NAME.json`` with every single reading, and to ``NAME.md`` as a table to read.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from harness import __version__
from harness.machine import cpu_name, usable_cores

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("torch", "torchvision", "timm", "numpy", "pillow", "kornia")


def take_turns(candidates: Mapping[str, Callable[[], float]], *, rounds: int = 5) -> dict[str, list[float]]:
    """Call every candidate once a round, after one round that does not count; return what they gave, by name.

    The order is turned around every other round, so that nobody always follows the same neighbour.
    """
    readings: dict[str, list[float]] = {name: [] for name in candidates}
    for call in candidates.values():
        call()
    for number in range(rounds):
        names = list(candidates) if number % 2 == 0 else list(candidates)[::-1]
        for name in names:
            readings[name].append(candidates[name]())
    return readings


def median(readings: Sequence[float]) -> float:
    """The median, of at least five readings unless a benchmark says otherwise."""
    return statistics.median(readings)


def ratio(upper: Sequence[float], lower: Sequence[float]) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(one / other for one, other in zip(upper, lower, strict=True))


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; numbers are right-aligned, by the first row."""
    kinds = [isinstance(value, int | float) or str(value)[:1].isdigit() for value in rows[0]]
    lines = [
        "| " + " | ".join(columns) + " |",
        "|" + "|".join("---:" if number else ":---" for number in kinds) + "|",
        *("| " + " | ".join(str(value) for value in row) + " |" for row in rows),
    ]
    return "\n".join(lines)


def write(name: str, *, title: str, command: str, text: str, readings: Mapping[str, Any]) -> None:
    """Write ``results/NAME.json`` and ``results/NAME.md``, and print the latter.

    Args:
        name: Of the benchmark.
        title: Heading of the page.
        command: How a stranger repeats it.
        text: The page's body: tables, and what is needed to read them.
        readings: Every single reading, as plain values, with units in the names.
    """
    RESULTS.mkdir(exist_ok=True)
    where = machine()
    page = (
        f"# {title}\n\n`{command}`: {where['processor']}, {where['cores']} cores, {where['system']}, "
        f"Python {where['python']}, torch {where['libraries'].get('torch')}; {where['date']}, "
        f"commit {where['commit']}.\n\n{text.strip()}\n"
    )
    content = {"command": command, "machine": where, "readings": readings}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (RESULTS / f"{name}.md").write_text(page, encoding="utf-8")
    print(page)


def machine() -> dict[str, Any]:
    """What a reading depends on besides the code."""
    libraries = {}
    for name in LIBRARIES:
        try:
            libraries[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "processor": cpu_name(),
        "cores": usable_cores(),
        "threads": os.environ.get("OMP_NUM_THREADS", "default"),
        "system": platform.system(),
        "python": platform.python_version(),
        "harness": __version__,
        "commit": _commit(),
        "libraries": libraries,
        "date": datetime.now(UTC).date().isoformat(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def run_python(code: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Any:
    """Run code in a process of its own, where memory or threads must not be shared; return what it printed, as JSON."""
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE, text=True, check=True, env=os.environ | dict(environment or {}),
    )  # fmt: skip
    return json.loads(ran.stdout)


def _commit() -> str:
    try:
        ran = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=RESULTS.parent, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return ran.stdout.strip()
