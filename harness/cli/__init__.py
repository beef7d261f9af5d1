"""Turns a command line into rows on stdout, messages on stderr and an exit code, with one module per command."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, MutableMapping, Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

from harness.cli.output import STRIPPED, say, take_streams
from harness.errors import HarnessError, without_passwords
from harness.guard import Interrupted, interrupt, lend

INTERRUPTED = 130
_PATIENCE_SECONDS = 2.0  # with threads that a plugin has left running
_COMMANDS = {
    "list": ("listing", "list_command", "List the installed models, data sets or other plugins: models by default."),
    "check-budget": (
        "budget",
        "check_budget",
        "Count a model's trainable parameters and multiply-adds with fvcore, and judge them by a budget.",
    ),
    "prepare": ("prepare", "prepare", "Download, verify and store data sets, once."),
    "audit": (
        "prepare",
        "audit",
        "Find test images that training has seen: of the same group, identical, or nearly identical.",
    ),
    "plan": (
        "plan",
        "plan",
        "Show the jobs of 'harness run': which are done, and the estimated cost of the others.",
    ),
    "run": ("run", "run", "Train models on data sets under the frozen protocol."),
    "status": (
        "status",
        "status",
        "Show the state of every job of a suite: done, running, failed, stale or missing.",
    ),
    "leaderboard": (
        "leaderboard",
        "leaderboard",
        "Rank the installed models by xScore: the mean of normalised accuracies minus lambda times their variance.",
    ),
    "score": (
        "score",
        "score",
        "Compute xScores from finished runs, or from a CSV file of accuracies in percent.",
    ),
    "select": (
        "score",
        "select",
        "Rank the subsets of data sets by how well they predict the score on all of them.",
    ),
    "patterns": (
        "patterns",
        "patterns",
        "Show the architectural elements of the paper's Table 6 that a model has, judged by its operations.",
    ),
    "report": (
        "report",
        "report",
        "Write one self-contained page about a suite: leaderboard, figures, patterns and methods.",
    ),
    "verify": ("verify", "verify", "Check every claim of finished runs."),
    "bundle": (
        "bundle",
        "bundle",
        "Pack finished runs into one file that contains the hash of each part.",
    ),
    "merge": ("bundle", "merge", "Add finished runs from bundles or other runs folders."),
    "doctor": (
        "doctor",
        "doctor",
        "Check this machine: devices, versions, threads, disk, data sets, determinism, executors, plugins.",
    ),
    "plugin": ("plugin", "plugin", "Write a plugin, check it, and list the installed ones."),
}
"""The module of each command, its name there, and the first paragraph of its help."""


class _OnDemand(MutableMapping[str, click.Command]):
    """The commands by name, in the order of a user's work. A command's module is imported on first use."""

    def __init__(self) -> None:
        self._added: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        if name not in self._added:
            module, attribute, summary = _COMMANDS[name]
            command: click.Command = getattr(import_module(f"harness.cli.{module}"), attribute)
            if command.help in (None, STRIPPED):
                command.help = f"{summary}\n\n{STRIPPED}"
            self._added[name] = command
        return self._added[name]

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._added[name] = command

    def __delitem__(self, name: str) -> None:
        raise TypeError("commands cannot be removed")

    def __iter__(self) -> Iterator[str]:
        return iter(_COMMANDS | self._added)

    def __len__(self) -> int:
        return len(_COMMANDS | self._added)

    def __contains__(self, name: object) -> bool:
        return name in _COMMANDS or name in self._added


class _Commands(click.Group):
    """A group that lists commands in the order of a user's work and suggests one after a typing error.

    Its help imports no command, so it appears at once.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.commands = _OnDemand()

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        limit = formatter.width - 6 - max(map(len, _COMMANDS))
        with formatter.section("Commands"):
            formatter.write_dl(
                [
                    (name, click.Command(name, help=text).get_short_help_str(limit))
                    for name, (*_, text) in _COMMANDS.items()
                ]
            )

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self.commands and not name.startswith("-"):
            import difflib

            close = difflib.get_close_matches(name, self.commands, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            ctx.fail(f"There is no command '{name}'.{hint}")
        return super().resolve_command(ctx, args)


def _show_version(ctx: click.Context, parameter: click.Parameter, asked: bool) -> None:
    from harness.cli.listing import show_version

    show_version(ctx, parameter, asked)


@click.group(
    cls=_Commands,
    help="""Benchmark small vision models: one frozen protocol, many data sets, one score that rewards being good
everywhere.

Models, data sets, augmentations and metrics are plugins. Results are never redone and never overwritten.""",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="""\b
Start here:
  harness run --all --suite pocket        train 11 models on 4 small data sets, on any machine
  harness leaderboard --suite pocket      rank them

\b
Your own model:
  pip install xscore-plugin-mynet
  harness check-budget mynet              does it fit the budget of parameters?
  harness run mynet --suite pocket

Help for each command: harness COMMAND --help""",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the versions of the harness and its main libraries, and exit.",
)
def cli() -> None:
    """Run a command of the harness."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and end the process with the code that :func:`run_command` returns."""
    take_streams()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    code = run_command(arguments)
    sys.stdout = lend(sys.stderr)  # for functions that plugins have left to be called at exit
    gc.freeze()  # else the interpreter visits every object of torch at exit, which takes a second
    left = [one for one in threading.enumerate() if not one.daemon and one is not threading.main_thread()]
    if left:
        threading.Thread(target=_end_without, args=(left, code), daemon=True).start()
    sys.exit(code)


def _end_without(threads: Sequence[threading.Thread], code: int) -> None:
    """End the process in spite of a plugin's threads that go on, which the interpreter would wait for."""
    time.sleep(_PATIENCE_SECONDS)
    if alive := [thread.name for thread in threads if thread.is_alive()]:
        say(f"A plugin's thread '{alive[0]}' was still running when the command had ended, and was left behind.")
        atexit._run_exitfuncs()
        os._exit(code)


def run_command(arguments: Sequence[str] | None = None) -> int:
    """Run one command in this process, with the program's own arguments by default.

    Returns:
        The exit code: 0 (done), 1 (the answer is no), 2 (wrong use), 3 (cannot continue) or 130 (interrupted).
    """
    try:
        result: Any = cli.main(arguments, prog_name="harness", standalone_mode=False)
    except HarnessError as error:
        return _say(str(error), error.exit_code)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt) as error:
        if isinstance(error.__cause__, EOFError):  # click takes the end of any file for the end of the user's input
            raise error.__cause__ from None
        while_ = f" {error.__cause__}" if isinstance(error.__cause__, Interrupted) and str(error.__cause__) else ""
        return _say(f"Interrupted{while_}. Everything finished so far is kept.", INTERRUPTED)
    return result if isinstance(result, int) else 0


def _say(text: str, code: int) -> int:
    say(f"{click.style('Error:', fg='red', bold=True)} {without_passwords(text)}")
    return code
