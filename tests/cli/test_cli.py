"""The command line as a stranger meets it: quick, light, and self-explaining."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from harness.cli import cli
from harness.cli.progress import duration
from tests.support import Command

pytestmark = pytest.mark.portable

HEAVY = ("torch", "timm", "torchvision", "fvcore", "numpy", "pandas", "rich", "PIL", "scipy", "tabulate")


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        (("--help",), ()),
        (("--version",), ()),
        (("run", "--help"), ()),
        (("list", "models", "--format", "json"), ()),
        (("list", "plugins"), ("tabulate",)),
        (("list", "datasets", "--format", "json"), ()),
        (("nonsense",), ()),
    ],
)
def test_light_commands_import_nothing_heavy(arguments: tuple[str, ...], allowed: tuple[str, ...]) -> None:
    script = (
        "import sys; from harness.cli import run_command; run_command(sys.argv[1:]); "
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    assert ran.stderr.splitlines()[-1] == str(sorted(allowed))


def test_status_does_not_import_scipy(tmp_path: Path) -> None:
    script = (
        "import sys; from harness.cli import run_command; code = run_command(sys.argv[1:]); "
        "print(code, 'scipy' in sys.modules, file=sys.stderr)"
    )
    command = [sys.executable, "-c", script, "status", "--suite", "pocket", "--runs", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stderr.splitlines()[-1] == "0 False"


@pytest.mark.parametrize("name", cli.commands)
def test_every_command_explains_itself_with_an_example(name: str, harness: Command) -> None:
    ran = harness(name, "--help")
    assert ran.code == 0
    assert f"harness {name}" in ran.out.split("Usage:")[1].split("\n", 1)[1]


def test_help_of_all_commands_says_what_each_says_of_itself() -> None:
    ctx = click.Context(cli, terminal_width=110)
    from_commands = click.HelpFormatter(width=110)
    click.Group.format_commands(cli, ctx, from_commands)
    at_once = click.HelpFormatter(width=110)
    cli.format_commands(ctx, at_once)
    assert at_once.getvalue() == from_commands.getvalue()
    assert at_once.getvalue().count("\n") > 15


def test_help_imports_no_command() -> None:
    script = (
        "import sys; from harness.cli import run_command; run_command(['--help']); "
        "print([name for name in sys.modules if name.startswith('harness.') or name == 'msgspec'], file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    light = {"harness.cli", "harness.cli.listing", "harness.cli.output", "harness.errors", "harness.guard"}
    assert set(json.loads(ran.stderr.splitlines()[-1].replace("'", '"'))) <= light


def test_every_option_has_a_help_text() -> None:
    silent = [
        f"{name} {parameter.opts}"
        for name, command in cli.commands.items()
        for parameter in command.params
        if parameter.param_type_name == "option" and not getattr(parameter, "help", "")
    ]
    assert silent == []


@pytest.mark.parametrize(
    "kind",
    ["models", "datasets", "augmentations", "metrics", "suites", "protocols", "plugins", "executors", "trackers"],
)
def test_list_kinds(kind: str, harness: Command) -> None:
    ran = harness("list", kind, "--format", "json")
    assert ran.code == 0
    assert ran.rows
    assert all("name" in row for row in ran.rows)
    assert harness("list", kind).out.count("\n") >= len(ran.rows)


def test_list_models_says_who_installed_them(harness: Command) -> None:
    rows = {row["name"]: row for row in harness("list", "models", "--format", "json").rows}
    assert len(rows) == 11
    assert {"name", "plugin", "distribution", "version"} <= set(rows["starnet"])
    assert (rows["starnet"]["distribution"], rows["starnet"]["plugin"]) == ("xscore-harness", "starnet")
    assert rows["mobilevit"]["lr_max"] == 1e-4


def test_list_mentions_broken_plugins(harness: Command, install: Callable[..., Path]) -> None:
    install("broken_plugin", "import nothing_of_the_kind")
    assert "1 plugin has a problem" in harness("list").err
    ran = harness("list", "plugins", "--format", "json")
    (row,) = [row for row in ran.rows if row["state"] != "ok"]
    assert (row["distribution"], row["version"], row["state"]) == ("broken-plugin", "1.0", "failed")
    assert "nothing_of_the_kind" in row["reason"]


def test_module_and_script_are_the_same() -> None:
    ran = subprocess.run([sys.executable, "-m", "harness", "--version"], capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("harness, version ")


def test_bad_registry_exits_with_3(harness: Command, tmp_path: Path) -> None:
    path = tmp_path / "registry.toml"
    path.write_text("schema = 1")
    ran = harness("list", "suites", "--registry", str(path))
    assert ran.code == 3
    assert "missing required field" in ran.err
    assert "Traceback" not in ran.err


def test_json_is_only_data(harness: Command) -> None:
    ran = harness("list", "suites", "--format", "json")
    assert {suite["name"] for suite in json.loads(ran.out)} == {"xscore7", "xscore4", "pocket"}


def test_durations() -> None:
    found = [duration(seconds) for seconds in (8, 200, 9000, 500_000, 90_000_000)]
    assert found == ["8 s", "3 min", "2.5 h", "5.8 days", "2.9 years"]
