"""``harness doctor``: check whether this machine is ready, and give advice."""

from __future__ import annotations

import random
import shutil
import textwrap
from collections import Counter
from pathlib import Path

import click

from harness.cli.options import (
    data_option,
    format_option,
    open_workspace,
    registry_option,
    runs_option,
    suite_option,
)
from harness.cli.output import print_rows

_COLUMNS = {"name": "check", "verdict": "verdict", "found": "found", "advice": "to do"}
_COLOURS = {"ok": "green", "warning": "yellow", "problem": "red", "skipped": "bright_black"}


@click.command()
@suite_option
@runs_option
@data_option
@click.option(
    "--device", metavar="auto|cpu|cuda[:i]|mps", default="auto", show_default=True, help="Device to train on."
)
@click.option("--resume", is_flag=True, help="Train a small job twice, kill the second repeatedly, and compare.")
@click.option(
    "--kills",
    type=click.IntRange(min=1),
    metavar="N",
    default=3,
    show_default=True,
    help="Number of kills by --resume.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
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
    from harness.doctor.check import Check, Examination, Finding, examine
    from harness.doctor.hardware import (
        check_arithmetic,
        check_chosen_device,
        check_determinism,
        check_devices,
        check_threads,
    )
    from harness.doctor.software import check_executors, check_extras, check_plugins, check_torch, check_versions
    from harness.doctor.storage import check_data_folder, check_datasets, check_disk, check_runs_folder

    workspace = open_workspace(runs, data, registry)
    chosen = workspace.benchmark.suite(suite)
    examination = Examination(workspace, chosen, workspace.benchmark.protocol(chosen.protocol), device)
    checks: list[tuple[str, Check]] = [
        ("versions", check_versions),
        ("torch", check_torch),
        ("devices", check_devices),
        ("device", check_chosen_device),
        ("threads", check_threads),
        ("determinism", check_determinism),
        ("arithmetic", check_arithmetic),
        ("disk", check_disk),
        ("runs folder", check_runs_folder),
        ("data folder", check_data_folder),
        ("data sets", check_datasets),
        ("plugins", check_plugins),
        ("executors", check_executors),
        ("extras", check_extras),
    ]
    if resume:
        from harness.doctor.resume import prove_resume

        chance = random.SystemRandom().randrange(10**6) if seed is None else seed

        def check_resume(examination: Examination) -> list[Finding]:
            click.echo(f"The times of the kills come from --seed {chance}.", err=True)
            proof = prove_resume(
                examination, registry, kills=kills, seed=chance, say=lambda text: click.echo(text, err=True)
            )
            return [proof.as_finding(chance)]

        checks.append(("resume", check_resume))
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


def _show(name: str, verdict: str, found: str, advice: str) -> None:
    """Print a finding for people: whole sentences do not fit into a table's cells."""
    margin = " " * 11
    click.echo(click.style(f"{verdict:<{len(margin)}}", fg=_COLOURS[verdict]), nl=False)
    width = max(60, min(120, shutil.get_terminal_size().columns)) - len(margin)
    text = textwrap.wrap(f"{name}: {found}", width, break_long_words=False, break_on_hyphens=False)
    if advice and verdict != "ok":
        text += textwrap.wrap(f"-> {advice}", width, break_long_words=False, break_on_hyphens=False)
    click.echo(f"\n{margin}".join(text))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
