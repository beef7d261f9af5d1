"""Values and functions that tests of several folders share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
TESTS = Path(__file__).parent
ROOT = TESTS.parent
FILES = TESTS / "files"  # data files; tests/data holds the tests of harness.data
TINY_PLUGIN = TESTS / "plugins" / "tiny"
TINY_REGISTRY = FILES / "tiny.toml"
UNRULY_PLUGIN = TESTS / "plugins" / "unruly"


@dataclass(frozen=True)
class Ran:
    """The outcome of a command."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        rows = json.loads(self.out)
        assert isinstance(rows, list)
        return rows


Command = Callable[..., Ran]
Rows = Callable[..., list[dict[str, Any]]]


@dataclass(frozen=True)
class Shell:
    """The command line as a process of its own in a folder, with the tiny and the unruly plugin."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        inherited = os.environ.get("PYTHONPATH")  # leads to the harness under test where another one is installed
        path = [str(TINY_PLUGIN), str(UNRULY_PLUGIN), *([inherited] if inherited else [])]
        return os.environ | {
            "PYTHONPATH": os.pathsep.join(path),
            "HARNESS_DATA": str(self.folder / "data"),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "UNRULY_MARK": str(self.folder / "mark"),
        }

    def start(self, *arguments: str, registry: Path = TINY_REGISTRY, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "harness", *arguments, "--registry", str(registry)],
            cwd=self.folder,
            env=self.environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, registry: Path = TINY_REGISTRY) -> Ran:
        process = self.start(*arguments, registry=registry)
        out, err = process.communicate(timeout=480)
        return Ran(process.returncode, out, err)

    def cell(self, model: str, dataset: str = "dots", runs: str = "runs") -> Path:
        return self.folder / cell_folder(model, dataset, runs=runs)

    def result(self, model: str, dataset: str = "dots", runs: str = "runs") -> Any:
        return read_result(self.cell(model, dataset, runs))


def cell_folder(model: str = "tiny", dataset: str = "dots", *, runs: str | Path = "runs") -> Path:
    """The folder of a job of the tiny benchmark, with seed 0."""
    return Path(runs) / "tiny-1.0" / model / dataset / "seed-0"


def read_result(cell: Path) -> Any:
    return json.loads((cell / "result.json").read_text(encoding="utf-8"))


def long_registry(folder: Path, epochs: int = 100) -> Path:
    """The tiny benchmark with so many epochs that a test can stop it on the way."""
    path = folder / "long.toml"
    path.write_text(TINY_REGISTRY.read_text().replace("epochs = 3", f"epochs = {epochs}"))
    return path


def lines_of(path: Path) -> list[str]:
    """The lines of a file; none if it does not exist yet."""
    return path.read_text().splitlines() if path.exists() else []


def wait_until(condition: Callable[[], T], *, seconds: float = 60, process: subprocess.Popen[Any] | None = None) -> T:
    """Wait for a condition to hold and return its value.

    Raises:
        AssertionError: it did not hold in time, or the process that should bring it about has ended. The process is
            killed, and its stderr quoted.
    """
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        ended = process is not None and process.poll() is not None
        if ended or time.monotonic() > deadline:
            reason = "the process ended before it did" if ended else f"not within {seconds:g} s"
            raise AssertionError(f"The condition did not hold: {reason}. {_end(process)}")
        time.sleep(0.02)
    return value


def _end(process: subprocess.Popen[Any] | None) -> str:
    if process is None:
        return ""
    process.kill()
    return f"stderr: {process.communicate()[1]}"
