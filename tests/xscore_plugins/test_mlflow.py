"""MLflow's store and server, read back with its own client after real runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.cli import run_command
from tests.support import TINY_PLUGIN, Command, long_registry, read_result, wait_until
from tests.xscore_plugins.tracked import CELL, RUN, free_port, put_store, spec_of, stop_and_go_on, tracked_run

# Of the tools' own making, on import or use.
pytestmark = [
    pytest.mark.usefixtures("own_settings"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*noload.*"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning"),
]


def mlflow_runs(uri: str) -> tuple[Any, list[Any]]:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("xscore-harness")
    assert experiment is not None
    return client, list(client.search_runs([experiment.experiment_id]))


def curve(client: Any, run: Any, name: str) -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, name))


def check_against_the_runs_folder(client: Any, run: Any) -> None:
    history = [json.loads(line) for line in (CELL / "history.jsonl").read_text().splitlines()]
    for name in ("loss", "lr", "images_per_second", "seconds"):
        assert curve(client, run, name) == [(line["epoch"], pytest.approx(line[name])) for line in history]
    kept = read_result(CELL)
    assert {name: run.data.metrics[f"test.{name}"] for name in kept["metrics"]} == pytest.approx(kept["metrics"])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "tiny on dots, seed 0"
    assert run.data.params["fingerprint"] == kept["fingerprint"]
    assert run.data.params["augmentations.color_jitter.hue"] == "0.2"
    assert run.data.tags["harness.weights_sha256"] == kept["weights_sha256"]
    assert run.data.tags["harness.versions.torch"] == kept["environment"]["versions"]["torch"]


def test_mlflow_holds_the_run_in_a_local_store(tiny_harness: Command) -> None:
    tiny_harness(*RUN, "--track", "mlflow")
    client, (run,) = mlflow_runs("sqlite:///runs/tracking/mlflow/mlflow.db")
    check_against_the_runs_folder(client, run)


def test_mlflow_resumes_without_repeating_an_epoch(place: Path, empty_store: Path) -> None:
    put_store(empty_store, place)
    run = tracked_run(place)
    stop_and_go_on(spec_of("mlflow"), run)
    client, (found,) = mlflow_runs(f"sqlite:///{place / 'mlflow.db'}")
    assert [step for step, _ in curve(client, found, "loss")] == [0, 1, 2, 3]
    assert found.data.metrics["test.top1"] == 62.5
    assert len(found.data.params) == len(run.config)
    assert found.info.status == "FINISHED"


def test_mlflow_distinguishes_failed_runs_from_stopped_ones(place: Path, empty_store: Path) -> None:
    put_store(empty_store, place)
    stopped = spec_of("mlflow").open(tracked_run(place, "a" * 16 + "-stopped"))
    stopped.close()
    failed = spec_of("mlflow").open(tracked_run(place, "a" * 16 + "-failed"))
    failed.run_failed("TrainingError: the loss became nan")
    failed.close()
    _, runs = mlflow_runs(f"sqlite:///{place / 'mlflow.db'}")
    ended = {run.data.tags["harness.run"].partition("-")[2]: run for run in runs}
    assert ended["stopped"].info.status == "KILLED"
    assert ended["failed"].info.status == "FAILED"
    assert ended["failed"].data.tags["harness.failure"] == "TrainingError: the loss became nan"


def test_mlflow_with_a_dead_server_harms_nothing(tiny_harness: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    ran = tiny_harness(*RUN, "--track", "mlflow")
    assert ran.code == 0
    (line,) = [line for line in ran.err.splitlines() if "Note:" in line]
    assert "plugin 'mlflow' of xscore-harness" in line
    assert "Max retries exceeded" in line
    assert (CELL / "result.json").exists()


@pytest.fixture
def server(tmp_path: Path, empty_store: Path) -> Iterator[str]:
    """A real tracking server on loopback."""
    shutil.copy(empty_store, tmp_path / "server.db")
    port = free_port()
    log = (tmp_path / "server.log").open("wb")
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}"),
            *("--default-artifact-root", str(tmp_path / "artifacts")),
        ],
        stdout=log, stderr=log, start_new_session=True, env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"},
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.poll() is None, (tmp_path / "server.log").read_text()
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=2):
                return True
        except OSError:
            return False

    try:
        wait_until(answers, seconds=120)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        log.close()


@pytest.mark.slow
def test_mlflow_with_a_real_server_through_a_stop(
    server: str, tiny_harness: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is killed with SIGKILL in the middle, goes on, and is one run of whole curves on the server."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    registry = long_registry(tmp_path, epochs=20)
    options = [*RUN, "--in-process", "--track", "mlflow", "--registry", str(registry), "--checkpoint-every", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "harness", *options],
        env=os.environ | {"PYTHONPATH": str(TINY_PLUGIN)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    memory = CELL / "trackers.json"

    def followed() -> bool:
        return memory.exists() and len(json.loads(memory.read_text())["told"].get("mlflow", ())) >= 3

    wait_until(followed, seconds=120, process=process)
    process.kill()
    process.communicate()
    _, (stopped,) = mlflow_runs(server)
    assert stopped.info.status == "RUNNING"
    assert run_command(options) == 0
    client, (run,) = mlflow_runs(server)
    assert run.info.run_id == stopped.info.run_id
    assert len(curve(client, run, "loss")) == 20
    check_against_the_runs_folder(client, run)
