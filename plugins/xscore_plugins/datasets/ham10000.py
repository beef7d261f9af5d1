"""HAM10000 (Tschandl et al., 2018): 10,015 dermatoscopic images of 7,470 lesions with seven diagnoses, in two splits.

``ham10000`` is the split of the published table: 70/15/15 by image, stratified by diagnosis, seed 42. A third of its
test images show a lesion that is also in train. ``ham10000_lesion`` has the same number of images per diagnosis and
part, but no lesion in two parts. The validation parts, 1,503 images each, are not used.
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
SHARE = 0.15  # of the test part, and of the validation part


@dataclass(frozen=True)
class MetadataRow:
    """The used fields of one line of the metadata."""

    image: str
    lesion: str
    dx: str


@dataclass(frozen=True)
class KnownMetadata:
    """Known facts about the real metadata and its split, by which another file or another split is detected.

    Attributes:
        images: Number of images by diagnosis, in the order of CLASSES.
        lesions: Number of lesions.
        test: Number of test images by diagnosis.
        shared: Number of test images of the image split whose lesion is in train. Unlike the counts, it depends on the
            order of the lines and on every random draw, so it verifies both.
        digest: SHA-256 of the image split, from ``split_digest``; empty while it is unknown. The metadata could not be
            fetched when this was written, so ``shared`` replaces it: that number was computed elsewhere, with
            scikit-learn 1.9.1, on a file of the published checksum. Add the digest when the set is first prepared; it
            is the last unverified fact about the split.
    """

    images: tuple[int, ...]
    lesions: int
    test: tuple[int, ...]
    shared: int
    digest: str = ""


PUBLISHED = KnownMetadata(
    images=(327, 514, 1099, 115, 1113, 6705, 142),
    lesions=7470,
    test=(49, 77, 165, 17, 167, 1006, 22),
    shared=523,
)


def read_metadata(file: Path) -> list[MetadataRow]:
    """Return the metadata's lines in file order, on which the split depends. Raises ReadError."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise ReadError(f"the metadata file {file} is missing.") from None
    except UnicodeDecodeError as error:
        raise ReadError(f"{file} is no UTF-8 text (byte {error.start}).") from None
    table = csv.DictReader(lines)
    if missing := {"image_id", "lesion_id", "dx"} - set(table.fieldnames or ()):
        raise ReadError(
            f"{file} has no column {', '.join(sorted(missing))}; found {', '.join(table.fieldnames or ['nothing'])}. "
            "Fetch the file with ?format=original: the tab-separated .tab file of Dataverse cannot be used."
        )
    rows = [MetadataRow(line["image_id"] or "", line["lesion_id"] or "", line["dx"] or "") for line in table]
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


def split_by_image(rows: Sequence[MetadataRow]) -> list[Part]:
    """Return each line's part in the split of the paper's code.

    It calls scikit-learn's ``train_test_split`` twice, stratified by diagnosis, with seed 42: first for the test part,
    15 % of all, then for the validation part, 0.15/0.85 of the rest. NumPy's RandomState, whose stream is frozen,
    repeats its steps here, so that no library version can move an image.
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
        raise ReadError("the split by image lost an image. This is an error in the plugin; please report it.")
    return parts


def stratified_split(labels: Sequence[int], share: float) -> tuple[list[int], list[int]]:
    """Split positions like ``train_test_split(..., test_size=share, stratify=labels, random_state=42)``, in its order.

    Follows scikit-learn's StratifiedShuffleSplit (1.9.1, BSD-3-Clause): draw proportional numbers of every class for
    the first part, then for the second part, then a permutation within each class and one of each part.
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
    """Return the mode of the multivariate hypergeometric distribution, like scikit-learn's ``_approximate_mode``."""
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


def split_by_lesion(rows: Sequence[MetadataRow], test: Mapping[str, int]) -> list[Part]:
    """Return each line's part, with no lesion in two parts.

    Lesions are assigned in the order of the SHA-256 of seed and name, which depends on no library and not on the order
    of the lines. A lesion goes to the test part if all its images still fit into that part's number of images, else
    likewise to the validation part, else to train. Most lesions have one image, so both numbers are met exactly.

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
            raise ReadError(
                f"the {part} part of the split by lesion lacks images: {short}. "
                "This is not the published metadata file."
            )
    return [part_of[row.lesion] for row in rows]


def split_digest(rows: Sequence[MetadataRow], parts: Sequence[Part]) -> str:
    """Hash the part of every image, independently of the order of the lines."""
    text = "".join(sorted(f"{row.image} {part}\n" for row, part in zip(rows, parts, strict=True)))
    return hashlib.sha256(text.encode()).hexdigest()


def check_published(file: Path, rows: Sequence[MetadataRow], parts: Sequence[Part], known: KnownMetadata) -> None:
    """Compare metadata and image split with the known facts. Raises ReadError with the first difference."""
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
                f"{file}: {what}: found {found}, expected {expected}. This is not the published metadata file, or "
                "its lines are in another order, on which the split depends."
            )


def read(
    folder: Path, split: Split, *, grouped: bool, known: KnownMetadata = PUBLISHED
) -> Iterator[tuple[Path, int, str]]:
    """Yield image, label and lesion of a split, in the metadata's order.

    Args:
        folder: Holds the metadata and the two folders of images.
        split: ``"train"`` or ``"test"``.
        grouped: Split by lesion instead of by image.
        known: The expected metadata.
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
    # Without format=original, Dataverse converts the table to a file with another checksum.
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
    """Register the two splits."""
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
