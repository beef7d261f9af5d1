"""The tutorial's files and commands, in their order, against an installed wheel in an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import ROOT

PAGE = ROOT / "docs" / "tutorial.md"
_BLOCK = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Step:
    """A command to run, or a file to write (``path`` is its name)."""

    text: str
    path: str = ""


def steps(page: str) -> list[Step]:
    """Return what a reader does: plain ``bash`` blocks are commands, blocks with a file's name as title are files."""
    found = []
    for block in _BLOCK.finditer(page):
        info, body = block["info"].strip(), block["body"]
        title = re.search(r'title="([^"]*\.\w+)"', info)
        if info == "bash":
            found += [Step(line) for line in body.splitlines() if line.strip()]
        elif title:
            found.append(Step(body, title[1]))
    return found


def test_the_tutorial_is_all_commands_and_files() -> None:
    found = steps(PAGE.read_text(encoding="utf-8"))
    commands = [step.text for step in found if not step.path]
    assert len(commands) >= 15
    assert all(command.startswith(("harness ", "python -m pip install ./")) for command in commands)
    assert [step.path for step in found if step.path] == ["plainnet/pyproject.toml", "plainnet/plainnet.py"]


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path: Path) -> None:
    """About two minutes: twelve short runs."""
    here = tmp_path / "a laptop"
    here.mkdir()
    programs = _installed(tmp_path / "env", tmp_path)
    environment = os.environ | {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    said = {}
    for step in steps(PAGE.read_text(encoding="utf-8")):
        if step.path:
            (here / step.path).parent.mkdir(exist_ok=True)
            (here / step.path).write_text(step.text, encoding="utf-8")
            continue
        # No network in the tests: what the plugin is built with is lent like everything else.
        command = step.text.replace("pip install", "pip install --no-index --no-build-isolation")
        ran = subprocess.run(command, shell=True, cwd=here, env=environment, capture_output=True, text=True)
        assert ran.returncode == 0, f"{step.text}\n{ran.stdout}\n{ran.stderr}"
        said[step.text] = ran
    again = said["harness run convnext mobilenet plainnet --suite pocket"]
    assert "12 jobs: 12 done; 4 carried out by this command." in again.stderr
    assert "plainnet" in said["harness list models"].stdout
    (here / "scores.csv").write_text(said["harness score --suite pocket --format csv"].stdout, encoding="utf-8")
    assert "plainnet" in (here / "scores.csv").read_text(encoding="utf-8")
    assert (here / "page.html").stat().st_size > 100_000


def _installed(folder: Path, scratch: Path) -> Path:
    """Return the programs of a new environment with our wheel in it; torch and the like are lent by this one."""
    wheel = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(scratch)]
    subprocess.run([*wheel, str(ROOT)], check=True)
    (built,) = scratch.glob("xscore_harness-*.whl")
    venv.create(folder)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    lent = sysconfig.get_path("purelib")
    (site / "zz_lent.pth").write_text(f"import site; site.addsitedir({lent!r})\n")
    programs = Path(sysconfig.get_path("scripts", vars={"base": str(folder)}))
    pip = [sys.executable, "-m", "pip", "--python", str(programs / "python"), "install", "--quiet", "--no-index"]
    subprocess.run([*pip, "--no-deps", str(built)], check=True)
    return programs
