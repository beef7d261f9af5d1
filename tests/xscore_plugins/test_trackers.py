"""Every tracker in whole runs: the same bits, the same data on stdout, and light imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import Command, read_result
from tests.xscore_plugins.tracked import CELL, PLUGINS, RUN, put_store

# Of the tools' own making, on import or use.
pytestmark = [
    pytest.mark.usefixtures("own_settings"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*noload.*"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning"),
]


@pytest.mark.parametrize("name", PLUGINS)
def test_a_tracked_run_ends_in_the_same_bits_and_prints_the_same_data(
    name: str, tiny_harness: Command, empty_store: Path
) -> None:
    plain = tiny_harness(*RUN, "--format", "json")
    CELL.parent.rename("plain")
    put_store(empty_store, Path("runs/tracking/mlflow"))
    ran = tiny_harness(*RUN, "--track", name, "--format", "json")
    assert ran.code == 0
    assert "continues without it" not in ran.err
    hashes = [read_result(cell)["weights_sha256"] for cell in (CELL, Path("plain", "seed-0"))]
    assert hashes[0] == hashes[1]
    assert [row | {"seconds": 0} for row in ran.rows] == [row | {"seconds": 0} for row in plain.rows]
    assert {path.name for path in Path().iterdir()} == {"runs", "plain"}
    assert Path("runs/tracking", name).is_dir()


@pytest.mark.parametrize("name", PLUGINS)
def test_registering_a_tracker_imports_nothing_heavy(name: str) -> None:
    code = (
        f"import sys; from xscore_plugins.trackers import {name}; {name}.harness_trackers(); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'mlflow', 'wandb', 'tensorboard')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
