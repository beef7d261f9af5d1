"""Checks of a result against its files, and against today's code, registry and data, without training or evaluating."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from harness.errors import HarnessError
from harness.results.predictions import compute_metric, read_predictions
from harness.results.schema import SCHEMA
from harness.train.schedule import learning_rate_peak
from harness.verify.checks import Check, ImpossibleError, Run, compare

_RELATIVE = 1e-6
"""Largest relative difference that another order of summation explains."""


def check_schema(run: Run) -> Iterator[Check]:
    """Tell the version of the result's file."""
    schema = json.loads(run.folder.result.read_bytes())["schema"]
    detail = "" if schema == SCHEMA else f"Read as schema {SCHEMA}; the file stays as it is."
    yield Check("schema", "ok", schema, f"1 to {SCHEMA}", detail)


def check_protocol(run: Run) -> Iterator[Check]:
    """Check that the executed protocol is the one of this name here."""
    yield compare(
        "protocol",
        run.result.protocol_digest,
        run.protocol.digest,
        f"{run.protocol.name} is another protocol here than in the run.",
    )


def check_fingerprint(run: Run) -> Iterator[Check]:
    """Check that today's model, data, protocol and seed give the result's fingerprint."""
    yield compare(
        "fingerprint",
        run.result.fingerprint,
        run.identity[0],
        "The model (structure, plugin version, learning-rate peak), the data or the protocol differs from the run's.",
    )


def check_budget(run: Run) -> Iterator[Check]:
    """Check that the parameters are the model's, and within the budget unless the result is marked."""
    claimed = run.result.parameters
    try:
        counted = run.identity[1]
    except ImpossibleError as impossible:
        counted = claimed
        yield Check("parameters", "skipped", claimed, detail=str(impossible))
    else:
        yield compare("parameters", claimed, counted, "The model has another number of trainable parameters.")
    budget = run.budget
    marked = run.result.over_budget
    over = budget.verdict([counted]) == "over"
    fine = marked or not over
    detail = "It is over the budget, marked as such." if over and marked else ""
    yield Check(
        "budget",
        "ok" if fine else "failed",
        counted,
        f"at most {budget.limit:,}",
        detail if fine else "The model is over the parameter budget, and the result is not marked.",
    )


def check_learning_rates(run: Run) -> Iterator[Check]:
    """Check that the recorded rates are the schedule's, and that the peak is the protocol's or the model's."""
    from harness.train.schedule import learning_rate

    peak = run.result.lr_max
    wrong = [
        (record.epoch, record.lr, due)
        for record in run.folder.read_history()
        if record.lr != (due := learning_rate(record.epoch, run.protocol, peak))
    ]
    if wrong:
        epoch, found, due = wrong[0]
        detail = f"{len(wrong)} epochs were not trained with the schedule's rate, first epoch {epoch}."
        yield Check("learning rates", "failed", found, due, detail)
    else:
        yield Check("learning rates", "ok", f"peak {peak:g}", f"peak {peak:g}")
    try:
        expected, exception = learning_rate_peak(run.protocol, run.model.spec)
    except ImpossibleError as impossible:
        yield Check("lr_max", "skipped", peak, detail=str(impossible))
        return
    yield compare("lr_max", peak, expected, "Neither the protocol nor the model declares this peak.")
    detail = "The recorded reason for the learning-rate exception is wrong."
    yield compare("lr_exception", run.result.lr_exception, exception, detail)


def check_test_reads(run: Run) -> Iterator[Check]:
    """Check that the test split was opened once, or again only after a stop that came when the weights were final."""
    from harness.train.deviations import accounted_reads

    reads = run.result.test_reads
    counted = accounted_reads(reads, run.result.interruptions, run.protocol.epochs)
    detail = f"Opened {reads} times; {reads - 1} because of a stop after the training." if reads > counted else ""
    if counted == 1:
        yield Check("test reads", "ok", reads, 1, detail)
    else:
        yield Check("test reads", "failed", reads, 1, "The protocol opens the test split once, after training.")


def check_executed(run: Run) -> Iterator[Check]:
    """Check that the recorded facts of the training agree with the protocol, the model and the data."""
    from harness.train.deviations import COVERAGE, compare_facts, expected_facts, facts_digest

    facts, digest = run.result.executed, run.result.executed_digest
    if facts is None:
        yield Check("executed", "skipped", detail="The run is from a harness that did not record what was executed.")
        return
    yield compare("executed digest", digest, facts_digest(facts), "The recorded facts were changed after the run.")
    try:
        expected = expected_facts(run.protocol, run.model.spec, run.dataset.manifest, run.job.seed)
    except ImpossibleError as impossible:
        for sentence in run.result.deviations:
            yield Check("executed", "failed", detail=f"The run itself noted: {sentence}.")
        yield Check("executed", "skipped", detail=str(impossible))
        return
    deviations = compare_facts(facts, expected)
    for one in deviations:
        if one.setting == "order" and _other_torch(run):
            yield Check("executed: order", "skipped", detail=f"Another torch may shuffle differently: {one}.")
        else:
            yield Check(f"executed: {one.setting}", "failed", one.found, one.expected, f"In this run {one}.")
    if COVERAGE in facts:
        epoch, step = facts[COVERAGE]
        detail = (
            f"Training before epoch {epoch + 1}, step {step + 1} was not observed: an earlier harness carried it out."
        )
        yield Check("executed", "skipped", detail=detail)
    elif not deviations:
        yield Check("executed", "ok", f"{len(expected)} facts", digest)


def _other_torch(run: Run) -> bool:
    import torch

    recorded = str(run.result.environment.get("versions", {}).get("torch")).partition("+")[0]
    return recorded != torch.__version__.partition("+")[0]


def check_job(run: Run) -> Iterator[Check]:
    """Check that ``job.json`` and the result name the same job and fingerprint."""
    try:
        request = run.folder.read_request()
    except HarnessError as error:
        yield Check("job", "failed", detail=str(error))
        return
    asked = {**request.job.as_dict(), "fingerprint": request.fingerprint}
    job = run.job
    claimed = {**job.as_dict(), "fingerprint": run.result.fingerprint}
    differing = [key for key in claimed if claimed[key] != asked[key]]
    if run.folder.job != job:
        yield Check("job", "failed", str(job), str(run.folder.job), "The folder's name is another job's.")
    elif differing:
        key = differing[0]
        yield Check("job", "failed", claimed[key], asked[key], f"result.json and job.json name another {key}.")
    else:
        yield Check("job", "ok", str(job), str(job))


def check_weights(run: Run) -> Iterator[Check]:
    """Check that the stored weights have the result's hash, and are the end of a training."""
    from harness.train.checkpoint import state_hash

    checkpoint = _checkpoint(run)
    if isinstance(checkpoint, Check):
        yield checkpoint
        return
    found = state_hash(checkpoint.weights)
    yield compare("weights", found[:16], run.result.weights_sha256[:16], "The stored weights are not the result's.")
    if checkpoint.optimizer is not None:
        yield Check("weights", "failed", "half-way", "final", "The checkpoint is from the middle of a training.")


def check_history(run: Run) -> Iterator[Check]:
    """Check that every epoch is recorded once, in order, with a finite loss, and as in the checkpoint."""
    history = run.folder.read_history()
    epochs = [record.epoch for record in history]
    try:
        expected = run.protocol.epochs
    except ImpossibleError:
        expected = len(epochs)
    if not epochs or epochs != list(range(expected)):
        yield Check(
            "history", "failed", _ranges(epochs), f"epochs 0 to {expected - 1}", "Epochs are missing or repeated."
        )
    elif bad := [record.epoch for record in history if not math.isfinite(record.loss)]:
        yield Check("history", "failed", f"{history[bad[0]].loss} in epoch {bad[0]}", "finite losses")
    else:
        checkpoint = _checkpoint(run)
        if not isinstance(checkpoint, Check) and checkpoint.history != history:
            different = next(
                (mine.epoch for mine, theirs in zip(history, checkpoint.history, strict=False) if mine != theirs),
                len(checkpoint.history),
            )
            detail = f"history.jsonl and the checkpoint differ in epoch {different}."
            yield Check("history", "failed", "history.jsonl", "checkpoint.pt", detail)
        else:
            yield Check("history", "ok", f"{len(history)} epochs", f"{expected} epochs")


def check_metrics(run: Run) -> Iterator[Check]:
    """Compute every metric of the result again from the stored predictions."""
    try:
        logits, labels = read_predictions(run.folder)
    except HarnessError as error:
        yield Check("predictions", "failed", detail=str(error))
        return
    yield Check("predictions", "ok", f"{logits.shape[0]:,} images, {logits.shape[1]} classes")
    for name, value in sorted(run.result.metrics.items()):
        try:
            offer = run.workspace.catalog.metric(name)
        except HarnessError as error:
            yield Check(f"metric {name}", "skipped", value, detail=str(error))
            continue
        try:
            recomputed = compute_metric(offer, logits, labels, str(run.job))
        except HarnessError as error:
            yield Check(f"metric {name}", "failed", value, detail=str(error))
            continue
        near = math.isclose(value, recomputed, rel_tol=_RELATIVE, abs_tol=1e-9)
        detail = "" if near else "The stored predictions give another value than the result's."
        yield Check(f"metric {name}", "ok" if near else "failed", value, recomputed, detail)


def _checkpoint(run: Run) -> Any:
    """Return the final checkpoint, or the failed check if there is none."""
    try:
        found = run.checkpoint
    except HarnessError as error:
        return Check("weights", "failed", detail=f"{error}.")
    return found or Check("weights", "failed", detail=f"{run.folder.checkpoint} is not there.")


def _ranges(epochs: list[int]) -> str:
    return ", ".join(str(epoch) for epoch in epochs[:20]) + (", ..." if len(epochs) > 20 else "") or "no epoch"
