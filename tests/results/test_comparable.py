"""Results of a device whose arithmetic differs are marked wherever they are shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support import Command

pytestmark = pytest.mark.portable


def test_results_of_another_arithmetic_are_marked(tiny_harness: Command) -> None:
    """As on MPS, whose runs this machine cannot make: the flag is written into finished results by hand."""
    models = ("tiny", "gentle")
    assert tiny_harness("run", *models).code == 0
    before = tiny_harness("leaderboard")
    assert "not comparable:" not in before.err
    path = next(Path("runs").glob("*/tiny/dots/seed-0/result.json"))
    content = json.loads(path.read_text(encoding="utf-8"))
    content["environment"] |= {"comparable": False, "device": "mps"}
    path.write_text(json.dumps(content), encoding="utf-8")
    (row,) = [row for row in tiny_harness("status", "--format", "json").rows if "not comparable" in row["detail"]]
    assert (row["model"], row["dataset"], row["state"], row["detail"]) == ("tiny", "dots", "done", "not comparable")
    board = tiny_harness("leaderboard")
    assert "tiny is not comparable: it was trained on dots" in board.err
    (marked,) = [line for line in board.out.splitlines() if "not comparable" in line]
    assert marked.split()[1] == "tiny"
    rows = {row["model"]: row for row in tiny_harness("leaderboard", "--format", "json").rows}
    assert (rows["tiny"]["not_comparable_on"], rows["gentle"]["not_comparable_on"]) == (["dots"], [])
