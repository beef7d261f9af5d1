"""What leaks from train into test is found: groups, identical and nearly identical images, mirrored ones included."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.api import DatasetSpec, Split
from harness.catalog import Offer, Plugin
from harness.data.audit import (
    audit,
    audit_file,
    known_leakage,
    perceptual_hashes,
    thumbnails,
    write_audit,
    write_contact_sheet,
)
from harness.data.ingest import Ingestion, ingest
from harness.data.prepared import PreparedDataset, SplitArrays, open_split


def scene(seed: int) -> Image.Image:
    """A smooth random picture, as unlike another as two photographs are."""
    rng = np.random.RandomState(seed)
    small = Image.fromarray(rng.randint(0, 256, (9, 9, 3), dtype=np.uint8))
    return small.resize((48, 48), Image.Resampling.BICUBIC)


def brighter(image: Image.Image) -> Image.Image:
    return image.point(lambda value: value * 0.8 + 20)


TRAIN = [(scene(seed), seed % 2, f"g{seed}") for seed in range(30)]
TEST = [
    (scene(100), 0, "h0"),
    (scene(4), 0, "h1"),  # identical to train 4
    (scene(5), 0, "h2"),  # identical to train 5, which has label 1
    (brighter(scene(7)), 1, "h3"),
    (scene(9).transpose(Image.Transpose.FLIP_LEFT_RIGHT), 1, "h4"),
    (scene(101), 1, "g12"),  # another picture of a group of train
    (scene(100), 0, "h0"),  # repeats the first test image
    (Image.new("RGB", (48, 48), (9, 9, 9)), 0, "h5"),  # one shade: like nothing
]


def read(folder: Path, split: Split) -> Iterator[Any]:
    yield from TRAIN if split == "train" else TEST


@pytest.fixture
def prepared(tmp_path: Path) -> PreparedDataset:
    spec = DatasetSpec(
        name="leaky", title="Leaky", classes=("even", "odd"), splits={"train": 30, "test": 8}, read=read,
        licence="CC0", citation="nobody",
    )  # fmt: skip
    offer = Offer(spec, Plugin("leaky", "tests", "tests", "1"))
    return ingest(Ingestion(offer, tmp_path / "data", 64, tmp_path))


def test_every_kind_of_leak_is_found(prepared: PreparedDataset) -> None:
    found = audit(prepared)
    assert (found.identical, found.conflicting, found.near) == (2, 1, 2)
    assert (found.groups, found.shared_groups, found.group_leaks) == (True, 1, 1)
    assert (found.repeated_train, found.repeated_test) == (0, 1)
    assert [(pair.test, pair.train, pair.identical, pair.mirrored) for pair in found.pairs[:2]] == [
        (1, 4, True, False),
        (2, 5, True, False),
    ]
    assert {(pair.test, pair.train, pair.mirrored) for pair in found.pairs[2:]} == {(3, 7, False), (4, 9, True)}
    assert found.sentence == (
        "1 of 8 test images belong to a group that is also in train; 2 of 8 test images are also in train; "
        "2 of 8 test images nearly repeat a train image"
    )


def test_the_balance_and_the_majority_are_reported(prepared: PreparedDataset) -> None:
    found = audit(prepared)
    assert (found.smallest_class, found.largest_class) == (15, 15)
    assert found.majority_accuracy == pytest.approx(100 * 5 / 8)


def test_the_hash_is_imagehashs() -> None:
    imagehash = pytest.importorskip("imagehash")
    pixels = np.random.RandomState(0).randint(0, 256, (40, 37, 37, 3), dtype=np.uint8)
    pixels[0] = 7
    mine = perceptual_hashes(thumbnails(SplitArrays(pixels, np.zeros(40, dtype=np.int64))))
    theirs = [int(str(imagehash.phash(Image.fromarray(image))), 16) for image in pixels]
    assert mine.tolist() == theirs


def test_the_contact_sheet_shows_the_pairs(prepared: PreparedDataset, tmp_path: Path) -> None:
    pairs = audit(prepared).pairs
    assert write_contact_sheet(prepared, pairs, tmp_path / "sheet.png", limit=3) == 3
    with Image.open(tmp_path / "sheet.png") as sheet:
        tile = np.asarray(sheet.crop((8, 8, 8 + 128, 8 + 128)))
    expected = Image.fromarray(open_split(prepared, "test").images[1]).resize((128, 128), Image.Resampling.BICUBIC)
    assert np.array_equal(tile, np.asarray(expected))
    assert write_contact_sheet(prepared, [], tmp_path / "none.png") == 0
    assert not (tmp_path / "none.png").exists()


def test_an_audit_of_these_pixels_overrides_the_plugin(prepared: PreparedDataset) -> None:
    assert known_leakage("declared", prepared) == "declared"
    found = audit(prepared)
    write_audit(prepared, found)
    assert known_leakage("declared", prepared) == found.leaks
    assert "nearly" not in found.leaks
    content = json.loads(audit_file(prepared).read_text())
    audit_file(prepared).write_text(json.dumps(content | {"fingerprint": "another"}))
    assert known_leakage("declared", prepared) == "declared"
    audit_file(prepared).write_text("{")
    assert known_leakage("", prepared) == ""
