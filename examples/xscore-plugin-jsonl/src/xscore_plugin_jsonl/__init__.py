"""JSON lines: one file per run, one line per event. jq, pandas and log collectors read the file while it grows.

Enable it with ``harness run --track jsonl``. The files are ``<protocol>/<model>/<data set>/seed-N-ID.jsonl`` under
``<runs>/tracking/jsonl``, one per run, so that parallel runs never write to the same file.

Every line has ``event`` (``started``, ``epoch``, ``finished`` or ``failed``), the ``time`` in UTC, and the job.
``started`` lines have the settings, ``epoch`` lines the epoch's record, ``finished`` lines the metrics and the hash of
the weights. A resumed run adds a second ``started`` line and overwrites nothing.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from harness.api import EpochRecord, RunResult, TrackedRun, TrackerSpec, hookimpl


class JsonLines:
    """One run's file."""

    def __init__(self, run: TrackedRun) -> None:
        self._job = run.job
        path = file_of(run)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        self._epochs = set(_epochs_in(text))
        self._file = path.open("a", encoding="utf-8", newline="\n")
        if text and not text.endswith("\n"):  # the process was killed within a line
            self._file.write("\n")
        self._write("started", id=run.id, resumed=run.resumed, config=dict(run.config), tags=dict(run.tags))

    def epoch_finished(self, record: EpochRecord) -> None:
        """Write the epoch's record, unless the file has it: after a kill, an epoch may be reported again."""
        if record.epoch not in self._epochs:
            self._epochs.add(record.epoch)
            self._write("epoch", **asdict(record))

    def run_finished(self, result: RunResult) -> None:
        """Write the results of the run."""
        self._write(
            "finished",
            metrics=dict(result.metrics),
            parameters=result.parameters,
            run_seconds=result.seconds,
            fingerprint=result.fingerprint,
            weights_sha256=result.weights_sha256,
        )

    def run_failed(self, reason: str) -> None:
        """Write the reason."""
        self._write("failed", reason=reason)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, event: str, **facts: object) -> None:
        line = {"event": event, "time": datetime.now(UTC).isoformat(timespec="seconds"), **asdict(self._job), **facts}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


def file_of(run: TrackedRun) -> Path:
    """The path of a run's file."""
    job = run.job
    return run.folder / job.protocol / job.model / job.dataset / f"seed-{job.seed}-{run.id}.jsonl"


def _epochs_in(text: str) -> Iterator[int]:
    for line in text.splitlines():
        with contextlib.suppress(ValueError):  # half a line, from a process that was killed
            event = json.loads(line)
            if event["event"] == "epoch":
                yield event["epoch"]


@hookimpl
def harness_trackers() -> list[TrackerSpec]:
    """Register the tracker."""
    return [TrackerSpec(name="jsonl", title="JSON lines, one file per run", open=JsonLines)]
