"""A tracked run and its records, which the tests of trackers share."""

from __future__ import annotations

import shutil
import socket
from dataclasses import replace
from pathlib import Path

from harness.api import EpochRecord, Job, RunResult, TrackedRun, TrackerSpec
from tests.support import cell_folder
from xscore_plugins.trackers import mlflow as mlflow_plugin
from xscore_plugins.trackers import tensorboard as tensorboard_plugin
from xscore_plugins.trackers import wandb as wandb_plugin

CELL = cell_folder()
RUN = ("run", "tiny", "--dataset", "dots")
PLUGINS = {"tensorboard": tensorboard_plugin, "mlflow": mlflow_plugin, "wandb": wandb_plugin}


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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
