"""Pairs of images -> one PNG for people to look at: test image on the left, train image on the right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.data.audit import Pair
from harness.data.store import PreparedDataset, open_split
from harness.files import write_atomically

_TILE = 128
_GAP = 8
_CAPTION = 30
_COLUMNS = 4


def write_contact_sheet(prepared: PreparedDataset, pairs: Sequence[Pair], path: Path, limit: int = 40) -> int:
    """Draw the first pairs.

    Args:
        prepared: Where the images are.
        pairs: Which; the order is kept.
        path: The PNG file to write.
        limit: Number of pairs at most.

    Returns:
        The number of pairs drawn; no file is written for none.

    Raises:
        StoreError: the file can't be written.
        DatasetError: the arrays are damaged.
    """
    from PIL import Image, ImageDraw

    shown = pairs[:limit]
    if not shown:
        return 0
    train, test = open_split(prepared.folder, "train"), open_split(prepared.folder, "test")
    classes = prepared.manifest.classes
    width, height = 2 * _TILE + _GAP, _TILE + _CAPTION + _GAP
    columns = min(_COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    sheet = Image.new("RGB", (columns * (width + _GAP) + _GAP, rows * height + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for number, pair in enumerate(shown):
        row, column = divmod(number, columns)
        left, top = _GAP + column * (width + _GAP), _GAP + row * height
        for offset, pixels in ((0, test.images[pair.test]), (_TILE, train.images[pair.train])):
            tile = Image.fromarray(pixels).resize((_TILE, _TILE), Image.Resampling.BICUBIC)
            sheet.paste(tile, (left + offset, top))
        kind = "identical" if pair.identical else f"r {pair.correlation:.3f}{', mirrored' if pair.mirrored else ''}"
        labels = [classes[int(split.labels[index])] for split, index in ((test, pair.test), (train, pair.train))]
        named = labels[0] if labels[0] == labels[1] else f"{labels[0]} / {labels[1]}"
        draw.text((left, top + _TILE + 2), f"test {pair.test}, train {pair.train}: {kind}"[:46], fill="black")
        # The built-in bitmap font knows Latin letters only.
        draw.text((left, top + _TILE + 14), named.encode("latin-1", "replace").decode("latin-1")[:46], fill="black")
    write_atomically(path, lambda file: sheet.save(file, "PNG"))
    return len(shown)
