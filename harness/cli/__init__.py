"""The command line: ``harness COMMAND``. The only place where errors become messages and exit codes."""

from __future__ import annotations

import difflib
import os
import sys
from typing import Any

import click

from harness.cli.audit import audit
from harness.cli.budget import check_budget
from harness.cli.bundle import bundle, merge
from harness.cli.catalog import list_command
from harness.cli.doctor import doctor
from harness.cli.leaderboard import leaderboard
from harness.cli.patterns import patterns
from harness.cli.plan import plan
from harness.cli.plugin import plugin
from harness.cli.prepare import prepare
from harness.cli.report import report
from harness.cli.run import run, status
from harness.cli.score import score
from harness.cli.select import select
from harness.cli.verify import verify
from harness.cli.version import show_version
from harness.errors import HarnessError

INTERRUPTED = 130


class _Commands(click.Group):
    """A group that lists commands in the order of a user's work and answers a typing slip with a suggestion."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            close = difflib.get_close_matches(name, self.commands, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            ctx.fail(f"There is no command '{name}'.{hint}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="""\b
Start here:
  harness run --all --suite pocket        train 11 models on 4 small data sets, on any machine
  harness leaderboard --suite pocket      who is good everywhere?

\b
Your own model:
  pip install xscore-plugin-mynet
  harness check-budget mynet              does it fit 2.5 M parameters?
  harness run mynet --suite pocket

Every command explains itself: harness COMMAND --help.""",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=show_version,
    help="Show the version, those of the libraries that matter, and exit.",
)
def cli() -> None:
    """Benchmark small vision models: one frozen protocol, many data sets, one score that rewards being good everywhere.

    Models, data sets, augmentations and metrics are plugins. Results are never redone and never overwritten.
    """


for command in (
    *(list_command, check_budget, prepare, audit, plan, run, status),
    *(leaderboard, score, select, patterns, report),
    *(verify, bundle, merge, doctor),
    plugin,
):
    cli.add_command(command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with 0 (done), 1 (the answer is no), 2 (wrong use), 3 (cannot go on) or 130."""
    sys.exit(_run(arguments))


def _run(arguments: list[str] | None) -> int:
    try:
        result: Any = cli.main(arguments, prog_name="harness", standalone_mode=False)
        sys.stdout.flush()
    except HarnessError as error:
        return _say(str(error), error.exit_code)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _say("Interrupted. Everything finished so far is kept.", INTERRUPTED)
    except BrokenPipeError:
        # The reader has gone, as in 'harness status | head': not an error, and nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return result if isinstance(result, int) else 0


def _say(text: str, code: int) -> int:
    click.echo(f"{click.style('Error:', fg='red', bold=True)} {text}", err=True)
    return code
