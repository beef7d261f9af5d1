"""A prepared data set: a folder of memory-mapped uint8 arrays with a manifest, open for training and sealed for test.

    <data>/<data set>/<form>/
        manifest.json       written last; a folder without it does not count
        train.images.npy    uint8 (N, H, W, 3)
        train.labels.npy    int64 (N,)
        train.groups.txt    one group a line, where the plugin names groups
        test.images.npy  test.labels.npy  test.groups.txt

``form`` is ``native`` where all images are of one size below the network's input, else the input size, such as ``224``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import platformdirs

from harness.api import Split
from harness.errors import DatasetError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SCHEMA = 1


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a prepared data set is.

    Attributes:
        schema: Version of this file's layout.
        dataset: The data set's name.
        definition: Hash of what the plugin declares; a store of another definition is not used.
        fingerprint: Hash of pixels, labels and class names: the same wherever the decoder is the same.
        classes: Class names in label order.
        size: Stored height and width in pixels.
        native: Whether the images are stored at their own size.
        counts: Number of images by split.
        class_counts: Number of images by split and label.
        mean, std: Per channel over the train split at the stored resolution, in 0..1; std with ddof 0.
        plugin: Distribution and version that read the images.
        libraries: Versions of the decoding libraries.
        created: UTC, ISO 8601.
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


@dataclass(frozen=True)
class SplitArrays:
    """One split: ``images`` uint8 (N, H, W, 3), memory-mapped, and ``labels`` int64 (N,), in the same order."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


class SealedTest:
    """The test split, which opens once, and only to a training that has ended.

    The runner holds nothing else by which it could reach the test images, so that blindness does not depend on care.
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
            raise DatasetError("The test split was already read in this run; the protocol reads it once.")
        self.reads += 1
        return _open_split(self._folder, "test")


@dataclass(frozen=True)
class PreparedDataset:
    """A data set ready for training. Get one from ``harness.data.prepare``."""

    folder: Path
    manifest: Manifest

    def open_train(self) -> SplitArrays:
        """Map the train split into memory. Raises DatasetError if its files are damaged."""
        return _open_split(self.folder, "train")

    def sealed_test(self) -> SealedTest:
        """Return the test split, unopened."""
        return SealedTest(self.folder)


def default_data_root() -> Path:
    """``$HARNESS_DATA``, or a folder in the user's cache."""
    given = os.environ.get("HARNESS_DATA")
    return Path(given) if given else Path(platformdirs.user_cache_dir("xscore-harness")) / "data"


def find_prepared(root: Path, dataset: str, definition: str, input_size: int) -> PreparedDataset | None:
    """Return the prepared data set that fits a network's input size, or None.

    Raises:
        DatasetError: there is one, but its manifest is damaged.
    """
    for form in ("native", str(input_size)):
        folder = root / dataset / form
        if not (folder / "manifest.json").is_file():
            continue
        manifest = _read_manifest(folder)
        fits = manifest.schema == SCHEMA and manifest.definition == definition
        if fits and (not manifest.native or max(manifest.size) <= input_size):
            return PreparedDataset(folder, manifest)
    return None


def _read_manifest(folder: Path) -> Manifest:
    path = folder / "manifest.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"{path} is damaged ({error}). Remove the folder {folder} and prepare the data set again."
        ) from error


def _open_split(folder: Path, split: Split) -> SplitArrays:
    import numpy as np

    try:
        images = np.load(folder / f"{split}.images.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(folder / f"{split}.labels.npy", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"The {split} split in {folder} is damaged ({error}). Remove the folder and prepare the data set again."
        ) from error
    return SplitArrays(images, labels)
