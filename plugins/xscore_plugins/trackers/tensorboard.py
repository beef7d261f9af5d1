"""TensorBoard: event files, in a folder a run under ``<runs>/tracking/tensorboard``.

Written by ``torch.utils.tensorboard``; looked at with ``tensorboard --logdir <runs>/tracking/tensorboard``. A run that
goes on adds an event file to its folder, from the epoch after the last one that is there.
"""

from __future__ import annotations

from pathlib import Path

from harness.api import EpochRecord, RunResult, TrackedRun, TrackerSpec, hookimpl


class TensorBoardTracker:
    """One run's event files."""

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        job = run.job
        folder = run.folder / job.protocol / job.model / job.dataset / f"seed-{job.seed}-{run.id}"
        self._run = run
        self._last = _last_epoch(folder) if run.resumed else -1
        self._writer = SummaryWriter(str(folder))
        if self._last < 0:
            rows = "".join(f"| {key} | {value} |\n" for key, value in {**run.config, **run.tags}.items())
            self._writer.add_text("run", f"| setting | value |\n|---|---|\n{rows}")

    def epoch_finished(self, record: EpochRecord) -> None:
        """Add a point to the curves."""
        if record.epoch <= self._last:
            return
        self._last = record.epoch
        for name in ("loss", "lr", "images_per_second"):
            self._writer.add_scalar(f"train/{name}", getattr(record, name), record.epoch)
        self._writer.flush()

    def run_finished(self, result: RunResult) -> None:
        """Add the metrics, each as a curve of one point and, beside the settings, as a row of the tab HPARAMS."""
        metrics = {f"test/{name}": value for name, value in result.metrics.items()}
        self._writer.add_hparams(dict(self._run.config), metrics, run_name=".", global_step=max(self._last, 0))

    def run_failed(self, reason: str) -> None:
        """Say why."""
        self._writer.add_text("failed", reason, max(self._last, 0))

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()


def _last_epoch(folder: Path) -> int:
    """Return the last epoch that a run's event files hold, -1 for none."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not folder.is_dir():
        return -1
    events = EventAccumulator(str(folder)).Reload()
    known = "train/images_per_second" in events.Tags()["scalars"]  # an epoch's last value: without it, it is not whole
    return max((event.step for event in events.Scalars("train/images_per_second")), default=-1) if known else -1


@hookimpl
def harness_trackers() -> list[TrackerSpec]:
    """Register TensorBoard."""
    return [
        TrackerSpec(
            name="tensorboard",
            title="TensorBoard event files",
            open=TensorBoardTracker,
            needs=("tensorboard",),
            install="pip install 'xscore-harness[tensorboard]'",
        )
    ]
