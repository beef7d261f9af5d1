"""How quickly the command line answers: start-up beyond a bare interpreter, and discovery with 200 plugins.

    python benchmarks/startup.py

Medians of whole processes that take turns, in milliseconds; everything is in the page cache.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import measure

ROUNDS = 11
BARE, DISCOVERY = "python -c pass", "discovery alone, with 200 plugins more"
PLUGIN = """
from harness.api import ModelSpec, hookimpl

def build(num_classes):
    raise RuntimeError

@hookimpl
def harness_models():
    return [ModelSpec(name="net{number}", build=build, paper="none")]
"""
DISCOVER = (
    "import sys, time; sys.path.insert(0, {folder!r}); from harness.catalog import discover; "
    "began = time.perf_counter(); count = len(discover().models); "
    "assert count == 211, count; print(time.perf_counter() - began)"
)


def process_ms(*command: str) -> float:
    """Milliseconds of a whole process."""
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return 1000 * (time.perf_counter() - began)


def install_plugins(folder: Path, count: int) -> None:
    for number in range(count):
        (folder / f"plug{number:03}.py").write_text(PLUGIN.format(number=number), encoding="utf-8")
        info = folder / f"plug{number:03}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: plug{number:03}\nVersion: 1.0\n", encoding="utf-8"
        )
        (info / "entry_points.txt").write_text(f"[harness]\nplug{number:03} = plug{number:03}\n", encoding="utf-8")


def discovery_ms(folder: Path) -> float:
    """Milliseconds that discovery takes within a process."""
    code = DISCOVER.format(folder=str(folder))
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return 1000 * float(ran.stdout)


def command(*arguments: str) -> Callable[[], float]:
    return lambda: process_ms(sys.executable, *arguments)


def main() -> None:
    commands = ("--help", "--version", "run --help", "list models", "list plugins")
    candidates = {BARE: command("-c", "pass")}
    candidates |= {f"harness {text}": command("-m", "harness", *text.split()) for text in commands}
    with tempfile.TemporaryDirectory() as folder:
        install_plugins(Path(folder), 200)
        candidates[DISCOVERY] = lambda: discovery_ms(Path(folder))
        readings = measure.take_turns(candidates, rounds=ROUNDS)
    bare = measure.median(readings[BARE])
    rows = []
    for name, values in readings.items():
        middle = measure.median(values)
        rows.append([f"{middle:.0f}", f"{middle - bare if name != DISCOVERY else middle:.0f}", name])
    columns = ("median, ms", "beyond a bare interpreter, ms", "command")
    measure.write(
        "startup",
        title="How quickly the command line answers",
        command="python benchmarks/startup.py",
        text=f"Medians of {ROUNDS} processes each, in turns.\n\n{measure.table(columns, rows)}",
        readings={"milliseconds": readings},
    )


if __name__ == "__main__":
    main()
