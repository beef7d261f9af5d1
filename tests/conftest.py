"""Shared fixtures: the tiny plugin, a command line run in this process, and plugins installed for one test."""

from __future__ import annotations

import shutil
import signal
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.api import EpochRecord, Job, RunResult
from harness.catalog import Catalog, discover
from harness.cli import run_command
from harness.data.ingest import require_prepared
from harness.plan import Selection, build_plan, dataset_facts
from harness.registry import Benchmark, load_benchmark
from harness.results.store import RunsFolder
from harness.train.task import Task
from harness.workspace import Workspace
from tests.support import TINY_PLUGIN, TINY_REGISTRY, Command, Ran, Rows, Shell
from tests.training import FakeTime

MADE_UP = {"mobilenet": 2.0, "shufflenet": 1.6, "starnet": 2.4, "fbnet": 1.0}


def pytest_configure() -> None:
    """Heed the signals that tests send, also where they were started by nohup or in a shell's background."""
    if threading.current_thread() is threading.main_thread():
        for name, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is signal.SIG_IGN:
                signal.signal(number, handler)


@pytest.fixture(autouse=True)
def private_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the user's caches, data sets or mirror."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("HARNESS_MIRROR", raising=False)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the tiny plugin for one test."""
    monkeypatch.syspath_prepend(str(TINY_PLUGIN))


@pytest.fixture
def tiny_benchmark() -> Benchmark:
    return load_benchmark(TINY_REGISTRY)


@pytest.fixture
def tiny_catalog(tiny: None) -> Catalog:
    return discover()


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command line in this process, in an empty folder. Training, too, unless the test says how it happens."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(*arguments: str | Path) -> Ran:
        capsys.readouterr()
        texts = [str(argument) for argument in arguments]
        elsewhere = {"--jobs", "--executor", "--in-process", "--dry-run"} & set(texts)
        code = run_command([*texts, *(["--in-process"] if texts[0] == "run" and not elsewhere else [])])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


@pytest.fixture
def tiny_harness(harness: Command, tiny: None) -> Command:
    """The command line with the tiny plugin and the tiny registry."""
    return lambda *arguments: harness(*arguments, "--registry", str(TINY_REGISTRY))


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """The command line as a process of its own."""
    return Shell(tmp_path)


@pytest.fixture
def task_of(tiny_benchmark: Benchmark, tiny_catalog: Catalog, tmp_path: Path) -> Callable[..., Task]:
    """Make tasks on a CPU, each with a checkpoint of its own name."""

    def make(model: str = "tiny", dataset: str = "dots", seed: int = 0, name: str = "x") -> Task:
        protocol = tiny_benchmark.protocol("tiny-1.0")
        return Task(
            job=Job(protocol.name, model, dataset, seed),
            protocol=protocol,
            model=tiny_catalog.model(model),
            dataset=require_prepared(tiny_catalog.dataset(dataset), tmp_path / "data", protocol.input_size),
            catalog=tiny_catalog,
            device=torch.device("cpu"),
            checkpoint=tmp_path / f"{name}.pt",
        )

    return make


@pytest.fixture
def task(task_of: Callable[..., Task]) -> Task:
    return task_of()


@pytest.fixture
def fake_time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    """The time of profiles in this process; it passes only where the test spends it."""
    fake = FakeTime()
    monkeypatch.setattr("harness.results.profile.watch_for", lambda device, threads: fake.watch(threads))
    return fake


@pytest.fixture(scope="session")
def finished_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder with tiny on dots and bars and tiny2 on dots, trained once for all tests, with spares. Copy it."""
    place = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TINY_PLUGIN))
        patch.setenv("HARNESS_DATA", str(place / "data"))
        patch.setattr("harness.train.save_timer.EPOCH_PAUSE", 0.0)  # else epochs that are so short are not saved
        for selection in (("tiny",), ("tiny2", "--dataset", "dots")):
            where = ("--registry", str(TINY_REGISTRY), "--runs", str(place / "runs"))
            assert run_command(["run", *selection, *where, "--in-process"]) == 0
    return place / "runs"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Install a plugin for one test by writing a module and a real .dist-info."""
    root = tmp_path / "site"
    root.mkdir()
    monkeypatch.syspath_prepend(str(root))

    def write(module: str, source: str, *, version: str = "1.0", entry: str | None = None) -> Path:
        (root / f"{module}.py").write_text(textwrap.dedent(source), encoding="utf-8")
        info = root / f"{module}-{version}.dist-info"
        info.mkdir()
        name = module.replace("_", "-")
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[harness]\n{entry or module} = {module}\n", encoding="utf-8")
        return root

    yield write
    import sys

    for path in root.glob("*.py"):
        sys.modules.pop(path.stem, None)


# -------------------------------------------------------------------------------------- results without training


@pytest.fixture(scope="session")
def pocket_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pocket-data")


@pytest.fixture(scope="session")
def pocket_runs(tmp_path_factory: pytest.TempPathFactory, pocket_data: Path) -> Path:
    """A runs folder: two seeds of four models; ``starnet`` has one only, ``fbnet`` lacks a data set."""
    runs = RunsFolder(tmp_path_factory.mktemp("pocket-runs"))
    benchmark, catalog = load_benchmark(), discover()
    plan = build_plan(benchmark, catalog, Selection(tuple(MADE_UP), suite="pocket", seeds=2))
    workspace = Workspace(benchmark, catalog, runs, pocket_data).with_fresh_models()
    rng = np.random.default_rng(0)
    for job in plan.jobs:
        if (job.model == "starnet" and job.seed) or (job.model == "fbnet" and job.dataset == "pocket_earth"):
            continue
        facts = dataset_facts(benchmark, catalog, job.dataset)
        labels = np.sort(rng.integers(0, facts.classes, facts.test))
        logits = rng.normal(size=(facts.test, facts.classes))
        logits[np.arange(facts.test), labels] += MADE_UP[job.model]
        folder = runs.of(job)
        fingerprint = workspace.fingerprint(job)
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
def pocket_harness(harness: Command, pocket_data: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command line with the data sets of the made-up results."""
    monkeypatch.setenv("HARNESS_DATA", str(pocket_data))
    return harness


@pytest.fixture
def rows(pocket_harness: Command) -> Rows:
    """The rows that a command prints with ``--format json``."""

    def call(*arguments: str | Path) -> list[dict[str, Any]]:
        ran = pocket_harness(*arguments, "--format", "json")
        assert ran.code == 0, ran.err
        return ran.rows

    return call


@pytest.fixture
def copied_runs(pocket_runs: Path, tmp_path: Path) -> Path:
    """A copy of the finished runs that a test may change."""
    target = tmp_path / "runs-copy"
    shutil.copytree(pocket_runs, target)
    return target
