"""Add finished runs from a bundle or another runs folder to this one. Never overwrites; keeps both if two differ."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

from harness.api import Job, RunResult
from harness.errors import CannotContinueError, HarnessError, JobLockedError, StoreError
from harness.files import flush_folder, writing_to
from harness.results.bundle import FILES, fits_bundle, hash_files, missing_files, open_bundle
from harness.results.predictions import read_predictions
from harness.results.protocols import OtherProtocolError, kept_beside, take_in
from harness.results.store import JobFolder, RunsFolder

Outcome: TypeAlias = Literal["merged", "identical", "set aside", "left out"]


@dataclass(frozen=True)
class Incoming:
    """A finished run to merge.

    Attributes:
        job, result: The job and its result.
        hashes: SHA-256 by file name.
        open: Opens one of its files for reading.
        kept: The files of its user's protocol, by name; empty for a protocol of the registry.
    """

    job: Job
    result: RunResult
    hashes: Mapping[str, str]
    open: Callable[[str], IO[bytes]]
    kept: Mapping[str, bytes]


@dataclass(frozen=True)
class Merged:
    """The outcome of merging one run.

    Attributes:
        job: The job.
        outcome: ``merged``: added; ``identical``: it was here already; ``set aside``: another result is in its place,
            and both are kept; ``left out``: it could not be added.
        place: Its folder; None if left out.
        detail: A sentence for all but ``merged``.
    """

    job: Job
    outcome: Outcome
    place: Path | None
    detail: str = ""

    def as_row(self) -> dict[str, Any]:
        """Return the row that ``harness merge`` prints."""
        return {
            "model": self.job.model,
            "dataset": self.job.dataset,
            "seed": self.job.seed,
            "protocol": self.job.protocol,
            "budget": self.job.budget,
            "outcome": self.outcome,
            "place": str(self.place) if self.place else None,
            "detail": self.detail,
        }


@contextmanager
def open_source(path: Path) -> Iterator[tuple[tuple[Incoming, ...], tuple[str, ...]]]:
    """Open a bundle or a runs folder; yield its finished runs, and a sentence for each run that is left out.

    Raises:
        CannotContinueError: a bundle is damaged, or there is nothing finished.
    """
    if not path.is_dir():
        with open_bundle(path) as bundled:
            yield tuple(Incoming(run.job, run.result, run.hashes, run.open, run.kept) for run in bundled), ()
        return
    found, left_out = [], []
    for folder in all_folders(RunsFolder(path)):
        reason = why_not(folder)
        if reason:
            left_out.append(f"{folder.job} was left out: {reason}")
        else:
            result = folder.read_result()
            assert result is not None
            found.append(Incoming(folder.job, result, hash_files(folder), _opener(folder), kept_beside(folder)))
    if not found:
        raise CannotContinueError(f"There is no finished run in {path}. " + " ".join(left_out))
    yield tuple(found), tuple(left_out)


def all_folders(runs: RunsFolder) -> Iterator[JobFolder]:
    """Yield the folder of every job, under any protocol and budget."""
    for job in runs.all_jobs():
        yield runs.of(job)


def why_not(folder: JobFolder) -> str:
    """Return the reason why a run can't be packed or merged; empty if it is finished and its files are whole."""
    try:
        result = folder.read_result()
    except StoreError as error:
        return f"{error}."
    if result is None:
        return "it is not finished."
    if result.job != folder.job:
        return f"its result belongs to another job, {result.job}."
    if not fits_bundle(folder.job):
        return "its folders have names that no job has: expected letters, digits, '.', '_' and '-'."
    if lacking := missing_files(folder):
        return f"{', '.join(lacking)} missing."
    try:
        kept_beside(folder)
    except StoreError as error:
        return str(error)
    return damage(folder, result)


def damage(folder: JobFolder, result: RunResult) -> str:
    """Say why the stored files of a finished run can't be used; empty if they are whole and hold its weights."""
    return _unreadable(folder, result) or _other_weights(folder, result)


def _unreadable(folder: JobFolder, result: RunResult) -> str:
    from harness.train.checkpoint import load_checkpoint

    try:
        read_predictions(folder)
        checkpoint = load_checkpoint(folder.checkpoint, fingerprint=result.fingerprint)
    except HarnessError as error:
        return f"{str(error).removesuffix('.')}."
    if checkpoint is None:
        return f"{folder.checkpoint} is not there."
    return "" if folder.read_history() else f"{folder.history} is damaged."


def _other_weights(folder: JobFolder, result: RunResult) -> str:
    """Compare readable weights with the hash in the result."""
    from harness.train.checkpoint import load_checkpoint, state_hash

    checkpoint = load_checkpoint(folder.checkpoint, fingerprint=result.fingerprint)
    if checkpoint is None or state_hash(checkpoint.weights) != result.weights_sha256:
        return f"the weights in {folder.checkpoint} are not those of its result."
    return ""


def merge_run(incoming: Incoming, runs: RunsFolder) -> Merged:
    """Put a finished run in its place, atomically and under the job's lock.

    Its user's protocol is merged first; if the folder holds another protocol, the run is left out.

    Raises:
        StoreError: the runs folder can't be written; nothing in it has changed.
    """
    folder = runs.of(incoming.job)
    try:
        if incoming.kept:
            take_in(runs, incoming.job.protocol, incoming.kept)
    except OtherProtocolError as error:
        return Merged(incoming.job, "left out", None, str(error))
    try:
        lock = folder.acquire()
    except JobLockedError:
        detail = "A process is working on this job here. Merge again when it has ended."
        return Merged(incoming.job, "left out", None, detail)
    with lock:
        if folder.result.is_file():
            return _beside(incoming, folder)
        staged = _stage(incoming, folder)
        detail = ""
        if folder.path.exists():
            moved = folder.set_aside(folder.path)
            detail = f"The unfinished run that was here is in {moved}."
        with writing_to(folder.path.parent):
            staged.rename(folder.path)
            flush_folder(folder.path.parent)
        return Merged(incoming.job, "merged", folder.path, detail)


def _beside(incoming: Incoming, folder: JobFolder) -> Merged:
    """Compare with the finished run in the place, and set the incoming one aside if it differs."""
    here = hash_files(folder)
    if here == incoming.hashes:
        return Merged(incoming.job, "identical", folder.path, "It was here already.")
    if damaged := _damage_here(incoming, folder):
        return _instead(incoming, folder, damaged)
    if _same_numbers(incoming, folder, here):
        detail = "It was trained twice and ended in the same weights and predictions; the one here stays."
        return Merged(incoming.job, "identical", folder.path, detail)
    for earlier in sorted((folder.path.parent / "set-aside").glob(f"{folder.path.name}-merged-*")):
        if hash_files(JobFolder(incoming.job, earlier)) == incoming.hashes:
            return Merged(
                incoming.job, "set aside", earlier, _difference(incoming, folder) + " It was set aside before."
            )
    staged = _stage(incoming, folder)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    target = folder.path.parent / "set-aside" / f"{folder.path.name}-merged-{stamp}"
    with writing_to(folder.path.parent):
        target.parent.mkdir(exist_ok=True)
        staged.rename(target)
    return Merged(incoming.job, "set aside", target, _difference(incoming, folder))


def _damage_here(incoming: Incoming, folder: JobFolder) -> str:
    """Say why the finished run in the place is no copy of the incoming one or another result, but a damaged one."""
    try:
        mine = folder.read_result()
    except StoreError as error:
        return f"{error}."
    if mine is None:
        return ""
    same = mine.weights_sha256 == incoming.result.weights_sha256  # with other ones it is another result
    return _unreadable(folder, mine) or (_other_weights(folder, mine) if same else "")


def _instead(incoming: Incoming, folder: JobFolder, damaged: str) -> Merged:
    """Put the incoming run in the place of a damaged one, which is set aside; leave it out if it is damaged, too."""
    staged = _stage(incoming, folder)
    if worse := damage(replace(folder, path=staged), incoming.result):
        shutil.rmtree(staged, ignore_errors=True)
        return Merged(incoming.job, "left out", None, f"The run here is damaged: {damaged} So is this one: {worse}")
    moved = folder.set_aside(folder.path)
    with writing_to(folder.path.parent):
        staged.rename(folder.path)
        flush_folder(folder.path.parent)
    return Merged(incoming.job, "merged", folder.path, f"The run here was damaged, and is in {moved}: {damaged}")


def _same_numbers(incoming: Incoming, folder: JobFolder, here: Mapping[str, str]) -> bool:
    with contextlib.suppress(StoreError):
        mine = folder.read_result()
        return (
            mine is not None
            and mine.fingerprint == incoming.result.fingerprint
            and mine.weights_sha256 == incoming.result.weights_sha256
            and mine.metrics == incoming.result.metrics
            and mine.executed == incoming.result.executed
            and here.get("predictions.npz") == incoming.hashes["predictions.npz"]
        )
    return False


def _difference(incoming: Incoming, folder: JobFolder) -> str:
    try:
        mine = folder.read_result()
    except StoreError as error:
        return f"Another result is here, which can't be read ({error}). Both are kept."
    assert mine is not None
    theirs = incoming.result
    if mine.fingerprint != theirs.fingerprint:
        return (
            f"Another result is here: its fingerprint is {mine.fingerprint}, not {theirs.fingerprint}. Both are kept."
        )
    if mine.weights_sha256 != theirs.weights_sha256:
        return "Another result is here, of the same job with other weights. Both are kept; see 'harness verify'."
    return "Another result is here: same weights, other records. Both are kept; see 'harness verify'."


def _stage(incoming: Incoming, folder: JobFolder) -> Path:
    """Write the files to a folder beside their place, the result last."""
    staging = folder.path.parent / f".{folder.path.name}.merging"
    try:
        with writing_to(folder.path.parent):
            shutil.rmtree(staging, ignore_errors=True)  # from a killed merge; this one holds the job's lock
            staging.mkdir()
            for name in FILES:
                if name in incoming.hashes:
                    with incoming.open(name) as source, (staging / name).open("wb") as target:
                        shutil.copyfileobj(source, target)
                        target.flush()
                        os.fsync(target.fileno())
        if hash_files(JobFolder(incoming.job, staging)) != incoming.hashes:
            raise StoreError(f"{incoming.job}: the files in {staging} differ from their source. Nothing was merged.")
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return staging


def _opener(folder: JobFolder) -> Callable[[str], IO[bytes]]:
    return lambda name: (folder.path / name).open("rb")
