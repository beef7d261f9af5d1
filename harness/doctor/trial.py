"""One small job in a process of its own, to be killed: ``python -m harness.doctor.trial JSON``.

Prints ``training`` when the first step has ended, so that whoever kills it knows when there is something to lose.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, SupportsFloat

from harness.api import Job, Reporter

TRAINING = "training"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What the process is told.

    Attributes:
        registry: The registry file; None for the shipped one.
        job: What to train.
        runs, data: Folders.
        device: What torch calls it.
        threads: Of the process.
        save_every: Seconds between checkpoints within an epoch.
        epochs: Instead of the protocol's number, to be quick.
    """

    registry: str | None
    job: Job
    runs: str
    data: str
    device: str
    threads: int
    save_every: float
    epochs: int

    def as_argument(self) -> str:
        """Return the command-line argument."""
        return json.dumps(asdict(self))


class _Announcer(Reporter):
    """Announces that training has begun, and why a job failed."""

    def __init__(self) -> None:
        self._announced = False

    def step_finished(self, job: Job, epoch: int, step: int, steps: int, loss: SupportsFloat) -> None:
        if not self._announced:
            self._announced = True
            print(TRAINING, flush=True)

    def notice(self, text: str) -> None:
        print(text, file=sys.stderr)


def main(argument: str) -> int:
    """Train the job, or go on with it; return 0 if it is done."""
    import msgspec
    import torch

    from harness.catalog import discover
    from harness.execute.runner import JobRunner
    from harness.machine import resolve_device
    from harness.registry import load_benchmark
    from harness.results.store import RunsFolder
    from harness.train.options import RunOptions
    from harness.workspace.workspace import Workspace

    told: dict[str, Any] = json.loads(argument)
    trial = Trial(**told | {"job": Job(**told["job"])})
    torch.set_num_threads(trial.threads)
    benchmark = load_benchmark(Path(trial.registry) if trial.registry else None)
    # Under the protocol's name, but of another digest: such a result could never be taken for a real one.
    short = msgspec.structs.replace(benchmark.protocol(trial.job.protocol), epochs=trial.epochs, warmup_epochs=1)
    protocols = {**benchmark.protocols, trial.job.protocol: short}
    workspace = Workspace(
        msgspec.structs.replace(benchmark, protocols=protocols),
        discover(),
        RunsFolder(Path(trial.runs)),
        Path(trial.data),
    )
    options = RunOptions(save_every=trial.save_every)
    runner = JobRunner(workspace, resolve_device(trial.device), _Announcer(), options)
    cell = runner(trial.job)
    if cell.state != "done":
        print(cell.detail, file=sys.stderr)
    return 0 if cell.state == "done" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
