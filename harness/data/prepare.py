"""The steps behind ``harness prepare``: terms, disk space, lock, sources, arrays; and verifying and removing them."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from harness.api import DatasetSpec, Split
from harness.catalog import Catalog, Offer
from harness.data.audit import known_leakage
from harness.data.fetch import FetchPolicy, Progress, no_progress
from harness.data.given import search
from harness.data.ingest import (
    SPLITS,
    Ingestion,
    Report,
    definition,
    expected_form,
    ingest_in,
    report_nothing,
    require_room,
)
from harness.data.inputs import given_before, outdated, takes_folder, why_kept
from harness.data.prepared import (
    PreparedDataset,
    channel_moments,
    content_fingerprint,
    find_prepared,
    groups_digest,
    open_split,
    pixel_histogram,
)
from harness.data.sources import Folders, Gathered, download_folder, gather
from harness.data.store import (
    locked,
    open_workshop,
    require_place,
)
from harness.data.unpack import is_archive
from harness.errors import DatasetError, LicenceError, WrongUseError
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
    there = [_find(request.offer, root, size) for size in request.input_sizes]
    sizes = [
        min(spec.native_side or size, size)
        for size, found in zip(request.input_sizes, there, strict=True)
        if found is None or outdated(found, spec, request.given)
    ]
    if spec.native_side and all(spec.native_side <= size for size in request.input_sizes):
        sizes = sizes[:1]  # one native form serves every input
    given = search(spec, request.given).places if request.given else tuple(() for _ in spec.sources)
    here = [
        bool(places) or (download_folder(root, source) / source.filename).exists()
        for places, source in zip(given, spec.sources, strict=True)
    ]
    return Estimate(
        download=sum(source.bytes or 0 for source, there in zip(spec.sources, here, strict=True) if not there),
        unpacked=sum(
            int((source.bytes or 0) * 1.1)
            for places, source in zip(given, spec.sources, strict=True)
            if is_archive(source.filename) and not any(path.is_dir() for path in places)
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
    if request.given is not None and not spec.sources and not takes_folder(spec.read):
        raise WrongUseError(f"The images of '{spec.name}' come with its plugin; it takes no files by --from.")
    ready, reason = _current(request)
    if len(ready) == len(request.input_sizes):
        if request.given is not None:
            say(why_kept(ready[0], request.given))
        return ready
    if reason:
        say(f"{spec.name}: {reason}. It is prepared again; the present arrays stay until the new ones are complete.")
    if request.given is None and (given := given_before(root, spec.name)) is not None:
        say(f"{spec.name}: its files are taken from {given}, as before.")
        request = replace(request, given=given)
    require_licence(spec, root, accept=request.accept_licence)
    for size in request.input_sizes:  # before the first hour of work
        require_place(root / spec.name / expected_form(spec, size), spec.name)
    needed = estimate(request)
    say(_needs(spec, needed, root))
    with locked(root, spec.name, wait=False, say=say) as sole, open_workshop(root, spec.name, sole=sole) as workshop:
        if not any(workshop.path.iterdir()):  # an interrupted attempt holds its space already
            require_room(root, needed.total)
        say(f"{spec.name}: terms of use: {spec.licence}.")
        gathered = _gather(request, workshop.path, on_bytes)
        for note in gathered.notes:
            say(f"{spec.name}: {note}")
        common = Ingestion(
            request.offer, root, 0, gathered.folder, gathered.records, report=on_images, given=request.given, say=say
        )
        return [ingest_in(workshop, replace(common, input_size=size)) for size in sorted(request.input_sizes)]


def _current(request: PrepareRequest) -> tuple[list[PreparedDataset], str]:
    """Return the forms whose inputs are the same, one per input size, and why another one is not, if one is there."""
    ready: list[PreparedDataset] = []
    reasons: dict[Path, str] = {}
    for size in request.input_sizes:
        found = _find(request.offer, request.root, size)
        if found is None:
            continue
        if found.folder not in reasons:
            reasons[found.folder] = outdated(found, request.offer.spec, request.given)
        if not reasons[found.folder]:
            ready.append(found)
    return ready, next(filter(None, reasons.values()), "")


def _gather(request: PrepareRequest, work: Path, on_bytes: Progress) -> Gathered:
    """Gather the sources. An embedded set has none: its reader takes the user's folder, or finds its own files."""
    spec = request.offer.spec
    if spec.sources:
        return gather(spec, Folders(request.root, work), request.given, request.policy, on_bytes)
    return Gathered(request.given or Path(), (), ())


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

    manifest = prepared.manifest
    problems: list[str] = []
    contents: dict[Split, tuple[list[int], str]] = {}
    for split in SPLITS:
        try:
            if groups_digest(prepared.folder, split) != manifest.groups_sha256.get(split) and manifest.groups_sha256:
                problems.append(f"{split}: the groups differ from the manifest.")
            arrays = open_split(prepared, split)
        except DatasetError as error:
            problems.append(str(error))
            continue
        digest, histogram = hashlib.sha256(), np.zeros((3, 256), dtype=np.int64)
        for start in range(0, len(arrays), _CHUNK):
            chunk = np.ascontiguousarray(arrays.images[start : start + _CHUNK])
            digest.update(chunk.tobytes())
            if split == "train":
                histogram += pixel_histogram(chunk)
        contents[split] = arrays.labels.tolist(), digest.hexdigest()
        if split == "train" and channel_moments(histogram) != (manifest.mean, manifest.std):
            problems.append("The manifest's mean and standard deviation differ from those of the training images.")
    fingerprint = content_fingerprint(manifest.classes, contents)
    if fingerprint != manifest.fingerprint and len(contents) == len(SPLITS):
        problems.append(
            f"The content's fingerprint is {fingerprint}, the manifest says {manifest.fingerprint}: "
            "pixels, labels or class names have changed."
        )
    return problems


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
