"""Compares the splits of a prepared data set: shared groups, identical and nearly identical images.

Near-duplicates are found in two steps. A 64-bit perceptual hash compares every test image with every train image, also
mirrored, since training mirrors images. It is the ``phash`` of the imagehash library, computed for many images at once;
a test compares the two. A candidate pair counts if its thumbnails correlate. People judge the rest: the contact sheet
shows the pairs that are most alike.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.data.prepared import PreparedDataset, SplitArrays, open_split, read_groups
from harness.files import write_atomically, write_text_atomically

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

NEAR_BITS = 8
"""Two hashes with at most this many differing bits of 64 make a candidate. Unrelated photographs differ in about 32."""
NEAR_CORRELATION = 0.90
"""A candidate counts from this correlation of two 32 x 32 grey thumbnails. With these two limits, all 175 pairs of
CIFAR-10 have equal labels; with 10 bits, 3 of 201 pairs have two labels."""
_THUMBNAIL = 32
_BLOCK = 64  # test images compared at once
_CANDIDATES = 8  # train images per test image whose thumbnails are compared
_TILE = 128
_GAP = 8
_CAPTION = 30
_COLUMNS = 4


@dataclass(frozen=True, order=True)
class ImagePair:
    """A test image and the train image that is most like it.

    Attributes:
        correlation: Correlation of the thumbnails; 1 for identical images.
        test, train: Positions in the splits.
        bits: Differing bits of the hashes.
        mirrored: The train image is like the mirrored test image.
        identical: All stored pixels are equal.
    """

    correlation: float
    test: int
    train: int
    bits: int
    mirrored: bool
    identical: bool


@dataclass(frozen=True)
class Audit:
    """The findings of an audit. All counts are numbers of images.

    Attributes:
        dataset, fingerprint: The audited data set.
        train, test: Images in the splits.
        smallest_class, largest_class: Train images of the rarest and of the most frequent class.
        majority_accuracy: Top-1 accuracy in percent of always answering with train's most frequent class.
        groups: The plugin names groups.
        shared_groups: Number of groups that are in both splits.
        group_leaks: Test images whose group is in train.
        identical: Test images with an identical train image.
        conflicting: Identical test images whose label differs from the train image's.
        repeated_train, repeated_test: Images that repeat an earlier one of their own split.
        near: Test images that nearly repeat a train image, without the identical ones.
        pairs: The identical and near pairs, most alike first.
    """

    dataset: str
    fingerprint: str
    train: int
    test: int
    smallest_class: int
    largest_class: int
    majority_accuracy: float
    groups: bool
    shared_groups: int
    group_leaks: int
    identical: int
    conflicting: int
    repeated_train: int
    repeated_test: int
    near: int
    pairs: tuple[ImagePair, ...]

    @property
    def leaks(self) -> str:
        """The certain leaks as a sentence; empty if there are none."""
        return self._counted(
            (self.group_leaks, "belong to a group that is also in train"), (self.identical, "are also in train")
        )

    @property
    def sentence(self) -> str:
        """The certain and the likely leaks as a sentence; empty if nothing was found."""
        alike = self._counted((self.near, "nearly repeat a train image"))
        return "; ".join(part for part in (self.leaks, alike) if part)

    def _counted(self, *found: tuple[int, str]) -> str:
        return "; ".join(f"{count:,} of {self.test:,} test images {what}" for count, what in found if count)


def audit(prepared: PreparedDataset, report: Callable[[str, int, int], object] = lambda *_: None) -> Audit:
    """Compare the splits of a prepared data set.

    Args:
        prepared: The data set. It is only read, and nothing is trained.
        report: Called with the step's name, the number of images done, and the number of all.

    Raises:
        DatasetError: the files are damaged.
    """
    import numpy as np

    manifest = prepared.manifest
    train, test = open_split(prepared, "train"), open_split(prepared, "test")
    train_groups, test_groups = read_groups(prepared.folder, "train"), read_groups(prepared.folder, "test")
    in_train = set(train_groups) - {""}  # an image without a group belongs to none
    first_train, repeated_train = _by_pixels(train)
    first_test, repeated_test = _by_pixels(test)
    same = {index: first_train[digest] for digest, index in first_test.items() if digest in first_train}
    for index, original in repeated_test.items():
        if original in same:
            same[index] = same[original]
    near = _near_pairs(train, test, skip=same.keys(), report=report)
    identical = [ImagePair(1.0, index, twin, 0, mirrored=False, identical=True) for index, twin in sorted(same.items())]
    counts = np.asarray(manifest.class_counts["train"])
    return Audit(
        dataset=manifest.dataset,
        fingerprint=manifest.fingerprint,
        train=len(train),
        test=len(test),
        smallest_class=int(counts.min()),
        largest_class=int(counts.max()),
        majority_accuracy=100 * manifest.class_counts["test"][int(counts.argmax())] / len(test),
        groups=any(train_groups) and any(test_groups),
        shared_groups=len(in_train & set(test_groups)),
        group_leaks=sum(group in in_train for group in test_groups),
        identical=len(same),
        conflicting=sum(int(test.labels[index]) != int(train.labels[twin]) for index, twin in same.items()),
        repeated_train=len(repeated_train),
        repeated_test=len(repeated_test),
        near=len(near),
        pairs=(*identical, *sorted(near, key=lambda pair: (-pair.correlation, pair.test))),
    )


def _by_pixels(split: SplitArrays) -> tuple[dict[bytes, int], dict[int, int]]:
    """Return the first image by content, and the image that each repetition repeats."""
    first: dict[bytes, int] = {}
    repeats: dict[int, int] = {}
    for index in range(len(split)):
        digest = hashlib.sha256(split.images[index].tobytes()).digest()
        original = first.setdefault(digest, index)
        if original != index:
            repeats[index] = original
    return first, repeats


def thumbnails(split: SplitArrays, report: Callable[[int], object] = lambda _: None) -> npt.NDArray[np.uint8]:
    """Return the grey thumbnails that imagehash makes: uint8 (N, 32, 32)."""
    import numpy as np
    from PIL import Image

    small = np.empty((len(split), _THUMBNAIL, _THUMBNAIL), dtype=np.uint8)
    for index in range(len(split)):
        image = Image.fromarray(np.asarray(split.images[index])).convert("L")
        small[index] = np.asarray(image.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS))
        if index % 1000 == 999:
            report(index + 1)
    return small


def perceptual_hashes(small: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """Return imagehash's ``phash`` of thumbnails (N, 32, 32): one bit per low frequency of 64, set above the median."""
    import numpy as np
    from scipy.fftpack import dct

    hashes = np.empty(len(small), dtype=np.uint64)
    for start in range(0, len(small), 1024):
        chunk = small[start : start + 1024]
        low = dct(dct(chunk.astype(np.float64), axis=1), axis=2)[:, :8, :8].reshape(len(chunk), 64)
        bits = low > np.median(low, axis=1, keepdims=True)
        hashes[start : start + 1024] = np.packbits(bits, axis=1).view(">u8").reshape(-1)
    return hashes


def _near_pairs(
    train: SplitArrays, test: SplitArrays, skip: Any, report: Callable[[str, int, int], object]
) -> list[ImagePair]:
    import numpy as np

    total = len(train) + len(test)
    train_small = thumbnails(train, lambda done: report("hashed", done, total))
    test_small = thumbnails(test, lambda done: report("hashed", len(train) + done, total))
    train_hashes = perceptual_hashes(train_small)
    best: dict[int, ImagePair] = {}
    for mirrored in (False, True):
        turned = test_small[:, :, ::-1] if mirrored else test_small
        hashes = perceptual_hashes(turned)
        for start in range(0, len(test), _BLOCK):
            distances = np.bitwise_count(hashes[start : start + _BLOCK, None] ^ train_hashes[None, :])
            for row in np.flatnonzero((distances <= NEAR_BITS).any(axis=1)).tolist():
                index = start + row
                if index in skip:
                    continue
                candidates = np.flatnonzero(distances[row] <= NEAR_BITS)
                candidates = candidates[np.argsort(distances[row][candidates], kind="stable")[:_CANDIDATES]]
                for twin in candidates.tolist():
                    likeness = _correlation(turned[index], train_small[twin])
                    pair = ImagePair(likeness, index, twin, int(distances[row, twin]), mirrored, identical=False)
                    if likeness >= NEAR_CORRELATION and (index not in best or likeness > best[index].correlation):
                        best[index] = pair
            report("compared", start + len(distances) + (len(test) if mirrored else 0), 2 * len(test))
    return list(best.values())


def _correlation(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> float:
    """Pearson's correlation of two thumbnails; 0 if one of them has a single shade."""
    import numpy as np

    a, b = one.astype(np.float64).ravel(), other.astype(np.float64).ravel()
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm else 0.0


def audit_file(prepared: PreparedDataset) -> Path:
    """The file of the last audit of a prepared data set."""
    return prepared.folder / "audit.json"


def write_audit(prepared: PreparedDataset, found: Audit) -> None:
    """Write an audit beside the arrays."""
    write_text_atomically(audit_file(prepared), json.dumps({"leaks": found.leaks, **asdict(found)}, indent=2) + "\n")


def known_leakage(declared: str, prepared: PreparedDataset | None) -> str:
    """Return the known leaks: those that an audit of these very pixels proved, else those that the plugin declares.

    Near-duplicates are no proof until a person has looked at them: drawings of 8 x 8 pixels are alike without being
    copies.
    """
    if prepared is not None:
        try:
            content = json.loads(audit_file(prepared).read_bytes())
            if content["fingerprint"] == prepared.manifest.fingerprint and content["leaks"]:
                return str(content["leaks"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass  # without a readable audit, the declaration stands
    return declared


def write_contact_sheet(prepared: PreparedDataset, pairs: Sequence[ImagePair], path: Path, limit: int = 40) -> int:
    """Draw the first pairs for people to look at: the test image on the left, the train image on the right.

    Args:
        prepared: The data set of the pairs.
        pairs: The pairs, drawn in this order.
        path: The PNG file to write.
        limit: Maximum number of pairs.

    Returns:
        The number of pairs drawn. Without pairs, no file is written.

    Raises:
        StoreError: the file can't be written.
        DatasetError: the arrays are damaged.
    """
    from PIL import Image, ImageDraw

    shown = pairs[:limit]
    if not shown:
        return 0
    train, test = open_split(prepared, "train"), open_split(prepared, "test")
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
