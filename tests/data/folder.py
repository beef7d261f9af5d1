"""A data set of a folder of images, which the tests of preparation share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness.api import DatasetSpec, Split
from harness.catalog import Offer, Plugin
from harness.data import ingest
from harness.data.prepared import PreparedDataset

SIZE = 32
Read = Callable[[Path, Split], Iterator[Any]]


def offer(read: Read, train: int = 40, test: int = 10, **changes: Any) -> Offer[DatasetSpec]:
    spec = DatasetSpec(
        name="folder", title="Folder", classes=("a", "b"), splits={"train": train, "test": test}, read=read,
        licence="CC0", citation="nobody", **changes,
    )  # fmt: skip
    return Offer(spec, Plugin("folder", "tests", "tests", "1"))


def files(folder: Path, split: Split) -> Iterator[tuple[Path, int, str]]:
    paths = sorted(folder.iterdir())
    for index, path in enumerate(paths[:40] if split == "train" else paths[40:]):
        yield path, index % 2, f"g{index // 2}"


def make(images: Path, root: Path, read: Read = files, **options: Any) -> PreparedDataset:
    return ingest.ingest(ingest.Ingestion(offer(read), root, SIZE, images, **options))
