"""CIFAR-10 (Krizhevsky, 2009): 60,000 photographs of 32 x 32 pixels in 10 classes, from the binary archive."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from harness.api import DatasetSpec, Source, Split, hookimpl
from xscore_plugins.datasets._cifar import CITATION, HOMEPAGE, LICENCE, SIDE, check_names, read_records

if TYPE_CHECKING:
    from PIL.Image import Image

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FOLDER = "cifar-10-batches-bin"
FILES = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)}


def read(folder: Path, split: Split) -> Iterator[tuple[Image, int]]:
    """Yield the records of a split in the archive's order."""
    check_names(folder / FOLDER / "batches.meta.txt", CLASSES)
    for name in FILES[split]:
        for image, (label,) in read_records(folder / FOLDER / name, label_bytes=1):
            yield image, label


@hookimpl
def harness_datasets() -> list[DatasetSpec]:
    """Register CIFAR-10."""
    return [
        DatasetSpec(
            name="cifar10",
            title="CIFAR-10",
            classes=CLASSES,
            splits={"train": 50_000, "test": 10_000},
            read=read,
            licence=LICENCE,
            citation=CITATION,
            domain="objects",
            homepage=HOMEPAGE,
            native_side=SIDE,
            leakage="some test images nearly repeat a train image (Barz & Denzler, ciFAIR, arXiv:1902.00423)",
            sources=(
                Source(
                    filename="cifar-10-binary.tar.gz",
                    urls=(
                        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                        "https://cave.cs.toronto.edu/kriz/cifar-10-binary.tar.gz",
                    ),
                    bytes=170_052_171,
                    checksums={
                        "md5": "c32a1d4ab5d03f1284b67883e8d87530",
                        "sha256": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                    },
                    gives=(FOLDER,),
                    members={
                        f"{FOLDER}/data_batch_1.bin": "md5:5dd7e06a14cb22eb9f671a540d1b7c25",
                        f"{FOLDER}/data_batch_2.bin": "md5:5ea93a67294ea407fff1d09f752e9692",
                        f"{FOLDER}/data_batch_3.bin": "md5:942cd6a4bcdd0dd3c604fbe906cb4421",
                        f"{FOLDER}/data_batch_4.bin": "md5:ae636b3ba5c66a11e91e8cb52e771fcb",
                        f"{FOLDER}/data_batch_5.bin": "md5:53f37980c15c3d472c316c40844f3f0d",
                        f"{FOLDER}/test_batch.bin": "md5:803d5f7f4d78ea53de84dbe85f74fb6d",
                    },
                ),
            ),
        )
    ]
