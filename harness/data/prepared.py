"""A prepared data set: a folder of memory-mapped uint8 arrays and a manifest. The train split is open, test is sealed.

    <data>/<data set>/<form>/
        manifest.json       written last; a folder without it is ignored
        train.images.npy    uint8 (N, H, W, 3)
        train.labels.npy    int64 (N,)
        train.groups.txt    one line per image, where the plugin names groups; empty for an image without one
        test.images.npy  test.labels.npy  test.groups.txt

``form`` is ``native`` if all images have one size below the network's input, else the input size, such as ``224``.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from harness.api import Split
from harness.cache import NOWHERE, cache_folder
from harness.errors import CannotContinueError, DatasetError, one_line
from harness.files import absolute_path, write_text_atomically

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
        labels_sha256, pixels_sha256: Hash of the labels and of the pixels by split; empty in stores of older versions.
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
    labels_sha256: dict[str, str] = {}
    pixels_sha256: dict[str, str] = {}
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

    def __init__(self, prepared: PreparedDataset) -> None:
        self._prepared = prepared
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
        return open_split(self._prepared, "test")


@dataclass(frozen=True)
class PreparedDataset:
    """A data set ready for training. Made by ``harness.data.ingest``."""

    folder: Path
    manifest: DatasetManifest

    def open_train(self) -> SplitArrays:
        """Map the train split into memory. Raises DatasetError if its files are damaged."""
        return open_split(self, "train")

    def require_pixels(self, split: Split, digest: str) -> None:
        """Raise DatasetError if the hash of a split's pixels is not the one that was prepared."""
        if self.manifest.pixels_sha256.get(split, digest) != digest:
            raise DatasetError(damaged_split(self.folder, split, "its pixels have changed since it was prepared"))

    def require_sound(self) -> None:
        """Raise DatasetError if the files of a split are damaged. No pixel is read.

        Called before jobs begin, since a job opens the test split only when its training has ended.
        """
        for split in ("train", "test"):
            open_split(self, split)

    def sealed_test(self) -> SealedTest:
        """Return the unopened test split."""
        return SealedTest(self)


def default_data_root() -> Path:
    """``$HARNESS_DATA``, or a folder in the user's cache; ``check_root`` tells whether the user has one."""
    given = os.environ.get("HARNESS_DATA")
    return absolute_path(given) if given else cache_folder() / "data"


def check_root(root: Path) -> Path:
    """Return a data folder that is to be used. Raises CannotContinueError if it is that of a user without a home."""
    if root.is_relative_to(NOWHERE):
        raise CannotContinueError(
            "This user has no home folder. Name a folder for the prepared data sets with HARNESS_DATA or --data."
        )
    return root


def find_prepared(root: Path, dataset: str, definition: str, input_size: int) -> PreparedDataset | None:
    """Return the prepared data set that fits a network's input size, or None.

    Raises:
        DatasetError: its manifest is damaged, or of a newer version.
    """
    for form in ("native", str(input_size)):
        folder = root / dataset / form
        if _absent(folder / "manifest.json"):
            continue
        manifest = read_manifest(folder)
        if manifest.definition != definition:
            continue
        if manifest.dataset != dataset:
            raise DatasetError(
                f"{folder / 'manifest.json'} is of the data set {manifest.dataset!r}, not of {dataset!r}."
            )
        if not manifest.native or max(manifest.size) <= input_size:
            return PreparedDataset(folder, manifest)
    return None


def _absent(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False  # reading it gives the reason
    return False


def read_manifest(folder: Path) -> DatasetManifest:
    """Read a prepared data set's manifest. Raises DatasetError if it is damaged, or of a newer version."""
    path = folder / "manifest.json"
    remedy = f"Remove the folder {folder} and prepare the data set again."
    try:
        content = path.read_bytes()
    except IsADirectoryError as error:
        raise DatasetError(f"{path} is damaged (it is a folder). {remedy}") from error
    except OSError as error:
        raise DatasetError(
            f"{path} can't be read: {error.strerror or error}. Check the permissions of {folder} and its disk, or "
            "choose another data folder with --data."
        ) from error
    try:
        manifest = msgspec.convert(json.loads(content), DatasetManifest)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is damaged ({error}). {remedy}") from error
    if manifest.schema > SCHEMA:
        raise DatasetError(
            f"{path} has schema {manifest.schema}, expected {SCHEMA}: a newer version of the harness prepared this "
            "data set. Update the harness, or choose another data folder with --data."
        )
    if problem := _implausible(manifest):
        raise DatasetError(f"{path} is damaged ({problem}). {remedy}")
    return manifest


def write_manifest(manifest: DatasetManifest, folder: Path) -> None:
    """Write a prepared data set's manifest, which completes its folder. A path in it need not be UTF-8."""
    text = json.dumps(msgspec.to_builtins(manifest), indent=2)
    write_text_atomically(folder / "manifest.json", text)


def _implausible(manifest: DatasetManifest) -> str:
    """Return the reason why no preparation can have written a manifest; empty if there is none."""
    splits, classes = {"train", "test"}, len(manifest.classes)
    per_class = manifest.class_counts
    numbers = (*manifest.counts.values(), *(count for counts in per_class.values() for count in counts))
    statistics = (*manifest.mean, *manifest.std)
    checks = {
        f"schema is {manifest.schema}": manifest.schema != SCHEMA,
        f"size is {manifest.size[0]} x {manifest.size[1]} pixels": min(manifest.size) < 1,
        "counts does not hold train and test": set(manifest.counts) != splits,
        "class_counts does not hold train and test": set(per_class) != splits,
        "a number of images is negative": min(numbers, default=0) < 0,
        f"class_counts does not fit {classes} classes": any(len(counts) != classes for counts in per_class.values()),
        "mean or std is not between 0 and 1": not all(math.isfinite(one) and 0 <= one <= 1 for one in statistics),
    }
    return next((reason for reason, wrong in checks.items() if wrong), "")


def open_split(prepared: PreparedDataset, split: Split) -> SplitArrays:
    """Map a split into memory, and compare all but the pixels with the manifest.

    Training reads the test split through ``SealedTest`` only.

    Raises:
        DatasetError: its files are missing or damaged, or differ from the manifest.
    """
    import numpy as np

    folder, manifest = prepared.folder, prepared.manifest
    try:
        images = np.lib.format.open_memmap(folder / f"{split}.images.npy", mode="r")
        with (folder / f"{split}.labels.npy").open("rb") as file:
            labels = np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # NumPy raises errors of many kinds for damaged headers
        raise DatasetError(damaged_split(folder, split, one_line(error))) from error
    if images.ndim != 4 or images.shape[3:] != (3,) or images.dtype != np.uint8 or labels.shape != images.shape[:1]:
        raise DatasetError(
            damaged_split(
                folder,
                split,
                f"{images.dtype} {images.shape} and {labels.shape[0] if labels.ndim else 'no'} labels of shape "
                f"{labels.shape}, expected uint8 (N, H, W, 3) and N labels",
            )
        )
    if problem := _differing(manifest, split, images, labels):
        raise DatasetError(damaged_split(folder, split, problem))
    return SplitArrays(images, labels)


def _differing(
    manifest: DatasetManifest, split: Split, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]
) -> str:
    """Return the first difference between a split and its manifest, without reading a pixel; empty if there is none."""
    import numpy as np

    classes, counts = len(manifest.classes), manifest.class_counts.get(split)
    if len(images) != manifest.counts[split]:
        return f"{len(images)} images, the manifest says {manifest.counts[split]}"
    if images.shape[1:3] != manifest.size:
        return f"its images have {images.shape[1]} x {images.shape[2]} pixels, the manifest says {manifest.size}"
    if labels.dtype != np.int64:
        return f"its labels are of type {labels.dtype}, expected int64"
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        return f"it has labels from {labels.min()} to {labels.max()}, expected 0 to {classes - 1}"
    if counts is not None and tuple(np.bincount(labels, minlength=classes).tolist()) != counts:
        return "the numbers of images by class differ from the manifest"
    if manifest.labels_sha256.get(split, found := labels_digest(labels.tolist())) != found:
        return "its labels have changed since it was prepared"
    return ""


def damaged_split(folder: Path, split: Split, reason: str) -> str:
    """Return the message about a split whose files are not those that were prepared."""
    return f"The {split} split in {folder} is damaged: {reason}. Remove the folder and prepare the data set again."


def groups_file(folder: Path, split: Split) -> Path:
    """The file of a split's groups, one per line in the images' order."""
    return folder / f"{split}.groups.txt"


def groups_digest(folder: Path, split: Split) -> str | None:
    """Hash the groups of a split; None if the plugin names none. Raises DatasetError if the file can't be read."""
    try:
        return hashlib.sha256(groups_file(folder, split).read_bytes()).hexdigest()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DatasetError(damaged_split(folder, split, f"its groups can't be read ({one_line(error)})")) from error


def read_groups(folder: Path, split: Split) -> tuple[str, ...]:
    """Return the group of every image of a split, in order, ``""`` for an image without one.

    Empty if the plugin names no groups. Older versions left out the images without a group, so there may be fewer
    groups than images.
    """
    try:
        text = groups_file(folder, split).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(damaged_split(folder, split, f"its groups can't be read ({one_line(error)})")) from error
    return tuple(text.splitlines())


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


def labels_digest(labels: Sequence[int]) -> str:
    """Return the SHA-256 of a split's labels."""
    return hashlib.sha256(json.dumps(list(labels)).encode()).hexdigest()


def content_fingerprint(classes: Sequence[str], splits: Mapping[Split, tuple[Sequence[int], str]]) -> str:
    """Hash the class names and, per split, the labels and the pixels' hash."""
    parts = {split: [len(labels), pixels, labels_digest(labels)] for split, (labels, pixels) in splits.items()}
    canonical = json.dumps({"classes": list(classes), "splits": parts}, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
