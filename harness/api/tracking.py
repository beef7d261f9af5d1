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
        id: What to call the run in the tracker's own store: letters, digits and '-'. It stays the same when a stopped
            job goes on, and is another one when a job is begun anew.
        resumed: Whether the run was opened under this id before, by a process that was stopped.
        job: The cell that is trained.
        fingerprint: Hash of everything that determines the numbers.
        protocol_digest: Hash of the protocol that is executed.
        parameters: Trainable parameters.
        lr_max: The learning-rate peak that is used.
        config: All that tells runs apart by a value, flat: what stands above and every number of the protocol, such as
            ``model``, ``epochs`` and ``augmentations.cutmix.alpha``.
        tags: Where the run happens, flat: versions of the libraries, the model's plugin, host, device, threads.
        folder: Where the tracker may write unless the user configured it otherwise: of its own and shared by all its
            runs, ``<runs>/tracking/<name>``. It need not exist. Other processes may write there at the same time.
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
    """One run of one job, as a tracking tool sees it; what ``TrackerSpec.open`` returns.

    All methods of one tracker are called one after the other in one thread, which is not the one that trains. What one
    of them raises, or one that takes longer than ``TrackerSpec.patience``, is reported once and ends the tracking of
    that run; the run itself goes on. Nothing here may print to stdout or draw from torch's global generator.
    """

    def epoch_finished(self, record: EpochRecord) -> None:
        """Log an epoch.

        Every epoch comes once and in order, those told in earlier processes left out, as soon as a checkpoint holds it:
        short epochs come several at a time. After a process was killed, one epoch may come again with the same content.
        """
        ...

    def run_finished(self, result: RunResult) -> None:
        """Log the finished run: its final metrics, and that it is done."""
        ...

    def run_failed(self, reason: str) -> None:
        """Note that this attempt failed. A later one may go on under the same id."""
        ...

    def close(self) -> None:
        """Flush and let go. Called last and once; without one of the two above the run was stopped and may go on."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrackerSpec:
    """A tracking tool that follows runs, for users who switch it on with ``harness run --track NAME``.

    Attributes:
        name: What ``--track`` takes.
        title: The name for people.
        open: ``open(run)`` begins or goes on with a run in the tool and returns its ``Tracker``; called in the process
            that trains, once the job is known to be trained.
        needs: Modules that have to be importable, such as ``("mlflow",)``; where one is not, ``--track`` is refused
            before any training.
        install: The command that installs them, for that refusal.
        patience: Seconds that one call may take before the tracker is given up for the run.
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
