"""``harness bundle`` and ``harness merge``: move finished runs between machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.common_options import (
    UserPath,
    budget_option,
    format_option,
    registry_option,
    runs_option,
    suite_option,
)
from harness.cli.output import Command, print_rows, say
from harness.errors import CannotContinueError, WrongUseError

if TYPE_CHECKING:
    from harness.results.merge import Merged
    from harness.results.store import JobFolder

_BUNDLED = {"model": "model", "dataset": "data set", "seed": "seed", "state": "state", "bytes": "bytes", "detail": ""}
_MERGED = {
    "model": "model",
    "dataset": "data set",
    "seed": "seed",
    "outcome": "outcome",
    "place": "place",
    "detail": "",
}


@click.command(cls=Command)
@click.argument("names", metavar="[RUN|MODEL]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every finished run in --runs.")
@suite_option
@budget_option
@click.option("--dataset", "datasets", metavar="DATASET", multiple=True, help="Only this data set; repeatable.")
@click.option("-o", "--output", metavar="FILE", required=True, type=UserPath(dir_okay=False), help="The file.")
@runs_option
@registry_option
@format_option
def bundle(
    names: tuple[str, ...],
    everything: bool,
    suite: str | None,
    budget: str | None,
    datasets: tuple[str, ...],
    output: Path,
    runs: Path,
    registry: Path | None,
    format_: str,
) -> int:
    """Pack finished runs into one file that contains the hash of each part.

    Name folders of runs or names of models, or use --all; --suite, --budget and --dataset narrow the choice.
    Unfinished runs are left out and listed. The file is an ordinary zip archive, which 'harness merge' reads.

    \b
    harness bundle --all -o results.zip
    harness bundle starnet mynet --suite xscore4 -o two.zip
    harness bundle runs/xscore-1.0/starnet/cifar10/seed-0 -o one.zip
    """
    from harness.results.bundle import write_bundle
    from harness.results.merge import why_not
    from harness.results.store import RunsFolder

    if everything == bool(names):
        raise WrongUseError("Name runs or models, or use --all, not both.")
    wanted = _filter(suite, budget, registry)
    folders = [
        folder
        for folder in _chosen(names, RunsFolder(runs))
        if (not datasets or folder.job.dataset in datasets) and wanted(folder)
    ]
    if len({folder.job for folder in folders}) < len(folders):
        raise WrongUseError("Two of the named runs belong to the same job; a bundle holds one run per job.")
    reasons = {folder.job: why_not(folder) for folder in folders}
    whole = [folder for folder in folders if not reasons[folder.job]]
    rows: list[dict[str, Any]] = [
        {
            "model": folder.job.model,
            "dataset": folder.job.dataset,
            "seed": folder.job.seed,
            "protocol": folder.job.protocol,
            "budget": folder.job.budget,
            "state": "left out" if reasons[folder.job] else "bundled",
            "bytes": None if reasons[folder.job] else _size(folder),
            "detail": reasons[folder.job],
        }
        for folder in folders
    ]
    if not whole:
        text = " ".join(f"{job}: {reason}" for job, reason in reasons.items() if reason)
        raise CannotContinueError(f"There is no finished run to pack in {runs}. {text}".strip())
    size = write_bundle(output, whole)
    print_rows(rows, format_, columns=_BUNDLED)
    left = len(folders) - len(whole)
    say(f"{output}: {len(whole)} runs, {size / 1e6:.1f} MB{f'; {left} left out' if left else ''}.")
    return 0


@click.command(cls=Command)
@click.argument("sources", metavar="BUNDLE|FOLDER...", nargs=-1, required=True, type=UserPath())
@runs_option
@format_option
def merge(sources: tuple[Path, ...], runs: Path, format_: str) -> int:
    """Add finished runs from bundles or other runs folders.

    All hashes are checked before anything is written. Existing runs stay: an identical run is skipped, and a different
    one is kept under set-aside, which exits with 1. Your own protocol comes with its runs; if its folder holds another
    protocol, the runs are left out, which exits with 1, too. A damaged or altered bundle changes nothing and exits
    with 3.

    \b
    harness merge results.zip
    harness merge /mnt/cluster/runs results.zip --runs runs
    """
    from harness.results.merge import merge_run, open_source
    from harness.results.store import RunsFolder

    target = RunsFolder(runs)
    merged: list[Merged] = []
    with ExitStack() as stack:
        opened = [stack.enter_context(open_source(path)) for path in sources]
        target.check_writable()
        left_out = [sentence for _, sentences in opened for sentence in sentences]
        try:
            for run in [run for found, _ in opened for run in found]:
                merged.append(merge_run(run, target))
        finally:  # on a full disk, too, the runs that were merged before are shown
            print_rows([one.as_row() for one in merged], format_, columns=_MERGED)
    for sentence in left_out:
        say(sentence)
    counts = Counter(one.outcome for one in merged)
    states = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    say(f"{len(merged)} runs into {runs}: {states}.")
    return 1 if counts["set aside"] or counts["left out"] else 0


def _chosen(names: Sequence[str], runs: Any) -> list[JobFolder]:
    """Return the named runs, finished or not: folders by path, models by name; without names, all runs."""
    from harness.results.merge import all_folders
    from harness.verify.runs import find_runs

    everything = list(all_folders(runs))
    if not names:
        return everything
    chosen: list[JobFolder] = []
    for name in names:
        mine = [folder for folder in everything if folder.job.model == name]
        if not mine and Path(name).is_dir():
            mine = [folder for _, folder in find_runs(Path(name))]
        if not mine:
            known = ", ".join(sorted({folder.job.model for folder in everything})) or "none"
            raise CannotContinueError(
                f"There is no run of a model '{name}' in {runs.root}, and no folder '{name}'. Models there: {known}."
            )
        chosen += [folder for folder in mine if folder.path.resolve() not in {one.path.resolve() for one in chosen}]
    return chosen


def _filter(suite: str | None, budget: str | None, registry: Path | None) -> Callable[[JobFolder], bool]:
    """Return whether a run is of a suite and of a budget, the suite's own where none is named."""
    if suite is None and budget is None:
        return lambda _: True
    from harness.registry import load_benchmark

    benchmark = load_benchmark(registry)
    found = benchmark.suite(suite)
    name = benchmark.budget(budget or found.budget).name
    if suite is None:
        return lambda folder: folder.job.budget == name
    return lambda folder: (
        (folder.job.protocol, folder.job.budget) == (found.protocol, name) and (folder.job.dataset in found.datasets)
    )


def _size(folder: JobFolder) -> int:
    from harness.results.bundle import FILES

    return sum(file.stat().st_size for name in FILES if (file := folder.path / name).is_file())
