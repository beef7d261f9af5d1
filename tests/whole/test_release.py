"""What is released is whole, says one version everywhere, and is tested where we say that it is."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import __version__
from tests.support import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    ran = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    return ran.stdout


def test_there_is_one_version() -> None:
    assert "version" in PROJECT["dynamic"]
    assert re.fullmatch(r"\d+\.\d+\.\d+([ab]\d+|rc\d+)?", __version__)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest
    assert newest[1] == __version__
    cite = (ROOT / "docs" / "cite.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\b\d+\.\d+\.\d+\b", cite)) == {__version__}


def test_every_extra_is_in_the_installation_page() -> None:
    page = (ROOT / "docs" / "installation.md").read_text(encoding="utf-8")
    extras = set(PROJECT["optional-dependencies"]) - {"dev"}
    assert {name for name in extras if f"`xscore-harness[{name}]`" not in page} == set()


def test_constraints_pin_every_development_dependency() -> None:
    def name(requirement: str) -> str:
        return re.split(r"[\[<>=!~ ;]", requirement)[0].lower().replace("_", "-")

    lines = (ROOT / ".ci" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {name(line) for line in lines if line and not line.startswith("#")}
    extras = PROJECT["optional-dependencies"]
    wanted = {name(one) for one in [*PROJECT["dependencies"], *extras["dev"]]} - {"xscore-harness"}
    assert wanted - pinned == set()
    assert all("==" in line for line in lines if line and not line.startswith("#"))


def _workflow(name: str) -> dict[Any, Any]:
    content = yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_follow_the_schema(path: Path) -> None:
    run(sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", path)


def test_workflow_runs_on_every_claimed_python_and_system() -> None:
    jobs = _workflow("ci.yml")["jobs"]
    claimed = [one.rsplit(" ", 1)[1] for one in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", one)]
    assert jobs["linux"]["strategy"]["matrix"]["python"] == claimed
    assert {"run": ".ci/run"} in jobs["linux"]["steps"]
    assert {one.split("-")[0] for one in jobs["elsewhere"]["strategy"]["matrix"]["os"]} == {"macos", "windows"}
    assert {"run": 'python -m pytest -m "portable and not slow"'} in jobs["elsewhere"]["steps"]
    files = (ROOT / "tests").rglob("test_*.py")
    assert sum("pytestmark = pytest.mark.portable\n" in path.read_text(encoding="utf-8") for path in files) >= 13


def test_every_marker_is_explained() -> None:
    """In the table of the page on contributing."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    page = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    names = {marker.partition(":")[0] for marker in settings["markers"]}
    assert {name for name in names if f"| marked `{name}` |" not in page} == set()


def test_release_publishes_checked_files_without_a_password() -> None:
    content = _workflow("release.yml")
    publish = content["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["needs"] == "build"
    assert "secrets." not in (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    steps = [step.get("run", "") for step in content["jobs"]["build"]["steps"]]
    assert "make release-check" in steps
    # YAML 1.1 reads the key `on` as true.
    assert content[True] == {"push": {"tags": ["v*"]}}


def _content(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


@pytest.mark.slow
def test_distributions_are_whole_and_valid(tmp_path: Path) -> None:
    """Without a network: the build backend is the one that is installed."""
    both, tree = tmp_path / "both", tmp_path / "tree"
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", both, ROOT)
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", tree, ROOT)
    (sdist,), (wheel,), (from_tree,) = both.glob("*.tar.gz"), both.glob("*.whl"), tree.glob("*.whl")
    run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel)
    assert wheel.name == from_tree.name == f"xscore_harness-{__version__}-py3-none-any.whl"

    inside = _content(wheel)
    assert inside == _content(from_tree)
    assert {"harness/registry.toml", "harness/py.typed", "harness/report/assets/page.css"} <= set(inside)
    assert sum(name.startswith("xscore_plugins/datasets/pocket_data/") for name in inside) > 10
    assert {name.split("/")[0] for name in inside} == {
        "harness",
        "xscore_plugins",
        f"xscore_harness-{__version__}.dist-info",
    }

    with tarfile.open(sdist) as archive:
        members = {name.partition("/")[2] for name in archive.getnames()}
    # Whoever has the source distribution alone can build, test and read all of it.
    wanted = {"README.md", "LICENSE", "CITATION.cff", "CONTRIBUTING.md", "Makefile", ".ci/constraints.txt", ".ci/run"}
    wanted |= {
        path.relative_to(ROOT).as_posix() for folder in ("docs", "tests") for path in (ROOT / folder).rglob("*.md")
    }
    wanted |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py")}
    assert wanted - members == set()
