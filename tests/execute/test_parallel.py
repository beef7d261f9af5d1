"""Worker processes: same numbers as without, and whatever happens to one costs its own job alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from harness.api import ExecutorSpec
from harness.errors import CannotContinueError, WrongUseError
from harness.execute.resources import ResourceRequest, resolve_resources
from harness.machine import THREAD_VARIABLES, forks_workers, thread_variables
from harness.processes import Surroundings, start_process
from tests.support import TINY_REGISTRY, Command, Shell, long_registry, wait_until

LOCAL = ExecutorSpec(name="local", title="here", execute=lambda work: [])
REMOTE = ExecutorSpec(name="far", title="there", execute=lambda work: [], remote=True, options={"partition": "where"})


def test_results_do_not_depend_on_the_number_of_jobs(shell: Shell) -> None:
    options = ("run", "tiny", "tiny2", "--threads", "1", "--format", "json")
    two = shell.run(*options, "--jobs", "2", "--runs", "two")
    one = shell.run(*options, "--in-process", "--runs", "one")
    assert (two.code, one.code) == (0, 0)
    for model in ("tiny", "tiny2"):
        for dataset in ("dots", "bars"):
            first, second = (shell.result(model, dataset, runs) for runs in ("one", "two"))
            assert first["weights_sha256"] == second["weights_sha256"]
            assert first["metrics"] == second["metrics"]
            assert second["environment"]["threads"] == 1


def test_process_that_dies_costs_its_own_job_alone(shell: Shell) -> None:
    options = ("--dataset", "dots", "--threads", "1", "--format", "json")
    models = ("killed_once", "crashing", "hanging", "exhausting", "tiny", "chatty")
    ran = shell.run("run", *models, *options, "--jobs", "2", "--timeout", "20s", "--checkpoint-every", "0")
    assert ran.code == 1
    rows = {row["model"]: row for row in ran.rows}
    assert {name: row["state"] for name, row in rows.items()} == {
        "killed_once": "done", "crashing": "failed", "hanging": "failed", "exhausting": "failed", "tiny": "done",
        "chatty": "done",
    }  # fmt: skip
    assert "was killed by SIGSEGV (a crash in compiled code), 2 times in a row" in rows["crashing"]["detail"]
    assert "made no progress for 20 seconds and was ended, 2 times in a row" in rows["hanging"]["detail"]
    assert "The device ran out of memory: CUDA out of memory. Run fewer jobs" in rows["exhausting"]["detail"]
    assert "killed_once on dots, seed 0: the process that trained it was killed by SIGKILL" in ran.err
    assert "goes on from its last checkpoint in a fresh process" in ran.err
    assert "a plugin that prints to stdout" in ran.err

    # The mark is there now, so the same job runs through undisturbed: the bits must be the same.
    whole = shell.run("run", "killed_once", *options, "--in-process", "--runs", "whole")
    assert whole.code == 0
    killed, undisturbed = shell.result("killed_once"), shell.result("killed_once", runs="whole")
    assert [entry["epoch"] for entry in killed["interruptions"]] == [1]
    assert undisturbed["interruptions"] == []
    assert killed["weights_sha256"] == undisturbed["weights_sha256"]
    assert killed["metrics"] == undisturbed["metrics"]
    losses = [
        [
            json.loads(line)["loss"]
            for line in (shell.cell("killed_once", runs=runs) / "history.jsonl").read_text().splitlines()
        ]
        for runs in ("runs", "whole")
    ]
    assert losses[0] == losses[1]

    status = shell.run("status", "crashing", "--dataset", "dots", "--format", "json")
    assert status.rows[0]["state"] == "failed"
    assert "SIGSEGV" in status.rows[0]["detail"]


def test_job_of_a_worker_stopped_by_a_signal_is_resumed(shell: Shell) -> None:
    ran = shell.run("run", "asked_once", "--dataset", "dots", "--format", "json")
    assert ran.code == 0
    assert "was asked by a signal to stop" in ran.err
    (entry,) = shell.result("asked_once")["interruptions"]
    assert (entry["epoch"], entry["step"]) == (1, 4)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_workers_of_a_killed_command_save_and_end_by_themselves(shell: Shell) -> None:
    long = long_registry(shell.folder, epochs=100_000)
    process = shell.start("run", "tiny", "tiny2", "--dataset", "dots", "--jobs", "2", registry=long)
    histories = [shell.cell(model) / "history.jsonl" for model in ("tiny", "tiny2")]
    wait_until(lambda: all(path.exists() for path in histories), seconds=90, process=process)
    process.kill()
    process.communicate(timeout=30)
    for path in histories:
        lock = FileLock(path.parent.parent / ".seed-0.lock")
        try:
            lock.acquire(timeout=20)
        except Timeout:
            pytest.fail(f"the worker that holds {lock.lock_file} is still there")
        epochs = len(path.read_text().splitlines())
        time.sleep(0.3)
        assert len(path.read_text().splitlines()) == epochs
        lock.release()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGHUP")
def test_closed_terminal_stops_like_ctrl_c(shell: Shell) -> None:
    long = long_registry(shell.folder, epochs=100_000)
    process = shell.start("run", "tiny", "--dataset", "dots", registry=long)
    history = shell.cell("tiny") / "history.jsonl"
    wait_until(history.exists, seconds=90, process=process)
    assert process.stderr is not None
    assert process.stdout is not None
    process.stderr.close()  # the terminal is gone, so every further line fails
    process.send_signal(signal.SIGHUP)
    try:
        assert process.wait(timeout=60) == 130
    finally:
        process.kill()
        process.stdout.close()
    assert (shell.cell("tiny") / "checkpoint.pt").exists()
    assert not (shell.cell("tiny") / "error.txt").exists()


def test_worker_that_cannot_start_is_a_sentence(shell: Shell) -> None:
    (shell.folder / "broken").mkdir()
    (shell.folder / "broken" / "torch.py").write_text("raise SystemExit('this torch is broken')\n")
    # The command itself imports torch before its folder is searched; the worker, a fresh interpreter as with a GPU,
    # finds the broken one first.
    script = (
        "import torch, sys; import harness.processes as processes; processes.forks_workers = lambda devices: False; "
        "import harness.workspace.survey; from harness.models import Architecture, Architectures; "
        "Architectures.get_all = lambda self, model, counts: dict.fromkeys(counts, Architecture('0', 1)); "
        "sys.path.insert(0, 'broken'); sys.argv = ['harness']; from harness.cli import main; "
        f"main(['run', 'tiny', '--dataset', 'dots', '--registry', {str(TINY_REGISTRY)!r}])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=shell.folder, env=shell.environment, capture_output=True, text=True
    )
    assert ran.returncode == 3
    assert "before it could start, 2 times in a row" in ran.stderr
    assert "this torch is broken" in ran.stderr


def test_workers_are_forked_for_a_cpu_alone() -> None:
    assert forks_workers(("cpu", "cpu")) == (sys.platform == "linux")
    assert not forks_workers(("cuda:0",))
    assert not forks_workers(("mps",))


def tell_surroundings(connection: Connection, surroundings: Surroundings) -> None:
    """What a worker does first of all, in its process."""
    surroundings.take_over(2)
    connection.send((os.environ.get("MOOD"), thread_variables(), str(Path.cwd())))


def test_worker_has_the_current_environment_and_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that it is forked from may have been started long before, in another folder."""
    for mood in ("good", "better"):
        monkeypatch.setenv("MOOD", mood)
        here, there = Pipe()
        process = start_process(("cpu",), tell_surroundings, there, Surroundings(dict(os.environ), str(tmp_path)))
        assert here.poll(timeout=60)
        assert here.recv() == (mood, dict.fromkeys(THREAD_VARIABLES, "2"), str(tmp_path))
        process.join(timeout=60)
        assert process.exitcode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked under Linux alone")
@pytest.mark.parametrize("seconds", [0.3, 1.2, 2.3])
def test_ctrl_c_before_the_first_job_is_a_sentence(seconds: float, shell: Shell) -> None:
    """While the fork server imports, and while the command imports torch and builds the models."""
    command = [sys.executable, "-m", "harness", "run", "--all", "--suite", "pocket", "--jobs", "2"]
    process = subprocess.Popen(
        command, cwd=shell.folder, env=shell.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    wait_until(children.read_text, process=process)
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "KeyboardInterrupt" not in err
    assert "Everything finished" in err


BEGIN_IMPORTS = """
import os
from multiprocessing import forkserver
from harness.processes import begin_imports
begin_imports()
place = f"/proc/{forkserver._forkserver._forkserver_pid}/fd"
print([os.path.samefile(f"{place}/1", f"/proc/self/fd/{number}") for number in (1, 2)])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked under Linux alone")
def test_fork_server_does_not_inherit_stdout() -> None:
    """A reader of the command's stdout waits until the last process has let go of it."""
    ran = subprocess.run([sys.executable, "-c", BEGIN_IMPORTS], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[False, True]"


BEGIN_AND_FORK = """
from harness.processes import begin_imports, start_process
begin_imports()
process = start_process(["cpu"], exec, "import os, sys; os._exit(10 if 'timm' in sys.modules else 20)")
process.join()
print(process.exitcode)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked under Linux alone")
def test_workers_start_with_what_the_fork_server_has_imported() -> None:
    ran = subprocess.run([sys.executable, "-c", BEGIN_AND_FORK], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "10"


@pytest.mark.parametrize(
    ("asked", "devices", "threads"),
    [
        (ResourceRequest(device="cpu"), ("cpu",), None),
        (ResourceRequest(device="cpu", jobs="3", threads=2), ("cpu",) * 3, 2),
        (ResourceRequest(device="cpu", jobs="64"), ("cpu",) * 64, 1),
    ],
)
def test_devices_of_the_jobs(asked: ResourceRequest, devices: tuple[str, ...], threads: int | None) -> None:
    resources = resolve_resources(asked, LOCAL, accelerator=False)
    assert (resources.devices, resources.threads) == (devices, threads)
    assert resources.timeout == 3600


@pytest.mark.parametrize(
    ("asked", "devices"),
    [
        (ResourceRequest(), ("cuda:0",)),
        (ResourceRequest(jobs="auto"), ("cuda:0", "cuda:1", "cuda:2")),
        (ResourceRequest(jobs="2"), ("cuda:0", "cuda:1")),
        (ResourceRequest(jobs_per_gpu=2), ("cuda:0", "cuda:1", "cuda:2") * 2),
        (ResourceRequest(jobs="4", jobs_per_gpu=2), ("cuda:0", "cuda:1", "cuda:2", "cuda:0")),
        (ResourceRequest(device="cuda:1", jobs_per_gpu=2), ("cuda:1", "cuda:1")),
    ],
)
def test_gpus_are_shared_out_evenly(
    asked: ResourceRequest, devices: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The arithmetic alone; no GPU is touched."""
    monkeypatch.setattr("harness.machine._has_no_driver", lambda: False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    assert resolve_resources(asked, LOCAL, accelerator=True).devices == devices


def test_more_jobs_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.machine._has_no_driver", lambda: False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(WrongUseError, match=r"--jobs is 5, but there is room for 2.*--jobs-per-gpu 3"):
        resolve_resources(ResourceRequest(jobs="5"), LOCAL, accelerator=True)


@pytest.mark.parametrize(
    ("device", "accelerator", "needs_gpu"),
    [("auto", True, True), ("auto", False, False), ("cpu", True, False), ("cuda", False, True)],
)
def test_remote_executor_is_told_what_the_node_must_have(device: str, accelerator: bool, needs_gpu: bool) -> None:
    asked = ResourceRequest(device=device, executor_options=("partition=gpu",))
    resources = resolve_resources(asked, REMOTE, accelerator=accelerator)
    assert resources.devices == (device,)
    assert resources.needs_gpu is needs_gpu
    assert dict(resources.options) == {"partition": "gpu"}
    assert resources.threads == 1


def test_missing_library_of_an_executor_says_what_to_install(
    tiny_harness: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, module in (("slurm", "submitit"), ("ray", "ray")):
        monkeypatch.setitem(sys.modules, module, None)
        ran = tiny_harness("run", "tiny", "--executor", name)
        assert ran.code == CannotContinueError.exit_code
        assert f"pip install 'xscore-harness[{name}]'" in ran.err
