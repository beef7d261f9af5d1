"""Checks of disk space, of the folders' file systems and of the suite's data sets."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import Timeout

from harness.api import DatasetSpec
from harness.cache import NOWHERE, cache_folder
from harness.catalog import Offer
from harness.data.ingest import SPLITS, definition
from harness.data.inputs import outdated
from harness.data.prepare import PrepareRequest, estimate, verify_prepared
from harness.data.prepared import find_prepared, open_split
from harness.doctor import Examination, Finding
from harness.errors import HarnessError
from harness.files import take_lock
from harness.machine import disk_use, existing_folder, free_bytes, gigabytes
from harness.price.price import JobPrice, Price

CACHE_BYTES = 100_000_000  # generous upper limit of the caches of timings, architectures and plots
_VERIFY_BYTES = 50_000_000  # data sets up to this size are compared byte by byte, which takes a moment
_CLOCK_SECONDS = 5.0


def check_disk(examination: Examination) -> Iterator[Finding]:
    """Compare the free space under the runs, data and cache folders with the need of the suite, each model once."""
    from harness.api import Job

    budget = examination.workspace.benchmark.budget(examination.suite.budget).parameters
    jobs = []
    for dataset in examination.suite.datasets:
        try:
            facts = examination.workspace.facts(dataset)
        except HarnessError:
            continue  # another check reports it
        predictions = facts.test * (4 * facts.classes + 8)
        jobs += [
            JobPrice(
                job=Job(examination.protocol.name, model, dataset, 0), seconds=None, basis=None, weights=budget,
                predictions=predictions,
            )
            for model in examination.workspace.catalog.models
        ]  # fmt: skip
    runs = Price(jobs=tuple(jobs), start_up=0.0, at_once=1, watts=0.0).runs_bytes
    what = f"one run of {len(examination.workspace.catalog.models)} models on the suite '{examination.suite.name}'"
    yield _room("disk of runs", examination.workspace.runs.root, runs, what, "--runs")
    offers = [
        examination.workspace.catalog.datasets[name]
        for name in examination.suite.datasets
        if name in examination.workspace.catalog.datasets
    ]
    data = sum(
        estimate(PrepareRequest(offer, examination.workspace.data, (examination.protocol.input_size,))).total
        for offer in offers
        if _prepared(examination, offer) is None
    )
    yield _room("disk of data", examination.workspace.data, data, "the data sets that are not prepared", "--data")
    if (cache := cache_folder()) == NOWHERE:
        found = "this user has no home folder, so each command counts and times everything again"
        yield Finding("disk of cache", "warning", found, "Name a folder with XDG_CACHE_HOME.")
    else:
        yield _room("disk of cache", cache, CACHE_BYTES, "the cache of all commands", "XDG_CACHE_HOME")


def check_runs_folder(examination: Examination) -> Iterator[Finding]:
    """Check the file system of the runs folder."""
    yield behaviour("runs folder", examination.workspace.runs.root, "--runs")


def check_data_folder(examination: Examination) -> Iterator[Finding]:
    """Check the file system of the data folder."""
    yield behaviour("data folder", examination.workspace.data, "--data")


def check_datasets(examination: Examination) -> Iterator[Finding]:
    """Check that every data set of the suite is prepared and undamaged."""
    for name in examination.suite.datasets:
        offer = examination.workspace.catalog.datasets.get(name)
        called = f"data set {name}"
        if offer is None:
            advice = "Install the plugin that offers it; 'harness list plugins' shows those that failed."
            yield Finding(called, "problem", "no installed plugin offers it", advice)
            continue
        try:
            examination.workspace.facts(name)
            yield _dataset(examination, called, offer)
        except HarnessError as error:
            yield Finding(called, "problem", str(error), _remake(offer))


def behaviour(name: str, folder: Path, option: str) -> Finding:
    """Try locks, renames and flushed writes in a folder, or in its nearest existing parent."""
    above = existing_folder(folder)
    if not above.is_dir():
        return Finding(name, "problem", f"{above} is a file, expected a folder", f"Choose another one with {option}.")
    another = f"Choose another folder with {option}."
    try:
        with tempfile.TemporaryDirectory(dir=above, prefix=".harness-doctor-") as scratch:
            problems = _misbehaviour(Path(scratch))
            skew = _clock_skew(Path(scratch))
    except OSError as error:
        return Finding(name, "problem", f"{above} can't be written: {error.strerror or error}", another)
    if problems:
        advice = f"{another} A local disk always works; of network file systems, NFS 4 with locking does."
        return Finding(name, "problem", f"{above}: {'; '.join(problems)}", advice)
    if abs(skew) > _CLOCK_SECONDS:
        return Finding(
            name, "warning", f"{above}: its clock is {skew:+.0f} s off this machine's",
            "Set both clocks from one time server; nothing is lost until then.",
        )  # fmt: skip
    return Finding(name, "ok", f"{above}: writable, files can be locked, renames replace at once")


def _misbehaviour(scratch: Path) -> list[str]:
    problems = []
    try:
        holder = take_lock(scratch / "lock", 1)
        if holder is None:
            problems.append("files can't be locked, so a killed run may have to be released by hand")
        else:
            with contextlib.suppress(Timeout):
                if other := take_lock(scratch / "lock", 0):
                    other.release()
                problems.append("a file can be locked twice, so two commands could train the same job")
            holder.release()
    except OSError as error:
        problems.append(f"files can't be locked ({error})")
    old, new = scratch / "old", scratch / "new"
    try:
        old.write_bytes(b"old")
        with new.open("wb") as file:
            file.write(b"new")
            file.flush()
            os.fsync(file.fileno())
        new.replace(old)
        if old.read_bytes() != b"new" or new.exists():
            problems.append("a rename does not replace the target")
    except OSError as error:
        problems.append(f"a flushed file can't replace another ({error})")
    return problems


def _clock_skew(scratch: Path) -> float:
    """Return the seconds by which the file system's clock is ahead."""
    file = scratch / "clock"
    file.touch()
    return file.stat().st_mtime - time.time()


def _room(name: str, folder: Path, needed: int, what: str, option: str) -> Finding:
    free = free_bytes(folder)
    found = f"{gigabytes(free)} free at {folder}, up to {gigabytes(needed)} needed for {what}"
    if free >= 2 * needed:
        return Finding(name, "ok", found)
    advice = f"Make room, or choose another disk with {option}."
    return Finding(name, "problem" if free < needed else "warning", found, advice)


def _prepared(examination: Examination, offer: Offer[DatasetSpec]) -> object:
    try:
        return find_prepared(
            examination.workspace.data, offer.spec.name, definition(offer), examination.protocol.input_size
        )
    except HarnessError:
        return None


def _dataset(examination: Examination, called: str, offer: Offer[DatasetSpec]) -> Finding:
    spec = offer.spec
    found = find_prepared(examination.workspace.data, spec.name, definition(offer), examination.protocol.input_size)
    if found is None and not spec.sources:
        return Finding(called, "ok", "comes with its plugin; prepared when it is first used")
    if found is None:
        terms = " --accept-licence" if spec.accept_licence else ""
        advice = f"Run: harness prepare {spec.name}{terms}"
        return Finding(called, "problem", f"not prepared in {examination.workspace.data}", advice)
    if reason := outdated(found, spec):
        return Finding(called, "problem", f"outdated: {reason}", f"Run: harness prepare {spec.name}")
    counts = found.manifest.counts
    facts = f"prepared: {counts['train']:,} train and {counts['test']:,} test images"
    if disk_use(found.folder) <= _VERIFY_BYTES:
        if problems := verify_prepared(found):
            return Finding(called, "problem", f"damaged: {' '.join(problems)}", _remake(offer))
        return Finding(called, "ok", f"{facts}, as their manifest says byte for byte")
    for split in SPLITS:
        open_split(found, split)
    return Finding(called, "ok", f"{facts}; byte for byte: harness prepare {spec.name} --verify")


def _remake(offer: Offer[DatasetSpec]) -> str:
    name = offer.spec.name
    if offer.spec.sources:
        return f"Run: harness prepare {name} --remove, then harness prepare {name}"
    return f"Run: harness prepare {name} --remove; it is made again when it is first used."
