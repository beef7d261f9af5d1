"""What happens to machines over weeks: nothing is lost, and every answer is a sentence."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support import TINY_PLUGIN, TINY_REGISTRY, Command, cell_folder, read_result

CELL = cell_folder()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    mount = tmp_path / "disk"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(mount)], capture_output=True).returncode:
        pytest.skip("this user can't mount a file system")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def test_folder_for_reading_alone(tiny_harness: Command, disk: Path) -> None:
    options = ("--dataset", "dots", "--runs", str(disk), "--format", "json")
    assert tiny_harness("run", "tiny", *options).code == 0
    half_way = disk / "tiny-1.0" / "tiny2" / "dots" / "seed-0"
    half_way.mkdir(parents=True)
    (half_way.parent / ".seed-0.lock").write_text("")
    before = contents(disk)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    ran = tiny_harness("run", "tiny", "tiny2", *options)
    assert ran.code == 3
    assert f"Cannot write in {disk}: it is not writable (Read-only file system)" in ran.err
    assert "Traceback" not in ran.err
    status = tiny_harness("status", "tiny", "tiny2", *options)
    assert [row["state"] for row in status.rows] == ["done", "missing"]
    assert contents(disk) == before


def test_disk_full_in_a_worker_ends_with_a_sentence(
    tiny_harness: Command, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TINY_PLUGIN))
    options = ("--runs", str(disk), "--format", "json")
    assert tiny_harness("run", "tiny", "--dataset", "dots", *options).code == 0
    before = contents(disk)
    free = shutil.disk_usage(disk).free
    (disk / "filler").write_bytes(bytes(free - 8192))
    ran = tiny_harness("run", "tiny", "tiny2", *options, "--jobs", "2")
    assert ran.code == 3
    assert "the disk is full" in ran.err or "the disk is full or failed" in ran.err
    assert "Traceback" not in ran.err
    (disk / "filler").unlink()
    assert {path: content for path, content in contents(disk).items() if path in before} == before
    again = tiny_harness("run", "tiny", "tiny2", *options, "--jobs", "2")
    assert again.code == 0
    assert {row["state"] for row in again.rows} == {"done"}
    assert not list(disk.rglob("*.tmp"))


def test_clock_that_goes_backwards(tiny_harness: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    class Backwards(datetime):
        calls = 0

        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            cls.calls += 1
            return datetime(2026, 1, 1, tzinfo=UTC) - timedelta(days=cls.calls // 4)

    clock = iter(range(10**9, 0, -60))
    monkeypatch.setattr("time.time", lambda: float(next(clock)))
    for module in ("harness.results.store", "harness.train.in_progress"):
        monkeypatch.setattr(f"{module}.datetime", Backwards)
    options = ("tiny", "--dataset", "dots", "--format", "json")
    first = tiny_harness("run", *options)
    assert first.code == 0
    assert first.rows[0]["seconds"] > 0
    for number in (1, 2, 3):
        (CELL / "result.json").write_text(f"{{ damaged for the {number}. time")
        ran = tiny_harness("run", *options)
        assert ran.rows[0]["state"] == "done"
        assert len(list((CELL.parent / "set-aside").iterdir())) == number
    kept = sorted((folder / "result.json").read_text() for folder in (CELL.parent / "set-aside").iterdir())
    assert kept == [f"{{ damaged for the {number}. time" for number in (1, 2, 3)]


def test_two_things_set_aside_at_the_same_instant(tiny_harness: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    class Standing(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime(2026, 1, 1, tzinfo=UTC)

    monkeypatch.setattr("harness.results.store.datetime", Standing)
    options = ("tiny", "--dataset", "dots")
    tiny_harness("run", *options)
    for _ in range(2):
        (CELL / "result.json").write_text("{")
        assert tiny_harness("run", *options).code == 0
    assert len(list((CELL.parent / "set-aside").iterdir())) == 2


PLUGIN = """
    from harness.api import DatasetSpec, Source, hookimpl

    def read(folder, split):
        from PIL import Image

        shades = (folder / "shades.txt").read_text().split()
        for index in range(40):
            yield Image.new("RGB", (10, 10), (int(shades[index % 4]), 5 * index, 3 * index + len(split))), index % 4

    @hookimpl
    def harness_datasets():
        return [DatasetSpec(
            name="shades", title="Shades", classes=("a", "b", "c", "d"), splits={"train": 40, "test": 40}, read=read,
            licence="CC0-1.0", citation="nobody", sources=(Source(
                filename="shades.txt", urls=("http://127.0.0.1:1/",),
                checksums={"sha256": "SHADES"},
            ),),
        )]
"""


@pytest.fixture
def shades(install: Callable[..., Path], tmp_path: Path, tiny: None) -> Path:
    """A registry with a data set that has to be fetched, and the file that it is made from."""
    install("shades_plugin", PLUGIN.replace("SHADES", hashlib.sha256(b"10 90 170 250").hexdigest()))
    registry = tmp_path / "shades.toml"
    registry.write_text(TINY_REGISTRY.read_text().replace('["dots", "bars"]', '["dots", "shades"]'))
    source = tmp_path / "given"
    source.mkdir()
    (source / "shades.txt").write_text("10 90 170 250")
    return registry


def test_deleted_data_set(harness: Command, shades: Path, tmp_path: Path) -> None:
    options = ("tiny", "--registry", str(shades), "--format", "json")
    prepare = ("prepare", "shades", "--from", str(shades.parent / "given"), "--registry", str(shades))
    assert harness(*prepare).code == 0
    assert harness("run", *options, "--dataset", "shades").code == 0
    before = contents(Path("runs"))
    shutil.rmtree(tmp_path / "data")
    ran = harness("run", *options, "--seeds", "2")
    assert ran.code == 3
    assert "harness prepare shades" in ran.err
    assert "Traceback" not in ran.err
    assert contents(Path("runs")) == before
    status = harness("status", *options)
    assert status.code == 0
    (row,) = [row for row in status.rows if row["dataset"] == "shades"]
    assert "harness prepare shades" in row["detail"]
    assert harness(*prepare).code == 0
    again = harness("run", *options, "--dataset", "shades")
    assert again.rows[0]["state"] == "done"
    assert "0 carried out by this command" in again.err


def test_uninstalled_plugin(
    harness: Command, install: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tiny: None
) -> None:
    site = install(
        "guest_plugin",
        """
        from harness.api import ModelSpec, hookimpl
        from tiny_plugin import build

        @hookimpl
        def harness_models():
            return [ModelSpec(name="guest", build=build, paper="none")]
        """,
    )
    options = ("--registry", str(TINY_REGISTRY), "--format", "json")
    assert harness("run", "tiny", "gentle", "guest", *options).code == 0
    before = contents(Path("runs"))
    shutil.rmtree(site)
    site.mkdir()
    ran = harness("run", "guest", *options)
    assert ran.code == 2
    assert "There is no model named 'guest'" in ran.err
    board = harness("leaderboard", *options)
    assert {row["model"] for row in board.rows} == {"tiny", "gentle"}
    assert "Results of models that are not installed are not counted: guest." in board.err
    assert harness("status", "tiny", *options).code == 0
    assert contents(Path("runs")) == before
    result = read_result(cell_folder("guest"))
    assert result["job"]["model"] == "guest"
