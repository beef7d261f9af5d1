"""Proof on the user's own machine that a killed run ends in the same bits as an undisturbed one.

The run to be killed trains in a child process, ``python -m harness.doctor.resume JSON``.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsFloat, TypeAlias

from harness.api import Job, ModelSpec, Reporter
from harness.doctor import Examination, Finding
from harness.errors import CannotContinueError, HarnessError, PluginError
from harness.machine import existing_folder
from harness.processes import helper_environment
from harness.results.store import JobFolder, RunsFolder
from harness.train.save_timer import SAVE_EVERY

if TYPE_CHECKING:
    from harness.catalog import Offer

Say: TypeAlias = Callable[[str], object]

_TRAINING = "training"  # the child prints this line after its first step
_EPOCHS = 2
_CHECKPOINTS = 20  # within the training, so that there is one to resume from
_CLOCKED = ("seconds", "images_per_second")  # of an epoch's record; all else must be equal


@dataclass(frozen=True, kw_only=True)
class ResumeTask:
    """The small job that a child process trains.

    Attributes:
        registry: The registry file; None for the shipped one.
        job: The job.
        runs, data: Folders.
        device: Its name in torch.
        threads: CPU threads.
        save_every: Seconds between checkpoints within an epoch.
        epochs: A small number in place of the protocol's.
    """

    registry: str | None
    job: Job
    runs: str
    data: str
    device: str
    threads: int
    save_every: float
    epochs: int

    def as_argument(self) -> str:
        """Return the command-line argument."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, kw_only=True)
class Proof:
    """The outcome of the resume test.

    Attributes:
        job: The job that was trained twice.
        kills: Number of kills of the second training.
        differences: Sentences; empty if everything is equal.
        weights: Hash of the undisturbed run's weights.
        epochs: Number of epochs in the history.
        metrics: Of the undisturbed run.
        seconds: Duration of the whole test.
    """

    job: Job
    kills: int
    differences: tuple[str, ...]
    weights: str
    epochs: int
    metrics: dict[str, float]
    seconds: float

    def as_finding(self, seed: int) -> Finding:
        """Return the outcome as a finding."""
        times = f"{self.kills} time{'' if self.kills == 1 else 's'}"
        what = f"{self.job} was killed {times} at random times (seed {seed})"
        if self.differences:
            return Finding(
                "resume",
                "problem",
                f"{what} and did not end as the undisturbed run did: {' '.join(self.differences)}",
                "See 'determinism' and 'runs folder' above. If both are ok, this is a bug: please report it.",
            )
        if not self.kills:
            advice = "Try again with another --seed."
            return Finding("resume", "warning", f"{self.job} ended before the first kill, so nothing is proven", advice)
        return Finding(
            "resume",
            "ok",
            f"{what} and resumed each time; it ended in the same bits as the undisturbed run: weights "
            f"{self.weights[:12]}, {self.epochs} epochs of history, {len(self.metrics)} metrics, and all predictions "
            f"({self.seconds:.0f} s)",
        )


def prove_resume(examination: Examination, registry: Path | None, *, kills: int, seed: int, say: Say) -> Proof:
    """Train the smallest job once undisturbed and once with kills, and compare everything.

    Args:
        examination: Its catalog offers the models. Results go to a temporary folder beside its runs.
        registry: The registry file, for the processes that train.
        kills: Number of kills, each without warning (SIGKILL; TerminateProcess on Windows).
        seed: Random seed of the times.
        say: Receives lines of progress.

    Raises:
        CannotContinueError: there is nothing small to train, or the job fails even undisturbed.
    """
    began = time.monotonic()
    chance = random.Random(seed)
    scratch_root = existing_folder(examination.workspace.runs.root)
    with tempfile.TemporaryDirectory(dir=scratch_root, prefix=".harness-doctor-") as name:
        scratch = Path(name)
        trial = _smallest_trial(examination, registry, scratch)
        say(f"Training {trial.job} undisturbed")
        quiet = replace(trial, runs=str(scratch / "quiet"))
        span = _train(quiet, scratch, kill_after=None) or 0.0
        fire = replace(trial, runs=str(scratch / "fire"), save_every=span / _CHECKPOINTS)
        done = 0
        while done < kills:
            after = chance.uniform(0.0, span / kills)
            if _train(fire, scratch, kill_after=after) is not None:
                break  # it ended before the time of the kill
            done += 1
            say(f"Killed it {after:.2f} s after its first step ({done} of {kills})")
        _train(fire, scratch, kill_after=None)
        one, other = (RunsFolder(Path(runs)).of(trial.job) for runs in (quiet.runs, fire.runs))
        result = one.read_result()
        assert result is not None  # _train raises where there is none
        return Proof(
            job=trial.job,
            kills=done,
            differences=tuple(differences(one, other)),
            weights=result.weights_sha256,
            epochs=len(one.read_history()),
            metrics=dict(result.metrics),
            seconds=time.monotonic() - began,
        )


def differences(one: JobFolder, other: JobFolder) -> list[str]:
    """Compare two finished runs of a job, times left out; return a sentence for each difference."""
    import numpy as np

    first, second = one.read_result(), other.read_result()
    if first is None or second is None:
        return ["One of the two has no result."]
    found = []
    for what in ("fingerprint", "weights_sha256", "metrics", "lr_max", "test_reads"):
        here, there = getattr(first, what), getattr(second, what)
        if here != there:
            found.append(f"{what} is {there}, expected {here}.")
    if _history(one) != _history(other):
        found.append("The histories differ in a loss or a learning rate, or in the number of epochs.")
    with np.load(one.predictions) as here, np.load(other.predictions) as there:
        for name in ("logits", "labels"):
            if here[name].tobytes() != there[name].tobytes():
                found.append(f"The {name} of the test images differ.")
    return found


def _history(folder: JobFolder) -> list[dict[str, Any]]:
    lines = folder.history.read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in _CLOCKED} for line in lines]


def _train(trial: ResumeTask, scratch: Path, *, kill_after: float | None) -> float | None:
    """Start the child process; return the seconds from its first step to its end, or None if it was killed.

    Raises:
        CannotContinueError: it failed by itself.
    """
    environment = os.environ | helper_environment()
    with (scratch / "messages").open("w+", encoding="utf-8") as messages:
        process = subprocess.Popen(
            [sys.executable, "-m", "harness.doctor.resume", trial.as_argument()],
            env=environment, stdout=subprocess.PIPE, stderr=messages, text=True,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            first_step = time.monotonic()
            if line.strip() == _TRAINING and kill_after is not None:
                try:
                    process.wait(kill_after)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    return None
            process.wait()
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        span = time.monotonic() - first_step
        if process.returncode:
            messages.seek(0)
            last = (messages.read().strip().splitlines() or ["no message"])[-1]
            raise CannotContinueError(f"The process that trained {trial.job} ended with {process.returncode}: {last}")
    return span


def _smallest_trial(examination: Examination, registry: Path | None, scratch: Path) -> ResumeTask:
    """Return the quickest model on an embedded data set, under a protocol made for a CPU, for a few epochs."""
    from harness.machine import find_device
    from harness.price.timings import Timings, threads_per_job

    datasets = examination.workspace.catalog.datasets
    candidates = [
        (suite.protocol, name)
        for suite in (examination.suite, *examination.workspace.benchmark.suites.values())
        if not examination.workspace.benchmark.protocol(suite.protocol).accelerator
        for name in suite.datasets
        if name in datasets and not datasets[name].spec.sources
    ]
    if not candidates:
        raise CannotContinueError(
            "There is nothing small to train: no suite for a CPU has a data set that comes with its plugin."
        )
    protocol, dataset = candidates[0]
    model = _quickest_model(
        examination, examination.workspace.benchmark.protocol(protocol).input_size, len(datasets[dataset].spec.classes)
    )
    return ResumeTask(
        registry=str(registry.absolute()) if registry else None,
        job=Job(protocol, model, dataset, 0),
        runs="",
        data=str(scratch / "data"),
        device=find_device(examination.device).address,
        threads=threads_per_job(1, None, Timings()),
        save_every=SAVE_EVERY,
        epochs=_EPOCHS,
    )


def _quickest_model(examination: Examination, side: int, classes: int) -> str:
    """Return the model whose forward and backward pass of a small batch takes the least time here."""
    from harness.models import call_with_model

    spans = {}
    for name, offer in examination.workspace.catalog.models.items():
        with contextlib.suppress(HarnessError):  # those that don't build or run don't count
            spans[name] = call_with_model(_step_seconds, offer, side, classes)
    if not spans:
        raise CannotContinueError("There is nothing to train: no installed model builds.")
    return min(spans, key=lambda name: spans[name])


def _step_seconds(model: Offer[ModelSpec], side: int, classes: int) -> float:
    import torch

    from harness.models import build_module

    module = build_module(model, classes).train()
    images = torch.rand(4, 3, side, side)
    for _ in range(2):
        began = time.perf_counter()
        logits = module(images)
        logits.sum().backward()
        span = time.perf_counter() - began
    if logits.shape != (4, classes):
        raise PluginError(f"The model '{model.spec.name}' returns logits of shape {tuple(logits.shape)}.")
    return span


class _Announcer(Reporter):
    """Announces that training has begun, and why a job failed."""

    def __init__(self) -> None:
        self._announced = False

    def step_finished(self, job: Job, epoch: int, step: int, steps: int, loss: SupportsFloat) -> None:
        if not self._announced:
            self._announced = True
            print(_TRAINING, flush=True)

    def notice(self, text: str) -> None:
        print(text, file=sys.stderr)


def main(argument: str) -> int:
    """Train or resume the job of the child process; return 0 if it is done."""
    import msgspec
    import torch

    from harness.catalog import discover
    from harness.execute.runner import JobRunner
    from harness.machine import resolve_device
    from harness.registry import load_benchmark
    from harness.results.store import RunsFolder
    from harness.train.options import RunOptions
    from harness.workspace import Workspace

    content: dict[str, Any] = json.loads(argument)
    trial = ResumeTask(**content | {"job": Job(**content["job"])})
    torch.set_num_threads(trial.threads)
    benchmark = load_benchmark(Path(trial.registry) if trial.registry else None)
    # The protocol keeps its name but has another digest, so the result can't be mistaken for a real one.
    short = msgspec.structs.replace(benchmark.protocol(trial.job.protocol), epochs=trial.epochs, warmup_epochs=1)
    protocols = {**benchmark.protocols, trial.job.protocol: short}
    workspace = Workspace(
        msgspec.structs.replace(benchmark, protocols=protocols),
        discover(),
        RunsFolder(Path(trial.runs)),
        Path(trial.data),
    )
    options = RunOptions(save_every=trial.save_every)
    runner = JobRunner(workspace, resolve_device(trial.device), _Announcer(), options)
    cell = runner(trial.job)
    if cell.state != "done":
        print(cell.detail, file=sys.stderr)
    return 0 if cell.state == "done" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
