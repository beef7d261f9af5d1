"""Faults around processes: code of other models, folders and pauses that reach a job; executors that fail."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import harness
from tests.reported.conftest import OKAY, Bench
from tests.support import wait_until

ODD = """
from harness.api import ModelSpec, hookimpl

def build(num_classes):
    import os, signal, time, torch
    from torch import nn
    import okay
    {}
    return okay.build(num_classes)

@hookimpl
def harness_models():
    return [ModelSpec(name="{}", build=build, paper="none")]
"""
INITIALISER = "nn.init.kaiming_uniform_ = lambda tensor, *a, **k: nn.init.normal_(tensor, std=0.02)"
NORM = "nn.BatchNorm2d.__init__.__defaults__ = (1e-3, 0.01, True, True, None, None)"
METHOD = "nn.ReLU.forward = lambda self, x: x"
LEAKS = f"{INITIALISER}; {NORM}; {METHOD}; torch.set_default_dtype(torch.float64)"


def test_a_model_changes_neither_weights_nor_fingerprint_of_the_next(bench: Bench) -> None:
    assert bench.harness("run", "okay", *bench.quick, "--runs", "alone").code == 0
    bench.put("aleak", ODD.format(LEAKS, "aleak"))
    bench.harness("run", "aleak", "okay", *bench.quick, "--runs", "beside")
    alone, beside = bench.result("okay", runs="alone"), bench.result("okay", runs="beside")
    for key in ("fingerprint", "weights_sha256", "metrics"):
        assert alone[key] == beside[key], key
    assert bench.state("okay", "--runs", "beside") == "done"


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("leaves", "os._exit(0)", "ended with exit code 0"),
        ("crashes", "os.kill(os.getpid(), signal.SIGSEGV)", "was killed by SIGSEGV (a crash in compiled code)"),
    ],
)
def test_a_build_that_ends_its_process_ends_that_model_alone(name: str, code: str, said: str, bench: Bench) -> None:
    bench.put(name, ODD.format(code, name))
    ran = bench.harness("run", name, "okay", *bench.quick, "--format", "json")
    assert {row["model"]: row["state"] for row in ran.rows} == {name: "failed", "okay": "done"}
    assert said in ran.rows[0]["detail"]
    assert "Traceback" not in ran.err
    status = bench.harness("status", name, "okay", *bench.quick, "--format", "json")
    assert status.code == 0, status.err


def test_files_of_the_working_folder_are_not_imported(bench: Bench) -> None:
    """Not by workers, whose libraries import ``profile``, and not in place of a library or of the harness itself."""
    place = bench.folder / "place"
    place.mkdir()
    for name in ("random", "platform", "profile", "socket", "signal", "threading", "sitecustomize"):
        (place / f"{name}.py").write_text("raise SystemExit('a module of the working folder')\n")
    for name in ("torch", "numpy", "timm"):
        (place / name).mkdir()
        (place / name / "__init__.py").write_text("raise SystemExit('a package of the working folder')\n")
    shutil.copytree(Path(harness.__file__).parent, place / "harness")
    loop = place / "harness" / "train" / "loop.py"
    loop.write_text(loop.read_text() + "\nraise SystemExit('the harness of the working folder')\n")
    ran = bench.harness("run", "okay", *bench.quick, "--runs", "../runs", cwd=place)
    assert ran.code == 0, ran.err
    assert "of the working folder" not in ran.err
    assert bench.state("okay") == "done"


def test_python_m_imports_nothing_from_the_working_folder(bench: Bench) -> None:
    for name in ("random", "click"):
        (bench.folder / f"{name}.py").write_text("raise SystemExit('a module of the working folder')\n")
    ran = subprocess.run(
        [sys.executable, "-m", "harness", "list", "models"],
        cwd=bench.folder, env=bench.environment, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "okay" in ran.stdout


SLOW = OKAY.replace(
    "    from torch import nn\n",
    """    import time
    from torch import nn
    class Slow(nn.Module):
        calls = 0
        def forward(self, x):
            Slow.calls += 1
            end = time.process_time() + (0.4 if Slow.calls < 5 else 0)
            while time.process_time() < end:
                pass
            return x
""",
).replace("nn.ReLU(),", "Slow(),").replace('"okay"', '"slow"')  # fmt: skip


def test_a_pause_is_not_the_silence_of_a_worker(bench: Bench) -> None:
    bench.put("slow", SLOW)
    process = bench.start("run", "slow", *bench.quick, "--timeout", "20s")
    wait_until((bench.cell("slow") / "job.json").exists, process=process)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGSTOP)
    time.sleep(21)
    os.killpg(process.pid, signal.SIGCONT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "made no progress" not in err


EXECUTORS = """
from harness.api import Cell, ExecutorSpec, Job, hookimpl

def raises(work):
    yield work.run_one(work.jobs[0], device="cpu", threads=1, reporter=work.reporter)
    raise ConnectionError("the scheduler is gone")

def leaves(work):
    raise SystemExit(3)

def invents(work):
    yield Cell(Job("pocket-1.0", "other", "pocket_digits", 0), "done")

SPECS = {"raises": raises, "none": lambda work: None, "text": lambda work: ["done"], "leaves": leaves,
         "invents": invents, "empty": lambda work: [], "endless": lambda work: iter(lambda: 1, 2)}

@hookimpl
def harness_executors():
    return [ExecutorSpec(name=name, title=name, execute=function) for name, function in SPECS.items()]
"""


def test_an_executor_that_raises_leaves_the_table_of_finished_jobs(bench: Bench) -> None:
    bench.put("odd", EXECUTORS)
    ran = bench.harness("run", "okay", *bench.quick, "--seeds", "2", "--executor", "raises", "--format", "json")
    assert ran.code == 3
    assert [row["state"] for row in ran.rows] == ["done", "missing"]
    assert "The executor 'raises' of plugin 'odd' of odd 1.0 failed: ConnectionError: the scheduler is gone." in ran.err
    assert "Traceback" not in ran.err
    assert "ConnectionError" in (bench.folder / "runs" / ".executors" / "raises" / "error.txt").read_text()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none", "'NoneType' object is not iterable"),
        ("text", "yields a str."),
        ("endless", "yields a int."),
        ("leaves", "SystemExit: 3"),
        ("invents", "yields a Cell of a job that it was not given"),
        ("empty", "ended without an outcome of 1 of 1 jobs"),
    ],
)
def test_an_executor_that_gives_no_outcomes_is_a_sentence(name: str, said: str, bench: Bench) -> None:
    bench.put("odd", EXECUTORS)
    ran = bench.harness("run", "okay", *bench.quick, "--executor", name)
    assert ran.code == 3
    assert said in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such sockets")
def test_a_long_folder_for_temporary_files_is_no_obstacle(bench: Bench) -> None:
    long = bench.folder / ("x" * 100)
    long.mkdir()
    ran = bench.harness("run", "okay", *bench.quick, TMPDIR=str(long))
    assert ran.code == 0, ran.err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps a folder that is in use")
def test_a_working_folder_that_is_gone_is_a_sentence(bench: Bench) -> None:
    (bench.folder / "gone").mkdir()
    command = f'rmdir ../gone; exec "{sys.executable}" -P -m harness run okay "$@"'
    ran = subprocess.run(
        ["sh", "-c", command, "sh", *bench.quick, "--runs", str(bench.folder / "runs")],
        cwd=bench.folder / "gone", env=bench.environment, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 3
    assert "no longer exists" in ran.stderr
    assert "Traceback" not in ran.stderr


THREAD = OKAY.replace(
    "    from torch import nn\n",
    """    import threading, time
    from torch import nn
    threading.Thread(target=time.sleep, args=(600,)).start()
""",
)


def test_a_thread_that_a_plugin_leaves_does_not_delay_the_end(bench: Bench) -> None:
    bench.put("okay", THREAD)
    ran = bench.harness("run", "okay", *bench.quick)  # the bench waits for half of the thread's time
    assert ran.code == 0, ran.err
