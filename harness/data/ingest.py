"""Turns a data set's sources into a PreparedDataset: checked uint8 arrays and a manifest with the train statistics."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import msgspec
from filelock import FileLock, Timeout

from harness.api import DatasetSpec, Split
from harness.catalog import Offer
from harness.data.arrays import ArrayWriter, Chain, Journal, array_file
from harness.data.decode import Encoded, NotUniformError, decode_samples, read_samples
from harness.data.prepared import (
    SCHEMA,
    DatasetManifest,
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
from harness.machine import bound_cores, free_bytes, gigabytes
from harness.pillow import versions

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SPLITS: tuple[Split, ...] = ("train", "test")
Report: TypeAlias = Callable[[str, int, int], object]
_SAFETY = 1.1  # times the estimated size must be free before anything is written
_SYNC_EVERY = 512  # images between two points at which an interrupted ingestion can resume


def report_nothing(split: str, done: int, expected: int) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Ingestion:
    """One data set to decode for one input size.

    Attributes:
        offer: The data set and its owner.
        root: The data folder; ``root/<name>/<form>`` is made, whole or not at all.
        input_size: Side of the network's input in pixels.
        folder: The folder of the unpacked sources; embedded sets ignore it.
        sources: Records of the sources, for the manifest.
        workers: Decoding threads; None for one per core.
        report: Called with the split, the images done and the images expected.
    """

    offer: Offer[DatasetSpec]
    root: Path
    input_size: int
    folder: Path = Path()
    sources: tuple[SourceRecord, ...] = ()
    workers: int | None = None
    report: Report = report_nothing


def definition(offer: Offer[DatasetSpec]) -> str:
    """Hash a plugin's declaration of a data set. A store that was made from another declaration is not used.

    An embedded set's pixels come with the plugin, so the plugin's version is part of the hash. A downloaded set's
    pixels are pinned by the checksums of its sources.
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
    """Return the prepared data set. An embedded set, which needs no download, is ingested first.

    Args:
        offer: The data set and its owner.
        root: The data folder.
        input_size: Side of the network's input in pixels.

    Raises:
        DatasetError: the set must be downloaded first, or its reader does not yield what the plugin declares.
        StoreError: the data folder can't be written.
    """
    spec = offer.spec
    prepared = find_prepared(root, spec.name, definition(offer), input_size)
    if prepared is not None:
        return prepared
    if spec.sources:
        raise DatasetError(f"The data set '{spec.name}' is not prepared in {root}. Run: harness prepare {spec.name}")
    return ingest(Ingestion(offer, root, input_size))


def ingest(ingestion: Ingestion) -> PreparedDataset:
    """Decode a data set into the store. Resumes an earlier, interrupted attempt.

    Raises:
        DatasetError: names the image, the value that was found, and the one that was expected; nothing is left behind.
        StoreError: the disk is full or not writable; the next attempt resumes where this one ended.
    """
    with locked(ingestion.root, ingestion.offer.spec.name):
        return ingest_locked(ingestion)


def ingest_locked(ingestion: Ingestion) -> PreparedDataset:
    """Do the same as ``ingest``, for a caller that holds the data set's lock."""
    offer = ingestion.offer
    # Another process may have prepared the set while this one waited for the lock.
    found = find_prepared(ingestion.root, offer.spec.name, definition(offer), ingestion.input_size)
    if found is not None:
        return found
    try:
        return _store(ingestion, native=True)
    except NotUniformError:
        return _store(ingestion, native=False)


@contextlib.contextmanager
def locked(root: Path, dataset: str, *, wait: bool = True) -> Iterator[None]:
    """Hold a data set's lock. The operating system releases it if this process dies.

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
                f"Another process is preparing '{dataset}' in {root}. Try again when it has finished."
            ) from None
    try:
        yield
    finally:
        lock.release()


@dataclass
class _Sum:
    """Sums over one split: the pixels' hash, the labels and groups, and a histogram of every channel.

    The histogram holds integers, so that mean and standard deviation are exact for any number of images.
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
    """The half-written arrays were made from other files."""


def _store(ingestion: Ingestion, *, native: bool) -> PreparedDataset:
    spec = ingestion.offer.spec
    final = ingestion.root / spec.name / ("native" if native else str(ingestion.input_size))
    partial = ingestion.root / spec.name / f".preparing-{final.name}"
    try:
        with writing_to(partial):
            partial.mkdir(exist_ok=True)
        try:
            sums = {split: _store_split(ingestion, split, partial, native=native) for split in SPLITS}
        except (_OutdatedError, ValueError, OSError):  # the half-written arrays are of no use: start anew
            shutil.rmtree(partial)
            with writing_to(partial):
                partial.mkdir()
            sums = {split: _store_split(ingestion, split, partial, native=native) for split in SPLITS}
        manifest = _manifest(ingestion, sums, partial, native=native)
        write_text_atomically(partial / "manifest.json", msgspec.json.format(msgspec.json.encode(manifest)).decode())
        Journal.remove(partial)
        with writing_to(final):
            shutil.rmtree(final, ignore_errors=True)  # a store of an older definition
            partial.rename(final)
    except (StoreError, KeyboardInterrupt):
        raise  # the partial folder stays, so that the next attempt resumes
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return PreparedDataset(final, manifest)


def _manifest(ingestion: Ingestion, sums: dict[Split, _Sum], partial: Path, *, native: bool) -> DatasetManifest:
    import numpy as np

    spec, owner = ingestion.offer.spec, ingestion.offer.owner
    mean, std = channel_moments(sums["train"].histogram)
    if 0 in std:
        raise DatasetError(f"Data set '{spec.name}': a colour channel is the same in every training pixel.")
    sizes = {part.size for part in sums.values()}
    if len(sizes) > 1:
        raise NotUniformError
    return DatasetManifest(
        schema=SCHEMA,
        dataset=spec.name,
        definition=definition(ingestion.offer),
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
        libraries=versions(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        sources=ingestion.sources,
        left_out=spec.unreadable,
        groups_sha256={split: digest for split in SPLITS if (digest := groups_digest(partial, split))},
        licence=spec.licence,
    )


def _store_split(ingestion: Ingestion, split: Split, target: Path, *, native: bool) -> _Sum:
    import numpy as np

    spec = ingestion.offer.spec
    expected = spec.splits[split]
    sums = _Sum(hashlib.sha256(), [], [], np.zeros((3, 256), dtype=np.int64))
    journal = Journal.read(target, _stamp(ingestion))
    done = journal.done.get(split, 0)
    writer, chain = ArrayWriter(array_file(target, split), expected), Chain()
    earlier = writer.resume(done)
    samples = read_samples(spec, ingestion.folder, split)
    workers = ingestion.workers or bound_cores()
    decoded = decode_samples(samples, ingestion.input_size, native=native, workers=workers, skip=done)
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
                        next(earlier, None)  # lets the writer open its file for the remaining images
                else:
                    pixels, histogram = one.pixels, one.histogram
                    _append(writer, pixels, spec, split, target)
                sums.add(pixels, histogram, one.sample)
                if position % _SYNC_EVERY == 0 or position == expected:
                    ingestion.report(split, position, expected)
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


def _append(writer: ArrayWriter, pixels: npt.NDArray[np.uint8], spec: DatasetSpec, split: Split, target: Path) -> None:
    if writer.shape is None:
        later = spec.splits["test"] if split == "train" else 0
        require_room(target.parent, (spec.splits[split] + later) * pixels.nbytes)
    elif pixels.shape != writer.shape:
        raise NotUniformError
    writer.append(pixels)


def _stamp(ingestion: Ingestion) -> str:
    """Everything that determines the pixels, apart from the files."""
    offer = ingestion.offer
    return json.dumps([definition(offer), offer.spec.unreadable, offer.owner.version, ingestion.input_size, versions()])


def require_room(folder: Path, needed: int) -> None:
    """Raise DatasetError unless a folder's disk has ``needed`` bytes free, and a tenth more."""
    free = free_bytes(folder)
    if free < needed * _SAFETY:
        raise DatasetError(
            f"{folder} has {gigabytes(free)} free, but {gigabytes(needed * _SAFETY)} are needed. "
            "Make room, or choose another folder with --data."
        )
