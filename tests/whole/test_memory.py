"""A run's memory does not depend on how many images there are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

BENCHMARK = ROOT / "benchmarks" / "memory.py"
SIDE = 48


def peak(folder: Path, images: int) -> tuple[int, int]:
    """Bytes of anonymous memory that training and evaluation took at most, and bytes of the images."""
    folder.mkdir()
    arguments = ["--probe", str(folder), "--images", str(images), "--side", str(SIDE)]
    ran = subprocess.run([sys.executable, str(BENCHMARK), *arguments], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    return found["peak"]["RssAnon"], found["dataset_bytes"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells anonymous memory from mapped files")
def test_images_are_not_loaded_into_memory(tmp_path: Path) -> None:
    few, _ = peak(tmp_path / "few", 512)
    many, size = peak(tmp_path / "many", 40_000)
    assert size > 250 * 2**20
    assert many - few < size / 4
