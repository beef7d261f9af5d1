"""CIFAR-100 (Krizhevsky, 2009): 60,000 photographs of 32 x 32 pixels in 100 fine classes, from the binary archive."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from harness.api import DatasetSpec, ReadError, Source, Split, hookimpl
from xscore_plugins.datasets._cifar import CITATION, HOMEPAGE, LICENCE, SIDE, check_names, read_records

if TYPE_CHECKING:
    from PIL.Image import Image

COARSE_CLASSES = 20
# Alphabetical, as in fine_label_names.txt, which the reader compares with this list.
CLASSES = tuple(
    """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm
    """.split()  # noqa: SIM905 - a hundred quoted names would be harder to read
)
FOLDER = "cifar-100-binary"


def read(folder: Path, split: Split) -> Iterator[tuple[Image, int]]:
    """Yield a split's records in the archive's order, with the fine label. The coarse label comes first on disk."""
    check_names(folder / FOLDER / "fine_label_names.txt", CLASSES)
    file = folder / FOLDER / f"{split}.bin"
    for index, (image, (coarse, fine)) in enumerate(read_records(file, label_bytes=2)):
        if coarse >= COARSE_CLASSES:
            raise ReadError(
                f"{file}: record {index} has the coarse label {coarse}, expected 0 to {COARSE_CLASSES - 1}. "
                "The two label bytes may be swapped."
            )
        yield image, fine


@hookimpl
def harness_datasets() -> list[DatasetSpec]:
    """Register CIFAR-100."""
    return [
        DatasetSpec(
            name="cifar100",
            title="CIFAR-100",
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
                    filename="cifar-100-binary.tar.gz",
                    urls=(
                        "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
                        "https://cave.cs.toronto.edu/kriz/cifar-100-binary.tar.gz",
                    ),
                    bytes=168_513_733,
                    # Size and MD5 are known from two places; the SHA-256 from one (tensorflow/datasets).
                    checksums={
                        "md5": "03b5dce01913d631647c71ecec9e9cb8",
                        "sha256": "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
                    },
                    gives=(FOLDER,),
                    members={
                        f"{FOLDER}/train.bin": "md5:6172c7755cfe09b2fe270c85cebc1b15",
                        f"{FOLDER}/test.bin": "md5:4499cfba6c016c1be1438163640a0898",
                    },
                ),
            ),
        )
    ]
