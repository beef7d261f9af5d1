"""``harness prepare`` and ``harness audit``: store data sets as arrays, and find images that their splits share."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.catalog import Catalog
from harness.cli.common_options import (
    UserPath,
    complete_datasets,
    data_option,
    data_root,
    format_option,
    load,
    open_workspace,
    protocol_option,
    registry_option,
)
from harness.cli.output import Command, print_rows
from harness.data.ingest import definition, keep_arrays, require_prepared
from harness.data.inputs import outdated
from harness.data.prepared import PreparedDataset, check_root, find_prepared
from harness.errors import DatasetError, StoreError, WrongUseError
from harness.registry import Benchmark

if TYPE_CHECKING:
    from harness.api import DatasetSpec
    from harness.data.audit import Audit

_COLUMNS = {
    "dataset": "data set",
    "state": "state",
    "form": "form",
    "train": "train",
    "test": "test",
    "mean": "mean",
    "std": "std",
    "fingerprint": "fingerprint",
}
_AUDIT_COLUMNS = {
    "dataset": "data set",
    "train": "train",
    "test": "test",
    "majority_accuracy": "majority %",
    "group_leaks": "by group",
    "identical": "identical",
    "conflicting": "other label",
    "near": "near",
    "repeated_train": "repeated in train",
    "repeated_test": "in test",
}
_LINE_SECONDS = 5.0  # between two lines of progress without a terminal
_REFRESH_SECONDS = 0.2  # between two updates of the line on a terminal


@click.command(cls=Command)
@click.argument("datasets", metavar="DATASET...", nargs=-1, required=True, shell_complete=complete_datasets)
@click.option(
    "--from",
    "given",
    type=UserPath(exists=True),
    metavar="PATH",
    help="Archives or unpacked folders that you have already; the folder of a data set without downloads.",
)
@data_option
@click.option("--offline", is_flag=True, help="Do not use the network.")
@click.option("--accept-licence", is_flag=True, help="Accept the data sets' terms; needed once, and recorded.")
@click.option(
    "--accept-file",
    "accepted",
    metavar="SHA256",
    multiple=True,
    help="Accept the file with this hash, from an error message.",
)
@click.option("--verify", is_flag=True, help="Compare the prepared files with their manifest, byte by byte.")
@click.option(
    "--remove",
    "remove_",
    is_flag=True,
    help="Delete the arrays, unpacked files and downloads; nothing that the harness did not write.",
)
@protocol_option
@registry_option
@format_option
def prepare(
    datasets: tuple[str, ...], given: Path | None, data: Path | None, offline: bool, accept_licence: bool,
    accepted: tuple[str, ...], verify: bool, remove_: bool, protocol: str | None,
    registry: Path | None, format_: str,
) -> int:  # fmt: skip
    """Download, verify and store data sets, once.

    Repeat the command to resume after a stop. $HARNESS_MIRROR names a server to try first, at <mirror>/DATASET/FILE;
    proxies are taken from the environment.

    \b
    harness prepare cifar10
    harness prepare ham10000 --accept-licence
    harness prepare stanford_dogs --from ~/Downloads/stanford-dogs
    harness prepare cifar10 --verify
    """
    if verify and remove_:
        raise WrongUseError("Use --verify or --remove, not both.")
    workspace = open_workspace(data=data, registry=registry, protocol=protocol)
    benchmark, catalog, root = workspace.benchmark, workspace.catalog, check_root(workspace.data)
    names = list(dict.fromkeys(datasets))
    offers = [catalog.dataset(name) for name in names]
    if remove_:
        return _remove(catalog, names, root)
    if verify:
        rows = [row for name in names for row in _verify(catalog, name, input_sizes(benchmark, name, protocol), root)]
        print_rows(rows, format_, columns=_COLUMNS)
        return 1 if any(row["state"] != "verified" for row in rows) else 0

    from harness.data.fetch import FetchPolicy
    from harness.data.prepare import PrepareRequest, prepare_dataset, require_licence

    policy = FetchPolicy(offline=offline, accepted=frozenset(digest.lower() for digest in accepted))
    for offer in offers:  # all questions before the first hour of work
        require_licence(offer.spec, root, accept=accept_licence)
    rows = []
    for offer in offers:
        progress = PrepareProgress(offer.spec.name)
        request = PrepareRequest(
            offer, root, input_sizes(benchmark, offer.spec.name, protocol), given, policy, accept_licence
        )
        try:
            forms = prepare_dataset(request, say=progress.say, on_bytes=progress.on_bytes, on_images=progress.on_images)
        finally:
            progress.end()
        rows += [_row(one, "ready") for one in {one.folder: one for one in forms}.values()]
    print_rows(rows, format_, columns=_COLUMNS)
    return 0


@click.command(cls=Command)
@click.argument("datasets", metavar="DATASET...", nargs=-1, required=True, shell_complete=complete_datasets)
@click.option(
    "--sheet",
    type=UserPath(file_okay=False),
    metavar="DIR",
    help="Folder for the contact sheets.  [default: beside the prepared data set]",
)
@data_option
@registry_option
@format_option
def audit(
    datasets: tuple[str, ...], sheet: Path | None, data: Path | None, registry: Path | None, format_: str
) -> None:
    """Find test images that training has seen: of the same group, identical, or nearly identical.

    The counts are of test images. 'majority %' is the accuracy of always predicting the most frequent class. A contact
    sheet shows the most similar pairs, since only people can tell duplicates from similar images.

    \b
    harness audit ham10000
    harness audit cifar10 --sheet . --format json
    """
    from harness.data.audit import audit as look
    from harness.data.audit import write_contact_sheet
    from harness.files import writing_to

    benchmark, catalog = load(registry)
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys(datasets):
        size = max(input_sizes(benchmark, name))
        prepared = require_prepared(catalog.dataset(name), check_root(data_root(data)), size)
        progress = PrepareProgress(name)
        found = look(prepared, progress.on_images)
        progress.end()
        kept = _kept_audit(prepared, found)
        path, drawn = None, 0
        if sheet is not None or kept:
            folder = sheet or prepared.folder
            with writing_to(folder):
                folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"audit-{name}.png"
            drawn = write_contact_sheet(prepared, found.pairs, path)
        click.echo(f"{name}: {found.sentence or 'no image shared between train and test was found'}.", err=True)
        if not found.groups:
            click.echo(f"{name}: the plugin names no groups, so leakage by group cannot be checked.", err=True)
        if drawn:
            click.echo(f"{name}: the {drawn} most similar pairs: {path}", err=True)
        rows.append({**asdict(found), "sheet": str(path) if drawn else None})
    shown = rows if format_ == "json" else [{k: v for k, v in row.items() if k != "pairs"} for row in rows]
    print_rows(shown, format_, columns=_AUDIT_COLUMNS, digits={"majority_accuracy": 2})


def _kept_audit(prepared: PreparedDataset, found: Audit) -> bool:
    """Write an audit beside the arrays, where the leaderboard finds it, or say that the folder can't be written."""
    from harness.data.audit import write_audit

    try:
        write_audit(prepared, found)
    except StoreError as error:
        click.echo(
            f"{found.dataset}: the audit is not kept beside the arrays, so the leaderboard does not know it, and the "
            f"contact sheet needs --sheet DIR. {error}",
            err=True,
        )
        return False
    return True


def input_sizes(benchmark: Benchmark, dataset: str, protocol: str | None = None) -> tuple[int, ...]:
    """Return the network inputs that a data set is prepared for: those of its suites, else of the default suite.

    With a protocol, return only its own.
    """
    if protocol is not None:
        return (benchmark.protocol(protocol).input_size,)
    protocols = {suite.protocol for suite in benchmark.suites.values() if dataset in suite.datasets}
    protocols = protocols or {benchmark.suite().protocol}
    return tuple(sorted({benchmark.protocol(name).input_size for name in protocols}))


def _row(prepared: PreparedDataset, state: str, problems: tuple[str, ...] = ()) -> dict[str, Any]:
    manifest = prepared.manifest
    return {
        "dataset": manifest.dataset,
        "state": state,
        "form": prepared.folder.name,
        "train": manifest.counts["train"],
        "test": manifest.counts["test"],
        "mean": [round(value, 4) for value in manifest.mean],
        "std": [round(value, 4) for value in manifest.std],
        "fingerprint": manifest.fingerprint,
        "folder": str(prepared.folder),
        "problems": list(problems),
    }


def _verify(catalog: Catalog, name: str, sizes: tuple[int, ...], root: Path) -> list[dict[str, Any]]:
    offer = catalog.dataset(name)
    rows: dict[str, dict[str, Any]] = {}
    for size in sizes:
        try:
            found = find_prepared(root, name, definition(offer), size)
        except DatasetError as error:  # of the manifest itself
            rows[str(error)] = _damaged_row(name, str(error))
            continue
        if found is not None and str(found.folder) not in rows:
            rows[str(found.folder)] = _verified_row(found, offer.spec)
    if not rows:
        raise DatasetError(f"The data set '{name}' is not prepared in {root}. Run: harness prepare {name}")
    if any(row["state"] == "damaged" for row in rows.values()):
        click.echo(f"To make it again: harness prepare {name} --remove, then harness prepare {name}", err=True)
    return list(rows.values())


def _verified_row(prepared: PreparedDataset, spec: DatasetSpec) -> dict[str, Any]:
    from harness.data.prepare import verify_prepared

    problems = verify_prepared(prepared)
    for problem in problems:
        click.echo(f"{spec.name}: {problem}", err=True)
    if problems:
        return _row(prepared, "damaged", tuple(problems))
    reason = outdated(prepared, spec)
    if not reason:
        return _row(prepared, "verified")
    again = f"To prepare it again: harness prepare {spec.name}. {keep_arrays(prepared)}"
    click.echo(f"{spec.name}: {reason}. {again}", err=True)
    return _row(prepared, "outdated", (f"{reason}.",))


def _damaged_row(name: str, problem: str) -> dict[str, Any]:
    """Print the problem of a manifest that can't be read, and return the row of its form."""
    click.echo(f"{name}: {problem}", err=True)
    unknown = dict.fromkeys(("form", "train", "test", "mean", "std", "fingerprint", "folder"))
    return {"dataset": name, "state": "damaged", **unknown, "problems": [problem]}


def _remove(catalog: Catalog, names: list[str], root: Path) -> int:
    from harness.data.remove import left_behind, remove

    for name in names:
        offer = catalog.dataset(name)
        freed = remove(offer, root, catalog.datasets.values(), say=lambda text: click.echo(text, err=True))
        click.echo(f"{name}: {freed / 1e6:,.1f} MB freed in {root}.", err=True)
        if left := left_behind(offer, root):
            some = ", ".join(left[:5]) + (f" and {len(left) - 5} more" if len(left) > 5 else "")
            click.echo(f"{name}: left in {root / name}, since the harness did not write them: {some}.", err=True)
    return 0


class PrepareProgress:
    """Shows the progress of a preparation on stderr: one changing line on a terminal, else a line every 5 s."""

    def __init__(self, dataset: str) -> None:
        self._dataset = dataset
        self._live = sys.stderr.isatty()
        self._shown = time.monotonic()
        self._began: dict[str, tuple[float, int]] = {}
        self._open = False

    def say(self, text: str) -> None:
        """Print a sentence."""
        self.end()
        click.echo(text, err=True)

    def on_bytes(self, name: str, done: int, total: int | None) -> None:
        """Show the progress of a download."""
        rate = self._rate(name, done)
        of = f" of {total / 1e6:,.0f} MB ({done / total:.0%})" if total else " MB"
        self._show(f"{name}: {done / 1e6:,.0f}{of}, {rate / 1e6:.1f} MB/s", last=done == total)

    def on_images(self, split: str, done: int, expected: int) -> None:
        """Show the number of images that are done."""
        self._show(f"{split}: {done:,} of {expected:,} images, {self._rate(split, done):,.0f}/s", last=done == expected)

    def end(self) -> None:
        """End the changing line."""
        if self._open:
            click.echo(err=True)
        self._open = False

    def _rate(self, what: str, done: int) -> float:
        now = time.monotonic()
        began, first = self._began.setdefault(what, (now, done))
        return (done - first) / max(now - began, 1e-6)

    def _show(self, text: str, *, last: bool) -> None:
        now = time.monotonic()
        if now - self._shown < (_REFRESH_SECONDS if self._live else _LINE_SECONDS) and not (last and self._live):
            return
        self._shown = now
        line = f"{self._dataset}: {text}"
        if self._live:
            click.echo(f"\r{line:<100.100}", nl=False, err=True)
            self._open = True
        else:
            click.echo(line, err=True)
