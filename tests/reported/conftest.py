"""The bench: a scratch folder with plugins of its own, and the ``harness`` command as a process in it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.registry import shipped_registry
from tests.support import Ran

HARNESS = Path(sys.executable).with_name("harness")
TREE = "REPORTED_TREE"  # another checkout to test instead of this one
OKAY = """
from harness.api import ModelSpec, hookimpl

def build(num_classes):
    from torch import nn
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))

@hookimpl
def harness_models():
    return [ModelSpec(name="okay", build=build, paper="none")]
"""


@dataclass(frozen=True)
class Bench:
    """A scratch folder: ``site`` holds its plugins, ``data`` the prepared data sets, ``runs`` the results."""

    folder: Path

    @property
    def site(self) -> Path:
        return self.folder / "site"

    @property
    def quick(self) -> tuple[str, ...]:
        """Options that train on one pocket data set, for two epochs at 16 pixels."""
        return ("--suite", "pocket", "--dataset", "pocket_digits", "--registry", str(self.folder / "quick.toml"))

    @property
    def environment(self) -> dict[str, str]:
        tree = os.environ.get(TREE)
        inherited = os.environ.get("PYTHONPATH")
        path = [str(self.site), *([tree, f"{tree}/plugins"] if tree else []), *([inherited] if inherited else [])]
        kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        return kept | {
            "PYTHONPATH": os.pathsep.join(path),
            "HARNESS_DATA": str(self.folder / "data"),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "OMP_NUM_THREADS": "1",
        }

    def put(self, name: str, source: str) -> None:
        """Install a plugin of one module, or replace it."""
        (self.site / f"{name}.py").write_text(textwrap.dedent(source), encoding="utf-8")
        information = self.site / f"{name}-1.0.dist-info"
        information.mkdir(exist_ok=True)
        metadata = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.0\n"
        (information / "METADATA").write_text(metadata, encoding="utf-8")
        (information / "entry_points.txt").write_text(f"[harness]\n{name} = {name}\n", encoding="utf-8")

    def start(self, *arguments: str | Path, cwd: Path | None = None, **variables: str) -> subprocess.Popen[str]:
        """Start a command in the scratch folder, or another one, in a process group of its own."""
        return subprocess.Popen(
            [str(HARNESS), *map(str, arguments)],
            cwd=cwd or self.folder,
            env=self.environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="surrogateescape",
            start_new_session=True,
        )

    def harness(self, *arguments: str | Path, cwd: Path | None = None, **variables: str) -> Ran:
        """Run a command to its end."""
        process = self.start(*arguments, cwd=cwd, **variables)
        out, err = process.communicate(timeout=300)
        return Ran(process.returncode, out, err)

    def state(self, model: str, *options: str) -> str:
        """The state of a model's job under ``quick``."""
        ran = self.harness("status", model, *self.quick, *options, "--format", "json")
        state = ran.rows[0]["state"]
        assert isinstance(state, str)
        return state

    def cell(self, model: str, seed: int = 0, runs: str = "runs") -> Path:
        return self.folder / runs / "pocket-1.0" / model / "pocket_digits" / f"seed-{seed}"

    def result(self, model: str, seed: int = 0, runs: str = "runs") -> Any:
        """The content of a job's result.json."""
        return json.loads((self.cell(model, seed, runs) / "result.json").read_text(encoding="utf-8"))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A bench with one sound model, ``okay``, of 322 parameters."""
    bench = Bench(tmp_path / "bench")
    bench.site.mkdir(parents=True)
    head, mark, pocket = shipped_registry().read_text(encoding="utf-8").partition('[protocols."pocket-1.0"]')
    pocket = re.sub(r"input_size = \d+", "input_size = 16", pocket, count=1)
    pocket = re.sub(r"\nepochs = \d+", "\nepochs = 2", pocket, count=1)
    (bench.folder / "quick.toml").write_text(head + mark + pocket, encoding="utf-8")
    bench.put("okay", OKAY)
    return bench
