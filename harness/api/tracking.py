"""The API of trackers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.api.jobs import EpochRecord, Job, RunResult
from harness.api.specs import require_callable, require_name, require_texts


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """The run that a tracker is opened for: plain values, known before the first step.

    Attributes:
        id: The run's name in the tracker's own store: letters, digits and '-'. It stays the same when a stopped job
            resumes, and differs when a job is started anew.
        resumed: Whether the run was opened under this id before, by a process that was stopped.
        job: The cell that is trained.
        fingerprint: Hash of everything that determines the numbers.
        protocol_digest: Hash of the protocol that is executed.
        parameters: Trainable parameters.
        lr_max: The learning-rate peak that is used.
        config: All values that distinguish runs, flat: those above and every number of the protocol, such as
            ``model``, ``epochs`` and ``augmentations.cutmix.alpha``.
        tags: The environment of the run, flat: versions of the libraries, the model's plugin, host, device, threads.
        folder: The tracker's folder unless the user configured another, shared by all its runs:
            ``<runs>/tracking/<name>``. It need not exist. Other processes may write there concurrently.
    """

    id: str
    resumed: bool
    job: Job
    fingerprint: str
    protocol_digest: str
    parameters: int
    lr_max: float
    config: Mapping[str, str | int | float | bool]
    tags: Mapping[str, str]
    folder: Path


class Tracker(Protocol):
    """One run of one job in a tracking tool, as returned by ``TrackerSpec.open``.

    All methods of one tracker are called one after the other in one thread, which is not the training thread. An
    exception, or a call that takes longer than ``TrackerSpec.patience``, is reported once and ends the tracking of that
    run; the training continues. No method may print to stdout or draw from torch's global generator.
    """

    def epoch_finished(self, record: EpochRecord) -> None:
        """Log an epoch.

        Every epoch comes once and in order, as soon as a checkpoint holds it, so short epochs come several at a time.
        A resumed run begins with the first epoch that it has not logged. After a process was killed, one epoch may come
        again with the same content.
        """
        ...

    def run_finished(self, result: RunResult) -> None:
        """Log the finished run: its final metrics, and that it is done."""
        ...

    def run_failed(self, reason: str) -> None:
        """Note that this attempt failed. A later one may resume under the same id."""
        ...

    def close(self) -> None:
        """Flush and close. Called last and once; without one of the two above the run was stopped and may resume."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrackerSpec:
    """A tracking tool that follows runs, for users who switch it on with ``harness run --track NAME``.

    Attributes:
        name: The value of ``--track``.
        title: The name for people.
        open: ``open(run)`` begins or resumes a run in the tool and returns its ``Tracker``; called in the training
            process, once the job is known to be trained.
        needs: Modules that must be importable, such as ``("mlflow",)``; if one is not, ``--track`` is refused before
            any training.
        install: The command that installs them, for that refusal.
        patience: Seconds that one call may take before the run's tracking ends.
    """

    name: str
    title: str
    open: Callable[[TrackedRun], Tracker]
    needs: tuple[str, ...] = ()
    install: str = ""
    patience: float = 30.0

    def __post_init__(self) -> None:
        require_name("tracker", self.name)
        require_callable("tracker", self.name, "open", self.open)
        require_texts("tracker", self.name, title=self.title, install=self.install)
        if not 0 < self.patience < float("inf"):
            raise ValueError(f"tracker {self.name!r}: patience is {self.patience!r}, expected seconds, above 0")
