"""DatasetSpec -> PreparedDataset: decode once, check everything, store as uint8 arrays, and measure the train split."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Generator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from filelock import FileLock

from harness.api import DatasetSpec, Split
from harness.catalog import Offer
from harness.data.store import SCHEMA, Manifest, PreparedDataset, find_prepared
from harness.errors import DatasetError, HarnessError
from harness.files import write_text_atomically, writing_to

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL.Image import Image

SPLITS: tuple[Split, ...] = ("train", "test")
_MODES = ("RGB", "L")
_SAFETY = 1.1  # share of the estimated size that must be free before anything is written


def definition(offer: Offer[DatasetSpec]) -> str:
    """Hash of what a plugin declares of a data set, so that a store made from another declaration is not used.

    The pixels of an embedded set come with the plugin, so its version is part of the hash; those of a downloaded one
    are pinned by the checksums of its sources.
    """
    spec = offer.spec
    declared = {
        "name": spec.name,
        "classes": spec.classes,
        "splits": dict(spec.splits),
        "sources": [[source.filename, dict(source.checksums)] for source in spec.sources],
        "embedded": None if spec.sources else [offer.owner.distribution, offer.owner.version],
    }
    return hashlib.sha256(json.dumps(declared, sort_keys=True).encode()).hexdigest()[:16]


def prepare_embedded(offer: Offer[DatasetSpec], root: Path, input_size: int) -> PreparedDataset:
    """Return the prepared data set, making it first where that needs no download.

    Args:
        offer: The data set and its owner.
        root: The data folder.
        input_size: Side of the network's input in pixels.

    Raises:
        DatasetError: it has to be downloaded first, or its reader yields something else than it declares.
        StoreError: the data folder can't be written.
    """
    spec = offer.spec
    prepared = find_prepared(root, spec.name, definition(offer), input_size)
    if prepared is not None:
        return prepared
    if spec.sources:
        raise DatasetError(f"The data set '{spec.name}' is not prepared in {root}. Run: harness prepare {spec.name}")
    return prepare(offer, folder=Path(), root=root, input_size=input_size)


def prepare(offer: Offer[DatasetSpec], *, folder: Path, root: Path, input_size: int) -> PreparedDataset:
    """Decode a data set into the store.

    Args:
        offer: The data set and its owner.
        folder: Where the unpacked sources are; ignored by embedded sets.
        root: The data folder; ``root/<name>/<form>`` is made, whole or not at all.
        input_size: Side of the network's input in pixels.

    Raises:
        DatasetError: naming the image, what it is and what was expected.
        StoreError: the disk is full or not writable.
    """
    spec = offer.spec
    with writing_to(root):
        (root / spec.name).mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / spec.name / ".lock")
        lock.acquire()
    try:
        # Another process may have prepared it while this one waited.
        found = find_prepared(root, spec.name, definition(offer), input_size)
        if found is not None:
            return found
        try:
            return _store(offer, folder, root, input_size, native=True)
        except _NotUniform:
            return _store(offer, folder, root, input_size, native=False)
    finally:
        lock.release()


class _NotUniform(Exception):
    """The images are not all of one size below the network's input, so they are stored resized."""


@dataclass
class _Sum:
    """What one pass over a split gathers: its hash, its labels and groups, and a histogram of every channel.

    The histogram holds integers, so that mean and standard deviation are exact whatever the number of images.
    """

    digest: hashlib._Hash
    labels: list[int]
    groups: list[str]
    histogram: npt.NDArray[np.int64]


def _store(offer: Offer[DatasetSpec], folder: Path, root: Path, input_size: int, *, native: bool) -> PreparedDataset:
    import numpy as np

    spec = offer.spec
    final = root / spec.name / ("native" if native else str(input_size))
    partial = root / spec.name / f".preparing-{final.name}"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with writing_to(partial):
            partial.mkdir()
        sums = {split: _store_split(spec, folder, split, partial, input_size, native=native) for split in SPLITS}
        mean, std = _moments(sums["train"].histogram)
        if 0 in std:
            raise DatasetError(f"Data set '{spec.name}': a colour channel is the same in every training pixel.")
        sizes = {tuple(np.load(partial / f"{s}.images.npy", mmap_mode="r").shape[1:3]) for s in SPLITS}
        if len(sizes) > 1:
            raise _NotUniform
        manifest = Manifest(
            schema=SCHEMA,
            dataset=spec.name,
            definition=definition(offer),
            fingerprint=_fingerprint(spec, sums),
            classes=tuple(spec.classes),
            size=sizes.pop(),
            native=native,
            counts={split: len(sums[split].labels) for split in SPLITS},
            class_counts={
                split: tuple(np.bincount(sums[split].labels, minlength=len(spec.classes)).tolist()) for split in SPLITS
            },
            mean=mean,
            std=std,
            plugin=f"{offer.owner.distribution} {offer.owner.version}",
            libraries={name: version(name) for name in ("pillow", "numpy")},
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        write_text_atomically(partial / "manifest.json", msgspec.json.format(msgspec.json.encode(manifest)).decode())
        with writing_to(final):
            shutil.rmtree(final, ignore_errors=True)  # a store of an older definition
            partial.rename(final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return PreparedDataset(final, manifest)


def _store_split(spec: DatasetSpec, folder: Path, split: Split, target: Path, input_size: int, *, native: bool) -> _Sum:
    import numpy as np

    expected = spec.splits[split]
    sums = _Sum(hashlib.sha256(), [], [], np.zeros((3, 256), dtype=np.int64))
    images: np.memmap[Any, np.dtype[np.uint8]] | None = None
    with contextlib.closing(_samples(spec, folder, split)) as samples:
        for index, (image, label, group) in enumerate(samples):
            where = f"Data set '{spec.name}', {split} image {index}"
            if index == expected:
                raise DatasetError(
                    f"{where}: expected {expected} images and no more. The reader or the files are wrong."
                )
            _check(where, image, label, spec)
            pixels = _pixels(image, input_size, native=native)
            if images is None:
                _require_room(target, expected * pixels.nbytes)
                with writing_to(target):
                    images = np.lib.format.open_memmap(
                        target / f"{split}.images.npy", mode="w+", dtype=np.uint8, shape=(expected, *pixels.shape)
                    )
            if pixels.shape != images.shape[1:]:
                raise _NotUniform
            images[index] = pixels
            sums.digest.update(pixels.tobytes())
            for channel in range(3):
                sums.histogram[channel] += np.bincount(pixels[..., channel].ravel(), minlength=256)
            sums.labels.append(label)
            if group is not None:
                sums.groups.append(group)
    if images is None or len(sums.labels) != expected:
        raise DatasetError(
            f"Data set '{spec.name}': its reader yields {len(sums.labels)} {split} images, expected {expected}. "
            "The files are incomplete or the plugin declares the wrong size."
        )
    with writing_to(target):
        images.flush()
        np.save(target / f"{split}.labels.npy", np.asarray(sums.labels, dtype=np.int64))
        if sums.groups:
            (target / f"{split}.groups.txt").write_text("\n".join(sums.groups) + "\n", encoding="utf-8")
    return sums


def _samples(spec: DatasetSpec, folder: Path, split: Split) -> Generator[tuple[Image, int, str | None]]:
    """Run a plugin's reader; what goes wrong inside it is reported as the plugin's failure."""
    try:
        for item in spec.read(folder, split):
            match item:
                case (image, label):
                    yield image, label, None
                case (image, label, group):
                    yield image, label, group
                case _:
                    raise DatasetError(
                        f"Data set '{spec.name}': its reader yields {type(item).__name__}, "
                        "expected (image, label) or (image, label, group)."
                    )
    except (HarnessError, GeneratorExit):
        raise
    except Exception as error:
        raise DatasetError(
            f"Data set '{spec.name}': reading its {split} split failed: {type(error).__name__}: {error}"
        ) from error


def _check(where: str, image: object, label: object, spec: DatasetSpec) -> None:
    from PIL.Image import Image

    if not isinstance(image, Image):
        raise DatasetError(f"{where} is a {type(image).__name__}, expected a PIL image.")
    if image.mode not in _MODES:
        raise DatasetError(
            f"{where} has mode {image.mode}, expected {' or '.join(_MODES)}. The plugin's reader must convert it, "
            "since there is more than one way to."
        )
    if isinstance(label, bool) or not isinstance(label, int):
        raise DatasetError(f"{where} has the label {label!r} of type {type(label).__name__}, expected an int.")
    if not 0 <= label < len(spec.classes):
        raise DatasetError(
            f"{where} has the label {label}, expected 0 to {len(spec.classes) - 1}, one of {len(spec.classes)} classes."
        )


def _pixels(image: Image, input_size: int, *, native: bool) -> npt.NDArray[np.uint8]:
    """Return uint8 (H, W, 3): the image at its own size, or resized whole, with antialias, aspect not kept."""
    import numpy as np
    from PIL.Image import Resampling

    if native and max(image.size) > input_size:
        raise _NotUniform
    colour = image if image.mode == "RGB" else image.convert("RGB")
    if not native:
        # Pillow's bilinear filter widens its support when it shrinks: that is the antialias of the protocol.
        colour = colour.resize((input_size, input_size), Resampling.BILINEAR)
    return np.asarray(colour, dtype=np.uint8)


def _require_room(target: Path, needed: int) -> None:
    free = shutil.disk_usage(target).free
    if free < needed * _SAFETY:
        raise DatasetError(
            f"{target.parent} has {free / 1e9:.2f} GB free, but this split alone needs {needed / 1e9:.2f} GB. "
            "Make room, or choose another folder with --data."
        )


def _moments(
    histogram: npt.NDArray[np.int64],
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Exact mean and standard deviation (ddof 0) of three channels in 0..1, from their histograms."""
    means: list[float] = []
    deviations: list[float] = []
    for counts in histogram.tolist():
        n = sum(counts)
        total = sum(value * count for value, count in enumerate(counts))
        squares = sum(value * value * count for value, count in enumerate(counts))
        means.append(total / (255 * n))
        deviations.append((n * squares - total * total) ** 0.5 / (255 * n))
    return (means[0], means[1], means[2]), (deviations[0], deviations[1], deviations[2])


def _fingerprint(spec: DatasetSpec, sums: dict[Split, _Sum]) -> str:
    parts = {
        split: [len(part.labels), part.digest.hexdigest(), hashlib.sha256(json.dumps(part.labels).encode()).hexdigest()]
        for split, part in sums.items()
    }
    canonical = json.dumps({"classes": list(spec.classes), "splits": parts}, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
