"""Executor plugin: a Slurm cluster, with one task of a job array per job, which submitit submits and requeues.

A file beside the results records the task of each job, and ``squeue`` shows its state. So the process that submitted
may end, and another one follows the tasks. Accounting (``sacct``) is not needed.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from harness.api import (
    CannotContinueError,
    Cell,
    ExecutorSpec,
    Job,
    LogReporter,
    Resources,
    RunOne,
    StoppedError,
    StopSignal,
    Work,
    WrongUseError,
    hookimpl,
    write_text_atomically,
    writing_to,
)

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

_OPTIONS = {
    "partition": "the partition to submit to",
    "time": "minutes per task; at the limit it saves, is requeued and resumes (default 1440)",
    "account": "the account to charge",
    "qos": "quality of service",
    "mem": "memory per task, such as 16GB",
    "gpus": "GPUs per task (default 1 if the protocol or --device needs a GPU)",
    "constraint": "features that a node must have",
    "exclude": "nodes to leave out",
    "signal_delay": "seconds before the time limit at which a task saves (default 90)",
    "setup": "a shell line to run before each task, such as 'module load cuda'",
}
_MINUTES = 1440
_REQUEUES = 1000
_ARRAY = 1000  # Slurm's default limit, MaxArraySize, is 1001
_POLL_SECONDS = 2.0
_RETRIED = frozenset({"FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"})


@dataclass(frozen=True)
class _Task:
    """One task of a submitted job array."""

    id: str
    job: Job


class RequeuedRunOne:
    """The function of a task: it trains, and at Slurm's warning it saves the position and is requeued."""

    def __init__(self, run_one: RunOne, device: str, threads: int) -> None:
        self._run_one = run_one
        self._device = device
        self._threads = threads

    def __call__(self, job: Job) -> Cell:
        """Train a job; called on the node."""
        stop = StopSignal()
        warned: list[int] = []

        def save(number: int, _: object) -> None:
            warned.append(number)
            stop.wanted = True

        # submitit's own handler would end the process within a step, so it is called once the position is saved.
        warning = getattr(signal, "SIGUSR2", None)
        requeue = signal.getsignal(warning) if warning else None
        try:
            with stop.installed():
                if warning:
                    signal.signal(warning, save)
                return self._run_one(job, device=self._device, threads=self._threads, reporter=LogReporter(stop))
        except StoppedError:
            if warned and callable(requeue):
                requeue(warned[0], None)
            raise

    def checkpoint(self, job: Job) -> DelayedSubmission:
        """Return the function to run after a requeue; submitit calls this."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, job)


def execute(work: Work) -> Iterator[Cell]:
    """Submit the jobs that are not in the queue, and yield each outcome as its task leaves the queue.

    Raises:
        CannotContinueError: submitit or Slurm is missing, or a submission was refused.
        StoppedError: the user asked to stop. The submitted tasks run on.
    """
    _require_slurm()
    options = _options(work.resources)
    queued = {task.job: task for task in _queued_tasks(work.folder)}
    following = [queued[job] for job in work.jobs if job in queued]
    if following:
        work.reporter.notice(
            f"{_count(len(following), 'job is', 'jobs are')} in the queue already and not submitted again."
        )
    following += _submit(work, [job for job in work.jobs if job not in queued], options)
    arrays = sorted({task.id.partition("_")[0] for task in following})
    cancel = f"'harness status' shows them; 'scancel {' '.join(arrays)}' ends them."
    if work.resources.detach:
        work.reporter.notice(f"{_count(len(following), 'job is', 'jobs are')} with Slurm. {cancel}")
        return
    try:
        yield from _follow(work, following, options)
    except StoppedError:
        work.reporter.notice(f"The submitted jobs run on. {cancel}")
        raise


def waiting(folder: Path) -> Mapping[Job, str]:
    """Return the jobs in Slurm's queue with their states."""
    tasks = _recorded_tasks(folder)
    if not tasks or shutil.which("squeue") is None:
        return {}
    queue = _queue()
    return {task.job: f"Slurm job {task.id}: {queue[task.id]}" for task in tasks if task.id in queue}


def _follow(work: Work, tasks: Sequence[_Task], options: Mapping[str, str]) -> Iterator[Cell]:
    waiting_for = {task.id: task for task in tasks}
    started: set[Job] = set()
    attempts: Counter[Job] = Counter()
    while waiting_for:
        if work.reporter.should_stop():
            raise StoppedError
        time.sleep(_POLL_SECONDS)
        try:
            queue = _queue()
        except CannotContinueError:
            continue  # a controller is sometimes away for a moment; Ctrl-C ends the waiting
        for id_, task in list(waiting_for.items()):
            state = queue.get(id_, "")
            if state.startswith("running") and task.job not in started:
                started.add(task.job)
                work.reporter.job_started(task.job)
            if state:
                continue
            del waiting_for[id_]
            outcome = work.run_one.look(task.job)
            if outcome.state == "missing":
                ended, log = _ended_as(id_), _log(work.folder, id_)
                sentence = f"Slurm job {id_} ended without a result ({ended or 'its state is forgotten'}). {log}"
                if ended.startswith("CANCELLED") or not log:
                    outcome = replace(outcome, detail=f"Slurm job {id_} was cancelled. Run again to go on with it.")
                elif ended.partition(" ")[0] in _RETRIED and not attempts[task.job]:
                    attempts[task.job] += 1
                    work.reporter.notice(f"{task.job}: {sentence} It is submitted once more.")
                    waiting_for |= {again.id: again for again in _submit(work, [task.job], options)}
                    continue
                else:
                    outcome = work.run_one.fail(task.job, sentence)
            work.reporter.job_finished(outcome)
            yield outcome


def _submit(work: Work, jobs: Sequence[Job], options: Mapping[str, str]) -> list[_Task]:
    import submitit

    tasks: list[_Task] = []
    resources = work.resources
    threads = resources.threads or 1
    with writing_to(work.folder):
        work.folder.mkdir(parents=True, exist_ok=True)
    executor = submitit.SlurmExecutor(folder=work.folder / "logs", max_num_timeout=_REQUEUES)
    try:
        executor.update_parameters(**_parameters(resources, options, threads))
        function = RequeuedRunOne(work.run_one, resources.devices[0], threads)
        for first in range(0, len(jobs), _ARRAY):
            chunk = jobs[first : first + _ARRAY]
            submitted = executor.map_array(function, chunk)
            new = [_Task(str(one.job_id), job) for one, job in zip(submitted, chunk, strict=True)]
            _record(work.folder, new)
            tasks += new
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        lines = " ".join(str(error).split())
        raise CannotContinueError(f"Slurm refused the jobs: {lines}") from error
    return tasks


def _parameters(resources: Resources, options: Mapping[str, str], threads: int) -> dict[str, Any]:
    gpus = options.get("gpus", "1" if resources.needs_gpu else "")
    path = os.pathsep.join(entry for entry in sys.path if Path(entry).is_absolute())
    setup = [
        f"export OMP_NUM_THREADS={threads}",
        # A task is started by ``python -m``, which would search the working folder first.
        "export PYTHONSAFEPATH=1",
        f"export PYTHONPATH={shlex.quote(path)}",
        *([options["setup"]] if "setup" in options else []),
    ]
    found: dict[str, Any] = {
        "job_name": "xscore-harness",
        "time": _whole("time", options.get("time", str(_MINUTES))),
        "cpus_per_task": threads,
        "ntasks_per_node": 1,
        "signal_delay_s": _whole("signal_delay", options.get("signal_delay", "90")),
        "array_parallelism": resources.jobs or _ARRAY,
        "stderr_to_stdout": True,
        "setup": setup,
        "wckey": None,
        **{
            name: options[name]
            for name in ("partition", "account", "qos", "mem", "constraint", "exclude")
            if name in options
        },
    }
    if gpus and gpus != "0":
        found["gpus_per_node"] = _whole("gpus", gpus)
    return found


def _options(resources: Resources) -> Mapping[str, str]:
    if resources.jobs_per_gpu > 1:
        raise WrongUseError(
            "Slurm gives each task its own GPU, so --jobs-per-gpu does not apply. If the cluster shares GPUs, "
            "ask for a share by --executor-option, as its manual says."
        )
    return resources.options


def _whole(name: str, text: str) -> int:
    if not text.isdecimal():
        raise WrongUseError(f"The executor option {name} is {text!r}, expected a whole number.")
    return int(text)


def _require_slurm() -> None:
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise CannotContinueError(
            "The executor 'slurm' needs submitit. Run: pip install 'xscore-harness[slurm]'"
        ) from None
    missing = [name for name in ("sbatch", "srun", "squeue") if shutil.which(name) is None]
    if missing:
        raise CannotContinueError(
            f"This machine has no {missing[0]}, so it cannot submit to Slurm. Run this on the cluster's login node."
        )


def _queue() -> dict[str, str]:
    """Return the states of this user's tasks that wait or run, by task id.

    Raises:
        CannotContinueError: the controller does not answer.
    """
    command = ["squeue", "--noheader", "--array", "--user", getpass.getuser(), "--format", "%i|%T|%r|%N"]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", "") or str(error)
        raise CannotContinueError(f"squeue does not answer: {reason.strip()}") from error
    found = {}
    for line in ran.stdout.splitlines():
        id_, state, reason, node = (*line.strip().split("|"), "", "", "")[:4]
        place = f" on {node}" if node else "" if reason in ("", "None") else f" ({reason})"
        found[id_] = state.lower() + place
    return found


def _ended_as(id_: str) -> str:
    """Return the state in which a task ended; empty once the controller has forgotten it, after some minutes."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["scontrol", "show", "job", "--oneliner", id_]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        state = re.search(r"\bJobState=(\w+)", ran.stdout)
        code = re.search(r"\bExitCode=(\d+):(\d+)", ran.stdout)
        if state:
            return state[1] + (
                f" with exit code {code[1]}, signal {code[2]}" if code and code[0] != "ExitCode=0:0" else ""
            )
    return ""


def _log(folder: Path, id_: str) -> str:
    """Return a sentence with the path and the last line of a task's log; empty without a log: it never started."""
    for path in sorted((folder / "logs").glob(f"{id_}_*_log.out")):
        lines = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        return f"Its log, {path}, ends: {lines[-1].strip()}" if lines else f"Its log, {path}, is empty."
    return ""


def _record(folder: Path, tasks: Sequence[_Task]) -> None:
    content = {"schema": 1, "tasks": [{"id": task.id, **asdict(task.job)} for task in tasks]}
    name = tasks[0].id.partition("_")[0]
    write_text_atomically(folder / f"submitted-{name}.json", json.dumps(content, indent=2) + "\n")


def _recorded_tasks(folder: Path) -> list[_Task]:
    tasks = []
    for path in sorted(folder.glob("submitted-*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            for entry in json.loads(path.read_bytes())["tasks"]:
                tasks.append(_Task(entry.pop("id"), Job(**entry)))
    return tasks


def _queued_tasks(folder: Path) -> list[_Task]:
    """Return the tasks that are in the queue, and delete the records of submissions that have left it completely."""
    tasks = _recorded_tasks(folder)
    if not tasks:
        return []
    queue = _queue()
    alive = [task for task in tasks if task.id in queue]
    arrays = {task.id.partition("_")[0] for task in alive}
    for path in folder.glob("submitted-*.json"):
        if path.stem.removeprefix("submitted-") not in arrays:
            path.unlink(missing_ok=True)
    return alive


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


@hookimpl
def harness_executors() -> list[ExecutorSpec]:
    """Register the executor. ``execute`` finds out whether Slurm is there."""
    return [
        ExecutorSpec(
            name="slurm",
            title="A Slurm cluster, by submitit: pip install 'xscore-harness[slurm]'",
            execute=execute,
            remote=True,
            options=MappingProxyType(_OPTIONS),
            waiting=waiting,
        )
    ]
