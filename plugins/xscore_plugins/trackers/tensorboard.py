"""TensorBoard: writes event files, in one folder per run under ``<runs>/tracking/tensorboard``.

``torch.utils.tensorboard`` writes them; view them with ``tensorboard --logdir <runs>/tracking/tensorboard``. A resumed
run adds an event file to its folder, from the epoch after the last logged one.
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
        """Add one point per curve."""
        if record.epoch <= self._last:
            return
        self._last = record.epoch
        for name in ("loss", "lr", "images_per_second"):
            self._writer.add_scalar(f"train/{name}", getattr(record, name), record.epoch)
        self._writer.flush()

    def run_finished(self, result: RunResult) -> None:
        """Add each metric as a curve of one point and, with the settings, to the tab HPARAMS."""
        metrics = {f"test/{name}": value for name, value in result.metrics.items()}
        self._writer.add_hparams(dict(self._run.config), metrics, run_name=".", global_step=max(self._last, 0))

    def run_failed(self, reason: str) -> None:
        """Add the reason."""
        self._writer.add_text("failed", reason, max(self._last, 0))

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()


def _last_epoch(folder: Path) -> int:
    """Return the last complete epoch in a run's event files, -1 for none."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not folder.is_dir():
        return -1
    events = EventAccumulator(str(folder)).Reload()
    known = (
        "train/images_per_second" in events.Tags()["scalars"]
    )  # the last value of an epoch: without it, the epoch is incomplete
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
