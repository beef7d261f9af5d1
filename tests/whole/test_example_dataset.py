"""The example data set plugin: installed like a third party's, it is listed, prepared, verified and audited."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support import ROOT

EXAMPLE = ROOT / "examples" / "xscore-plugin-shapes"


def test_the_example_needs_no_code_in_the_core(tmp_path: Path) -> None:
    site = tmp_path / "site"
    shutil.copytree(EXAMPLE / "xscore_plugin_shapes", site / "xscore_plugin_shapes")
    info = site / "xscore_plugin_shapes-0.1.0.dist-info"  # what pip would write
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: xscore-plugin-shapes\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[harness]\nshapes = xscore_plugin_shapes\n")
    environment = os.environ | {
        "PYTHONPATH": str(site),
        "HARNESS_DATA": str(tmp_path / "data"),
        "XDG_CACHE_HOME": str(tmp_path),
    }

    def harness(*arguments: str) -> str:
        command = [sys.executable, "-m", "harness", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    [prepared] = json.loads(harness("prepare", "shapes", "--format", "json"))
    assert (prepared["state"], prepared["train"], prepared["test"]) == ("ready", 72, 24)
    [verified] = json.loads(harness("prepare", "shapes", "--verify", "--format", "json"))
    assert verified["state"] == "verified"
    [found] = json.loads(harness("audit", "shapes", "--format", "json"))
    assert found["identical"] == 0


def test_the_example_is_as_short_as_promised() -> None:
    lines = (EXAMPLE / "xscore_plugin_shapes" / "__init__.py").read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line.strip()]) <= 25
