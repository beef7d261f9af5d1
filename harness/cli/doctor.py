"""``harness doctor``: check whether this machine is ready, and give advice."""

from __future__ import annotations

import random
import shutil
import textwrap
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.common_options import (
    data_option,
    format_option,
    open_workspace,
    registry_option,
    runs_option,
    suite_option,
)
from harness.cli.output import Command, emit, print_rows

if TYPE_CHECKING:
    from harness.doctor import Check, Examination, Finding

_COLUMNS = {"name": "check", "verdict": "verdict", "found": "found", "advice": "to do"}
_COLOURS = {"ok": "green", "warning": "yellow", "problem": "red", "skipped": "bright_black"}


@click.command(cls=Command)
@suite_option
@runs_option
@data_option
@click.option(
    "--device", metavar="auto|cpu|cuda[:i]|mps", default="auto", show_default=True, help="Device to train on."
)
@click.option("--resume", is_flag=True, help="Train a small job twice, kill the second repeatedly, and compare.")
@click.option(
    "--kills",
    type=click.IntRange(1, 1000),
    metavar="N",
    default=3,
    show_default=True,
    help="Number of kills by --resume.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    metavar="N",
    help="Random seed of the times at which --resume kills.  [default: random]",
)
@registry_option
@format_option
def doctor(
    suite: str | None, runs: Path, data: Path | None, device: str, resume: bool, kills: int, seed: int | None,
    registry: Path | None, format_: str,
) -> int:  # fmt: skip
    """Check this machine: devices, versions, threads, disk, data sets, determinism, executors, plugins.

    Each line has a verdict, the facts and advice. Exits with 1 if there is a problem, but not for a warning.

    \b
    harness doctor                          check for the default suite
    harness doctor --suite pocket
    harness doctor --resume                 also check that a killed run resumes to the same bits; half a minute
    """
    from harness.doctor import Examination, examine

    workspace = open_workspace(runs, data, registry)
    chosen = workspace.benchmark.suite(suite)
    examination = Examination(workspace, chosen, workspace.benchmark.protocol(chosen.protocol), device)
    checks = _checks()
    if resume:
        chance = random.SystemRandom().randrange(10**6) if seed is None else seed
        checks.append(("resume", _resume_check(registry, kills, chance)))
    findings = list(examine(examination, checks))
    if format_ == "table":
        for finding in findings:
            _show(finding.name, finding.verdict, finding.found, finding.advice)
    else:
        print_rows([finding.as_row() for finding in findings], format_, columns=_COLUMNS)
    counts = Counter(finding.verdict for finding in findings)
    click.echo(
        f"Suite '{chosen.name}': {counts['ok']} ok, {_count(counts['warning'], 'warning')}, "
        f"{_count(counts['problem'], 'problem')}, {counts['skipped']} skipped.",
        err=True,
    )
    return 1 if counts["problem"] else 0


def _checks() -> list[tuple[str, Check]]:
    """Return the checks with their names, in the order in which they are carried out."""
    from harness.doctor import hardware, software, storage

    return [
        ("versions", software.check_versions),
        ("torch", software.check_torch),
        ("devices", hardware.check_devices),
        ("device", hardware.check_chosen_device),
        ("threads", hardware.check_threads),
        ("determinism", hardware.check_determinism),
        ("arithmetic", hardware.check_arithmetic),
        ("disk", storage.check_disk),
        ("runs folder", storage.check_runs_folder),
        ("data folder", storage.check_data_folder),
        ("data sets", storage.check_datasets),
        ("plugins", software.check_plugins),
        ("executors", software.check_executors),
        ("extras", software.check_extras),
    ]


def _resume_check(registry: Path | None, kills: int, seed: int) -> Check:
    """Return the check of --resume, which takes half a minute."""
    from harness.doctor.resume import prove_resume

    def say(text: str) -> None:
        click.echo(text, err=True)

    def check(examination: Examination) -> list[Finding]:
        say(f"The times of the kills come from --seed {seed}.")
        return [prove_resume(examination, registry, kills=kills, seed=seed, say=say).as_finding(seed)]

    return check


def _show(name: str, verdict: str, found: str, advice: str) -> None:
    """Print a finding for people: whole sentences do not fit into a table's cells."""
    margin = " " * 11
    emit(click.style(f"{verdict:<{len(margin)}}", fg=_COLOURS[verdict]), end="")
    width = max(60, min(120, shutil.get_terminal_size().columns)) - len(margin)
    text = textwrap.wrap(f"{name}: {found}", width, break_long_words=False, break_on_hyphens=False)
    if advice and verdict != "ok":
        text += textwrap.wrap(f"-> {advice}", width, break_long_words=False, break_on_hyphens=False)
    emit(f"\n{margin}".join(text))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
