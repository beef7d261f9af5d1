"""The steps behind ``harness prepare``: terms, disk space, lock, sources, arrays; and verifying and removing them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from harness.api import DatasetSpec, Split
from harness.catalog import Catalog, Offer
from harness.data.audit import known_leakage
from harness.data.fetch import FetchPolicy, Progress, no_progress
from harness.data.ingest import (
    SPLITS,
    Ingestion,
    Report,
    definition,
    ingest_locked,
    locked,
    report_nothing,
    require_room,
)
from harness.data.prepared import (
    PreparedDataset,
    channel_moments,
    content_fingerprint,
    find_prepared,
    groups_digest,
    open_split,
    pixel_histogram,
)
from harness.data.sources import clear_work, download_folder, find_given, gather, working_folder
from harness.data.unpack import is_archive
from harness.errors import DatasetError, LicenceError, SourceError
from harness.files import write_text_atomically, writing_to
from harness.machine import free_bytes, gigabytes

_CHUNK = 256  # images in memory while a store is verified


@dataclass(frozen=True)
class PrepareRequest:
    """A data set to prepare.

    Attributes:
        offer: The data set and its owner.
        root: The data folder.
        input_sizes: The network inputs to prepare for.
        given: The user's own file or folder; None to download.
        policy: The download settings.
        accept_licence: The user accepts the terms.
    """

    offer: Offer[DatasetSpec]
    root: Path
    input_sizes: Sequence[int]
    given: Path | None = None
    policy: FetchPolicy = field(default_factory=FetchPolicy)
    accept_licence: bool = False


@dataclass(frozen=True)
class Estimate:
    """Disk space in bytes for missing downloads, for unpacked files, and for the arrays (an upper bound)."""

    download: int
    unpacked: int
    arrays: int
    unknown: tuple[str, ...]

    @property
    def total(self) -> int:
        """The sum. The unpacked files are removed in the end."""
        return self.download + self.unpacked + self.arrays


def estimate(request: PrepareRequest) -> Estimate:
    """Return the disk space that a request needs, by the data set's declaration."""
    spec, root = request.offer.spec, request.root
    sizes = [
        min(spec.native_side or size, size) for size in request.input_sizes if not _find(request.offer, root, size)
    ]
    if spec.native_side and all(spec.native_side <= size for size in request.input_sizes):
        sizes = sizes[:1]  # one native form serves every input
    given = [find_given(spec, source, request.given) if request.given else None for source in spec.sources]
    here = [
        path is not None or (download_folder(root, source) / source.filename).exists()
        for path, source in zip(given, spec.sources, strict=True)
    ]
    return Estimate(
        download=sum(source.bytes or 0 for source, there in zip(spec.sources, here, strict=True) if not there),
        unpacked=sum(
            int((source.bytes or 0) * 1.1)
            for path, source in zip(given, spec.sources, strict=True)
            if is_archive(source.filename) and not (path is not None and path.is_dir())
        ),
        arrays=sum(3 * size * size * sum(spec.splits.values()) for size in sizes),
        unknown=tuple(source.filename for source in spec.sources if source.bytes is None),
    )


def prepare_dataset(
    request: PrepareRequest,
    *,
    say: Callable[[str], object],
    on_bytes: Progress = no_progress,
    on_images: Report = report_nothing,
) -> list[PreparedDataset]:
    """Prepare a data set for every requested input size. After an interruption, the next call resumes.

    Args:
        request: The data set and the settings.
        say: Called with sentences for the user.
        on_bytes: Called with the progress of downloads.
        on_images: Called with the progress of decoding.

    Returns:
        One prepared form per input size. One form may serve several sizes.

    Raises:
        LicenceError: the terms must be accepted first.
        DatasetError: the disk has too little space, another process prepares the set, or its content is wrong.
        SourceError: a file can't be fetched, is not the expected one, or can't be unpacked.
        StoreError: the disk is full or not writable.
    """
    spec, root = request.offer.spec, request.root
    if all(_find(request.offer, root, size) for size in request.input_sizes):
        return [found for size in request.input_sizes if (found := _find(request.offer, root, size))]
    require_licence(spec, root, accept=request.accept_licence)
    needed = estimate(request)
    say(_needs(spec, needed, root))
    with writing_to(root):
        root.mkdir(parents=True, exist_ok=True)
    if not (working_folder(root, spec) / "parts").exists():  # an interrupted attempt holds its space already
        require_room(root, needed.total)
    with locked(root, spec.name, wait=False):
        say(f"{spec.name}: terms of use: {spec.licence}.")
        with _cleaning_up(spec, root):
            gathered = gather(spec, root, request.given, request.policy, on_bytes)
            for note in gathered.notes:
                say(f"{spec.name}: {note}")
            prepared = [
                ingest_locked(
                    Ingestion(request.offer, root, size, gathered.folder, sources=gathered.records, report=on_images)
                )
                for size in sorted(request.input_sizes)
            ]
        clear_work(root, spec)
    return prepared


@contextlib.contextmanager
def _cleaning_up(spec: DatasetSpec, root: Path) -> Iterator[None]:
    """Remove the unpacked files after bad content; keep them after any other error, so that the next call resumes."""
    try:
        yield
    except (DatasetError, SourceError) as error:
        work = working_folder(root, spec)
        if isinstance(error, DatasetError) or not any((work / "parts").glob("*")):
            clear_work(root, spec)
        shutil.rmtree(work / "view", ignore_errors=True)
        raise


def _find(offer: Offer[DatasetSpec], root: Path, size: int) -> PreparedDataset | None:
    return find_prepared(root, offer.spec.name, definition(offer), size)


def _needs(spec: DatasetSpec, needed: Estimate, root: Path) -> str:
    parts = [
        f"{gigabytes(size)} {what}"
        for size, what in ((needed.download, "to download"), (needed.unpacked, "unpacked"), (needed.arrays, "prepared"))
        if size
    ]
    unknown = f"; the size of {', '.join(needed.unknown)} is unknown" if needed.unknown else ""
    return (
        f"{spec.name} needs up to {gigabytes(needed.total)} in {root}: {', '.join(parts)}{unknown}. "
        f"{gigabytes(free_bytes(root))} are free."
    )


def verify_prepared(prepared: PreparedDataset) -> list[str]:
    """Compare a prepared data set with its manifest, byte by byte. Return one sentence per difference."""
    import numpy as np

    manifest, problems = prepared.manifest, []
    contents: dict[Split, tuple[list[int], str]] = {}
    for split in SPLITS:
        try:
            arrays = open_split(prepared.folder, split)
        except DatasetError as error:
            return [str(error)]
        digest, histogram = hashlib.sha256(), np.zeros((3, 256), dtype=np.int64)
        for start in range(0, len(arrays), _CHUNK):
            chunk = np.ascontiguousarray(arrays.images[start : start + _CHUNK])
            digest.update(chunk.tobytes())
            if split == "train":
                histogram += pixel_histogram(chunk)
        labels = arrays.labels.tolist()
        contents[split] = labels, digest.hexdigest()
        if len(arrays) != manifest.counts[split]:
            problems.append(f"{split}: {len(arrays)} images, the manifest says {manifest.counts[split]}.")
        found = tuple(np.bincount(labels, minlength=len(manifest.classes)).tolist())
        if found != tuple(manifest.class_counts[split]):
            problems.append(f"{split}: the numbers of images by class differ from the manifest.")
        if groups_digest(prepared.folder, split) != manifest.groups_sha256.get(split) and manifest.groups_sha256:
            problems.append(f"{split}: the groups differ from the manifest.")
        if split == "train" and channel_moments(histogram) != (manifest.mean, manifest.std):
            problems.append("The manifest's mean and standard deviation differ from those of the training images.")
    fingerprint = content_fingerprint(manifest.classes, contents)
    if fingerprint != manifest.fingerprint:
        problems.append(
            f"The content's fingerprint is {fingerprint}, the manifest says {manifest.fingerprint}: "
            "pixels, labels or class names have changed."
        )
    return problems


def remove(offer: Offer[DatasetSpec], root: Path, others: Iterable[Offer[DatasetSpec]]) -> int:
    """Remove a data set's files: arrays, unpacked files, and downloads that no other prepared set uses.

    Args:
        offer: The data set.
        root: The data folder.
        others: All data sets. A download stays if another prepared set uses it.

    Returns:
        The number of bytes freed.

    Raises:
        DatasetError: another process prepares the set.
    """
    spec = offer.spec
    if not (root / spec.name).is_dir() and not any(download_folder(root, s).exists() for s in spec.sources):
        return 0
    kept = {
        download_folder(root, source)
        for other in others
        if other.spec.name != spec.name and any((root / other.spec.name).glob("*/manifest.json"))
        for source in other.spec.sources
    }
    with locked(root, spec.name, wait=False), writing_to(root):
        folders = {download_folder(root, source) for source in spec.sources} - kept
        folders |= {entry for entry in (root / spec.name).iterdir() if entry.is_dir()}
        freed = sum(disk_use(folder) for folder in folders if folder.exists())
        for folder in folders:
            if folder.exists():
                shutil.rmtree(folder)
    with writing_to(root):
        shutil.rmtree(root / spec.name, ignore_errors=True)
    return freed


def known_leaks(catalog: Catalog, names: Iterable[str], root: Path, input_size: int) -> dict[str, str]:
    """Return the known leaks from train into the test split, by data set; sets without known leaks are left out."""
    found: dict[str, str] = {}
    for name in names:
        if name in catalog.datasets:
            offer = catalog.datasets[name]
            with contextlib.suppress(DatasetError):  # the code that trains on a damaged store reports it
                sentence = known_leakage(offer.spec.leakage, _find(offer, root, input_size))
                found |= {name: sentence} if sentence else {}
    return found


def disk_use(folder: Path) -> int:
    """Return the bytes of all files below a folder. Links are not followed."""
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_symlink() or file.is_file())


def require_licence(spec: DatasetSpec, root: Path, *, accept: bool) -> None:
    """Record that the user accepts a data set's terms.

    Raises:
        LicenceError: the terms must be accepted and were not; the message states them.
    """
    records = _licence_records(root)
    record = records.get(spec.name)
    accepted = isinstance(record, dict) and record.get("licence") == spec.licence  # other terms must be accepted anew
    if accepted or not spec.accept_licence:
        return
    if not accept:
        raise LicenceError(
            f"{spec.title} may be used under these terms: {spec.licence}. "
            f"{f'See {spec.homepage}. ' if spec.homepage else ''}"
            f"If you accept them, run: harness prepare {spec.name} --accept-licence"
        )
    records[spec.name] = {"licence": spec.licence, "accepted": datetime.now(UTC).isoformat(timespec="seconds")}
    with writing_to(root):
        root.mkdir(parents=True, exist_ok=True)
    write_text_atomically(root / "licences.json", json.dumps(records, indent=2) + "\n")


def _licence_records(root: Path) -> dict[str, dict[str, str]]:
    try:
        content = json.loads((root / "licences.json").read_bytes())
    except (OSError, ValueError):
        return {}  # after an unreadable record, the user is asked again
    return content if isinstance(content, dict) else {}
