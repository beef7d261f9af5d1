"""Small stand-ins for plugin authors: a network, a data set, a played run, a real run, and work for an executor."""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from harness.api import (
    Cell,
    DatasetSpec,
    EpochRecord,
    Job,
    ModelSpec,
    Reporter,
    Resources,
    RunResult,
    Sample,
    Split,
    StoppedError,
    TrackedRun,
    Tracker,
    TrackerSpec,
    Work,
    write_text_atomically,
)

if TYPE_CHECKING:
    from torch import nn

    from harness.train.observer import Observer
    from harness.train.state import TrainingState

Notify: TypeAlias = Callable[..., object]
"""Called as ``notify(hook, **arguments)`` where the harness calls the three hooks of observers."""

COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}
JOB = Job("pocket-1.0", "fake_net", "fake_set", 0)
EPOCHS = 3
TRACKER_METHODS = ("epoch_finished", "run_finished", "run_failed", "close")


def build_net(num_classes: int) -> nn.Module:
    """Return a network of a few hundred parameters: float32 (N, 3, H, W) to logits (N, num_classes)."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, num_classes),
    )


def read_set(folder: Path, split: Split) -> Iterator[Sample]:  # noqa: ARG001 - it is embedded
    """Yield noisy images of 10 x 10 pixels in three colours."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(len(split))
    colours = list(COLOURS.values())
    for index in range(SET.splits[split]):
        pixels = np.array(colours[index % len(colours)]) + random.integers(-30, 30, (10, 10, 3))
        yield Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), index % len(colours)


NET = ModelSpec(name="fake_net", title="Fake network", build=build_net, paper="harness.testing.fakes")
SET = DatasetSpec(
    name="fake_set",
    title="Fake set",
    classes=tuple(COLOURS),
    splits={"train": 36, "test": 12},
    read=read_set,
    licence="CC0-1.0",
    citation="harness.testing.fakes",
    domain="colours",
)


def epoch_records() -> list[EpochRecord]:
    """Return the records of a run of three epochs."""
    return [
        EpochRecord(epoch=epoch, lr=1e-3 / (epoch + 1), loss=2.0 / (epoch + 1), images_per_second=900.0, seconds=0.5)
        for epoch in range(EPOCHS)
    ]


def run_result(job: Job = JOB) -> RunResult:
    """Return a result with all its fields filled in."""
    return RunResult(
        job=job,
        fingerprint="0123456789abcdef",
        protocol_digest="fedcba9876543210",
        metrics={"top1": 61.5, "nll": 1.25},
        parameters=2_500_000,
        over_budget=False,
        lr_max=1e-3,
        lr_exception=None,
        weights_sha256="0" * 64,
        test_reads=1,
        seconds=1.5,
        started="2026-01-01T00:00:00+00:00",
        finished="2026-01-01T00:00:02+00:00",
        interruptions=[{"went_on": "2026-01-01T00:00:01+00:00", "epoch": 1, "step": 0}],
        notes=["a note"],
        environment={"device": "cpu", "threads": 1, "torch": "2"},
    )


def tracked_run(folder: Path, number: int = 0, *, resumed: bool = False, job: Job = JOB) -> TrackedRun:
    """Return a run for a tracker to open; the same number gives the same id."""
    result = run_result(job)
    return TrackedRun(
        id=f"{result.fingerprint}-{number:08x}",
        resumed=resumed,
        job=job,
        fingerprint=result.fingerprint,
        protocol_digest=result.protocol_digest,
        parameters=result.parameters,
        lr_max=result.lr_max,
        config={
            **job.as_dict(),
            **{"fingerprint": result.fingerprint, "protocol_digest": result.protocol_digest},
            **{"title": "Pocket", "epochs": EPOCHS, "label_smoothing": 0.1, "accelerator": False},
            **{"augmentations.cutmix.at": "input", "augmentations.cutmix.alpha": 1.0},
            **{"parameters": result.parameters, "lr_max": result.lr_max},
        },
        tags={"device": "cpu", "threads": "1", "versions.torch": "2", "host": "a host"},
        folder=folder,
    )


def play(notify: Notify, job: Job = JOB, result: RunResult | None = None) -> None:
    """Call the hooks as a run of three epochs does, without training."""
    notify("harness_run_started", job=job)
    for record in epoch_records():
        notify("harness_epoch_finished", job=job, record=record)
    notify("harness_run_finished", job=job, result=result or run_result(job))


@contextlib.contextmanager
def opened(spec: TrackerSpec, run: TrackedRun) -> Iterator[Tracker]:
    """Open a tracker for a run, and close it at the end.

    Raises:
        TypeError: a method is missing.
    """
    tracker = spec.open(run)
    missing = [name for name in TRACKER_METHODS if not callable(getattr(tracker, name, None))]
    if missing:
        raise TypeError(f"open returned a {type(tracker).__name__} without {', '.join(missing)}")
    try:
        yield tracker
    finally:
        tracker.close()


def follow(
    spec: TrackerSpec,
    run: TrackedRun,
    records: Iterable[EpochRecord] | None = None,
    *,
    result: RunResult | None = None,
    failure: str = "",
) -> None:
    """Let a tracker follow a run without training.

    Args:
        spec: The tracker.
        run: The run that it is opened for.
        records: The epochs that it gets; None for those of ``epoch_records``.
        result: The result of the run. Without it and without a failure the run was stopped.
        failure: The reason why the run failed.
    """
    with opened(spec, run) as tracker:
        for record in epoch_records() if records is None else records:
            tracker.epoch_finished(record)
        if result is not None:
            tracker.run_finished(result)
        if failure:
            tracker.run_failed(failure)


def train(notify: Notify, folder: Path) -> RunResult:
    """Train the small network on the small set for two epochs, by the real loop, and return the result.

    Args:
        notify: Called at the start, after each epoch and at the end.
        folder: An existing folder for the prepared set and the checkpoint.
    """
    import msgspec
    import torch

    from harness.catalog import Catalog, Offer, Plugin
    from harness.data.ingest import Ingestion, ingest
    from harness.registry import load_benchmark
    from harness.train.checkpoint import Found
    from harness.train.job import run_task
    from harness.train.task import Task, build_model

    owner = Plugin("fakes", __name__, "xscore-harness", "0")
    offers = Offer(NET, owner), Offer(SET, owner)
    shipped = load_benchmark().protocol(JOB.protocol)
    protocol = msgspec.structs.replace(shipped, input_size=12, batch_size=8, epochs=2, augmentations=())
    task = Task(
        job=JOB,
        protocol=protocol,
        model=offers[0],
        dataset=ingest(Ingestion(offers[1], folder, 12)),
        catalog=Catalog(
            models={NET.name: offers[0]},
            datasets={SET.name: offers[1]},
            augmentations={},
            metrics={},
            executors={},
            trackers={},
            plugins=(owner,),
            contested={},
        ),
        device=torch.device("cpu"),
        checkpoint=folder / "checkpoint.pt",
    )
    notify("harness_run_started", job=JOB)
    result = run_task(task, build_model(task), Found(None, ()), _observe_epochs(notify)).result
    notify("harness_run_finished", job=JOB, result=result)
    return result


def _observe_epochs(notify: Callable[..., object]) -> Observer:
    """Return an observer of a training that passes epochs on to the observer hooks."""
    from harness.train.observer import Observer

    class EpochObserver(Observer):
        def epoch_finished(self, state: TrainingState, record: EpochRecord) -> None:
            notify("harness_epoch_finished", job=JOB, record=record)

    return EpochObserver()


def tracker_of(name: str) -> TrackerSpec:
    """Return a tracker that is installed. Raises LookupError if there is none of that name."""
    from harness.catalog import discover

    offer = discover().trackers.get(name)
    if offer is None:
        raise LookupError(f"no tracker named {name!r} was discovered")
    return offer.spec


@dataclass(frozen=True)
class Call:
    """One call of a FakeRunOne: its job and arguments, and when it began and ended, by ``time.time``."""

    job: Job
    device: str
    threads: int | None
    began: float
    ended: float | None = None


@dataclass(frozen=True)
class FakeRunOne:
    """Stands in for ``harness.api.RunOne``: it trains nothing and records its calls in a folder.

    Attributes:
        folder: The folder, which all processes and machines that call it can write to.
        failing: Jobs that fail.
        dying: Jobs that end their process, like a crash in compiled code. In the process ``home`` they only fail.
        home: The process that created this.
        seconds: The duration of a job, which may be stopped meanwhile.
    """

    folder: Path
    failing: frozenset[Job] = frozenset()
    dying: frozenset[Job] = frozenset()
    home: int = field(default_factory=os.getpid)
    seconds: float = 0.0

    def __call__(
        self, job: Job, /, *, device: str = "auto", threads: int | None = None, reporter: Reporter | None = None
    ) -> Cell:
        """Report three epochs and return the outcome. Raises StoppedError if the reporter asks to stop."""
        from harness.execute.run_one import logged

        call = Call(job, device, threads, began=time.time())
        record = f"{uuid.uuid4().hex}.call"
        self._write(record, json.dumps(asdict(call)))
        with logged(reporter) as receiver:
            receiver.job_started(job)
            while not (stopping := receiver.should_stop()) and time.time() < call.began + self.seconds:
                time.sleep(0.05)
            if not stopping:
                if job in self.dying and os.getpid() != self.home:
                    os._exit(1)
                for one in epoch_records():
                    receiver.epoch_finished(job, one)
            self._write(record, json.dumps(asdict(replace(call, ended=time.time()))))
            if stopping:
                raise StoppedError
            if job in self.failing | self.dying:
                cell = self.fail(job, "RuntimeError: this job fails on purpose")
            else:
                self._write(_file_of(job), "")
                cell = self.look(job)
            receiver.job_finished(cell)
        return cell

    def look(self, job: Job, /) -> Cell:
        """Return a job's state."""
        try:
            reason = (self.folder / _file_of(job)).read_text(encoding="utf-8")
        except FileNotFoundError:
            return Cell(job, "missing")
        return Cell(job, "failed", detail=reason) if reason else Cell(job, "done", run_result(job))

    def fail(self, job: Job, reason: str, /) -> Cell:
        """Record that a job failed, unless it is done."""
        if self.look(job).state != "done":
            self._write(_file_of(job), reason)
        return self.look(job)

    def calls(self) -> list[Call]:
        """Return the calls so far, the earliest first."""
        found = (json.loads(path.read_bytes()) for path in self.folder.glob("*.call"))
        return sorted((Call(**one | {"job": Job(**one["job"])}) for one in found), key=lambda call: call.began)

    def _write(self, name: str, text: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text_atomically(self.folder / name, text)


def _file_of(job: Job) -> str:
    return f"{job.protocol}.{job.model}.{job.dataset}.{job.seed}.state"


def executor_work(run_one: FakeRunOne, folder: Path, reporter: Reporter | None = None) -> Work:
    """Return three jobs for an executor, which differ in their seeds: one at a time, on the CPU, with one thread.

    Args:
        run_one: Stands in for the training.
        folder: The executor's own folder.
        reporter: Receives the progress; None discards it.
    """
    return Work(
        jobs=tuple(replace(JOB, seed=seed) for seed in range(3)),
        run_one=run_one,
        resources=Resources(devices=("cpu",), jobs=1, threads=1),
        reporter=reporter or Reporter(),
        folder=folder,
    )
