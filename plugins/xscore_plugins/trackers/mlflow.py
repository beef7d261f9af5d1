"""MLflow: logs runs to the store in MLFLOW_TRACKING_URI, or to ``<runs>/tracking/mlflow/mlflow.db`` by default.

View them with ``mlflow ui --backend-store-uri sqlite:///<runs>/tracking/mlflow/mlflow.db``. The tag ``harness.run``
identifies a harness run, so a resumed run is found in any store.
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
    "MLFLOW_DISABLE_TELEMETRY": "true",  # no unexpected network call
    "MLFLOW_LOGGING_LEVEL": "WARNING",  # no messages about a new store
    # A dead server should be detected in seconds; MLflow's own limits are minutes.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}
"""Values of MLflow's documented settings, unless the user's environment sets them."""

_MOST_PARAMS = 100
"""The largest number of parameters in one call to MLflow."""


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
        """Log one point per curve, in one call."""
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
        """Log the reason as a tag."""
        self._client.set_tag(self._id, "harness.failure", reason[:5000])
        self._status = "FAILED"

    def close(self) -> None:
        """Log the status: FINISHED, FAILED, or KILLED for a stopped run that may be resumed."""
        self._client.set_terminated(self._id, self._status)

    def _log(self, values: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._id, metrics=[Metric(name, value, now, step) for name, value in values.items()])


def _local_client(run: TrackedRun) -> MlflowClient:
    """Open the store in the tracker's own folder, one process at a time, since opening may create its tables."""
    from filelock import FileLock
    from mlflow import MlflowClient

    run.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(run.folder / ".mlflow.lock"):
        return MlflowClient(f"sqlite:///{(run.folder / 'mlflow.db').as_posix()}")


def _experiment(client: MlflowClient, artifacts: str | None) -> str:
    """Return the id of the experiment in MLFLOW_EXPERIMENT_NAME. Create it, unless another process is faster."""
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
            patience=60.0,  # creating the tables of a new store takes seconds, or many on a busy machine
        )
    ]
