"""Imagenette 2 at 160 pixels (Howard, 2019): ten easy classes of ImageNet; its ``val`` is the test split."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.api import DatasetSpec, ReadError, Source, Split, hookimpl

# Sorted by WordNet id, the label order of every public reader.
SYNSETS = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}
FOLDER = "imagenette2-160"
FOLDERS = {"train": "train", "test": "val"}


def read(folder: Path, split: Split) -> Iterator[tuple[Path, int]]:
    """Yield image files and labels, class by class in the order of names.

    The folder decides the split: names of ImageNet's validation images occur in both folders.
    """
    base = folder / FOLDER / FOLDERS[split]
    if not base.is_dir():
        raise ReadError(f"the folder {base} is missing.")
    found = sorted(entry.name for entry in base.iterdir() if entry.is_dir())
    if found != list(SYNSETS):
        odd = sorted(set(found) ^ set(SYNSETS))
        raise ReadError(
            f"{base} holds other class folders than the ten of Imagenette; the difference is {', '.join(odd[:5])}."
        )
    for label, synset in enumerate(SYNSETS):
        files = sorted(file for file in (base / synset).iterdir() if file.suffix.lower() == ".jpeg")
        if not files:
            raise ReadError(f"the class folder {base / synset} holds no .JPEG file.")
        for file in files:
            yield file, label


@hookimpl
def harness_datasets() -> list[DatasetSpec]:
    """Register Imagenette."""
    return [
        DatasetSpec(
            name="imagenette",
            title="Imagenette",
            classes=tuple(SYNSETS.values()),
            splits={"train": 9_469, "test": 3_925},
            read=read,
            licence="Apache-2.0 for the selection; the photographs are ImageNet's: non-commercial research only",
            accept_licence=True,
            citation="J. Howard, Imagenette: A smaller subset of 10 easily classified classes from Imagenet, 2019",
            domain="objects",
            homepage="https://github.com/fastai/imagenette",
            sources=(
                Source(
                    filename="imagenette2-160.tgz",
                    urls=("https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-160.tgz",),
                    # The current upload. An older upload has 98,948,031 bytes; version 1 has another split.
                    bytes=99_003_388,
                    checksums={
                        "md5": "e793b78cc4c9e9a4ccc0c1155377a412",
                        "sha256": "64d0c4859f35a461889e0147755a999a48b49bf38a7e0f9bd27003f10db02fe5",
                    },
                    gives=(FOLDER,),
                ),
            ),
        )
    ]
