"""DatasetSpec -> PreparedDataset: decode once, check everything, store as uint8 arrays, and measure the train split."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import msgspec
from filelock import FileLock, Timeout

from harness.api import DatasetSpec, Split
from harness.catalog import Offer
from harness.data.arrays import ArrayWriter, Chain, Journal, array_file
from harness.data.decode import Encoded, NotUniformError, decode_samples, read_samples
from harness.data.store import (
    SCHEMA,
    Manifest,
    PreparedDataset,
    SourceRecord,
    channel_moments,
    content_fingerprint,
    find_prepared,
    groups_digest,
    groups_file,
    pixel_histogram,
)
from harness.errors import DatasetError, StoreError
from harness.files import write_text_atomically, writing_to
from harness.machine import bound_cores

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SPLITS: tuple[Split, ...] = ("train", "test")
Report: TypeAlias = Callable[[str, int, int], object]
_SAFETY = 1.1  # share of the estimated size that must be free before anything is written
_SYNC_EVERY = 512  # images between two points from which an interrupted preparation goes on


def say_nothing(split: str, done: int, expected: int) -> None:
    """Report nothing."""


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


def require_prepared(offer: Offer[DatasetSpec], root: Path, input_size: int) -> PreparedDataset:
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
    return ingest(offer, folder=Path(), root=root, input_size=input_size)


def ingest(
    offer: Offer[DatasetSpec], *, folder: Path, root: Path, input_size: int, sources: Sequence[SourceRecord] = (),
    workers: int | None = None, report: Report = say_nothing,
) -> PreparedDataset:  # fmt: skip
    """Decode a data set into the store. What an earlier, interrupted attempt has decoded is used.

    Args:
        offer: The data set and its owner.
        folder: Where the unpacked sources are; ignored by embedded sets.
        root: The data folder; ``root/<name>/<form>`` is made, whole or not at all.
        input_size: Side of the network's input in pixels.
        sources: What the folder was made from, for the manifest.
        workers: Decoding threads; one a core for None.
        report: Called with split, images done and images expected.

    Raises:
        DatasetError: naming the image, what it is and what was expected; nothing is left behind.
        StoreError: the disk is full or not writable; the next attempt goes on where this one ended.
    """
    with locked(root, offer.spec.name):
        return ingest_locked(
            offer, folder=folder, root=root, input_size=input_size, sources=sources, workers=workers, report=report
        )


def ingest_locked(
    offer: Offer[DatasetSpec], *, folder: Path, root: Path, input_size: int, sources: Sequence[SourceRecord] = (),
    workers: int | None = None, report: Report = say_nothing,
) -> PreparedDataset:  # fmt: skip
    """Do what ``ingest`` does, for a caller that holds the data set's lock."""
    work = _Work(offer, folder, root, input_size, tuple(sources), workers or bound_cores(), report)
    # Another process may have prepared it while this one waited.
    found = find_prepared(root, offer.spec.name, definition(offer), input_size)
    if found is not None:
        return found
    try:
        return _store(work, native=True)
    except NotUniformError:
        return _store(work, native=False)


@contextlib.contextmanager
def locked(root: Path, dataset: str, *, wait: bool = True) -> Iterator[None]:
    """Hold a data set's lock, which the operating system gives back if this process dies.

    Raises:
        StoreError: the folder can't be written.
        DatasetError: another process holds it, and ``wait`` is false.
    """
    with writing_to(root):
        (root / dataset).mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / dataset / ".lock")
        try:
            lock.acquire(blocking=wait)
        except Timeout:
            raise DatasetError(
                f"Another process is preparing '{dataset}' in {root} at this moment. Try again when it has finished."
            ) from None
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class _Work:
    """What is to be prepared, from what, and how."""

    offer: Offer[DatasetSpec]
    folder: Path
    root: Path
    input_size: int
    sources: tuple[SourceRecord, ...]
    workers: int
    report: Report


@dataclass
class _Sum:
    """What one pass over a split gathers: its hash, its labels and groups, and a histogram of every channel.

    The histogram holds integers, so that mean and standard deviation are exact whatever the number of images.
    """

    digest: hashlib._Hash
    labels: list[int]
    groups: list[str]
    histogram: npt.NDArray[np.int64]
    size: tuple[int, int] = (0, 0)

    def add(self, pixels: npt.NDArray[np.uint8], histogram: npt.NDArray[np.int64], sample: Encoded) -> None:
        self.digest.update(pixels.data)
        self.histogram += histogram
        self.labels.append(sample.label)
        if sample.group is not None:
            self.groups.append(sample.group)


class _OutdatedError(Exception):
    """What an interrupted attempt left behind is not of these files."""


def _store(work: _Work, *, native: bool) -> PreparedDataset:
    spec = work.offer.spec
    final = work.root / spec.name / ("native" if native else str(work.input_size))
    partial = work.root / spec.name / f".preparing-{final.name}"
    try:
        with writing_to(partial):
            partial.mkdir(exist_ok=True)
        try:
            sums = {split: _store_split(work, split, partial, native=native) for split in SPLITS}
        except (_OutdatedError, ValueError, OSError):  # what an earlier attempt left behind is of no use
            shutil.rmtree(partial)
            with writing_to(partial):
                partial.mkdir()
            sums = {split: _store_split(work, split, partial, native=native) for split in SPLITS}
        manifest = _manifest(work, sums, partial, native=native)
        write_text_atomically(partial / "manifest.json", msgspec.json.format(msgspec.json.encode(manifest)).decode())
        Journal.remove(partial)
        with writing_to(final):
            shutil.rmtree(final, ignore_errors=True)  # a store of an older definition
            partial.rename(final)
    except (StoreError, KeyboardInterrupt):
        raise  # to be gone on with
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return PreparedDataset(final, manifest)


def _manifest(work: _Work, sums: dict[Split, _Sum], partial: Path, *, native: bool) -> Manifest:
    import numpy as np

    spec, owner = work.offer.spec, work.offer.owner
    mean, std = channel_moments(sums["train"].histogram)
    if 0 in std:
        raise DatasetError(f"Data set '{spec.name}': a colour channel is the same in every training pixel.")
    sizes = {part.size for part in sums.values()}
    if len(sizes) > 1:
        raise NotUniformError
    return Manifest(
        schema=SCHEMA,
        dataset=spec.name,
        definition=definition(work.offer),
        fingerprint=content_fingerprint(
            spec.classes, {split: (part.labels, part.digest.hexdigest()) for split, part in sums.items()}
        ),
        classes=tuple(spec.classes),
        size=sizes.pop(),
        native=native,
        counts={split: len(sums[split].labels) for split in SPLITS},
        class_counts={
            split: tuple(np.bincount(sums[split].labels, minlength=len(spec.classes)).tolist()) for split in SPLITS
        },
        mean=mean,
        std=std,
        plugin=f"{owner.distribution} {owner.version}",
        libraries=_libraries(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        sources=work.sources,
        left_out=spec.unreadable,
        groups_sha256={split: digest for split in SPLITS if (digest := groups_digest(partial, split))},
        licence=spec.licence,
    )


def _store_split(work: _Work, split: Split, target: Path, *, native: bool) -> _Sum:
    import numpy as np

    spec = work.offer.spec
    expected = spec.splits[split]
    sums = _Sum(hashlib.sha256(), [], [], np.zeros((3, 256), dtype=np.int64))
    journal = Journal.read(target, _stamp(work))
    done = journal.done.get(split, 0)
    writer, chain = ArrayWriter(array_file(target, split), expected), Chain()
    earlier = writer.resume(done)
    samples = read_samples(spec, work.folder, split)
    decoded = decode_samples(samples, work.input_size, native=native, workers=work.workers, skip=done)
    try:
        with contextlib.closing(decoded), contextlib.closing(samples):
            for position, one in enumerate(decoded, start=1):
                chain.add(one.sample.identity)
                if one.pixels is None or one.histogram is None:
                    pixels = next(earlier)
                    histogram = pixel_histogram(pixels)
                    if position == done and chain.value != journal.chain[split]:
                        raise _OutdatedError
                    if position == done:
                        next(earlier, None)  # behind the last one, the file is made ready for more
                else:
                    pixels, histogram = one.pixels, one.histogram
                    _append(writer, pixels, work, split, target)
                sums.add(pixels, histogram, one.sample)
                if position % _SYNC_EVERY == 0 or position == expected:
                    work.report(split, position, expected)
                    if position > done and chain.value is not None:
                        writer.sync()
                        journal.note(target, split, position, chain.value)
        writer.sync()
    finally:
        writer.close()
    with writing_to(target):
        np.save(target / f"{split}.labels.npy", np.asarray(sums.labels, dtype=np.int64))
        if sums.groups:
            groups_file(target, split).write_text("\n".join(sums.groups) + "\n", encoding="utf-8")
    height, width, _ = writer.shape or (0, 0, 0)
    sums.size = (height, width)
    return sums


def _append(writer: ArrayWriter, pixels: npt.NDArray[np.uint8], work: _Work, split: Split, target: Path) -> None:
    if writer.shape is None:
        later = work.offer.spec.splits["test"] if split == "train" else 0
        require_room(target.parent, (work.offer.spec.splits[split] + later) * pixels.nbytes)
    elif pixels.shape != writer.shape:
        raise NotUniformError
    writer.append(pixels)


def _stamp(work: _Work) -> str:
    """What determines the pixels beside the files."""
    return json.dumps(
        [definition(work.offer), work.offer.spec.unreadable, work.offer.owner.version, work.input_size, _libraries()]
    )


def _libraries() -> dict[str, str]:
    """Versions of what decodes: the codecs that Pillow was built with matter as much as Pillow itself."""
    from PIL import features

    codecs = {name: str(features.version(name)) for name in ("jpg", "libjpeg_turbo", "zlib", "webp")}
    return {name: version(name) for name in ("pillow", "numpy")} | codecs


def require_room(folder: Path, needed: int) -> None:
    """Raise DatasetError if a folder's disk has less than ``needed`` bytes free, and a little more."""
    free = shutil.disk_usage(folder).free
    if free < needed * _SAFETY:
        raise DatasetError(
            f"{folder} has {free / 1e9:.2f} GB free, but {needed * _SAFETY / 1e9:.2f} GB are needed. "
            "Make room, or choose another folder with --data."
        )
