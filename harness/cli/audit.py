"""``harness audit``: images that leak from a data set's train split into its test split."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from harness.cli import completion
from harness.cli.options import data_option, data_root, format_option, load, registry_option
from harness.cli.output import print_rows
from harness.cli.prepare import Teller, input_sizes
from harness.data.ingest import require_prepared

_COLUMNS = {
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


@click.command()
@click.argument("datasets", metavar="DATASET...", nargs=-1, required=True, shell_complete=completion.datasets)
@click.option(
    "--sheet",
    type=click.Path(path_type=Path, file_okay=False),
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
    from harness.data.audit import write_audit, write_contact_sheet
    from harness.files import writing_to

    benchmark, catalog = load(registry)
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys(datasets):
        size = max(input_sizes(benchmark, name))
        prepared = require_prepared(catalog.dataset(name), data_root(data), size)
        teller = Teller(name)
        found = look(prepared, teller.on_images)
        teller.end()
        write_audit(prepared, found)
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
    print_rows(shown, format_, columns=_COLUMNS, digits={"majority_accuracy": 2})
