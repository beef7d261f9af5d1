"""The pytest plugin: nothing until a test asks, then one test a rule, with its reason."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PROJECT = """
[project]
name = "mine"
version = "1.0"
description = "Metrics"
license = "MIT"
dependencies = ["xscore-harness"]

[project.entry-points.harness]
mine = "my_metrics"
"""
MODULE = """
from harness.api import MetricSpec, hookimpl

def good(logits, labels):
    if not logits.isfinite().all():
        raise ValueError("not finite")
    return 100.0 * int((logits.argmax(dim=1) == labels).sum()) / len(labels)

def careless(logits, labels):
    return 100.0 * int((logits.nan_to_num().argmax(dim=1) == labels).sum()) / len(labels)

@hookimpl
def harness_metrics():
    return [
        MetricSpec(name="good", title="Good", unit="%", higher_is_better=True, compute=good),
        MetricSpec(name="turned", title="Turned", unit="%", higher_is_better=False, compute=good),
        MetricSpec(name="careless", title="Careless", unit="%", higher_is_better=True, compute=careless),
    ]
"""


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=folder, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True,
    )  # fmt: skip


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "a project"
    (folder / "tests").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "my_metrics.py").write_text(MODULE)
    return folder


def test_each_rule_is_a_test_with_its_reason(project: Path) -> None:
    (project / "tests" / "test_all.py").write_text("def test_conformance(harness_rule):\n    harness_rule()\n")
    done = run_pytest(project, "-v")
    assert done.returncode == 1
    assert "test_conformance[good:metric-direction] PASSED" in done.stdout
    assert "test_conformance[mine:plugin-metadata] PASSED" in done.stdout
    assert "test_conformance[turned:metric-direction] FAILED" in done.stdout
    assert "it declares that lower is better" in done.stdout
    assert "Tables put the best first" in done.stdout
    assert "ConformanceWarning: metric careless does not keep metric-undefined" in done.stdout
    assert "1 failed" in done.stdout
    assert "1 warning" in done.stdout


def test_the_marker_names_another_plugin(project: Path) -> None:
    text = """
        import pytest

        @pytest.mark.harness_plugin("top1")
        def test_conformance(harness_rule):
            harness_rule()
    """
    (project / "tests" / "test_one.py").write_text(textwrap.dedent(text))
    done = run_pytest(project, "-q", "--strict-markers", "-k", "metric-ties or metric-range")
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def test_what_cannot_be_found_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "test_lost.py").write_text("def test_conformance(harness_rule):\n    harness_rule()\n")
    done = run_pytest(tmp_path, "-q", f"--rootdir={tmp_path}")
    assert done.returncode != 0
    assert "has a pyproject.toml, so the plugin under test is unknown" in done.stdout + done.stderr


def test_it_costs_nothing_until_it_is_used(tmp_path: Path) -> None:
    code = (
        "import sys; import harness.testing.pytest_plugin; "
        "print(sorted(n for n in sys.modules if n.partition('.')[0] in "
        "('torch', 'numpy', 'pluggy', 'msgspec', 'click') or n.startswith('harness')))"
    )
    source = (
        "import sys\n"
        "def test_light():\n"
        "    heavy = {'torch', 'numpy', 'PIL', 'pandas', 'msgspec', 'harness.api', 'harness.catalog'}\n"
        "    assert 'harness.testing.pytest_plugin' in sys.modules\n"
        "    assert not heavy & set(sys.modules)\n"
    )
    (tmp_path / "test_light.py").write_text(source)
    done = run_pytest(tmp_path, "-q")
    assert done.returncode == 0, done.stdout
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "torch" not in shown
    assert "harness.testing.rules" not in shown
