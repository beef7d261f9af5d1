"""Shared fixtures: the tiny plugin, a command line run in this process, and plugins installed for one test."""

from __future__ import annotations

import json
import signal
import textwrap
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.catalog import Catalog, discover
from harness.cli import _run
from harness.registry import Benchmark, load_benchmark

TESTS = Path(__file__).parent
TINY_PLUGIN = TESTS / "plugins" / "tiny"
TINY_REGISTRY = TESTS / "data" / "tiny.toml"


def pytest_configure() -> None:
    """Heed the signals that tests send, also where they were started by nohup or in a shell's background."""
    if threading.current_thread() is threading.main_thread():
        for name, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is signal.SIG_IGN:
                signal.signal(number, handler)


@pytest.fixture(autouse=True)
def private_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees or changes the user's caches."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "data"))


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


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        rows = json.loads(self.out)
        assert isinstance(rows, list)
        return rows


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run the command line in this process, in an empty folder. Training, too, unless the test says how it happens."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(*arguments: str) -> Ran:
        capsys.readouterr()
        elsewhere = {"--jobs", "--executor", "--in-process", "--dry-run"} & set(arguments)
        code = _run([*arguments, *(["--in-process"] if arguments[0] == "run" and not elsewhere else [])])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


@pytest.fixture
def tiny_harness(harness: Callable[..., Ran], tiny: None) -> Callable[..., Ran]:
    """The command line with the tiny plugin and the tiny registry."""
    return lambda *arguments: harness(*arguments, "--registry", str(TINY_REGISTRY))


@pytest.fixture(scope="session")
def finished_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder with tiny on dots and bars and tiny2 on dots, trained once for all tests, with spares. Copy it."""
    place = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TINY_PLUGIN))
        patch.setenv("HARNESS_DATA", str(place / "data"))
        patch.setattr("harness.train.loop.CHECKPOINT_PAUSE", 0.0)  # else epochs that are so short are not saved
        for selection in (("tiny",), ("tiny2", "--dataset", "dots")):
            where = ("--registry", str(TINY_REGISTRY), "--runs", str(place / "runs"))
            assert _run(["run", *selection, *where, "--in-process"]) == 0
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
