"""Time a model on a data set and a device: a few real steps with the real input pipeline, evaluation, a checkpoint."""

from __future__ import annotations

import contextlib
import functools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from harness.api import EpochRecord, Job, StoppedError
from harness.catalog import Catalog, discover
from harness.data.prepared import SCHEMA, DatasetManifest, PreparedDataset, SplitArrays
from harness.errors import HarnessError, PluginError, one_line
from harness.guard import guarded
from harness.machine import forks_workers
from harness.price.timings import Timing
from harness.processes import EndedError, call_apart, helper_environment, importing_alike
from harness.registry import Protocol
from harness.train.checkpoint import Found, load_checkpoint, save_checkpoint
from harness.train.environment import frozen_numerics
from harness.train.job import run_task
from harness.train.observer import Observer
from harness.train.state import TrainingState
from harness.train.task import Task, build_model, make_training

if TYPE_CHECKING:
    from torch import nn

_TRIAL_SECONDS = 1800.0  # a step at 224 pixels takes a CPU seconds
_TEST_BATCH = 128  # the largest of the training loop's evaluation
_IMPORTS = (
    "import time; began = time.perf_counter(); import harness.cli, harness.execute.runner, timm, torchvision; "
    "print(time.perf_counter() - began)"
)


@dataclass(frozen=True)
class Effort:
    """The size of a timing: steps to warm up, the most steps and seconds to time, images to evaluate."""

    warm: int
    steps: int
    seconds: float
    images: int


THOROUGH = Effort(warm=3, steps=24, seconds=1.0, images=_TEST_BATCH)
ACCELERATED = Effort(warm=10, steps=40, seconds=3.0, images=_TEST_BATCH)
HASTY = Effort(warm=1, steps=1, seconds=0.0, images=8)  # a step at 224 pixels takes a CPU seconds


@dataclass(frozen=True)
class Trial:
    """A timing to carry out, in a form that can be sent to another process.

    Attributes:
        protocol: The protocol.
        model: The model's name.
        dataset: The data set; only its training images are used.
        device: Its name in torch.
        threads: CPU threads of the process.
        effort: The size of the timing.
        folder: An existing folder on the disk of the checkpoints.
    """

    protocol: Protocol
    model: str
    dataset: PreparedDataset
    device: str
    threads: int
    effort: Effort
    folder: Path


def time_trials(trials: Sequence[Trial], catalog: Catalog, *, together: int) -> Iterator[tuple[int, Timing | str]]:
    """Time trials; yield the index of each with its timing, or with the reason why there is none.

    Args:
        trials: The trials.
        catalog: The installed models and augmentations.
        together: Number of parallel trials, each in its own process, so that the timing includes the slow-down of
            parallel jobs; 1 for one after the other.
    """
    if together == 1:
        for index, trial in enumerate(trials):
            apart = forks_workers((trial.device,))  # elsewhere, a process takes seconds to start
            yield index, _attempt_apart(trial) if apart else _attempt(trial, catalog)
        return
    # Filled up, so that no trial is timed alone.
    order = [*range(len(trials)), *(index % len(trials) for index in range(-len(trials) % together))]
    with ProcessPoolExecutor(together, mp_context=get_context("spawn")) as pool:
        try:
            with importing_alike():
                found = pool.map(_attempt_in_worker, [trials[index] for index in order])
            yield from zip(order, found, strict=True)
        except Exception as error:  # a crashed worker must not end a command that only needs an estimate
            for index in range(len(trials)):
                yield index, f"a process that timed steps ended: {one_line(error)}"


def time_trial(trial: Trial, catalog: Catalog) -> Timing:
    """Train, save and evaluate briefly, and time each.

    Raises:
        HarnessError, Exception: from training this model.
    """
    device = torch.device(trial.device)
    with _threads(trial.threads), tempfile.TemporaryDirectory(dir=trial.folder, prefix=".timing-") as folder:
        task = Task(
            job=Job(trial.protocol.name, trial.model, trial.dataset.manifest.dataset, 0),
            protocol=trial.protocol,
            model=catalog.model(trial.model),
            dataset=trial.dataset,
            catalog=catalog,
            device=device,
            checkpoint=Path(folder) / "checkpoint.pt",
        )
        build_model(task)  # the first time, a plugin imports what it needs
        began = time.monotonic()
        built = build_model(task)
        build = time.monotonic() - began
        steps = len(trial.dataset.open_train()) // trial.protocol.batch_size * trial.protocol.epochs
        watch = _StopWatch(device, trial.effort, steps)
        began = time.monotonic()
        with contextlib.suppress(StoppedError):
            run_task(task, built, Found(None), watch)
        checkpoint = _save_again(task.checkpoint, built.fingerprint, time.monotonic() - watch.stopped)
        step = watch.step()
        setup = watch.marks[watch.warm - 1] - began - watch.warm * step
        first, image = _evaluate(task, built.module, trial.effort.images)
    return Timing(build=build, setup=max(0.0, setup) + first, step=step, image=image, checkpoint=checkpoint)


class _StopWatch(Observer):
    """Marks the time of every step and stops the run after enough of them."""

    def __init__(self, device: torch.device, effort: Effort, steps: int) -> None:
        self._device = device
        self._effort = effort
        # The last step is never passed: after it, the test split would be opened.
        self._wanted = min(steps, effort.warm + effort.steps)
        self.warm = max(1, min(effort.warm, self._wanted - 1))
        self.marks: list[float] = []
        self.stopped = 0.0
        self._breaks: set[int] = set()

    def step_finished(self, state: TrainingState) -> None:
        if len(self.marks) + 1 in (self.warm, self._wanted):
            _wait_for(self._device)
        self.marks.append(time.monotonic())

    def epoch_finished(self, state: TrainingState, record: EpochRecord) -> None:
        self._breaks.add(len(self.marks))

    def should_stop(self) -> bool:
        done = len(self.marks)
        enough = done > self.warm and self.marks[-1] - self.marks[self.warm - 1] >= self._effort.seconds
        if done < self._wanted and not (enough and done >= self.warm + min(4, self._effort.steps)):
            return False
        _wait_for(self._device)
        self.stopped = time.monotonic()
        return True

    def step(self) -> float:
        """Return the seconds of a step, without the pauses between epochs."""
        if len(self.marks) == 1:  # a run of one step
            return self.stopped - self.marks[0]
        if self._device.type != "cpu":
            # Steps overlap, so only the span between two waits for the device is meaningful.
            return (self.stopped - self.marks[self.warm - 1]) / (len(self.marks) - self.warm)
        spans = [
            self.marks[index] - self.marks[index - 1]
            for index in range(self.warm, len(self.marks))
            if index not in self._breaks
        ]
        return statistics.median(spans)


def _evaluate(task: Task, module: nn.Module, images: int) -> tuple[float, float]:
    """Evaluate training images; return the extra seconds of the first pass, and the seconds per image."""
    training = make_training(task)
    train = training.train
    count = min(len(train), images)
    sample = SplitArrays(train.images[:count].copy(), train.labels[:count].copy())
    spans = []
    with frozen_numerics():
        for _ in range(2):
            began = time.monotonic()
            training.predict(module, sample)
            spans.append(time.monotonic() - began)
    return max(0.0, spans[0] - spans[1]), spans[1] / count


def _save_again(path: Path, fingerprint: str, first: float) -> float:
    """Write a checkpoint twice more, since disk speed varies; return the median seconds."""
    spans = [first]
    saved = load_checkpoint(path, fingerprint=fingerprint)
    for _ in range(2):
        began = time.monotonic()
        if saved is not None:
            save_checkpoint(path, saved)
        spans.append(time.monotonic() - began)
    return statistics.median(spans)


def invented_dataset(folder: Path, *, name: str, classes: int, side: int, images: int) -> PreparedDataset:
    """Return random images in place of a data set that is not prepared yet; the test split has a size and no file."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    np.save(folder / "train.images.npy", random.integers(0, 256, (images, side, side, 3), dtype=np.uint8))
    np.save(folder / "train.labels.npy", np.arange(images, dtype=np.int64) % classes)
    manifest = DatasetManifest(
        schema=SCHEMA, dataset=name, definition="", fingerprint="invented",
        classes=tuple(str(label) for label in range(classes)), size=(side, side), native=False,
        counts={"train": images, "test": images}, class_counts={}, mean=(0.5, 0.5, 0.5), std=(0.3, 0.3, 0.3),
        plugin="", libraries={}, created="",
    )  # fmt: skip
    return PreparedDataset(folder, manifest)


def import_seconds() -> float | None:
    """Return the seconds until a fresh process could train: the imports of torch and its companions.

    None if there is no such process, since too little memory is left, for instance.
    """
    try:
        environment = os.environ | helper_environment()
        command = [sys.executable, "-c", _IMPORTS]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return float(ran.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _attempt(trial: Trial, catalog: Catalog) -> Timing | str:
    try:
        with guarded():
            return time_trial(trial, catalog)
    except PluginError as error:  # a broken model must not hide the price of the others
        return f"{trial.model} could not be timed: {error}"
    except HarnessError as error:
        return f"{trial.model} could not be timed: {one_line(error)}"


def _attempt_apart(trial: Trial) -> Timing | str:
    try:
        return call_apart(_attempt_in_worker, trial, seconds=_TRIAL_SECONDS)
    except EndedError as error:
        return f"{trial.model} could not be timed: the process that tried it {error}."


def _attempt_in_worker(trial: Trial) -> Timing | str:
    return _attempt(trial, _catalog())


@functools.cache
def _catalog() -> Catalog:
    return discover()


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
