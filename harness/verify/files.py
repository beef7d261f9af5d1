"""The files of a run against each other: nothing but its folder is needed, except for the metrics' plugins."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from harness.errors import HarnessError, one_line
from harness.results.predictions import compute_metric, read_predictions
from harness.verify.checks import Check, ImpossibleError, Run, compare

_RELATIVE = 1e-6
"""A metric is summed up in another order on another machine; more than that is another number."""


def check_job(run: Run) -> Iterator[Check]:
    """``job.json`` names the job and the fingerprint that the result names."""
    try:
        content: Any = json.loads(run.folder.job_file.read_bytes())
        asked = {key: content[key] for key in ("protocol", "model", "dataset", "seed", "fingerprint")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield Check("job", "failed", detail=f"{run.folder.job_file} can't be read: {one_line(error)}.")
        return
    job = run.job
    claimed = {**job.as_dict(), "fingerprint": run.result.fingerprint}
    differing = [key for key in claimed if claimed[key] != asked[key]]
    if run.folder.job != job:
        yield Check("job", "failed", str(job), str(run.folder.job), "The folder is named for another job.")
    elif differing:
        key = differing[0]
        yield Check("job", "failed", claimed[key], asked[key], f"result.json and job.json name another {key}.")
    else:
        yield Check("job", "ok", str(job), str(job))


def check_weights(run: Run) -> Iterator[Check]:
    """The stored weights have the hash that the result names, and are the end of a training."""
    from harness.train.run import state_hash

    checkpoint = _checkpoint(run)
    if isinstance(checkpoint, Check):
        yield checkpoint
        return
    found = state_hash(checkpoint.weights)
    yield compare("weights", found[:16], run.result.weights_sha256[:16], "The stored weights are not the result's.")
    if checkpoint.optimizer is not None:
        yield Check("weights", "failed", "half-way", "final", "The checkpoint is of the middle of a training.")


def check_history(run: Run) -> Iterator[Check]:
    """Every epoch is recorded once, in order, with a finite loss, and as the checkpoint has it."""
    history = run.folder.read_history()
    epochs = [record.epoch for record in history]
    try:
        expected = run.protocol.epochs
    except ImpossibleError:
        expected = len(epochs)
    if not epochs or epochs != list(range(expected)):
        yield Check(
            "history", "failed", _ranges(epochs), f"epochs 0 to {expected - 1}", "Epochs are missing or doubled."
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
            detail = f"history.jsonl and the checkpoint record another epoch {different}."
            yield Check("history", "failed", "history.jsonl", "checkpoint.pt", detail)
        else:
            yield Check("history", "ok", f"{len(history)} epochs", f"{expected} epochs")


def check_metrics(run: Run) -> Iterator[Check]:
    """Every metric of the result comes out of the stored predictions."""
    try:
        logits, labels = read_predictions(run.folder)
    except HarnessError as error:
        yield Check("predictions", "failed", detail=str(error))
        return
    outside = int(((labels < 0) | (labels >= logits.shape[1])).sum())
    if outside:
        yield Check("predictions", "failed", f"{outside} labels", "none", f"Labels outside 0..{logits.shape[1] - 1}.")
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
        detail = "" if near else "The result's value is not what its stored predictions give."
        yield Check(f"metric {name}", "ok" if near else "failed", value, recomputed, detail)


def _checkpoint(run: Run) -> Any:
    """The final checkpoint, or the check that says why there is none."""
    try:
        found = run.checkpoint
    except HarnessError as error:
        return Check("weights", "failed", detail=f"{error}.")
    return found or Check("weights", "failed", detail=f"{run.folder.checkpoint} is not there.")


def _ranges(epochs: list[int]) -> str:
    return ", ".join(str(epoch) for epoch in epochs[:20]) + (", ..." if len(epochs) > 20 else "") or "no epoch"
