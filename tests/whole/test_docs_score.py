"""docs/score.md says what is true: its numbers, and its notebook cells run."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.patterns.associate import confound
from harness.registry import load_benchmark
from harness.report.published import build_published
from harness.score import Anchors, score
from tests.support import ROOT

TEXT = (ROOT / "docs/score.md").read_text(encoding="utf-8")


def test_its_numbers(rows: Callable[..., list[dict[str, Any]]]) -> None:
    subsets = rows("select", "--published")
    assert f"R² = {subsets[0]['r2']:.3f}" in TEXT
    assert f"Q² = {subsets[0]['q2']:.2f}" in TEXT
    assert f"subset has {max(row['q2'] for row in subsets):.2f}" in re.sub(r"\s+", " ", TEXT)
    assert 0.15 < subsets[0]["bootstrap"] < 0.25
    benchmark = load_benchmark()
    assert benchmark.published is not None
    scores = build_published(benchmark, lam=0.5).scores
    found = confound(scores, {name: float(macs) for name, macs in benchmark.published.macs.items()})
    assert f"r = {found.pearson:.2f}" in TEXT
    assert f"{found.spread:.0f}-fold" in re.sub(r"\s+", " ", TEXT)
    expensive = sorted(benchmark.published.macs, key=lambda name: -benchmark.published.macs[name])[:4]  # type: ignore[union-attr]
    assert set(list(scores)[:3]) <= set(expensive)


def test_its_example_and_its_warning() -> None:
    anchors = Anchors(name="unit", minimum=dict.fromkeys("abcd", 0.0), maximum=dict.fromkeys("abcd", 50.0))

    def xscore(*normalised: float) -> float:
        table = pd.DataFrame([[50 * one for one in normalised]], index=["m"], columns=list("abcd"[: len(normalised)]))
        return float(score(table, anchors, lam=0.5)["xscore"].iloc[0])

    assert xscore(0.9, 0.9, 0.9) == pytest.approx(0.900)
    assert "0.9 - 0.5 x 0.03 = 0.885" in TEXT
    assert xscore(1.0, 1.0, 0.7) == pytest.approx(0.885)
    # More than 0.75 above its own mean a gain costs; just below that it still pays.
    assert xscore(1.2, 0.0, 0.0, 0.0) < xscore(1.1, 0.0, 0.0, 0.0)
    assert xscore(0.9, 0.0, 0.0, 0.0) > xscore(0.8, 0.0, 0.0, 0.0)
    assert "more\n  than 0.75 above its own mean lowers the score" in TEXT


def test_its_notebook_cells_run(tmp_path: Path) -> None:
    section = TEXT.partition("## In a notebook")[2].partition("## The page")[0]
    code = "\n".join(line[4:] for line in section.splitlines() if line.startswith("    "))
    table = "model,cifar10,ham10000,dogs,rooms,places,x\n" + "\n".join(
        f"{name},{60 + i * 1.5},{70 + i},{50 + i * i / 5},{40 + (i * 7) % 11},{30 + (i * 3) % 5},{20 + (i * 5) % 7}"
        for i, name in enumerate(["mynet", "mobilenet", "c", "d", "e", "f", "g", "h", "i"])
    )
    (tmp_path / "mine.csv").write_text(table)
    # Two of the six data sets have sizes in the text; the others get theirs here, and some runs a second seed.
    code = code.replace('{"cifar10": 10_000, "ham10000": 1_503}', "dict.fromkeys(table.columns, 5000)")
    code = code.replace(
        "as_runs(table),", "__import__('pandas').concat([as_runs(table), as_runs(table + .3).assign(seed=1)]),"
    )
    start = "import torch\nmy_module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1))\n"
    (tmp_path / "cells.py").write_text(start + code)
    done = subprocess.run([sys.executable, "cells.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_and_the_score_package_stay_cheap() -> None:
    code = (
        "import sys, harness.score, harness.cli\n"
        "from click.testing import CliRunner\n"
        "assert CliRunner().invoke(harness.cli.cli, ['--help']).exit_code == 0\n"
        "print([name for name in ('torch', 'pandas', 'numpy', 'altair', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
