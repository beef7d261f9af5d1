"""Finished runs without training: real fingerprints of four models on the pocket suite, made-up predictions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.api import EpochRecord, RunResult
from harness.catalog import discover
from harness.cli import _run
from harness.plan import Selection, build_plan, dataset_facts
from harness.registry import load_benchmark
from harness.results.store import RunsFolder
from harness.workspace.survey import Surveyor

MODELS = {"mobilenet": 2.0, "shufflenet": 1.6, "starnet": 2.4, "fbnet": 1.0}

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A runs folder: two seeds of four models; ``starnet`` has one only, ``fbnet`` lacks a data set."""
    runs = RunsFolder(tmp_path_factory.mktemp("runs"))
    benchmark, catalog = load_benchmark(), discover()
    plan = build_plan(benchmark, catalog, Selection(tuple(MODELS), suite="pocket", seeds=2))
    surveyor = Surveyor(benchmark, catalog, runs, data, remember=False)
    rng = np.random.default_rng(0)
    for job in plan.jobs:
        if (job.model == "starnet" and job.seed) or (job.model == "fbnet" and job.dataset == "pocket_earth"):
            continue
        facts = dataset_facts(benchmark, catalog, job.dataset)
        labels = np.sort(rng.integers(0, facts.classes, facts.test))
        logits = rng.normal(size=(facts.test, facts.classes))
        logits[np.arange(facts.test), labels] += MODELS[job.model]
        folder = runs.of(job)
        fingerprint = surveyor.fingerprint(plan, job)
        folder.begin(fingerprint, protocol_digest=plan.protocol.digest)
        for epoch in range(3):
            folder.append_history(
                EpochRecord(epoch=epoch, lr=1e-3, loss=2.0 - epoch / 2, images_per_second=100.0, seconds=1.0)
            )
        result = RunResult(
            job=job,
            fingerprint=fingerprint,
            protocol_digest=plan.protocol.digest,
            metrics={"top1": 100.0 * float((logits.argmax(axis=1) == labels).mean())},
            parameters=2_400_000,
            over_budget=False,
            lr_max=1e-3,
            lr_exception=None,
            weights_sha256="0" * 64,
            test_reads=1,
            seconds=60.0,
            started="2026-01-01T00:00:00+00:00",
            finished="2026-01-01T00:01:00+00:00",
            environment={"device": "cpu", "python": "3.11", "versions": {"torch": torch.__version__}},
        )
        folder.finish(result, torch.from_numpy(logits.astype(np.float32)), torch.from_numpy(labels.astype(np.int64)))
    return runs.root


@pytest.fixture
def cli(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a command as a user would; return its exit code, stdout and stderr."""
    monkeypatch.setenv("HARNESS_DATA", str(data))
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        code = _run([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture
def rows(cli: Cli) -> Callable[..., list[dict[str, object]]]:
    """Run a command with ``--format json`` and return its rows."""

    def call(*arguments: str | Path) -> list[dict[str, object]]:
        code, out, err = cli(*arguments, "--format", "json")
        assert code == 0, err
        loaded: list[dict[str, object]] = json.loads(out)
        return loaded

    return call


@pytest.fixture
def own_copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished runs that a test may change."""
    import shutil

    target = tmp_path / "runs-copy"
    shutil.copytree(finished, target)
    return target
