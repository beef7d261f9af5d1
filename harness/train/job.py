"""Task -> Trained: build, resume from a checkpoint if there is one, train, seal the weights, read the test split."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness.api import EpochRecord, Job, ModelSpec, RunResult
from harness.catalog import Catalog, Offer
from harness.data.prepared import PreparedDataset, content_fingerprint, pixel_digest
from harness.errors import DatasetError, PluginError, TrainingError, one_line
from harness.fingerprint import Identity, job_fingerprint
from harness.metrics import measure
from harness.models import architecture_digest, build_noting, called, count_parameters
from harness.registry import Protocol
from harness.torch_settings import kept_torch, put_back_sentence
from harness.train.checkpoint import Checkpoint, Found, load_weights, save_checkpoint, state_hash
from harness.train.clock import OFF, Clock, Phase
from harness.train.deviations import (
    SOURCES,
    Deviation,
    accounted_reads,
    compare_facts,
    edits,
    expected_facts,
    facts_digest,
)
from harness.train.environment import compiled, frozen_numerics, kept_memory
from harness.train.loop import Training
from harness.train.observe import RunRecorder
from harness.train.observer import Observer, Observers
from harness.train.options import RunOptions
from harness.train.provenance import describe_environment, plugin_sources
from harness.train.rehearsal import build_further, rehearse
from harness.train.save_timer import Saver, SaveTimer
from harness.train.schedule import learning_rate_peak
from harness.train.setup import build_optimizer, build_pipeline, seeded, to_layout
from harness.train.state import TrainingState


@dataclass(frozen=True)
class Task:
    """A job with all that it names looked up."""

    job: Job
    protocol: Protocol
    model: Offer[ModelSpec]
    dataset: PreparedDataset
    catalog: Catalog
    device: torch.device
    checkpoint: Path
    options: RunOptions = field(default_factory=RunOptions)
    clock: Clock = OFF

    @property
    def over_budget(self) -> bool:
        """True if the model is over the budget and trained because the user asked."""
        return self.job.model in self.options.over_budget

    @property
    def num_classes(self) -> int:
        """Number of the data set's classes."""
        return len(self.dataset.manifest.classes)

    def blank_batch(self) -> torch.Tensor:
        """Return black images (N, 3, S, S) like a batch of the training."""
        side = self.protocol.input_size
        return torch.zeros(self.protocol.batch_size, 3, side, side, device=self.device)


@dataclass(frozen=True)
class Built:
    """A freshly initialised model and the fingerprint of the job that it is for.

    Attributes:
        module: The model.
        fingerprint: The job's.
        parameters: Its trainable parameters.
        initial_sha256: Hash of its state dict, like ``RunResult.weights_sha256``.
        remarks: Sentences about the build for the readers of the result.
    """

    module: nn.Module = field(repr=False)
    fingerprint: str
    parameters: int
    initial_sha256: str = ""
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trained:
    """The outcome of a job: its result, and the test split's logits (N, C) and labels (N,)."""

    result: RunResult
    logits: torch.Tensor
    labels: torch.Tensor
    history: tuple[EpochRecord, ...]


def build_model(task: Task) -> Built:
    """Build the job's model from its seed.

    Raises:
        PluginError: the plugin's ``build`` failed or returned something else than a module that can be trained.
    """
    spec = task.model.spec
    name = called(task.model)
    with seeded(task.job.seed, "initialise"):
        module, remarks = build_noting(spec, task.num_classes, name)
    try:
        initial = weights_hash(module)
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"{name} has a state that can't be stored: {one_line(error)}. Expected a state dict of tensors on the "
            "CPU and plain values."
        ) from error
    lr_max, _ = learning_rate_peak(task.protocol, spec)
    identity = Identity(
        protocol=task.protocol,
        model=task.model,
        architecture=architecture_digest(module),
        lr_max=lr_max,
        data=task.dataset.manifest.fingerprint,
    )
    return Built(
        module=module,
        fingerprint=job_fingerprint(task.job, identity),
        parameters=count_parameters(module).trainable,
        initial_sha256=initial,
        remarks=remarks,
    )


def run_task(task: Task, built: Built, found: Found, observer: Observer) -> Trained:
    """Carry out a job from its checkpoint, or from the start, to its result.

    Args:
        task: The job with everything looked up.
        built: From ``build_model``; the module is moved and trained in place.
        found: From ``find_checkpoint``. Damaged files have been set aside, or the next checkpoint would make one of
            them the spare.
        observer: Receives every event; may ask to stop.

    Raises:
        TrainingError: the run went wrong in a way that repeating it would not mend.
        PluginError: the model does not pass the rehearsal.
        StoppedError: the observer asked to stop.
    """
    with (
        frozen_numerics(),
        kept_memory(task.device),
        seeded(task.job.seed, "run"),
        kept_torch() as changed,
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        further = build_further(task, built)
        run = JobInProgress(task, built, found)
        if found.checkpoint is None:
            rehearse(run, further)
        remarks = [*built.remarks, *further.remarks]
        del further  # frees the memory of its modules
        observer.training_started(run.state)
        run.train(observer)
        logits, labels = run.test(observer)
        facts = run.facts()
        environment = describe_environment(
            task.device, task.catalog, model=task.model, job=task.job, protocol=task.protocol
        ) | {"compile": task.options.compile_mode}
    remarks.append(put_back_sentence(f"Training {task.job.model}", changed))
    odd = sorted({str(w.message).splitlines()[0] for w in caught if "deterministic" in str(w.message)})
    lr_max, exception = learning_rate_peak(task.protocol, task.model.spec)
    metrics, uncomputed = _metrics(task, logits, labels)
    result = RunResult(
        job=task.job,
        fingerprint=built.fingerprint,
        protocol_digest=task.protocol.digest,
        metrics=metrics,
        parameters=built.parameters,
        over_budget=task.over_budget,
        lr_max=lr_max,
        lr_exception=exception,
        weights_sha256=weights_hash(run.state.module),
        initial_weights_sha256=built.initial_sha256,
        test_reads=run.test_reads,
        seconds=run.seconds(),
        started=run.started,
        finished=_now(),
        interruptions=run.interruptions,
        notes=[*run.mishaps, *filter(None, remarks), *map(_edited, edits(facts)), *odd, *uncomputed],
        environment=environment,
        executed=facts,
        executed_digest=facts_digest(facts),
        deviations=[str(deviation) for deviation in deviations_of(task, facts)],
    )
    return Trained(result, logits, labels, tuple(run.state.history))


def weights_hash(module: nn.Module) -> str:
    """Hash of a module's state dict, from ``state_hash``."""
    return state_hash(module.state_dict())


def deviations_of(task: Task, facts: Mapping[str, Any]) -> tuple[Deviation, ...]:
    """Compare the executed facts with those that the job's protocol, model and data demand."""
    expected = expected_facts(task.protocol, task.model.spec, task.dataset.manifest, task.job.seed)
    return compare_facts(facts, expected)


def make_training(task: Task) -> Training:
    """Return the fixed part of a job's training, with the train split opened."""
    manifest = task.dataset.manifest
    return Training(
        protocol=task.protocol,
        lr_max=learning_rate_peak(task.protocol, task.model.spec)[0],
        seed=task.job.seed,
        train=task.dataset.open_train(),
        pipeline=build_pipeline(
            task.protocol,
            task.catalog,
            num_classes=task.num_classes,
            moments=(manifest.mean, manifest.std),
            device=task.device,
        ),
        device=task.device,
        memory_format=task.model.spec.memory_format,
    )


class JobInProgress:
    """A job in progress: the training, its state and its checkpoints."""

    def __init__(self, task: Task, built: Built, found: Found) -> None:
        checkpoint = found.checkpoint
        manifest = task.dataset.manifest
        module = to_layout(built.module, task.device, task.model.spec.memory_format)
        self.task = task
        self.built = built
        self.started = checkpoint.started if checkpoint else _now()
        self.began = time.monotonic()
        self.training = make_training(task)
        self.recorder = _recorder(checkpoint)
        self.train_pixels = pixel_digest(self.training.train.images)
        task.dataset.require_pixels("train", self.train_pixels)
        self.recorder.see("train_images", len(self.training.train))
        self.recorder.see("data", self.train_pixels)
        self.recorder.see(SOURCES, plugin_sources(task.catalog, task.model.spec, task.protocol))
        if not self.training.steps:
            raise DatasetError(
                f"The data set '{manifest.dataset}' has {manifest.counts['train']} training images, "
                f"fewer than one batch of {task.protocol.batch_size}."
            )
        self.state = TrainingState(
            module=module,
            optimizer=build_optimizer(module, task.protocol),
            losses=torch.zeros(self.training.steps, device=task.device),
        )
        self.sealed = task.dataset.sealed_test()
        self.earlier_seconds = 0.0
        self.earlier_reads = 0
        self.content = ""
        self.interruptions: tuple[dict[str, Any], ...] = ()
        self.came_trained = checkpoint is not None and checkpoint.epoch >= task.protocol.epochs
        if checkpoint is not None:
            self._resume(checkpoint)
        if checkpoint is not None or found.reason:
            entry = {"went_on": _now(), "epoch": self.state.epoch, "step": self.state.step}
            self.interruptions = (*self.interruptions, entry | ({"reason": found.reason} if found.reason else {}))

    @property
    def test_reads(self) -> int:
        """Number of times that the test split was opened for this job, by earlier processes too."""
        return self.earlier_reads + self.sealed.reads

    def seconds(self) -> float:
        """Wall-clock time spent on the job, without the pauses between processes."""
        return self.earlier_seconds + time.monotonic() - self.began

    def train(self, observer: Observer, *, saving: bool = True) -> None:
        """Train from the position to the end; ``test`` saves the end. Without ``saving`` nothing is written."""
        task, state = self.task, self.state
        saver = Saver(self._save if saving else lambda _: None, SaveTimer(task.options.save_every))
        with (
            self.recorder.attached(state, task.protocol, task.options.compile_mode),
            task.clock.attached(state),
            compiled(state.module, task.options.compile_mode),
        ):
            self.training.fit(state, Observers(self.recorder, task.clock, observer), saver)

    @property
    def mishaps(self) -> list[str]:
        """The damaged checkpoints of all processes that worked on the job, as sentences."""
        return [str(entry["reason"]) for entry in self.interruptions if "reason" in entry]

    def test(self, observer: Observer) -> tuple[torch.Tensor, torch.Tensor]:
        """Seal the weights, then read the test split. Nothing else in a run opens it."""
        epochs = self.task.protocol.epochs
        # The read is counted on disk before it happens, so that a stop in between can't hide it.
        self._save(self.state, test_reads=self.test_reads + 1, roll=not self.came_trained)
        self.task.clock.enter(Phase.EVALUATION)
        test = self.sealed.open(epochs_done=len(self.state.history), epochs=epochs)
        self.content = content_fingerprint(
            self.task.dataset.manifest.classes,
            {
                "train": (self.training.train.labels.tolist(), self.train_pixels),
                "test": (test.labels.tolist(), pixel_digest(test.images)),
            },
        )
        with self.recorder.attached_to_evaluation(self.state.module):
            logits = self.training.predict(self.state.module, test, Observers(self.recorder, observer))
        self.task.clock.enter(Phase.OTHER)
        return logits, torch.from_numpy(test.labels.copy())

    def facts(self) -> dict[str, Any]:
        """Return the facts of the execution, over all processes that worked on the job."""
        facts = self.recorder.facts()
        if not isinstance(facts["data"], dict):  # else processes trained on different images: keep that visible
            facts["data"] = self.content
        facts["test_reads"] = accounted_reads(self.test_reads, self.interruptions, self.task.protocol.epochs)
        return facts

    def position(self, state: TrainingState, *, test_reads: int | None = None) -> Checkpoint:
        """Return a state of this job as a checkpoint."""
        done = state.epoch >= self.task.protocol.epochs
        return Checkpoint(
            fingerprint=self.built.fingerprint,
            epoch=state.epoch,
            step=state.step,
            weights=state.module.state_dict(),
            optimizer=None if done else state.optimizer.state_dict(),
            losses=state.losses,
            history=tuple(state.history),
            started=self.started,
            seconds=self.seconds(),
            epoch_seconds=state.epoch_seconds,
            test_reads=self.test_reads if test_reads is None else test_reads,
            interruptions=self.interruptions,
            witnessed=self.recorder.state(),
        )

    def _save(self, state: TrainingState, *, test_reads: int | None = None, roll: bool = True) -> None:
        with self.task.clock.during(Phase.CHECKPOINT):
            save_checkpoint(self.task.checkpoint, self.position(state, test_reads=test_reads), roll=roll)

    def _resume(self, found: Checkpoint) -> None:
        state = self.state
        load_weights(state.module, found.weights, self.task.blank_batch())
        if found.optimizer is not None:
            state.optimizer.load_state_dict(found.optimizer)
        state.losses.copy_(found.losses)
        state.epoch, state.step, state.epoch_seconds = found.epoch, found.step, found.epoch_seconds
        state.history = list(found.history)
        self.earlier_seconds, self.earlier_reads = found.seconds, found.test_reads
        self.interruptions = found.interruptions


def _recorder(checkpoint: Checkpoint | None) -> RunRecorder:
    if checkpoint is None:
        return RunRecorder()
    return RunRecorder(checkpoint.witnessed, position=(checkpoint.epoch, checkpoint.step))


def _metrics(task: Task, logits: torch.Tensor, labels: torch.Tensor) -> tuple[dict[str, float], list[str]]:
    """Compute every installed metric; return the values and a note for each that is undefined or failed.

    Only the protocol's own metric may stop a run: the logits are kept, so that any other can be computed later.
    """
    values: dict[str, float] = {}
    notes: list[str] = []
    for name, offer in task.catalog.metrics.items():
        try:
            values[name] = measure(offer, logits, labels)
        except PluginError as error:
            if name == task.protocol.metric:
                raise TrainingError(
                    f"{error} It is the metric of {task.protocol.name}, so there is no result without it. The trained "
                    "weights are kept: the same command goes on from them once the metric works."
                ) from error
            notes.append(str(error))
    return values, notes


def _edited(role: str) -> str:
    return (
        f"The source of {role} was edited half-way: processes with different code trained this job. Remove its folder "
        "and run it again to train it with one."
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
