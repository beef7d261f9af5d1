"""``harness verify``: check every claim of finished runs."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.common_options import UserPath, data_option, format_option, open_workspace, registry_option
from harness.cli.output import Command, print_rows, say

if TYPE_CHECKING:
    from harness.results.store import JobFolder
    from harness.verify.runs import Verified

_COLUMNS = {
    "run": "run",
    "check": "check",
    "verdict": "verdict",
    "found": "found",
    "expected": "expected",
    "detail": "",
}
_CANNOT_READ = 3


@click.command(cls=Command)
@click.argument("paths", metavar="RUN...", nargs=-1, required=True, type=UserPath())
@click.option("--replay", is_flag=True, help="Train a window of steps again and compare its losses.")
@click.option(
    "--device",
    metavar="auto|cpu|cuda[:i]|mps",
    default="auto",
    show_default=True,
    help="Device to compute on; auto is the run's own device if this machine has it.",
)
@data_option
@registry_option
@format_option
def verify(
    paths: tuple[Path, ...], replay: bool, device: str, data: Path | None, registry: Path | None, format_: str
) -> int:
    """Check every claim of finished runs.

    RUN is a job's folder, a runs folder or a bundle. The stored weights are evaluated again on the test split, metrics
    are computed again from the stored predictions, and hashes, fingerprint, protocol, learning rates, budget and the
    executed training are compared. In the run's own environment the bits must be equal; elsewhere a stated tolerance
    applies. Nothing is written.

    The table shows each check of a single run, or the counts per run of several; other formats show every check.
    Exits with 1 if a check fails, and with 3 if no run could be read.

    \b
    harness verify runs/xscore-1.0/starnet/cifar10/seed-0
    harness verify runs --format json
    harness verify results.zip --replay
    """
    workspace = open_workspace(data=data, registry=registry)
    with ExitStack() as stack:
        found = [
            (label, replace(folder, path=folder.path.absolute()))
            for path in paths
            for label, folder in _find(path, stack)
        ]

        from harness.machine import resolve_device
        from harness.verify.runs import verify_run

        if device != "auto":
            resolve_device(device)
        verified = []
        for index, (label, folder) in enumerate(found, 1):
            say(f"[{index}/{len(found)}] {label}")
            verified.append(verify_run(label, folder, workspace, device=device, replay=replay))
    if format_ == "table" and len(verified) > 1:  # some twenty checks per run, too many to read; failures follow
        print_rows([_counts(one) for one in verified], format_)
    else:
        rows = [check.as_row(one.label) for one in verified for check in one.checks]
        print_rows(rows, format_, columns=_COLUMNS, digits={"found": 4, "expected": 4})
    return _summarise(verified)


def _counts(one: Verified) -> dict[str, object]:
    counts = Counter(check.verdict for check in one.checks)
    return {"run": one.label, **{verdict: counts[verdict] for verdict in ("ok", "failed", "skipped")}}


def _find(path: Path, stack: ExitStack) -> Iterator[tuple[str, JobFolder]]:
    """Yield the finished runs at a path; a bundle is unpacked into a temporary folder."""
    from harness.results.bundle import open_bundle
    from harness.results.merge import Incoming, merge_run
    from harness.results.store import RunsFolder
    from harness.verify.runs import find_runs

    if not path.is_file():
        yield from find_runs(path)
        return
    unpacked = RunsFolder(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="harness-verify-"))))
    with open_bundle(path) as runs:
        for run in runs:
            merge_run(Incoming(run.job, run.result, run.hashes, run.open, run.kept), unpacked)
            folder = unpacked.of(run.job)
            yield f"{path}:{folder.path.relative_to(unpacked.root).as_posix()}", folder


def _summarise(verified: Sequence[Verified]) -> int:
    counts = Counter(check.verdict for one in verified for check in one.checks)
    failed = [one for one in verified if one.failed]
    runs = f"{len(verified)} run{'' if len(verified) == 1 else 's'}"
    numbers = ", ".join(f"{counts[verdict]} {verdict}" for verdict in ("ok", "failed", "skipped") if counts[verdict])
    say(f"{runs}: {numbers}.")
    for one in failed:
        for check in one.checks:
            if check.verdict == "failed":
                say(f"Failed: {one.label}: {check.name}: {_sentence(check.found, check.expected, check.detail)}")
    skipped: dict[tuple[str, str], int] = Counter(
        (check.name, check.detail) for one in verified for check in one.checks if check.verdict == "skipped"
    )
    for (name, reason), count in skipped.items():
        where = "" if len(verified) == 1 else f" of {count} run{'' if count == 1 else 's'}"
        say(f"Not checked: {name}{where}: {reason}")
    if not any(one.readable for one in verified):
        return _CANNOT_READ
    return 1 if failed else 0


def _sentence(found: object, expected: object, detail: str) -> str:
    sides = f"found {found}, expected {expected}." if found is not None or expected is not None else ""
    return " ".join(part for part in (detail, sides) if part)
