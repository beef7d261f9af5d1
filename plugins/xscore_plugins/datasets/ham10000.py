"""HAM10000 (Tschandl et al., 2018): 10,015 dermatoscopic images of 7,470 lesions, seven diagnoses; two splits of it.

``ham10000`` is the split of the published table: 70/15/15 by image, stratified by diagnosis, seed 42. A third of its
test images show a lesion that is in train too. ``ham10000_lesion`` has as many images of each diagnosis in each part,
but no lesion in two of them. The validation parts, 1,503 images each, are not used.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from harness.api import DatasetSpec, ReadError, Source, Split, hookimpl

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Part: TypeAlias = Literal["train", "val", "test"]

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
FOLDERS = ("HAM10000_images_part_1", "HAM10000_images_part_2")
METADATA = "HAM10000_metadata.csv"
SEED = 42
SHARE = 0.15  # of the test part; the validation part is as large


@dataclass(frozen=True)
class Row:
    """What is used of one line of the metadata."""

    image: str
    lesion: str
    dx: str


@dataclass(frozen=True)
class Published:
    """What is known of the real metadata and its split, so that another file or another split can't pass for it.

    Attributes:
        images: Number of images by diagnosis, in the order of CLASSES.
        lesions: Number of lesions.
        test: Number of test images by diagnosis.
        shared: Number of test images that show a lesion of a training image, by image split. Unlike the counts it
            depends on the order of the lines and on every random draw, and so vouches for both.
        digest: SHA-256 of the image split, as ``split_digest`` computes it; empty while nobody has stated it. The
            metadata could not be fetched where this was written, so ``shared`` stands in for it: the number was
            computed elsewhere, with scikit-learn 1.9.1, on a file of the published checksum. To be filled in by who
            first prepares the set; nothing else about the split remains to be verified.
    """

    images: tuple[int, ...]
    lesions: int
    test: tuple[int, ...]
    shared: int
    digest: str = ""


PUBLISHED = Published(
    images=(327, 514, 1099, 115, 1113, 6705, 142),
    lesions=7470,
    test=(49, 77, 165, 17, 167, 1006, 22),
    shared=523,
)


def read_metadata(file: Path) -> list[Row]:
    """Return the metadata's lines in their order, on which the split depends. Raises ReadError."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise ReadError(f"the metadata {file} are missing.") from None
    except UnicodeDecodeError as error:
        raise ReadError(f"{file} is no UTF-8 text (byte {error.start}).") from None
    table = csv.DictReader(lines)
    if missing := {"image_id", "lesion_id", "dx"} - set(table.fieldnames or ()):
        raise ReadError(
            f"{file} has no column {', '.join(sorted(missing))}; found {', '.join(table.fieldnames or ['nothing'])}. "
            "The tab-separated .tab file of Dataverse is not meant; fetch it with ?format=original."
        )
    rows = [Row(line["image_id"] or "", line["lesion_id"] or "", line["dx"] or "") for line in table]
    for number, row in enumerate(rows, start=2):
        if row.dx not in CLASSES:
            raise ReadError(f"{file}, line {number}: found the diagnosis '{row.dx}', expected {', '.join(CLASSES)}.")
        if not row.image.isascii() or not row.image.replace("_", "").isalnum() or not row.lesion.strip():
            raise ReadError(f"{file}, line {number}: found the image '{row.image}' of lesion '{row.lesion}'.")
    if len({row.image for row in rows}) != len(rows):
        raise ReadError(f"{file} names {len(rows) - len({row.image for row in rows})} images twice.")
    diagnoses: dict[str, str] = {}
    for row in rows:
        if diagnoses.setdefault(row.lesion, row.dx) != row.dx:
            raise ReadError(f"{file}: lesion {row.lesion} has two diagnoses, {diagnoses[row.lesion]} and {row.dx}.")
    return rows


def split_by_image(rows: Sequence[Row]) -> list[Part]:
    """Return each line's part as the paper's code splits them.

    Two calls of scikit-learn's ``train_test_split``, stratified by diagnosis, with seed 42: first the test part, 15 %
    of all, then the validation part, 0.15/0.85 of the rest. Computed here step by step with NumPy's RandomState, whose
    stream is frozen, so that no version of any library can move an image.
    """
    labels = [CLASSES.index(row.dx) for row in rows]
    rest, test = stratified_split(labels, SHARE)
    train, val = stratified_split([labels[index] for index in rest], SHARE / (1 - SHARE))
    parts: list[Part] = ["train"] * len(rows)
    for index in test:
        parts[index] = "test"
    for index in val:
        parts[rest[index]] = "val"
    if parts.count("train") != len(train):
        raise ReadError("the split by image lost an image, which is an error in this plugin.")
    return parts


def stratified_split(labels: Sequence[int], share: float) -> tuple[list[int], list[int]]:
    """Split positions like ``train_test_split(..., test_size=share, stratify=labels, random_state=42)``, in its order.

    After scikit-learn's StratifiedShuffleSplit (1.9.1, BSD-3-Clause): proportional numbers of every class for the
    first part, then for the second, then a permutation within each class and one of each part.
    """
    import numpy as np

    _, codes = np.unique(np.asarray(labels), return_inverse=True)
    counts = np.bincount(codes)
    n_second = int(np.ceil(share * len(codes)))
    random = np.random.RandomState(SEED)
    first_counts = _draws_by_class(counts, len(codes) - n_second, random)
    second_counts = _draws_by_class(counts - first_counts, n_second, random)
    positions = np.split(np.argsort(codes, kind="stable"), np.cumsum(counts)[:-1])
    first: list[int] = []
    second: list[int] = []
    for mine, n_first, n_next in zip(positions, first_counts, second_counts, strict=True):
        shuffled = mine[random.permutation(len(mine))]
        first += shuffled[:n_first].tolist()
        second += shuffled[n_first : n_first + n_next].tolist()
    return random.permutation(first).tolist(), random.permutation(second).tolist()


def _draws_by_class(counts: npt.NDArray[np.int64], draws: int, random: np.random.RandomState) -> npt.NDArray[np.int64]:
    """The mode of the multivariate hypergeometric distribution, ties drawn: ``_approximate_mode`` of scikit-learn."""
    import numpy as np

    exact = counts / counts.sum() * draws
    floored = np.floor(exact)
    missing = int(draws - floored.sum())
    remainder = exact - floored
    for value in np.sort(np.unique(remainder))[::-1]:
        if missing <= 0:
            break
        (tied,) = np.where(remainder == value)
        add = min(len(tied), missing)
        floored[random.choice(tied, size=add, replace=False)] += 1
        missing -= add
    counted: npt.NDArray[np.int64] = floored.astype(np.int64)
    return counted


def split_by_lesion(rows: Sequence[Row], test: Mapping[str, int]) -> list[Part]:
    """Return each line's part so that no lesion is in two parts.

    The lesions of a diagnosis are walked through in the order of the SHA-256 of seed and name, which depends neither on
    a library nor on the order of lines. Each goes whole to the test part if its images still fit into that part's
    number of images, else to the validation part likewise, else to train. Since most lesions have one image, both
    numbers are met exactly.

    Args:
        rows: The metadata.
        test: Number of test images by diagnosis; the validation part gets as many.
    """
    images = Counter(row.lesion for row in rows)
    diagnosis = {row.lesion: row.dx for row in rows}
    left: dict[Part, dict[str, int]] = {"test": dict(test), "val": dict(test)}
    part_of: dict[str, Part] = {}
    for lesion in sorted(images, key=lambda name: hashlib.sha256(f"{SEED}:{name}".encode()).hexdigest()):
        dx = diagnosis[lesion]
        part: Part = "train"
        for candidate, room in left.items():
            if images[lesion] <= room[dx]:
                room[dx] -= images[lesion]
                part = candidate
                break
        part_of[lesion] = part
    for part, room in left.items():
        if short := {dx: count for dx, count in room.items() if count}:
            raise ReadError(f"the {part} part of the split by lesion lacks images: {short}; the metadata are others.")
    return [part_of[row.lesion] for row in rows]


def split_digest(rows: Sequence[Row], parts: Sequence[Part]) -> str:
    """Hash of which image is in which part, whatever the order of lines."""
    text = "".join(sorted(f"{row.image} {part}\n" for row, part in zip(rows, parts, strict=True)))
    return hashlib.sha256(text.encode()).hexdigest()


def check_published(file: Path, rows: Sequence[Row], parts: Sequence[Part], known: Published) -> None:
    """Compare metadata and image split with what is published. Raises ReadError naming the first difference."""
    by_class = Counter(row.dx for row in rows)
    test = Counter(row.dx for row, part in zip(rows, parts, strict=True) if part == "test")
    trained = {row.lesion for row, part in zip(rows, parts, strict=True) if part == "train"}
    shared = sum(row.lesion in trained for row, part in zip(rows, parts, strict=True) if part == "test")
    for what, found, expected in (
        ("images by diagnosis", tuple(by_class[dx] for dx in CLASSES), known.images),
        ("lesions", len({row.lesion for row in rows}), known.lesions),
        ("test images by diagnosis", tuple(test[dx] for dx in CLASSES), known.test),
        ("test images whose lesion is in train", shared, known.shared),
        ("hash of the split", split_digest(rows, parts) if known.digest else "", known.digest),
    ):
        if found != expected:
            raise ReadError(
                f"{file}: {what}: found {found}, expected {expected}. The metadata are not the published ones, or "
                "their lines are in another order, on which the split depends."
            )


def read(folder: Path, split: Split, *, grouped: bool, known: Published = PUBLISHED) -> Iterator[tuple[Path, int, str]]:
    """Yield image, label and lesion of a split, in the metadata's order.

    Args:
        folder: Holds the metadata and the two folders of images.
        split: ``"train"`` or ``"test"``.
        grouped: Split by lesion instead of by image.
        known: What the metadata must be.
    """
    rows = read_metadata(folder / METADATA)
    parts = split_by_image(rows)
    check_published(folder / METADATA, rows, parts, known)
    if grouped:
        parts = split_by_lesion(rows, dict(zip(CLASSES, known.test, strict=True)))
    for row, part in zip(rows, parts, strict=True):
        if part == split:
            yield _image(folder, row.image), CLASSES.index(row.dx), row.lesion


def _image(folder: Path, name: str) -> Path:
    for part in FOLDERS:
        path = folder / part / f"{name}.jpg"
        if path.is_file():
            return path
    raise ReadError(f"the image {name}.jpg is in neither {' nor '.join(FOLDERS)}.")


def _source(filename: str, number: int, size: int, md5: str, sha256: str) -> Source:
    archive = filename.endswith(".zip")
    folder = filename.removesuffix(".zip") if archive else ""
    # Without format=original, Dataverse converts the table to another file with another checksum.
    query = "" if archive else "?format=original"
    return Source(
        filename=filename,
        urls=(f"https://dataverse.harvard.edu/api/access/datafile/{number}{query}",),
        bytes=size,
        checksums={"md5": md5, "sha256": sha256},
        into=folder,
        gives=(folder,) if archive else (),
    )


SOURCES = (
    _source(
        "HAM10000_images_part_1.zip", 3172585, 1_366_522_108, "4639bfa73ab251610530a97c898e6e46",
        "6202a599129c2efe81c25aea8586d422eeda8a4fae5df49dd7b7bbf956d419db",
    ),
    _source(
        "HAM10000_images_part_2.zip", 3172584, 1_403_566_547, "da43d6cc50f6613013be07e8986b384b",
        "9677f30118c21ecc667a147de369d89acb25efab046fd32f6b13ad677ce2d6d0",
    ),
    _source(
        METADATA, 4338392, 690_218, "8f85fb1aa29d80a2797247e434deb79d",
        "de17ec44cb25ea9c3f6378ba18d69224c740afd62e86ec2edc6a894d6aa663d3",
    ),
)  # fmt: skip


@hookimpl
def harness_datasets() -> list[DatasetSpec]:
    """The two splits."""
    return [
        DatasetSpec(
            name=name,
            title=title,
            classes=CLASSES,
            splits={"train": 7_009, "test": 1_503},
            read=partial(read, grouped=grouped),
            licence="CC BY-NC 4.0",
            accept_licence=True,
            citation="P. Tschandl, C. Rosendahl, H. Kittler, The HAM10000 dataset, a large collection of multi-source "
            "dermatoscopic images of common pigmented skin lesions, Sci. Data 5:180161, 2018, "
            "doi:10.1038/sdata.2018.161",
            domain="skin lesions",
            homepage="https://doi.org/10.7910/DVN/DBW86T",
            sources=SOURCES,
            leakage="" if grouped else "523 of 1,503 test images show a lesion that is also in train",
        )
        for name, title, grouped in (
            ("ham10000", "HAM10000", False),
            ("ham10000_lesion", "HAM10000, split by lesion", True),
        )
    ]
