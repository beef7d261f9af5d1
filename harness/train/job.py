"""Task -> Trained: rehearse the job or resume it, train, seal the weights, read the test split, and give the result."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from harness.api import EpochRecord, RunResult
from harness.errors import PluginError, TrainingError
from harness.metrics import measure
from harness.torch_settings import kept_torch, put_back_sentence
from harness.train.checkpoint import Found
from harness.train.deviations import (
    Deviation,
    compare_facts,
    edits,
    expected_facts,
    facts_digest,
)
from harness.train.environment import frozen_numerics, kept_memory
from harness.train.in_progress import JobInProgress, timestamp
from harness.train.observer import Observer
from harness.train.provenance import describe_environment
from harness.train.rehearsal import build_further, rehearse
from harness.train.schedule import learning_rate_peak
from harness.train.setup import seeded
from harness.train.task import Built, Task, weights_hash


@dataclass(frozen=True)
class Trained:
    """The outcome of a job: its result, and the test split's logits (N, C) and labels (N,)."""

    result: RunResult
    logits: torch.Tensor
    labels: torch.Tensor
    history: tuple[EpochRecord, ...]


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
        environment = describe_environment(
            task.device, task.catalog, model=task.model, job=task.job, protocol=task.protocol
        ) | {"compile": task.options.compile_mode}
    remarks.append(put_back_sentence(f"Training {task.job.model}", changed))
    odd = sorted({str(w.message).splitlines()[0] for w in caught if "deterministic" in str(w.message)})
    metrics, uncomputed = _metrics(task, logits, labels)
    result = _result(run, environment, metrics, [*filter(None, remarks), *odd, *uncomputed])
    return Trained(result, logits, labels, tuple(run.state.history))


def _result(
    run: JobInProgress, environment: Mapping[str, Any], metrics: dict[str, float], remarks: Sequence[str]
) -> RunResult:
    task, built, facts = run.task, run.built, run.facts()
    lr_max, exception = learning_rate_peak(task.protocol, task.model.spec)
    return RunResult(
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
        finished=timestamp(),
        interruptions=run.interruptions,
        notes=[*run.mishaps, *map(_edited, edits(facts)), *remarks],
        environment=environment,
        executed=facts,
        executed_digest=facts_digest(facts),
        deviations=[str(deviation) for deviation in deviations_of(task, facts)],
    )


def deviations_of(task: Task, facts: Mapping[str, Any]) -> tuple[Deviation, ...]:
    """Compare the executed facts with those that the job's protocol, model and data demand."""
    expected = expected_facts(task.protocol, task.model.spec, task.dataset.manifest, task.job.seed)
    return compare_facts(facts, expected)


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
