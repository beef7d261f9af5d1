"""Completion, the version, and a help that reads alike everywhere: what a user's hands rely on."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from harness import __version__
from harness.cli import cli, output
from tests.support import TINY_REGISTRY, Command

pytestmark = pytest.mark.portable

POCKET = {"pocket_digits", "pocket_fashion", "pocket_textures", "pocket_earth"}


def _walk(command: click.Command = cli, path: str = "harness") -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, one in command.commands.items():
            yield from _walk(one, f"{path} {name}")


COMMANDS = {name: command for name, command in _walk() if command is not cli}


def complete(line: str, *, shell: str = "bash") -> tuple[set[str], str]:
    """Press Tab at the end of a line: what the shell is offered, and what went to stderr (with the modules loaded)."""
    words = [*shlex.split(line), *([""] if line.endswith(" ") else [])]
    environment = os.environ | {
        "_HARNESS_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1) if shell == "bash" else words[-1],
    }
    script = (
        "import atexit, sys; heavy = ('torch', 'numpy', 'pandas', 'PIL')\n"
        "atexit.register(lambda: print([name for name in heavy if name in sys.modules], file=sys.stderr))\n"
        "from harness.cli import main; main()"
    )
    ran = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    values = [entry.split(",", 1)[1].split("\t")[0] for entry in ran.stdout.splitlines() if "," in entry]
    return set(values), ran.stderr


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("harness run star", {"starnet"}),
        ("harness run --dataset pocket_", POCKET),
        ("harness run --suite po", {"pocket"}),
        ("harness run --protocol x", {"xscore-1.0"}),
        ("harness run --device c", {"cpu", "cuda", "cuda:0"}),
        ("harness prepare cifar", {"cifar10", "cifar100"}),
        ("harness audit pocket_", POCKET),
        ("harness check-budget mobile", {"mobilenet", "mobileone", "mobilevit"}),
        ("harness leaderboard --metric top", {"top1", "top5"}),
        ("harness leaderboard --anchors ", {"published-2025", "own"}),
        ("harness leaderboard --separate starnet convn", {"convnext"}),
        ("harness list mod", {"models"}),
        ("harness lead", {"leaderboard"}),
        (f"harness run --registry {shlex.quote(str(TINY_REGISTRY))} --suite t", {"tiny"}),
        ("harness run --registry /no/such/file --suite t", set()),
    ],
)
def test_names_are_completed_without_anything_heavy(line: str, expected: set[str]) -> None:
    found, stderr = complete(line)
    assert found == expected
    assert stderr.strip() == "[]"


def test_a_name_on_the_line_is_not_offered_again() -> None:
    assert complete("harness run mobilenet mobile")[0] == {"mobileone", "mobilevit"}


def test_completion_lists_plugins_despite_noisy_and_broken_ones(
    harness: Command, install: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    install("noisy", "print('hello')\nfrom harness.api import ModelSpec, hookimpl\n" + _SPEC)
    install("broken", "import nothing_of_the_kind")
    from click.shell_completion import ShellComplete

    found = ShellComplete(cli, {}, "harness", "_HARNESS_COMPLETE").get_completions(["run"], "noisy")
    assert [item.value for item in found] == ["noisynet"]
    assert capsys.readouterr() == ("", "")


_SPEC = """
@hookimpl
def harness_models():
    return [ModelSpec(name="noisynet", build=lambda classes: None, paper="none")]
"""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(shell: str) -> None:
    environment = os.environ | {"_HARNESS_COMPLETE": f"{shell}_source"}
    program = [sys.executable, "-m", "harness"]
    ran = subprocess.run(program, env=environment, capture_output=True, text=True, check=True)
    assert "_HARNESS_COMPLETE=" in ran.stdout
    assert f"{shell}_complete" in ran.stdout


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("bash") is None, reason="needs bash 4.4, as on Linux")
def test_bash_itself_completes(tmp_path: Path) -> None:
    """The script in a real shell, with a program of that name in its path."""
    program = tmp_path / "harness"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m harness "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    script = (
        'eval "$(_HARNESS_COMPLETE=bash_source harness)"; COMP_WORDS=(harness run --dataset pocket_d); COMP_CWORD=3; '
        '"$(complete -p harness | sed "s/.*-F \\([^ ]*\\) .*/\\1/")" harness; echo "${COMPREPLY[@]}"'
    )
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    ran = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "pocket_digits"


def test_version_tells_the_environment(harness: Command) -> None:
    ran = harness("--version")
    assert ran.code == 0
    first, *others = ran.out.splitlines()
    assert first == f"harness, version {__version__}"
    facts = dict(re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in others)
    assert {"python", "platform", "torch", "torchvision", "timm", "plugins"} <= set(facts)
    assert facts["python"].startswith(".".join(map(str, sys.version_info[:3])))
    assert re.fullmatch(r"\d+ of \d+ distributions?", facts["plugins"])


def test_version_counts_plugins_without_loading_them(harness: Command, install: Callable[..., Path]) -> None:
    def count() -> int:
        return int(re.findall(r"plugins +(\d+)", harness("--version").out)[0])

    before = count()
    install("broken", "raise SystemExit(7)")
    assert count() == before + 1


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_reads_alike(name: str) -> None:
    command = COMMANDS[name]
    assert command.help, f"{name} has no docstring"
    examples = "\n\n".join(re.findall(r"\n *\x08\n((?: *\S.*\n?)+)", command.help))
    assert isinstance(command, click.Group) or name in examples, f"{name} has no example block after a \\b"
    first = command.help.split("\n\n")[0].strip()
    assert first[0].isupper(), first
    assert first[-1] in ".?:", first
    context = click.Context(command, info_name=name)
    for option in (one for one in command.params if isinstance(one, click.Option)):
        assert option.help, f"{name} {option.opts[0]} has no help"
        assert re.search(r"[.?\]]$", option.help), f"{name} {option.opts[0]}: its help is no sentence"
        assert all(re.fullmatch(r"--[a-z][a-z-]*|-[a-z]", text) for text in option.opts)
        if not option.is_flag and not isinstance(option.type, click.Choice):
            metavar = option.make_metavar(context)
            assert metavar not in _GENERIC, f"{name} {option.opts[0]} says {metavar}; give it a metavar"
            assert not _METAVAR.sub("", metavar), f"{name} {option.opts[0]} has the metavar {metavar}"


_GENERIC = {"TEXT", "INTEGER", "FLOAT", "DIRECTORY", "FILENAME", "INTEGER RANGE", "FLOAT RANGE"}
_METAVAR = re.compile(r"(?:[A-Z0-9_]+(?:\.[a-z]+)?|[a-z0-9:\[\]]+(?=\|)|(?<=\|)[a-z0-9:\[\]]+)(?:[ |=](?!$)|$)")
"""Parts of what a value is: a name in capitals (``N``, ``FILE.toml``) or one of several values (``auto|cpu``)."""


def test_what_controls_a_terminal_is_shown_as_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_rows([{"name": "\x1b[2J\x1b[8mgone\u202e", "note": "two\nlines"}], "table")
    output.say("note \x1b[H\x07 of a plugin")
    captured = capsys.readouterr()
    assert r"\x1b[2J\x1b[8mgone\u202e" in captured.out
    assert "two lines" in captured.out
    assert captured.err == "note \\x1b[H\\x07 of a plugin\n"
