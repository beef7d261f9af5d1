"""The embedded suite ``pocket``: four small real image sets of four domains, read from this package's own files.

Each set has 640 training images, the same number of every class. A network trains from scratch on a CPU in well under a
minute. ``pocket_data/LICENCES.md`` states the sources, the terms and the selection; ``build_pocket.py`` in the source
repository makes the files.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from harness.api import DatasetSpec, Split, hookimpl

if TYPE_CHECKING:
    from PIL.Image import Image

TILES_PER_ROW = 32


def _packaged(filename: str) -> bytes:
    return files("xscore_plugins.datasets").joinpath("pocket_data", filename).read_bytes()


def read_packaged(stem: str, side: int, folder: Path, split: Split) -> Iterator[tuple[Image, int, str]]:  # noqa: ARG001
    """Yield image, label and group of one split, class by class in a fixed order.

    Args:
        stem: The stem of the file names.
        side: Height and width of its images in pixels.
        folder: Ignored, since the images are in the package.
        split: ``"train"`` or ``"test"``.
    """
    from PIL import Image as image_module

    table = csv.DictReader(io.StringIO(_packaged(f"{stem}.csv").decode()))
    rows = [row for row in table if row["split"] == split]
    with image_module.open(io.BytesIO(_packaged(f"{stem}-{split}.png"))) as sheet:
        sheet.load()
        for index, row in enumerate(rows):
            top, left = (side * step for step in divmod(index, TILES_PER_ROW))
            yield sheet.crop((left, top, left + side, top + side)), int(row["label"]), row["group"]


SETS = (
    DatasetSpec(
        name="pocket_digits",
        title="Pocket Digits",
        classes=tuple("0123456789"),
        splits={"train": 640, "test": 400},
        read=partial(read_packaged, "digits", 8),
        licence="CC BY 4.0",
        citation="E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning "
        "Repository, 1998, doi:10.24432/C50P49",
        domain="handwriting",
        homepage="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
    ),
    DatasetSpec(
        name="pocket_fashion",
        title="Pocket Fashion",
        classes=(
            "t_shirt_top",
            "trouser",
            "pullover",
            "dress",
            "coat",
            "sandal",
            "shirt",
            "sneaker",
            "bag",
            "ankle_boot",
        ),
        splits={"train": 640, "test": 400},
        read=partial(read_packaged, "fashion", 28),
        licence="MIT",
        citation="H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine "
        "Learning Algorithms, 2017, arXiv:1708.07747",
        domain="product photographs",
        homepage="https://github.com/zalandoresearch/fashion-mnist",
    ),
    DatasetSpec(
        name="pocket_textures",
        title="Pocket Textures",
        classes=("brick", "grass", "gravel", "deep_sky", "retina"),
        splits={"train": 640, "test": 400},
        read=partial(read_packaged, "textures", 32),
        licence="CC0 1.0 (brick, grass, gravel, retina); public domain, NASA (deep_sky)",
        citation="S. van der Walt et al., scikit-image: image processing in Python, PeerJ 2:e453, 2014, "
        "doi:10.7717/peerj.453 (the photographs of skimage.data)",
        domain="textures",
        homepage="https://scikit-image.org/docs/stable/api/skimage.data.html",
    ),
    DatasetSpec(
        name="pocket_earth",
        title="Pocket Earth",
        classes=("desert", "rainforest", "farmland", "mountains", "ice"),
        splits={"train": 640, "test": 400},
        read=partial(read_packaged, "earth", 32),
        licence="public domain (NASA)",
        citation="R. Stöckli, E. Vermote, N. Saleous, R. Simmon, D. Herring, The Blue Marble Next Generation: A "
        "true color earth dataset including seasonal dynamics from MODIS, NASA Earth Observatory, 2005",
        domain="satellite imagery",
        homepage="https://earthobservatory.nasa.gov/features/BlueMarble",
    ),
)


@hookimpl
def harness_datasets() -> list[DatasetSpec]:
    """Register the four sets of the suite."""
    return list(SETS)
