"""How quickly the command line answers: start-up beyond a bare interpreter, and discovery with 200 plugins.

    python benchmarks/startup.py

Prints medians of whole processes, in milliseconds, as a Markdown table.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPEATS = 11
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


def median_ms(*command: str) -> float:
    seconds = []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.perf_counter() - began)
    return 1000 * statistics.median(seconds[1:])


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
    code = DISCOVER.format(folder=str(folder))
    seconds = [
        float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
        for _ in range(REPEATS + 1)
    ]
    return 1000 * statistics.median(seconds[1:])


def main() -> None:
    bare = median_ms(sys.executable, "-c", "pass")
    rows = [("python -c pass", bare)]
    for arguments in (["--help"], ["--version"], ["run", "--help"], ["list", "models"], ["list", "plugins"]):
        rows.append((f"harness {' '.join(arguments)}", median_ms(sys.executable, "-m", "harness", *arguments)))
    with tempfile.TemporaryDirectory() as folder:
        install_plugins(Path(folder), 200)
        rows.append(("discovery alone, 200 plugins more", discovery_ms(Path(folder))))
    print("| command | median, ms | beyond a bare interpreter, ms |\n|---|---:|---:|")
    for name, value in rows:
        print(f"| {name} | {value:.0f} | {value - bare if 'discovery' not in name else value:.0f} |")


if __name__ == "__main__":
    main()
