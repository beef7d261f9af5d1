"""Weights & Biases: writes offline runs to ``<runs>/tracking/wandb``, or logs online with WANDB_MODE=online.

``wandb sync`` uploads offline runs at any time. The parts of a resumed run share one id, by which ``wandb sync`` joins
them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from harness.api import EpochRecord, RunResult, TrackedRun, TrackerSpec, hookimpl

if TYPE_CHECKING:
    from wandb import Run

PROJECT = "xscore-harness"
_DEFAULTS = {
    "WANDB_ERROR_REPORTING": "false",  # no unexpected network call
    "WANDB_SILENT": "true",  # no lines between ours, and no prompt: a missing key is an error
}
_SECONDS = 20.0
"""Time limit for a server to start or to finish a run."""


class WandbTracker:
    """One run, or one part of a resumed run."""

    def __init__(self, run: TrackedRun) -> None:
        for name, value in _DEFAULTS.items():
            os.environ.setdefault(name, value)
        import wandb

        run.folder.mkdir(parents=True, exist_ok=True)
        job = run.job
        self._run: Run = wandb.init(
            id=run.id,
            name=str(job),
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            group=f"{job.protocol} {job.dataset}",
            tags=[job.protocol[:64], job.model[:64], job.dataset[:64]],
            config={**run.config, "environment": dict(run.tags)},
            dir=run.folder,
            mode=os.environ.get("WANDB_MODE", "offline"),  # type: ignore[arg-type]  # wandb checks it
            resume="allow",
            reinit="create_new",  # this process may train several runs
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                disable_code=True,
                x_disable_stats=True,
                init_timeout=_SECONDS,
                login_timeout=_SECONDS,
                finish_timeout=_SECONDS,
                finish_timeout_raises=True,
            ),
        )
        self._run.define_metric("epoch", hidden=True)
        self._run.define_metric("train/*", step_metric="epoch")
        self._ended = False

    def epoch_finished(self, record: EpochRecord) -> None:
        """Log one point per curve."""
        names = ("loss", "lr", "images_per_second", "seconds")
        self._run.log({"epoch": record.epoch, **{f"train/{name}": getattr(record, name) for name in names}})

    def run_finished(self, result: RunResult) -> None:
        """Log the metrics into the summary."""
        self._run.summary.update({f"test/{name}": value for name, value in result.metrics.items()})
        self._run.summary.update({"weights_sha256": result.weights_sha256, "seconds": result.seconds})
        self._end(0)

    def run_failed(self, reason: str) -> None:
        """Log the reason in the summary, and finish the run as failed."""
        self._run.summary["failure"] = reason
        self._end(1)

    def close(self) -> None:
        """Mark a stopped run as preempted, so that W&B expects a resume."""
        if not self._ended:
            self._run.mark_preempting()
            self._end(1)

    def _end(self, code: int) -> None:
        self._ended = True
        self._run.finish(exit_code=code)


@hookimpl
def harness_trackers() -> list[TrackerSpec]:
    """Register Weights & Biases."""
    return [
        TrackerSpec(
            name="wandb",
            title="Weights & Biases, offline unless WANDB_MODE is set",
            open=WandbTracker,
            needs=("wandb",),
            install="pip install 'xscore-harness[wandb]'",
            patience=60.0,
        )
    ]
