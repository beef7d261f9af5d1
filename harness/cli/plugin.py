"""``harness plugin new``, ``check`` and ``list``: make a plugin, check it, and list the installed ones."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.catalog import Plugin, discover
from harness.cli.common_options import (
    NameOrFile,
    UserPath,
    budget_option,
    data_option,
    data_root,
    format_option,
    load,
    registry_option,
)
from harness.cli.output import STRIPPED, Command, emit, print_rows
from harness.errors import WrongUseError
from harness.plan import under_budget

if TYPE_CHECKING:
    from harness.testing.rules import Outcome, RuleCheck

KINDS = ("model", "dataset", "augmentation", "metric", "tracker", "executor")


@click.group()
def plugin() -> None:
    """Write a plugin, check it, and list the installed ones.

    \b
    harness plugin new mynet --kind model       a working distribution to edit
    harness plugin check mynet                  the rules of the benchmark, one by one
    harness plugin list                         the state and the contents of each
    """


@plugin.command(cls=Command)
@click.argument("name")
@click.option("--kind", type=click.Choice(KINDS), required=True, help="Kind of the plugin.")
@click.option(
    "--into",
    metavar="DIR",
    type=UserPath(file_okay=False),
    default=Path(),
    show_default="the current folder",
    help="Folder in which to make xscore-plugin-NAME.",
)
def new(name: str, kind: str, into: Path) -> None:
    """Make a working distribution of a plugin.

    It contains a working module to edit, tests, README, licence and CI file.

    \b
    harness plugin new mynet --kind model
    harness plugin new leaves --kind dataset --into ~/work
    """
    from harness.scaffold import next_steps, scaffold

    folder = scaffold(name, kind, into, discover())
    emit(str(folder))
    click.echo(next_steps(name, kind, folder), err=True)


@plugin.command(cls=Command)
@click.argument("what", metavar="[NAME|PATH]", type=NameOrFile(), required=False)
@click.option("--rules", "show_rules", is_flag=True, help="Show all rules with their reasons, and check nothing.")
@budget_option
@data_option
@registry_option
@format_option
def check(
    what: str | None,
    show_rules: bool,
    budget: str | None,
    data: Path | None,
    registry: Path | None,
    format_: str,
) -> int:
    """Check plugins against the rules of the benchmark.

    Each verdict has the value found, the value expected and the reason for the rule.

    NAME is a distribution, a plugin or a single spec; PATH is the folder of a distribution, installed or not. Without
    either, every third-party plugin is checked. Exits with 1 if a rule is broken; warnings are advice.

    \b
    harness plugin check mynet
    harness plugin check ./xscore-plugin-mynet
    harness plugin check --rules
    """
    if show_rules:
        from harness.testing.find import RULES

        print_rows([{"kind": one.kind, "rule": one.id, "why": one.why or STRIPPED} for one in RULES], format_)
        return 0
    root = data_root(data)
    with _source(what) as name:
        benchmark, catalog = load(registry)
        if budget is not None:
            benchmark = under_budget(benchmark, None, budget)

        from harness.testing.find import find_checks

        outcomes = list(_examine(find_checks(name, benchmark, catalog, root)))
    rows = [
        {
            "subject": outcome.subject,
            "rule": outcome.rule.id,
            "verdict": outcome.verdict,
            "detail": outcome.detail,
            "why": outcome.rule.why,
        }
        for outcome in outcomes
    ]
    print_rows(rows, format_, columns={key: key for key in ("subject", "rule", "verdict", "detail")})
    return _summarise(outcomes)


@plugin.command("list", cls=Command)
@format_option
def list_plugins(format_: str) -> None:
    """Show the state of every plugin.

    Each row has the plugin's distribution, its contents and, if it is broken, the reason.

    \b
    harness plugin list --format json
    """
    catalog = discover()
    observing = {
        (owner.name, owner.distribution, hook) for hook, found in catalog.observers.items() for owner, _ in found
    }
    rows = [
        {
            "plugin": one.name,
            "distribution": one.distribution,
            "version": one.version,
            "hook_api": one.api,
            "state": one.state,
            "gives": [*one.offers, *(h for n, d, h in sorted(observing) if (n, d) == (one.name, one.distribution))],
            "reason": one.reason,
        }
        for one in catalog.plugins
    ]
    shown = ("plugin", "distribution", "version", "hook_api", "state", "gives", "reason")
    print_rows(rows, format_, columns={key: key.replace("_", " ") for key in shown})
    counts = Counter(one.state for one in catalog.plugins)
    click.echo(_health(counts, catalog.plugins), err=True)


def _health(counts: Counter[str], plugins: Sequence[Plugin]) -> str:
    if counts["ok"] == len(plugins):
        return f"{len(plugins)} plugins, all ok."
    return f"{len(plugins)} plugins: " + ", ".join(f"{counts[one]} {one}" for one in ("ok", "partly", "failed")) + "."


@contextlib.contextmanager
def _source(what: str | None) -> Iterator[str | None]:
    """Yield the name of the plugins to check; a distribution in a folder is importable meanwhile."""
    from harness.testing.find import importable, read_project

    path = Path(what) if what else None
    if path is None or what is None:
        yield None
    elif (path / "pyproject.toml").is_file() or (path.is_dir() and path.name != what) or path.name == "pyproject.toml":
        project = read_project(path.parent if path.name == "pyproject.toml" else path)
        with importable(project):
            yield project.name
    elif path.name != what:
        raise WrongUseError(f"There is no folder {path}. Name a folder with a pyproject.toml, or an installed plugin.")
    else:
        yield what


def _examine(checks: Sequence[RuleCheck]) -> Iterator[Outcome]:
    """Carry out the checks, with a progress bar on a terminal."""
    if not sys.stderr.isatty():
        yield from (one() for one in checks)
        return

    def current(one: Any) -> str:
        return f"{one.subject}: {one.rule.id}" if one else ""

    with click.progressbar(checks, file=sys.stderr, label="checking", item_show_func=current) as bar:
        yield from (one() for one in bar)


def _summarise(outcomes: Sequence[Outcome]) -> int:
    failed = [outcome for outcome in outcomes if outcome.verdict == "failed"]
    for outcome in failed:
        click.echo(f"{outcome.subject} breaks {outcome.rule.id}. {outcome.rule.why}", err=True)
    counts = Counter(outcome.verdict for outcome in outcomes)
    said = ", ".join(f"{counts[one]} {one}" for one in ("ok", "failed", "warning", "skipped") if counts[one])
    nothing = "No third-party plugin is installed."
    click.echo(f"{len(outcomes)} rules checked: {said}." if outcomes else nothing, err=True)
    return 1 if failed else 0
