"""SIGKILL at every single file operation of a run, one after the other: nothing is lost and the bits are the same."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from harness.api import Job, LogReporter, StopSignal
from harness.catalog import Catalog
from harness.data.ingest import require_prepared
from harness.execute.runner import JobRunner
from harness.registry import Benchmark
from harness.results.store import RunsFolder
from harness.train.options import RunOptions
from harness.workspace import Workspace
from tests.support import cell_folder, read_result

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork, by which a run is killed here"),
]

JOB = Job("tiny-1.0", "tiny", "dots", 0)


def kill_before(number: int) -> Callable[[], int]:
    """Have this process killed before its n-th operation on files; return a counter of them.

    Opening files counts as well: what is killed just after it leaves an empty or half-written one.
    """
    count = 0

    def heed(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if writes or event in ("os.rename", "os.remove", "os.mkdir", "os.truncate"):
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(heed)
    return lambda: count


def run(benchmark: Benchmark, catalog: Catalog, folder: Path) -> None:
    """Carry out the job, with a checkpoint at every epoch's end alone: few operations, all of which can be tried."""
    import torch

    workspace = Workspace(benchmark, catalog, RunsFolder(folder / "runs"), folder.parent / "data")
    reporter = LogReporter(StopSignal())
    cell = JobRunner(workspace, torch.device("cpu"), reporter, RunOptions(save_every=1e9))(JOB)
    assert cell.state == "done", cell.detail


def in_a_child(work: Callable[[], object]) -> int:
    """Do the work in a forked process; return how that ended, negative for a signal."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def outcome(folder: Path) -> Any:
    cell = folder / cell_folder()
    found = read_result(cell)
    losses = [json.loads(line)["loss"] for line in (cell / "history.jsonl").read_text().splitlines()]
    leftovers = [path.name for path in cell.rglob("*.tmp")]
    return found["weights_sha256"], found["metrics"], losses, leftovers


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_kill_before_any_file_operation(tiny_benchmark: Benchmark, tiny_catalog: Catalog, tmp_path: Path) -> None:
    import torch

    require_prepared(tiny_catalog.dataset("dots"), tmp_path / "data", 12)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a forked copy of several threads does not work
    try:
        whole = tmp_path / "whole"
        counted = tmp_path / "counted"

        def undisturbed() -> None:
            counter = kill_before(-1)
            run(tiny_benchmark, tiny_catalog, whole)
            counted.write_text(str(counter()))

        assert in_a_child(undisturbed) == 0
        operations = int(counted.read_text())
        assert operations >= 20  # four checkpoints of three operations each, and the files around them
        expected = outcome(whole)
        assert expected[3] == []

        folder = tmp_path / "killed"
        for number in range(1, operations + 1):
            folder = tmp_path / f"killed-{number}"

            def killed(number: int = number, folder: Path = folder) -> None:
                kill_before(number)
                run(tiny_benchmark, tiny_catalog, folder)

            assert in_a_child(killed) == -signal.SIGKILL, number
            assert in_a_child(partial(run, tiny_benchmark, tiny_catalog, folder)) == 0, number
            assert outcome(folder) == expected, number
    finally:
        torch.set_num_threads(threads)
