"""Turns a data set's sources into a PreparedDataset: checked uint8 arrays and a manifest with the train statistics."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from harness.api import DatasetSpec, Split
from harness.catalog import Offer
from harness.data.arrays import ArrayWriter, Chain, Journal, SplitSums, array_file
from harness.data.decode import NotUniformError, decode_samples, read_samples
from harness.data.inputs import Watch, given_before, outdated, takes_folder, write_inputs
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
    labels_digest,
    pixel_histogram,
    write_manifest,
)
from harness.data.sources import download_folder
from harness.data.store import Workshop, locked, open_workshop, publish, remove_folder, require_place
from harness.errors import DatasetError, StoreError
from harness.files import writing_to
from harness.machine import bound_cores, free_bytes, gigabytes
from harness.pillow import versions

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SPLITS: tuple[Split, ...] = ("train", "test")
Report: TypeAlias = Callable[[str, int, int], object]
_log = logging.getLogger("harness")
_SAFETY = 1.1  # times the estimated size must be free before anything is written
_SYNC_EVERY = 512  # images between two points at which an interrupted ingestion can resume


def report_nothing(split: str, done: int, expected: int) -> None:
    """Report nothing."""


def no_words(text: str) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class Ingestion:
    """One data set to decode for one input size.

    Attributes:
        offer: The data set and its owner.
        root: The data folder; ``root/<name>/<form>`` is made, whole or not at all.
        input_size: Side of the network's input in pixels.
        folder: The folder of the unpacked sources; for an embedded set, the one that the user gave.
        sources: Records of the sources, for the manifest.
        workers: Decoding threads; None for one per core.
        report: Called with the split, the images done and the images expected.
        given: The path of ``--from``; None without it.
        say: Called with sentences for the user.
    """

    offer: Offer[DatasetSpec]
    root: Path
    input_size: int
    folder: Path = Path()
    sources: tuple[SourceRecord, ...] = ()
    workers: int | None = None
    report: Report = report_nothing
    given: Path | None = None
    say: Callable[[str], object] = no_words


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


def expected_form(spec: DatasetSpec, input_size: int) -> str:
    """Return the form that a data set's declaration lets expect for an input size."""
    return "native" if spec.native_side is not None and spec.native_side <= input_size else str(input_size)


def require_prepared(offer: Offer[DatasetSpec], root: Path, input_size: int) -> PreparedDataset:
    """Return the prepared data set. An embedded set, which needs no download, is ingested where it is not current.

    Args:
        offer: The data set and its owner.
        root: The data folder.
        input_size: Side of the network's input in pixels.

    Raises:
        DatasetError: the set must be downloaded first, or its files have changed, or its reader does not yield what
            the plugin declares.
        StoreError: the data folder can't be written.
    """
    spec = offer.spec
    prepared = find_prepared(root, spec.name, definition(offer), input_size)
    reason = outdated(prepared, spec) if prepared is not None else ""
    if prepared is not None and not reason:
        return prepared
    if spec.sources:
        found = f"The data set '{spec.name}' is not prepared in {root}"
        if prepared is not None:
            found = f"The arrays of '{spec.name}' in {prepared.folder} are outdated: {reason}. {keep_arrays(prepared)}"
        raise DatasetError(f"{found.rstrip('.')}. Run: harness prepare {spec.name}")
    given = given_before(root, spec.name)
    ingestion = Ingestion(offer, root, input_size, given or Path(), given=given, say=_log.warning)
    if prepared is None:
        return ingest(ingestion)
    _log.warning(f"{spec.name}: {reason}. It is prepared again.")
    try:
        return ingest(ingestion)
    except DatasetError as error:
        raise DatasetError(f"{error} The arrays in {prepared.folder} are as before. {keep_arrays(prepared)}") from error


def keep_arrays(prepared: PreparedDataset) -> str:
    """Return the sentence on the way to keep arrays whose inputs have changed."""
    return f"To keep them as they are, remove {prepared.folder / 'inputs.json'}."


def ingest(ingestion: Ingestion) -> PreparedDataset:
    """Decode a data set into the store. Resumes an earlier, interrupted attempt.

    Raises:
        DatasetError: names the image, the value that was found, and the one that was expected; nothing is left behind.
        StoreError: the disk is full or not writable; the next attempt resumes where this one ended.
    """
    root, name = ingestion.root, ingestion.offer.spec.name
    with locked(root, name, say=ingestion.say) as sole, open_workshop(root, name, sole=sole) as workshop:
        return ingest_in(workshop, ingestion)


def ingest_in(workshop: Workshop, ingestion: Ingestion) -> PreparedDataset:
    """Do the same as ``ingest``, in a folder that this writer has already."""
    found = _current(ingestion)  # another process may have prepared the set meanwhile
    if found is not None:
        return found
    spec, watch = ingestion.offer.spec, Watch(ingestion.offer.spec)
    try:
        try:
            return _store(_Attempt(ingestion, workshop, watch, native=True))
        except NotUniformError:
            return _store(_Attempt(ingestion, workshop, watch, native=False))
    except DatasetError as error:
        if spec.sources or ingestion.given or not isinstance(error.__cause__, OSError) or not takes_folder(spec.read):
            raise
        hint = f"If its files are in a folder of yours, run: harness prepare {spec.name} --from FOLDER"
        raise DatasetError(f"{str(error).rstrip('.')}. {hint}") from error


def _current(ingestion: Ingestion) -> PreparedDataset | None:
    spec = ingestion.offer.spec
    found = find_prepared(ingestion.root, spec.name, definition(ingestion.offer), ingestion.input_size)
    return found if found is not None and not outdated(found, spec, ingestion.given) else None


@dataclass(frozen=True)
class _Attempt:
    """One way to store an ingestion: the images at their own size, or resized."""

    ingestion: Ingestion
    workshop: Workshop
    watch: Watch
    native: bool

    @property
    def form(self) -> str:
        return "native" if self.native else str(self.ingestion.input_size)

    @property
    def final(self) -> Path:
        return self.ingestion.root / self.ingestion.offer.spec.name / self.form

    @property
    def partial(self) -> Path:
        return self.workshop.path / self.form

    @property
    def journal(self) -> Path:
        return self.workshop.journal(self.form)


class _OutdatedError(Exception):
    """The half-written arrays were made from other files."""


def _store(attempt: _Attempt) -> PreparedDataset:
    ingestion, workshop, form = attempt.ingestion, attempt.workshop, attempt.form
    spec = ingestion.offer.spec
    require_place(attempt.final, spec.name)
    stamp = _stamp(ingestion)
    workshop.inherit(form, lambda journal: bool(Journal.read(journal, stamp).done))
    try:
        workshop.begin(form)
        try:
            sums = {split: _store_split(attempt, split) for split in SPLITS}
        except (_OutdatedError, ValueError, OSError):  # the half-written arrays are of no use: start anew
            workshop.discard(form)
            workshop.begin(form)
            sums = {split: _store_split(attempt, split) for split in SPLITS}
        manifest = _manifest(attempt, sums)
        ours = (workshop.path, *(download_folder(ingestion.root, source) for source in spec.sources))
        write_inputs(attempt.watch.inputs(ingestion.given, _given_archives(ingestion), ours), attempt.partial)
        write_manifest(manifest, attempt.partial)
        return _publish(attempt, manifest)
    except (StoreError, KeyboardInterrupt):
        raise  # the partial folder stays, so that the next attempt resumes
    except BaseException:
        workshop.discard(form)
        raise


def _publish(attempt: _Attempt, manifest: DatasetManifest) -> PreparedDataset:
    """Put the form in its place, unless another process was faster."""
    winner = _current(attempt.ingestion)
    if winner is None:
        if attempt.final.is_symlink():
            attempt.ingestion.say(
                f"{manifest.dataset}: the arrays are in {attempt.final}, which was a link to "
                f"{attempt.final.resolve()}. The older arrays there stay until you remove them."
            )
        publish(attempt.partial, attempt.final, manifest.dataset)
        _retire_other_form(attempt)
        return PreparedDataset(attempt.final, manifest)
    if winner.manifest.fingerprint != manifest.fingerprint:
        attempt.ingestion.say(
            f"{manifest.dataset}: another process has prepared the set meanwhile, with other content "
            f"({winner.manifest.fingerprint}, here {manifest.fingerprint}). Its arrays are used."
        )
    attempt.workshop.discard(attempt.form)
    return winner


def _retire_other_form(attempt: _Attempt) -> None:
    """Remove an outdated native form, which would be found before the new form of resized images."""
    ingestion, name = attempt.ingestion, attempt.ingestion.offer.spec.name
    found = find_prepared(ingestion.root, name, definition(ingestion.offer), ingestion.input_size)
    if found is not None and found.folder != attempt.final:
        with writing_to(found.folder):
            remove_folder(found.folder, name)


def _given_archives(ingestion: Ingestion) -> dict[Path, str]:
    """Return the user's archives that were unpacked, with their SHA-256."""
    return {
        Path(record.origin.removeprefix("given: ")): record.sha256
        for record in ingestion.sources
        if record.sha256 and record.origin.startswith("given: ")
    }


def _manifest(attempt: _Attempt, sums: dict[Split, SplitSums]) -> DatasetManifest:
    import numpy as np

    ingestion = attempt.ingestion
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
        native=attempt.native,
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
        labels_sha256={split: labels_digest(sums[split].labels) for split in SPLITS},
        pixels_sha256={split: sums[split].digest.hexdigest() for split in SPLITS},
        groups_sha256={split: digest for split in SPLITS if (digest := groups_digest(attempt.partial, split))},
        licence=spec.licence,
    )


def _store_split(attempt: _Attempt, split: Split) -> SplitSums:
    import numpy as np

    ingestion, target = attempt.ingestion, attempt.partial
    spec = replace(ingestion.offer.spec, read=attempt.watch.read)
    expected = spec.splits[split]
    sums = SplitSums(hashlib.sha256(), [], [], np.zeros((3, 256), dtype=np.int64))
    journal = Journal.read(attempt.journal, _stamp(ingestion))
    done = journal.done.get(split, 0)
    writer, chain = ArrayWriter(array_file(target, split), expected), Chain()
    earlier = writer.resume(done)
    samples = read_samples(spec, ingestion.folder, split)
    workers = ingestion.workers or bound_cores()
    decoded = decode_samples(samples, ingestion.input_size, native=attempt.native, workers=workers, skip=done)
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
                        journal.note(attempt.journal, split, position, chain.value)
        writer.sync()
    finally:
        writer.close()
    with writing_to(target):
        np.save(target / f"{split}.labels.npy", np.asarray(sums.labels, dtype=np.int64))
        if any(sums.groups):
            lines = "".join(f"{group or ''}\n" for group in sums.groups)
            groups_file(target, split).write_text(lines, encoding="utf-8")
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
    """Everything that determines the pixels, apart from the user's files, whose sizes and times are compared."""
    offer = ingestion.offer
    archives = [record.sha256 for record in ingestion.sources]
    plugin = [definition(offer), offer.spec.unreadable, offer.owner.version]
    return json.dumps([*plugin, archives, ingestion.input_size, versions()])


def require_room(folder: Path, needed: int) -> None:
    """Raise DatasetError unless a folder's disk has ``needed`` bytes free, and a tenth more."""
    free = free_bytes(folder)
    if free < needed * _SAFETY:
        raise DatasetError(
            f"{folder} has {gigabytes(free)} free, but {gigabytes(needed * _SAFETY)} are needed. "
            "Make room, or choose another folder with --data."
        )
