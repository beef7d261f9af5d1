"""TensorBoard, MLflow and Weights & Biases, each read back with its own tools after real runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.api import EpochRecord, Job, RunResult, TrackedRun, TrackerSpec
from harness.cli import run_command
from tests.support import TINY_PLUGIN, Command, cell_folder, long_registry, wait_until
from xscore_plugins.trackers import mlflow as mlflow_plugin
from xscore_plugins.trackers import tensorboard as tensorboard_plugin
from xscore_plugins.trackers import wandb as wandb_plugin

CELL = cell_folder()
RUN = ("run", "tiny", "--dataset", "dots")
PLUGINS = {"tensorboard": tensorboard_plugin, "mlflow": mlflow_plugin, "wandb": wandb_plugin}

# Of the tools' own making, on import or use.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*noload.*"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning"),
]


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neither the user's configuration nor what a tracker sets for its process reaches another test."""
    before = dict(os.environ)
    for name in before:
        if name.startswith(("MLFLOW_", "WANDB_")):
            monkeypatch.delenv(name)
    yield
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "WANDB_"))]:
        del os.environ[name]


def spec_of(name: str) -> TrackerSpec:
    (spec,) = PLUGINS[name].harness_trackers()
    assert spec.name == name
    return spec


def tracked_run(folder: Path, name: str = "0123456789abcdef-01234567") -> TrackedRun:
    return TrackedRun(
        id=name,
        resumed=False,
        job=Job("tiny-1.0", "tiny", "dots", 0),
        fingerprint="0123456789abcdef",
        protocol_digest="f" * 16,
        parameters=268,
        lr_max=0.01,
        config={
            "model": "tiny",
            "epochs": 4,
            "lr_max": 0.01,
            "accelerator": False,
            **{f"key{i}": i for i in range(120)},
        },
        tags={"versions.torch": "2.14", "model_plugin": "plugin 'tiny' of tiny-plugin 1.0"},
        folder=folder,
    )


def record(epoch: int) -> EpochRecord:
    return EpochRecord(epoch=epoch, lr=0.01, loss=2.0 / (epoch + 1), images_per_second=100.0, seconds=0.5)


def result(run: TrackedRun) -> RunResult:
    return RunResult(
        job=run.job, fingerprint=run.fingerprint, protocol_digest=run.protocol_digest,
        metrics={"top1": 62.5, "nll": 1.25}, parameters=268, over_budget=False, lr_max=0.01, lr_exception=None,
        weights_sha256="ab" * 32, test_reads=1, seconds=2.0, started="", finished="",
    )  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "my runs" / "tracking"


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow store without runs: making its tables takes seconds, so tests copy this one."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}")
    return path


def put_store(empty_store: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    shutil.copy(empty_store, folder / "mlflow.db")


def stop_and_go_on(spec: TrackerSpec, run: TrackedRun, *, closed: bool = True) -> None:
    """Two epochs, a stop or a kill, and the rest, with the second epoch told again."""
    first = spec.open(run)
    first.epoch_finished(record(0))
    first.epoch_finished(record(1))
    if closed:
        first.close()
    second = spec.open(replace(run, resumed=True))
    for epoch in (1, 2, 3):
        second.epoch_finished(record(epoch))
    second.run_finished(result(run))
    second.close()


# ------------------------------------------------------------------------------------------------------ whole runs


@pytest.mark.parametrize("name", PLUGINS)
def test_a_tracked_run_ends_in_the_same_bits_and_prints_the_same_data(
    name: str, tiny_harness: Command, empty_store: Path
) -> None:
    plain = tiny_harness(*RUN, "--format", "json")
    CELL.parent.rename("plain")
    put_store(empty_store, Path("runs/tracking/mlflow"))
    ran = tiny_harness(*RUN, "--track", name, "--format", "json")
    assert ran.code == 0
    assert "goes on without it" not in ran.err
    hashes = [
        json.loads((cell / "result.json").read_text())["weights_sha256"] for cell in (CELL, Path("plain", "seed-0"))
    ]
    assert hashes[0] == hashes[1]
    assert [row | {"seconds": 0} for row in ran.rows] == [row | {"seconds": 0} for row in plain.rows]
    assert {path.name for path in Path().iterdir()} == {"runs", "plain"}
    assert Path("runs/tracking", name).is_dir()


@pytest.mark.parametrize("name", PLUGINS)
def test_registering_a_tracker_imports_nothing_heavy(name: str) -> None:
    code = (
        f"import sys; from xscore_plugins.trackers import {name}; {name}.harness_trackers(); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'mlflow', 'wandb', 'tensorboard')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ----------------------------------------------------------------------------------------------------- TensorBoard


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_holds_the_curves_and_the_metrics(tiny_harness: Command) -> None:
    tiny_harness(*RUN, "--track", "tensorboard")
    (folder,) = Path("runs/tracking/tensorboard/tiny-1.0/tiny/dots").iterdir()
    assert folder.name.startswith("seed-0-")
    found = scalars(folder)
    history = [json.loads(line) for line in (CELL / "history.jsonl").read_text().splitlines()]
    for name in ("loss", "lr", "images_per_second"):
        assert [step for step, _ in found[f"train/{name}"]] == [0, 1, 2]
        assert [value for _, value in found[f"train/{name}"]] == pytest.approx([line[name] for line in history])
    ((step, top1),) = found["test/top1"]
    assert step == 2
    assert top1 == pytest.approx(json.loads((CELL / "result.json").read_text())["metrics"]["top1"])


@pytest.mark.parametrize("closed", [True, False])
def test_tensorboard_resumes_without_repeating_an_epoch(closed: bool, place: Path) -> None:
    run = tracked_run(place)
    stop_and_go_on(spec_of("tensorboard"), run, closed=closed)
    (folder,) = place.glob("*/*/*/*")
    found = scalars(folder)
    assert [step for step, _ in found["train/loss"]] == [0, 1, 2, 3]
    assert [value for _, value in found["train/loss"]] == pytest.approx([2.0, 1.0, 2 / 3, 0.5])
    assert found["test/nll"] == [(3, 1.25)]


def test_tensorboard_keeps_the_settings_and_the_reason_of_a_failure(place: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = spec_of("tensorboard").open(tracked_run(place))
    tracker.run_failed("TrainingError: the loss became nan")
    tracker.close()
    (folder,) = place.glob("*/*/*/*")
    events = EventAccumulator(str(folder)).Reload()
    (settings,) = events.Tensors("run/text_summary")
    assert b"| lr_max | 0.01 |" in settings.tensor_proto.string_val[0]
    assert b"tiny-plugin 1.0" in settings.tensor_proto.string_val[0]
    (failed,) = events.Tensors("failed/text_summary")
    assert failed.tensor_proto.string_val[0] == b"TrainingError: the loss became nan"


# ---------------------------------------------------------------------------------------------------------- MLflow


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
    kept = json.loads((CELL / "result.json").read_text())
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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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


# ------------------------------------------------------------------------------------------------ Weights & Biases


def wandb_records(file: Path) -> list[Any]:
    """The records of a .wandb file: LevelDB's log format, 32 kB blocks of (crc32, length, type, payload) chunks."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, position, payload, records = file.read_bytes(), 7, b"", []
    assert content[:4] == b":W&B"
    while position + 7 <= len(content):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        length, kind = int.from_bytes(content[position + 4 : position + 6], "little"), content[position + 6]
        payload += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last chunk of one
            records.append(Record.FromString(payload))
            payload = b""
    return records


def finished_wandb_records(file: Path) -> list[Any]:
    """The records of a run that has ended: wandb's own process goes on writing for a moment after ``finish()``."""

    def finished() -> list[Any]:
        records = wandb_records(file)
        return records if any(one.WhichOneof("record_type") == "exit" for one in records) else []

    return wait_until(finished, seconds=30)


def wandb_history(records: list[Any]) -> list[dict[str, Any]]:
    rows = [
        {item.key or item.nested_key[0]: json.loads(item.value_json) for item in one.history.item}
        for one in records
        if one.WhichOneof("record_type") == "history"
    ]
    return [row for row in rows if "epoch" in row]


def wandb_summary(records: list[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in records:
        for update in one.summary.update:
            found[update.key or update.nested_key[0]] = json.loads(update.value_json)
    return found


def test_wandb_holds_the_run_offline(tiny_harness: Command) -> None:
    tiny_harness(*RUN, "--track", "wandb")
    (file,) = Path("runs/tracking/wandb").rglob("*.wandb")
    assert file.parent.name.startswith("offline-run-")
    records = finished_wandb_records(file)
    history = [json.loads(line) for line in (CELL / "history.jsonl").read_text().splitlines()]
    rows = wandb_history(records)
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert [row["train/loss"] for row in rows] == [line["loss"] for line in history]
    kept = json.loads((CELL / "result.json").read_text())
    summary = wandb_summary(records)
    assert summary["test/top1"] == kept["metrics"]["top1"]
    assert summary["weights_sha256"] == kept["weights_sha256"]
    (run,) = [one.run for one in records if one.WhichOneof("record_type") == "run"]
    assert run.run_id == json.loads((CELL / "trackers.json").read_text())["id"]
    assert (run.display_name, run.project) == ("tiny on dots, seed 0", "xscore-harness")
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert (config["model"], config["epochs"], config["fingerprint"]) == ("tiny", 3, kept["fingerprint"])
    assert [one.exit.exit_code for one in records if one.WhichOneof("record_type") == "exit"] == [0]


def test_wandb_resumes_under_the_same_id(place: Path) -> None:
    run = tracked_run(place)
    first = spec_of("wandb").open(run)
    first.epoch_finished(record(0))
    first.close()
    second = spec_of("wandb").open(replace(run, resumed=True))
    second.epoch_finished(record(1))
    second.run_finished(result(run))
    second.close()
    # Folders are named by their time; the second of two within one second ends in "-1".
    parts = [finished_wandb_records(file) for file in sorted(place.rglob("*.wandb"))]
    assert [[row["epoch"] for row in wandb_history(part)] for part in parts] == [[0], [1]]
    ids = {one.run.run_id for part in parts for one in part if one.WhichOneof("record_type") == "run"}
    assert ids == {run.id}
    assert any(one.WhichOneof("record_type") == "preempting" for one in parts[0])
    assert wandb_summary(parts[1])["test/top1"] == 62.5


def test_wandb_without_its_server_harms_nothing(tiny_harness: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(wandb_plugin, "_SECONDS", 2.0)
    ran = tiny_harness(*RUN, "--track", "wandb")
    assert ran.code == 0
    (line,) = [line for line in ran.err.splitlines() if "Note:" in line]
    assert "tracker wandb: open raised" in line
    assert (CELL / "result.json").exists()
