"""The binary record format of the CIFAR sets: label bytes, then 1,024 bytes each of red, green and blue, row by row.

The Python archives hold the same pixels as pickles. Reading a pickle can run code; reading these records can not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.api import ReadError

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 32
CITATION = "A. Krizhevsky, Learning multiple layers of features from tiny images, University of Toronto, 2009"
LICENCE = "none stated by the authors, who ask to be cited"
HOMEPAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
_PIXELS = 3 * SIDE * SIDE
_AT_ONCE = 1000  # records in memory


def read_records(file: Path, label_bytes: int) -> Iterator[tuple[Image, tuple[int, ...]]]:
    """Yield each record's image and label bytes. Raises ReadError if the file holds a part of a record."""
    import numpy as np
    from PIL import Image as image_module

    record = label_bytes + _PIXELS
    try:
        size = file.stat().st_size
    except OSError:
        raise ReadError(f"the file {file} is missing.") from None
    if size == 0 or size % record:
        raise ReadError(
            f"{file} has {size:,} bytes, expected a multiple of {record:,}, the size of a record. "
            "It is incomplete, or from another data set."
        )
    with file.open("rb") as opened:
        while content := opened.read(record * _AT_ONCE):
            table = np.frombuffer(content, dtype=np.uint8).reshape(-1, record)
            pixels = table[:, label_bytes:].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
            for labels, image in zip(table[:, :label_bytes].tolist(), np.ascontiguousarray(pixels), strict=True):
                yield image_module.fromarray(image), tuple(labels)


def check_names(file: Path, classes: Sequence[str]) -> None:
    """Compare a list of class names with the declared order, if the folder has the list."""
    if not file.is_file():
        return
    found = file.read_text(encoding="latin-1").split()
    if found != list(classes):
        odd = next((pair for pair in zip(found, classes, strict=False) if pair[0] != pair[1]), None)
        detail = f"'{odd[0]}' where '{odd[1]}' is expected" if odd else f"{len(found)} names, expected {len(classes)}"
        raise ReadError(f"{file} lists the classes in another order: {detail}.")
