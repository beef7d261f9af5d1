"""JSON lines: one file for each run, an event a line, that jq, pandas and log collectors read as it grows.

Every line has ``event`` (``started``, ``epoch`` or ``finished``), the ``time`` in UTC, and the job.
``epoch`` lines have the epoch's record, ``finished`` lines the metrics and the hash of the weights.
A run that goes on after a stop adds a second ``started`` line and overwrites nothing.

The files go to the folder that the environment variable XSCORE_PLUGIN_JSONL_FOLDER names, or else to ``jsonl-log`` in
the working folder. Each run has a file of its own, so that runs at the same time never write to one.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from harness.api import EpochRecord, Job, RunResult, hookimpl


def file_of(job: Job) -> Path:
    """Where a run's lines are."""
    folder = Path(os.environ.get("XSCORE_PLUGIN_JSONL_FOLDER", "jsonl-log"))
    return folder / job.protocol / job.model / job.dataset / f"seed-{job.seed}.jsonl"


def _write(event: str, job: Job, **facts: object) -> None:
    line = {"event": event, "time": datetime.now(UTC).isoformat(timespec="seconds"), **asdict(job), **facts}
    file = file_of(job)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(line) + "\n")


@hookimpl
def harness_run_started(job: Job) -> None:
    """Write that the run starts or goes on."""
    _write("started", job)


@hookimpl
def harness_epoch_finished(job: Job, record: EpochRecord) -> None:
    """Write the epoch's record."""
    _write("epoch", job, **asdict(record))


@hookimpl
def harness_run_finished(job: Job, result: RunResult) -> None:
    """Write what came of the run."""
    _write(
        "finished",
        job,
        metrics=dict(result.metrics),
        parameters=result.parameters,
        run_seconds=result.seconds,
        fingerprint=result.fingerprint,
        weights_sha256=result.weights_sha256,
    )
