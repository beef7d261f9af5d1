"""Write and read the files of jobs. Each job has one folder, and its state is read from the files.

<runs>/<protocol>/<model>/<data set>/seed-<n>/     at another budget than 2.5M: <runs>/<protocol>@<budget>/...
    job.json          the request: job and fingerprint
    history.jsonl     one line per epoch
    checkpoint.pt     weights, and until training has ended the optimiser and the position
    checkpoint.spare.pt  the checkpoint before: used if the last one is damaged, and to repeat the end of a run
    predictions.npz   test logits and labels
    result.json       written last and atomically: its presence means that the job is done
    error.txt         the traceback of the last attempt, if that failed
    trackers.json     with --track: the run's id in the trackers' stores, and the epochs that they have received
    profile.json      with --profile: the time by phase; it describes this machine, so bundles leave it out
<runs>/<protocol>/<model>/<data set>/set-aside/      stale or damaged files; never deleted
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec
from filelock import BaseFileLock, SoftFileLock, Timeout

from harness.api import EpochRecord, Job, RunResult
from harness.api.jobs import STANDARD_BUDGET
from harness.errors import JobLockedError, StoreError, legible
from harness.files import (
    check_writable,
    remove_leftovers,
    take_lock,
    write_atomically,
    write_text_atomically,
    writing_to,
)
from harness.results.schema import parse_result, result_text

if TYPE_CHECKING:
    import torch

JOB_SCHEMA = 1
_SEED_FOLDER = re.compile(r"seed-(0|[1-9]\d{0,17})")  # 18 digits fit the 64 bits that torch takes as a seed
_LOCK_SECONDS = 1.0  # 'harness status' holds a lock briefly to see whether it is free


@dataclass(frozen=True)
class Request:
    """A job that was asked for, and its fingerprint."""

    job: Job
    fingerprint: str


class _Request(msgspec.Struct):
    protocol: str
    model: str
    dataset: str
    seed: int
    fingerprint: str
    budget: str = STANDARD_BUDGET


@dataclass(frozen=True)
class JobFolder:
    """The files of one job."""

    job: Job
    path: Path

    @property
    def job_file(self) -> Path:
        """The request."""
        return self.path / "job.json"

    @property
    def history(self) -> Path:
        """One JSON line per epoch."""
        return self.path / "history.jsonl"

    @property
    def checkpoint(self) -> Path:
        """The checkpoint to resume from; after the end, the final weights."""
        return self.path / "checkpoint.pt"

    @property
    def predictions(self) -> Path:
        """Test logits and labels."""
        return self.path / "predictions.npz"

    @property
    def result(self) -> Path:
        """The finishing mark."""
        return self.path / "result.json"

    @property
    def error(self) -> Path:
        """The traceback of the last attempt, if that failed."""
        return self.path / "error.txt"

    @property
    def trackers(self) -> Path:
        """The state of the job's trackers; present only if any was switched on."""
        return self.path / "trackers.json"

    @property
    def profile(self) -> Path:
        """The run's time by phase; present only if it was profiled."""
        return self.path / "profile.json"

    @property
    def lock_file(self) -> Path:
        """The file of the job's lock, outside the folder so that the folder can be set aside under it."""
        return self.path.parent / f".{self.path.name}.lock"

    @property
    def held_file(self) -> Path:
        """The file that is there while the job is locked in a file system without locks."""
        return self.path.parent / f".{self.path.name}.held"

    def read_result(self) -> RunResult | None:
        """Return the result, or None if there is none yet. ``harness.results.grid`` reads many at once.

        Raises:
            DamagedResultError: the file can't be read; the message gives the reason.
        """
        try:
            content = self.result.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"{self.result} can't be read: {error.strerror}.") from error
        return parse_result(content, str(self.result))

    def recorded_fingerprint(self) -> str | None:
        """Return the fingerprint of the attempt in the folder, or None if it is unknown."""
        try:
            return self.read_request().fingerprint
        except StoreError:
            return None

    def read_request(self) -> Request:
        """Return the content of ``job.json``. Raises StoreError if it can't be read."""
        try:
            content = msgspec.json.decode(self.job_file.read_bytes(), type=_Request)
        except OSError as error:
            raise StoreError(f"{self.job_file} can't be read: {error.strerror}.") from error
        except (ValueError, RecursionError) as error:  # msgspec's errors and those of Unicode are ValueErrors
            raise StoreError(f"{self.job_file} is damaged: {error}.") from error
        job = Job(content.protocol, content.model, content.dataset, content.seed, content.budget)
        return Request(job, content.fingerprint)

    def begin(self, fingerprint: str, *, protocol_digest: str) -> None:
        """Make the folder and write the request. Raises StoreError if that is impossible."""
        with writing_to(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.path)
            self.error.unlink(missing_ok=True)
        if self.recorded_fingerprint() != fingerprint:
            content = {
                "schema": JOB_SCHEMA,
                **self.job.as_dict(),
                "fingerprint": fingerprint,
                "protocol_digest": protocol_digest,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            write_text_atomically(self.job_file, json.dumps(content, indent=2) + "\n")

    def append_history(self, record: EpochRecord) -> None:
        """Add a finished epoch."""
        with writing_to(self.path), self.history.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(record)) + "\n")

    def write_history(self, history: Iterable[EpochRecord]) -> None:
        """Replace the history: one line per epoch, exactly the epochs of the checkpoint."""
        write_text_atomically(self.history, "".join(json.dumps(asdict(record)) + "\n" for record in history))

    def read_history(self) -> tuple[EpochRecord, ...]:
        """Return the finished epochs; empty if there are none or the file is damaged."""
        try:
            return tuple(msgspec.json.Decoder(EpochRecord).decode_lines(self.history.read_bytes()))
        except (OSError, ValueError, RecursionError):  # msgspec's errors are ValueErrors
            return ()

    def finish(self, result: RunResult, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Write predictions, then the result, which makes the job done.

        Raises:
            UnwritableResultError: the result could not be read again, so nothing is written.
            StoreError: the folder can't be written.
        """
        import numpy as np

        text = result_text(result, str(self.result))

        def write(file: IO[bytes]) -> None:
            np.savez_compressed(file, logits=logits.numpy(), labels=labels.numpy())

        write_atomically(self.predictions, write)
        write_text_atomically(self.result, text)

    def fail(self, sentence: str, trace: str) -> None:
        """Record the failure of an attempt: the traceback, and the sentence as the last line."""
        with writing_to(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        text = f"{trace.rstrip()}\n\n{' '.join(sentence.split())}\n"
        write_text_atomically(self.error, legible(text))

    def read_error(self) -> str | None:
        """Return the last line of the recorded failure, or None."""
        try:
            lines = self.error.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        except OSError:
            return None
        return lines[-1] if lines else "failed for a reason that was not recorded"

    def set_aside(self, what: Path) -> Path:
        """Move the folder, or one file of it, to set-aside; return its new path."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        name = self.path.name if what == self.path else f"{self.path.name}-{what.name}"
        folder = self.path.parent / "set-aside"
        target = folder / f"{name}-{stamp}"
        while target.exists():  # the clock may have gone backwards
            target = target.with_name(f"{target.name}+")
        with writing_to(self.path.parent):
            folder.mkdir(exist_ok=True)
            what.rename(target)
        return target

    def acquire(self) -> BaseFileLock:
        """Take the job's lock, which the operating system releases if this process dies.

        Where the file system has no locks, a file that is there or not takes its place. It may outlive its process.

        Raises:
            JobLockedError: another process holds it.
            StoreError: the folder can't be written.
        """
        working = f"{self.job}: another process is working on it"
        with writing_to(self.path.parent):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock = take_lock(self.lock_file, _LOCK_SECONDS)
            except Timeout:
                raise JobLockedError(f"{working}.") from None
            if lock is not None:
                return lock
            by_file = SoftFileLock(self.held_file)
            try:
                by_file.acquire(timeout=_LOCK_SECONDS)
            except Timeout:
                raise JobLockedError(
                    f"{working}, or was killed on another machine: this file system has no locks, and {self.held_file} "
                    "names the process. If that is gone, remove the file."
                ) from None
            return by_file

    def is_locked(self) -> bool:
        """Return whether another process is working on the job."""
        if not self.lock_file.exists():
            return False
        try:
            lock = take_lock(self.lock_file, 0)
            if lock is None:
                lock = SoftFileLock(self.held_file)
                lock.acquire(blocking=False)
        except Timeout:
            return True
        except OSError:  # the folder is read-only, so no process can be working in it
            return False
        lock.release()
        return False


def protocol_folder(protocol: str, budget: str = STANDARD_BUDGET) -> str:
    """Return the name of the folder of a protocol's results: with ``@`` and the budget where that is not the standard.

    >>> protocol_folder("xscore-1.0", "5M")
    'xscore-1.0@5M'
    """
    return protocol if budget == STANDARD_BUDGET else f"{protocol}@{budget}"


def job_place(job: Job) -> tuple[str, str, str, str]:
    """Return the folders from a runs folder down to a job's own: protocol, model, data set, ``seed-<n>``."""
    return protocol_folder(job.protocol, job.budget), job.model, job.dataset, f"seed-{job.seed}"


def job_at(place: Sequence[str]) -> Job | None:
    """Return the job whose folder has this place, the inverse of ``job_place``; None if it is no job's place."""
    if len(place) != 4 or not (match := _SEED_FOLDER.fullmatch(place[3])):
        return None
    protocol, at, budget = place[0].partition("@")
    if at and budget in ("", STANDARD_BUDGET):  # the standard budget has the protocol's own folder
        return None
    return Job(protocol, place[1], place[2], int(match[1]), budget or STANDARD_BUDGET)


@dataclass(frozen=True)
class RunsFolder:
    """A folder of results."""

    root: Path

    def of(self, job: Job) -> JobFolder:
        """Return the folder of a job, which need not exist."""
        return JobFolder(job, Path(self.root, *job_place(job)))

    def jobs(self, protocol: str, budget: str = STANDARD_BUDGET) -> Iterator[Job]:
        """Yield every job that has a folder under a protocol and a budget, in order."""
        yield from self._jobs_in(protocol_folder(protocol, budget))

    def all_jobs(self) -> Iterator[Job]:
        """Yield every job that has a folder, in order."""
        for name in _folders(os.fspath(self.root)):
            yield from self._jobs_in(name)

    def budgets(self, protocol: str) -> list[str]:
        """Return the budgets that have a folder under a protocol, the standard one first."""
        names = _folders(os.fspath(self.root))
        own = [STANDARD_BUDGET] if protocol in names else []
        return own + [name.removeprefix(f"{protocol}@") for name in names if name.startswith(f"{protocol}@")]

    def _jobs_in(self, protocol: str) -> Iterator[Job]:
        base = os.fspath(self.root / protocol)  # of 100,000 folders, Path alone would take seconds
        for model in _folders(base):
            for dataset in _folders(f"{base}{os.sep}{model}"):
                for name in _folders(f"{base}{os.sep}{model}{os.sep}{dataset}"):
                    if job := job_at((protocol, model, dataset, name)):
                        yield job

    def check_writable(self) -> None:
        """Raise StoreError if results can't be written here."""
        check_writable(self.root)


def _folders(path: str) -> list[str]:
    """Return the names of the folders in a folder, in order; none if it can't be read."""
    try:
        with os.scandir(path) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())
    except OSError:
        return []


def executor_folder(runs: RunsFolder, name: str) -> Path:
    """Return the folder of an executor's own files, such as logs: beside the results, under a name with a dot."""
    return runs.root / ".executors" / name
