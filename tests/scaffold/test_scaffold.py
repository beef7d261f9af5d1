"""harness plugin new: what it makes works at once, and names that can't be are refused with a sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.catalog import discover
from harness.cli.plugin import KINDS, plugin
from harness.errors import WrongUseError
from harness.scaffold import next_steps, scaffold
from tests.support import Command


@pytest.mark.parametrize("kind", KINDS)
def test_the_new_distribution_is_complete(kind: str, tmp_path: Path) -> None:
    folder = scaffold("my_net-2", kind, tmp_path / "not there yet", discover())
    assert folder == tmp_path / "not there yet" / "xscore-plugin-my-net-2"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    module = "src/xscore_plugin_my_net_2"
    common = {"pyproject.toml", "README.md", "LICENSE", ".gitignore", ".github/workflows/test.yml"}
    tests = {"tests/test_conformance.py", "tests/test_my_net_2.py"}
    network = {f"{module}/network.py"} if kind == "model" else set()
    assert files == common | tests | {f"{module}/__init__.py"} | network
    for file in files:
        text = (folder / file).read_text(encoding="utf-8")
        assert "{%" not in text
        assert text.endswith("\n")
        assert "\n\n\n\n" not in text
        if file.endswith(".py"):
            compile(text, file, "exec")
    workflow = (folder / ".github/workflows/test.yml").read_text(encoding="utf-8")
    assert "${{ matrix.python }}" in workflow
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert f"# {folder.name}" in readme


@pytest.mark.parametrize("kind", KINDS)
def test_the_new_files_follow_their_stated_style(kind: str, tmp_path: Path) -> None:
    folder = scaffold("mine", kind, tmp_path, discover())
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache", "."], cwd=folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_its_tests_pass_without_installation(tmp_path: Path) -> None:
    """All kinds, installed, are in test_examples.py."""
    folder = scaffold("mine", "metric", tmp_path / "a folder with spaces", discover())
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error::UserWarning"],
        cwd=folder, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    assert "failed" not in done.stdout


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("starnet", "model", "taken by plugin 'starnet' of xscore-harness"),
        ("pocket_earth", "dataset", "taken by plugin 'pocket' of xscore-harness"),
        ("cutmix", "augmentation", "taken by plugin 'cutmix'"),
        ("macro_f1", "metric", "taken by plugin 'balanced'"),
        ("mlflow", "tracker", "taken by plugin 'mlflow'"),
        ("pocket", "tracker", "taken by plugin 'pocket'"),
        ("class", "model", "is reserved"),
        ("conformance", "model", "is reserved"),
        ("MyNet", "model", "not usable"),
        ("2net", "model", "not usable"),
        ("my net", "model", "not usable"),
        ("../escape", "model", "not usable"),
        ("", "model", "not usable"),
        ("net_", "model", "not usable"),
    ],
)
def test_unusable_names_are_refused(name: str, kind: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(WrongUseError, match=says):
        scaffold(name, kind, tmp_path, discover())
    assert list(tmp_path.iterdir()) == []


def test_the_name_of_an_installed_distribution_is_refused(install: Callable[..., Path], tmp_path: Path) -> None:
    install("xscore_plugin_mine", "", entry="other")
    with pytest.raises(WrongUseError, match=r"xscore-plugin-mine 1\.0 is installed already.*pip uninstall"):
        scaffold("mine", "model", tmp_path / "new", discover())


def test_an_existing_folder_is_not_changed(harness: Command) -> None:
    Path("xscore-plugin-mine").mkdir()
    Path("xscore-plugin-mine/notes").write_text("mine")
    ran = harness("plugin", "new", "mine", "--kind", "metric")
    assert ran.code == 2
    assert "xscore-plugin-mine exists already" in ran.err
    assert [path.name for path in Path("xscore-plugin-mine").iterdir()] == ["notes"]


def test_the_command_prints_the_folder_and_the_next_steps(harness: Command) -> None:
    ran = harness("plugin", "new", "mine", "--kind", "model", "--into", "a folder")
    assert ran.code == 0
    folder = Path(ran.out.strip())
    assert (folder / "pyproject.toml").is_file()
    assert f'pip install -e "{folder}"' in ran.err
    assert "harness check-budget mine" in ran.err
    assert "network.py" in ran.err


def test_the_kind_is_required(harness: Command) -> None:
    assert harness("plugin", "new", "mine").code == 2
    assert harness("plugin", "new", "mine", "--kind", "models").code == 2


def test_an_unwritable_place_is_reported(harness: Command) -> None:
    Path("file").write_text("")
    ran = harness("plugin", "new", "mine", "--kind", "model", "--into", "file/below")
    assert ran.code == 3
    assert "Cannot write in" in ran.err


@pytest.mark.parametrize("name", ["new", "check", "list"])
def test_every_command_has_an_example(name: str, harness: Command) -> None:
    ran = harness("plugin", name, "--help")
    assert ran.code == 0
    assert f"harness plugin {name}" in ran.out.split("Usage:")[1].split("\n", 1)[1]
    silent = [p.opts for p in plugin.commands[name].params if p.opts[0][0] == "-" and not getattr(p, "help", "")]
    assert silent == []


def test_every_next_step_is_an_existing_command(harness: Command) -> None:
    from harness.cli import cli

    for kind in KINDS:
        for line in next_steps("mine", kind, Path("xscore-plugin-mine")).splitlines():
            words = line.split()
            if words[0] == "harness":
                assert words[1] in cli.commands


def test_check_of_a_folder_that_is_not_installed(harness: Command) -> None:
    assert harness("plugin", "new", "mine", "--kind", "metric").code == 0
    before = list(sys.path)
    for what in ("./xscore-plugin-mine", "xscore-plugin-mine", "xscore-plugin-mine/pyproject.toml"):
        ran = harness("plugin", "check", what, "--format", "json")
        assert ran.code == 0, ran.err
        assert {row["subject"] for row in ran.rows} == {"plugin mine", "metric mine"}
        assert {row["verdict"] for row in ran.rows} == {"ok", "skipped"}
    assert sys.path == before
    module = Path("xscore-plugin-mine/src/xscore_plugin_mine/__init__.py")
    module.write_text(module.read_text(encoding="utf-8").replace("higher_is_better=True", "higher_is_better=False"))
    sys.modules.pop("xscore_plugin_mine")
    ran = harness("plugin", "check", "./xscore-plugin-mine", "--format", "json")
    assert ran.code == 1
    (row,) = [row for row in ran.rows if row["verdict"] == "failed"]
    assert row["rule"] == "metric-direction"
    assert f"metric mine breaks metric-direction. {row['why']}" in ran.err
    sys.modules.pop("xscore_plugin_mine")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "has no pyproject.toml"),
        ("[project", "can't be read"),
        ('[project]\nname = "x"\n', "names no plugin"),
        ('[project]\nname = "x"\n[project.entry-points.harness]\nx = "nowhere_to_be_found"\n', "pip install -e"),
    ],
)
def test_folders_without_a_plugin_are_refused(content: str | None, says: str, harness: Command) -> None:
    Path("some folder").mkdir()
    if content is not None:
        Path("some folder/pyproject.toml").write_text(content)
    ran = harness("plugin", "check", "./some folder")
    assert ran.code == 2
    assert says in ran.err


def test_check_of_an_unknown_name(harness: Command) -> None:
    ran = harness("plugin", "check", "starnt")
    assert ran.code == 2
    assert "Did you mean 'starnet'?" in ran.err
    ran = harness("plugin", "check", "./nowhere")
    assert ran.code == 2
    assert "There is no folder nowhere" in ran.err


def test_check_without_a_name_takes_third_parties(harness: Command, install: Callable[..., Path]) -> None:
    ran = harness("plugin", "check", "--format", "json")
    assert (ran.code, ran.rows) == (0, [])
    assert "No third-party plugin is installed." in ran.err
    install("broken", "import nothing_of_the_kind")
    ran = harness("plugin", "check", "--format", "json")
    assert ran.code == 1
    failed = [row["rule"] for row in ran.rows if row["verdict"] == "failed"]
    assert failed == ["plugin-imports", "plugin-metadata"]


@pytest.mark.parametrize("name", ["top1", "cutmix", "horizontal_flip", "color_jitter", "top5", "pocket_digits"])
def test_reference_plugins_keep_every_rule(name: str, harness: Command) -> None:
    ran = harness("plugin", "check", name, "--format", "json")
    assert ran.code == 0, ran.err
    assert {row["verdict"] for row in ran.rows} <= {"ok", "skipped"}
    assert json.dumps(ran.rows)


@pytest.mark.slow
def test_a_reference_model_keeps_every_rule(harness: Command) -> None:
    """The one with branches to merge; the eleven together would take two minutes."""
    ran = harness("plugin", "check", "mobileone", "--format", "json")
    assert ran.code == 0, ran.err
    assert {row["verdict"] for row in ran.rows} == {"ok"}
    assert len(ran.rows) > 30
