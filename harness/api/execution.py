"""The API of executors: resources, work and the reporter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, SupportsFloat

from harness.api.jobs import Cell, EpochRecord, Job, Shares
from harness.api.specs import require_callable, require_name, require_texts


class RunOne(Protocol):
    """Trains one job in the process that calls it. Picklable, so that it may be called on any machine with harness."""

    def __call__(self, job: Job, /, *, device: str = "auto", threads: int | None = None, reporter: Any = None) -> Any:
        """Train a job, unless it is done or another process works on it, and return how it stands then.

        Args:
            job: What to train. A job that fails is recorded on disk, and what is returned says so; nothing is raised.
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` ..., looked up on the machine that trains.
            threads: CPU threads; None leaves torch's own number.
            reporter: Told how it goes; None writes lines to stderr and stops at SIGINT, SIGTERM and SIGHUP.

        Raises:
            StoreError: results can't be written; no other job could go on either.
            StoppedError: the reporter asked to stop; the position is saved.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What jobs may use.

    Attributes:
        devices: One device name for each job that may run at the same time on this machine; its length is that number.
            For a remote executor the one name that was asked for, such as ``auto``.
        jobs: How many jobs may run at a time; None where the user left it open.
        jobs_per_gpu: How many share one GPU.
        threads: CPU threads for a job; None leaves torch's own number.
        timeout: Seconds without any progress after which a job counts as hung; None for no limit.
        needs_gpu: Whether jobs are to be placed on machines with a GPU.
        in_process: Train in the calling process, one job after the other, so that a debugger sees it.
        detach: Submit and return, where the executor can.
        options: The executor's own settings, as the user typed them.
    """

    devices: tuple[str, ...] = ("auto",)
    jobs: int | None = None
    jobs_per_gpu: int = 1
    threads: int | None = None
    timeout: float | None = None
    needs_gpu: bool = False
    in_process: bool = False
    detach: bool = False
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What an executor is asked to carry out.

    Attributes:
        jobs: In the order in which they should start.
        run_one: Trains one of them.
        look: ``look(job)`` returns how a job stands on disk, without training.
        fail: ``fail(job, sentence)`` records that a job failed for a reason that its own process could not record, and
            returns how it stands then.
        resources: What the jobs may use.
        reporter: Tells the user how it goes: ``job_started(job)``, ``epoch_finished(job, record)``,
            ``profiled(job, shares)``, ``job_finished(outcome)``, ``notice(text)``, and ``should_stop()``, which an
            executor asks now and then.
        folder: Where the executor may keep its own files; beside the results, made by the executor.
    """

    jobs: tuple[Job, ...]
    run_one: RunOne
    look: Callable[[Job], Any]
    fail: Callable[[Job, str], Any]
    resources: Resources
    reporter: Any
    folder: Path


@dataclass(frozen=True, kw_only=True)
class ExecutorSpec:
    """A way to carry out jobs: on this machine, or on a cluster.

    Attributes:
        name: What ``harness run --executor`` takes.
        title: What it does, in a few words.
        execute: ``execute(work)`` has ``work.run_one(job)`` called for every job, wherever it likes, and yields each
            outcome as it comes. It raises StoppedError once the reporter's ``should_stop()`` has been heeded.
        remote: Whether jobs run on other machines than the one that asks.
        options: The settings that it understands, with a line of help for each.
        waiting: ``waiting(folder)`` returns the jobs that are queued or running by the executor's own account, with a
            few words on each; ``harness status`` shows them. None if there is no such account.
    """

    name: str
    title: str
    execute: Callable[[Work], Iterable[Any]]
    remote: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    waiting: Callable[[Path], Mapping[Job, str]] | None = None

    def __post_init__(self) -> None:
        require_name("executor", self.name)
        require_callable("executor", self.name, "execute", self.execute)
        if self.waiting is not None:
            require_callable("executor", self.name, "waiting", self.waiting)
        require_texts("executor", self.name, title=self.title)


class Reporter(Protocol):
    """What tells people how a run goes. Several jobs may be under way at a time, each named in what is told of it."""

    def job_started(self, job: Job) -> None:
        """A job is about to start or go on."""

    def step_finished(self, job: Job, epoch: int, step: int, steps: int, loss: SupportsFloat) -> None:
        """A training step has ended. Making a float of ``loss`` may wait for the device, so do it rarely."""

    def batch_evaluated(self, job: Job) -> None:
        """A batch of the test split has been evaluated."""

    def epoch_finished(self, job: Job, record: EpochRecord) -> None:
        """An epoch has ended."""

    def profiled(self, job: Job, shares: Shares) -> None:
        """How the present epoch of a run with a profile goes: now and then, and once it is complete."""

    def should_stop(self) -> bool:
        """Whether the user wants to stop."""

    def job_finished(self, cell: Cell) -> None:
        """A job has ended, well or not."""

    def notice(self, text: str) -> None:
        """Something that a user should know has happened."""
