"""Slurm and Ray for real: jobs run there, are cancelled or killed half-way, and the same command goes on with them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from harness.api import Job
from harness.execute import slurm
from tests.support import Shell, lines_of, long_registry, wait_until

ROWS = ("--format", "json", "--threads", "1")


def has_slurm() -> bool:
    if shutil.which("sinfo") is None:
        return False
    return subprocess.run(["sinfo", "--noheader"], capture_output=True).returncode == 0


needs_slurm = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.skipif(not has_slurm(), reason="no Slurm answers here")]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    folder = tmp_path / "a folder with spaces"
    folder.mkdir()
    return Shell(folder)


@pytest.fixture
def long(shell: Shell) -> Path:
    return long_registry(shell.folder, epochs=400)


def queue_is_empty() -> bool:
    """A task that is asked to stop ends its step and saves, so it leaves the queue a little later."""
    return not subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True).stdout.strip()


def epochs(shell: Shell, model: str) -> int:
    return len(lines_of(shell.cell(model) / "history.jsonl"))


def slurm_id(shell: Shell, model: str) -> str:
    tasks = slurm._recorded_tasks(shell.folder / "runs" / ".executors" / "slurm")
    (id_,) = [task.id for task in tasks if task.job.model == model]
    return id_


class TestSlurm:
    pytestmark = needs_slurm

    def test_slurm_trains_the_same_bits_and_resubmits_no_done_job(self, shell: Shell) -> None:
        ran = shell.run("run", "tiny", "tiny2", *ROWS, "--executor", "slurm")
        assert ran.code == 0, ran.err
        assert [row["state"] for row in ran.rows] == ["done"] * 4
        here = shell.run("run", "tiny", "tiny2", *ROWS, "--in-process", "--runs", "here")
        assert here.code == 0
        for model in ("tiny", "tiny2"):
            for dataset in ("dots", "bars"):
                there, local = shell.result(model, dataset), shell.result(model, dataset, runs="here")
                assert there["weights_sha256"] == local["weights_sha256"]
                assert there["metrics"] == local["metrics"]
        again = shell.run("run", "tiny", "tiny2", *ROWS, "--executor", "slurm")
        assert "0 carried out by this command" in again.err

    def test_failure_on_the_node_is_recorded_with_its_reason(self, shell: Shell) -> None:
        ran = shell.run("run", "crashing", "exhausting", "--dataset", "dots", *ROWS, "--executor", "slurm")
        assert ran.code == 1
        rows = {row["model"]: row for row in ran.rows}
        assert rows["crashing"]["state"] == rows["exhausting"]["state"] == "failed"
        assert re.search(r"Slurm job \d+(_\d+)? ended without a result", rows["crashing"]["detail"])
        assert "It is submitted once more." in ran.err
        assert "The device ran out of memory" in rows["exhausting"]["detail"]

    def test_cancelled_job_is_resumed(self, shell: Shell, long: Path) -> None:
        process = shell.start("run", "tiny", "--dataset", "dots", *ROWS, "--executor", "slurm", registry=long)
        wait_until((shell.cell("tiny") / "history.jsonl").exists, seconds=120, process=process)
        subprocess.run(["scancel", slurm_id(shell, "tiny")], check=True)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 1, err
        assert '"state": "missing"' in out
        assert "was cancelled. Run again to go on with it." in out
        done = epochs(shell, "tiny")
        process = shell.start("run", "tiny", "--dataset", "dots", *ROWS, "--executor", "slurm", registry=long)
        _, err = process.communicate(timeout=480)
        assert process.returncode == 0, err
        (entry,) = shell.result("tiny")["interruptions"]
        assert entry["epoch"] >= done - 1

    def test_job_at_its_time_limit_is_saved_and_queued_again(self, shell: Shell, long: Path) -> None:
        process = shell.start("run", "tiny", "--dataset", "dots", *ROWS, "--executor", "slurm", registry=long)
        wait_until((shell.cell("tiny") / "history.jsonl").exists, seconds=120, process=process)
        # What Slurm sends some time before the limit.
        subprocess.run(["scancel", "--signal", "USR2", slurm_id(shell, "tiny")], check=True)
        logs = shell.folder / "runs" / ".executors" / "slurm" / "logs"
        wait_until(lambda: any("Requeued job" in path.read_text() for path in logs.glob("*_log.out")))
        # Slurm keeps a requeued task back for two minutes; its operator may let it go sooner.
        sooner = ["scontrol", "update", f"jobid={slurm_id(shell, 'tiny')}", "StartTime=now"]
        wait_until(lambda: subprocess.run(sooner, capture_output=True, check=False).returncode == 0)
        out, err = process.communicate(timeout=480)
        assert process.returncode == 0, err
        assert '"state": "done"' in out
        (entry,) = shell.result("tiny")["interruptions"]
        assert entry["epoch"] > 0

    def test_submitter_may_leave_and_status_asks_slurm(self, shell: Shell, long: Path) -> None:
        options = ("tiny", "--dataset", "dots", "--format", "json")
        process = shell.start("run", *options, "--executor", "slurm", "--detach", registry=long)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert "1 job is with Slurm. 'harness status' shows them; 'scancel" in err
        id_ = slurm_id(shell, "tiny")
        status = shell.start("status", *options, registry=long).communicate(timeout=60)[0]
        assert f"Slurm job {id_}: " in status
        again = shell.start("run", *options, "--executor", "slurm", "--detach", registry=long).communicate(timeout=60)[
            1
        ]
        assert "1 job is in the queue already and not submitted again." in again
        subprocess.run(["scancel", id_], check=True)
        wait_until(queue_is_empty)

    def test_refused_submission_is_a_sentence(self, shell: Shell) -> None:
        options = ("--executor", "slurm", "--executor-option", "partition=nowhere")
        ran = shell.run("run", "tiny", "--dataset", "dots", *ROWS, *options)
        assert ran.code == 3
        assert "Slurm refused the jobs" in ran.err
        assert "invalid partition" in ran.err.lower()
        assert "Traceback" not in ran.err


class TestRay:
    pytestmark = pytest.mark.slow

    def test_ray_trains_the_same_bits_if_a_worker_is_killed(self, shell: Shell) -> None:
        options = ("--dataset", "dots", *ROWS, "--checkpoint-every", "0", "--executor", "ray")
        ran = shell.run("run", "killed_once", "crashing", "tiny", *options)
        assert ran.code == 1
        rows = {row["model"]: row for row in ran.rows}
        assert {name: row["state"] for name, row in rows.items()} == {
            "killed_once": "done", "crashing": "failed", "tiny": "done",
        }  # fmt: skip
        assert "Its Ray worker died twice" in rows["crashing"]["detail"]
        assert len(shell.result("killed_once")["interruptions"]) == 1
        here = shell.run("run", "killed_once", "tiny", "--dataset", "dots", *ROWS, "--in-process", "--runs", "here")
        assert here.code == 0
        for model in ("killed_once", "tiny"):
            assert shell.result(model)["weights_sha256"] == shell.result(model, runs="here")["weights_sha256"]

    def test_ctrl_c_saves_and_the_same_command_resumes(self, shell: Shell, long: Path) -> None:
        process = shell.start("run", "tiny", "--dataset", "dots", *ROWS, "--executor", "ray", registry=long)
        wait_until((shell.cell("tiny") / "history.jsonl").exists, seconds=300, process=process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 130, err
        assert "Resume with: harness run tiny" in err
        done = epochs(shell, "tiny")
        assert 0 < done < 400
        process = shell.start("run", "tiny", "--dataset", "dots", *ROWS, "--executor", "ray", registry=long)
        _, err = process.communicate(timeout=480)
        assert process.returncode == 0, err
        (entry,) = shell.result("tiny")["interruptions"]
        assert entry["epoch"] == done

    def test_cluster_that_does_not_answer_is_a_sentence(self, shell: Shell) -> None:
        options = ("--executor", "ray", "--executor-option", "address=127.0.0.1:1")
        ran = shell.run("run", "tiny", "--dataset", "dots", *ROWS, *options)
        assert ran.code == 3
        assert "Ray does not answer at 127.0.0.1:1" in ran.err
        assert "Traceback" not in ran.err


def test_submissions_are_remembered_and_unreadable_ones_left_out(tmp_path: Path) -> None:
    tasks = [slurm._Task("7_0", Job("p", "m", "d", 0)), slurm._Task("7_1", Job("p", "m", "d", 1))]
    slurm._record(tmp_path, tasks)
    (tmp_path / "submitted-8.json").write_text("{")
    assert slurm._recorded_tasks(tmp_path) == tasks


def test_slurm_parameters_follow_from_what_was_asked() -> None:
    from harness.api import Resources

    resources = Resources(devices=("auto",), jobs=8, threads=4, needs_gpu=True)
    found = slurm._parameters(resources, {"partition": "gpu", "time": "600", "mem": "16GB"}, 4)
    assert found["partition"] == "gpu"
    assert (found["time"], found["cpus_per_task"], found["gpus_per_node"], found["array_parallelism"]) == (600, 4, 1, 8)
    assert found["setup"][:2] == ["export OMP_NUM_THREADS=4", "export PYTHONSAFEPATH=1"]
    assert "gpus_per_node" not in slurm._parameters(Resources(), {}, 1)
    assert os.environ.get("SLURM_JOB_ID") is None
