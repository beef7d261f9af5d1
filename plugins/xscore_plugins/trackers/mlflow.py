"""MLflow: runs in the store that MLFLOW_TRACKING_URI names, and in ``<runs>/tracking/mlflow/mlflow.db`` without it.

Looked at with ``mlflow ui --backend-store-uri sqlite:///<runs>/tracking/mlflow/mlflow.db``. A harness run is told by
the tag ``harness.run``, so a run that goes on is found again in whatever store.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from harness.api import EpochRecord, RunResult, TrackedRun, TrackerSpec, hookimpl

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_TAG = "harness.run"
EXPERIMENT = "xscore-harness"

_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # no network call by surprise
    "MLFLOW_LOGGING_LEVEL": "WARNING",  # creating a store is not news to somebody who trains
    # A dead server should be known to be dead in seconds; MLflow's own patience is minutes.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}
"""MLflow's documented settings, where the user's environment has no others."""

_MOST_PARAMS = 100
"""How many values MLflow takes in one call."""


class MlflowTracker:
    """One run in a store."""

    def __init__(self, run: TrackedRun) -> None:
        for name, value in _DEFAULTS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        uri = os.environ.get("MLFLOW_TRACKING_URI")
        self._client = MlflowClient(uri) if uri else _local_client(run)
        experiment = _experiment(self._client, None if uri else (run.folder / "artifacts").as_uri())
        found = self._client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{run.id}'", max_results=1)
        self._status = "KILLED"
        if found:
            self._id = found[0].info.run_id
            self._epochs = {point.step for point in self._client.get_metric_history(self._id, "loss")}
            self._client.update_run(self._id, status="RUNNING")
        else:
            self._id = self._begin(run, experiment)
            self._epochs = set()

    def _begin(self, run: TrackedRun, experiment: str) -> str:
        from mlflow.entities import Param

        tags = {RUN_TAG: run.id, **{f"harness.{key}": value for key, value in run.tags.items()}}
        created: str = self._client.create_run(experiment, run_name=str(run.job), tags=tags).info.run_id
        params = [Param(key, str(value)) for key, value in run.config.items()]
        for first in range(0, len(params), _MOST_PARAMS):
            self._client.log_batch(created, params=params[first : first + _MOST_PARAMS])
        return created

    def epoch_finished(self, record: EpochRecord) -> None:
        """Log a point of each curve, in one call."""
        if record.epoch in self._epochs:
            return
        self._epochs.add(record.epoch)
        names = ("loss", "lr", "images_per_second", "seconds")
        self._log({name: getattr(record, name) for name in names}, record.epoch)

    def run_finished(self, result: RunResult) -> None:
        """Log the metrics, and the hash of the weights as a tag."""
        metrics = {f"test.{name}": value for name, value in result.metrics.items()}
        self._log({**metrics, "total_seconds": result.seconds}, max(self._epochs, default=0))
        self._client.set_tag(self._id, "harness.weights_sha256", result.weights_sha256)
        self._status = "FINISHED"

    def run_failed(self, reason: str) -> None:
        """Say why, in a tag."""
        self._client.set_tag(self._id, "harness.failure", reason[:5000])
        self._status = "FAILED"

    def close(self) -> None:
        """Write down how the run ended: FINISHED, FAILED, or KILLED for one that was stopped and may go on."""
        self._client.set_terminated(self._id, self._status)

    def _log(self, values: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._id, metrics=[Metric(name, value, now, step) for name, value in values.items()])


def _local_client(run: TrackedRun) -> MlflowClient:
    """Open the store in the tracker's own folder, one process at a time, since opening may mean to make its tables."""
    from filelock import FileLock
    from mlflow import MlflowClient

    run.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(run.folder / ".mlflow.lock"):
        return MlflowClient(f"sqlite:///{(run.folder / 'mlflow.db').as_posix()}")


def _experiment(client: MlflowClient, artifacts: str | None) -> str:
    """Return the id of the experiment that MLFLOW_EXPERIMENT_NAME names, made if need be unless another is first."""
    from mlflow.exceptions import MlflowException

    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifacts))
        except MlflowException:
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)


@hookimpl
def harness_trackers() -> list[TrackerSpec]:
    """Register MLflow."""
    return [
        TrackerSpec(
            name="mlflow",
            title="MLflow, a local SQLite store or a tracking server",
            open=MlflowTracker,
            needs=("mlflow", "sqlalchemy"),
            install="pip install 'xscore-harness[mlflow]'",
            patience=60.0,  # making the tables of a new store takes seconds, on a busy machine many
        )
    ]
