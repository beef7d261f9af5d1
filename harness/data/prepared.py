"""A prepared data set: a folder of memory-mapped uint8 arrays and a manifest. The train split is open, test is sealed.

    <data>/<data set>/<form>/
        manifest.json       written last; a folder without it is ignored
        train.images.npy    uint8 (N, H, W, 3)
        train.labels.npy    int64 (N,)
        train.groups.txt    one group per line, where the plugin names groups
        test.images.npy  test.labels.npy  test.groups.txt

``form`` is ``native`` if all images have one size below the network's input, else the input size, such as ``224``.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from harness.api import Split
from harness.cache import cache_folder
from harness.errors import DatasetError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SCHEMA = 1


class SourceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One source as it was when the data set was prepared.

    Attributes:
        filename: The file's name.
        sha256: Hash of the file; empty where the user gave an unpacked folder.
        verified: The comparison with the published file: ``"bytes, md5, sha256"``, ``"6 files by checksum"``,
            ``"names and counts"``, or ``"accepted by the user"``.
        origin: ``"downloaded"``, or ``"given: "`` and the user's path.
    """

    filename: str
    sha256: str
    verified: str
    origin: str


class DatasetManifest(msgspec.Struct, frozen=True, kw_only=True):
    """The facts about a prepared data set.

    Attributes:
        schema: Version of this file's layout.
        dataset: The data set's name.
        definition: Hash of the plugin's declaration; a store of another definition is not used.
        fingerprint: Hash of pixels, labels and class names; equal decoders give equal fingerprints.
        classes: Class names in label order.
        size: Stored height and width in pixels.
        native: The images are stored at their own size.
        counts: Number of images by split.
        class_counts: Number of images by split and label.
        mean, std: Per channel over the train split at the stored resolution, in 0..1; std with ddof 0.
        plugin: Distribution and version that read the images.
        libraries: Versions of the decoding libraries.
        created: UTC, ISO 8601.
        sources: The sources of the set; empty for an embedded set.
        left_out: Documented unreadable files that were left out.
        groups_sha256: Hash of ``<split>.groups.txt`` by split, if the file exists.
        licence: The terms at the time of preparation.
    """

    schema: int
    dataset: str
    definition: str
    fingerprint: str
    classes: tuple[str, ...]
    size: tuple[int, int]
    native: bool
    counts: dict[str, int]
    class_counts: dict[str, tuple[int, ...]]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    plugin: str
    libraries: dict[str, str]
    created: str
    sources: tuple[SourceRecord, ...] = ()
    left_out: tuple[str, ...] = ()
    groups_sha256: dict[str, str] = {}
    licence: str = ""


@dataclass(frozen=True)
class SplitArrays:
    """One split: ``images`` uint8 (N, H, W, 3), memory-mapped, and ``labels`` int64 (N,), in the same order."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


class SealedTest:
    """The test split. It opens once, after the last epoch of training.

    The training code holds no other reference to the test images, so it cannot read them by mistake.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.reads = 0

    def open(self, *, epochs_done: int, epochs: int) -> SplitArrays:
        """Open the split after the last epoch.

        Raises:
            DatasetError: training has not ended, or the split was opened before.
        """
        if epochs_done < epochs:
            raise DatasetError(
                f"The test split stays sealed until the last epoch has ended: {epochs_done} of {epochs} are done."
            )
        if self.reads:
            raise DatasetError("The test split was already read in this run; the protocol allows one read.")
        self.reads += 1
        return open_split(self._folder, "test")


@dataclass(frozen=True)
class PreparedDataset:
    """A data set ready for training. Made by ``harness.data.ingest``."""

    folder: Path
    manifest: DatasetManifest

    def open_train(self) -> SplitArrays:
        """Map the train split into memory. Raises DatasetError if its files are damaged."""
        return open_split(self.folder, "train")

    def sealed_test(self) -> SealedTest:
        """Return the unopened test split."""
        return SealedTest(self.folder)


def default_data_root() -> Path:
    """``$HARNESS_DATA``, or a folder in the user's cache."""
    given = os.environ.get("HARNESS_DATA")
    return Path(given) if given else cache_folder() / "data"


def find_prepared(root: Path, dataset: str, definition: str, input_size: int) -> PreparedDataset | None:
    """Return the prepared data set that fits a network's input size, or None.

    Raises:
        DatasetError: its manifest is damaged.
    """
    for form in ("native", str(input_size)):
        folder = root / dataset / form
        if not (folder / "manifest.json").is_file():
            continue
        manifest = read_manifest(folder)
        fits = manifest.schema == SCHEMA and manifest.definition == definition
        if fits and (not manifest.native or max(manifest.size) <= input_size):
            return PreparedDataset(folder, manifest)
    return None


def read_manifest(folder: Path) -> DatasetManifest:
    """Read a prepared data set's manifest. Raises DatasetError if it is damaged."""
    path = folder / "manifest.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=DatasetManifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"{path} is damaged ({error}). Remove the folder {folder} and prepare the data set again."
        ) from error


def open_split(folder: Path, split: Split) -> SplitArrays:
    """Map a split into memory. Training reads the test split through ``SealedTest`` only.

    Raises:
        DatasetError: its files are missing or damaged.
    """
    import numpy as np

    try:
        images = np.load(folder / f"{split}.images.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(folder / f"{split}.labels.npy", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"The {split} split in {folder} is damaged ({error}). Remove the folder and prepare the data set again."
        ) from error
    if images.ndim != 4 or images.shape[3:] != (3,) or images.dtype != np.uint8 or len(images) != len(labels):
        raise DatasetError(
            f"The {split} split in {folder} is damaged: {images.dtype} {images.shape} and {len(labels)} labels, "
            "expected uint8 (N, H, W, 3) and N labels. Remove the folder and prepare the data set again."
        )
    return SplitArrays(images, labels)


def groups_file(folder: Path, split: Split) -> Path:
    """The file of a split's groups, one per line in the images' order."""
    return folder / f"{split}.groups.txt"


def groups_digest(folder: Path, split: Split) -> str | None:
    """Hash the groups of a split; None if the plugin names none."""
    file = groups_file(folder, split)
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None


def read_groups(folder: Path, split: Split) -> tuple[str, ...]:
    """Return the group of every image of a split, in order; empty if the plugin names none."""
    try:
        return tuple(groups_file(folder, split).read_text(encoding="utf-8").splitlines())
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"The groups of the {split} split in {folder} can't be read: {error}.") from error


def pixel_histogram(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Return the histogram of each channel of pixels (..., 3): int64 (3, 256)."""
    import numpy as np

    return np.stack([np.bincount(pixels[..., channel].ravel(), minlength=256) for channel in range(3)])


def channel_moments(
    histogram: npt.NDArray[np.int64],
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return the exact mean and standard deviation (ddof 0) of three channels in 0..1, from their histograms."""
    means: list[float] = []
    deviations: list[float] = []
    for counts in histogram.tolist():
        n = sum(counts)
        total = sum(value * count for value, count in enumerate(counts))
        squares = sum(value * value * count for value, count in enumerate(counts))
        means.append(total / (255 * n))
        deviations.append((n * squares - total * total) ** 0.5 / (255 * n))
    return (means[0], means[1], means[2]), (deviations[0], deviations[1], deviations[2])


def pixel_digest(images: npt.NDArray[np.uint8], chunk: int = 256) -> str:
    """Return the SHA-256 of the pixels of images (N, H, W, 3), read in chunks, since they may map a large file."""
    import numpy as np

    digest = hashlib.sha256()
    for first in range(0, len(images), chunk):
        digest.update(np.ascontiguousarray(images[first : first + chunk]).data)
    return digest.hexdigest()


def content_fingerprint(classes: Sequence[str], splits: Mapping[Split, tuple[Sequence[int], str]]) -> str:
    """Hash the class names and, per split, the labels and the pixels' hash."""
    parts = {
        split: [len(labels), pixels, hashlib.sha256(json.dumps(list(labels)).encode()).hexdigest()]
        for split, (labels, pixels) in splits.items()
    }
    canonical = json.dumps({"classes": list(classes), "splits": parts}, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
