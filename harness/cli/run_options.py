"""Options that say how jobs are carried out: devices, how many at a time, and by whom."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import click

from harness.cli import completion
from harness.execute.resources import Asked, parse_duration


@dataclass(frozen=True)
class Execution:
    """How a user wants jobs to be carried out.

    Attributes:
        asked: Devices and numbers, as typed.
        executor: The executor's name.
        checkpoint_every: Seconds between checkpoints within an epoch.
    """

    asked: Asked
    executor: str
    checkpoint_every: float


def place_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say where jobs run and how many at a time, and hand them on as one Asked."""

    @functools.wraps(command)
    def with_place(
        *arguments: Any,
        device: str,
        jobs: str | None,
        jobs_per_gpu: int | None,
        threads: int | None,
        **others: Any,
    ) -> Any:
        asked = Asked(device=device, jobs=jobs, jobs_per_gpu=jobs_per_gpu, threads=threads)
        return command(*arguments, asked=asked, **others)

    return _with_options(with_place, _PLACE)


def execution_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add all options that say how jobs are carried out, and hand them to the command as one Execution."""

    @functools.wraps(command)
    def with_execution(
        *arguments: Any,
        asked: Asked,
        timeout: str,
        executor: str,
        executor_options: tuple[str, ...],
        detach: bool,
        in_process: bool,
        checkpoint_every: str,
        **others: Any,
    ) -> Any:
        whole = replace(asked, timeout=timeout, in_process=in_process, detach=detach, options=executor_options)
        every = parse_duration("--checkpoint-every", checkpoint_every)
        return command(*arguments, execution=Execution(whole, executor, every), **others)

    return place_options(_with_options(with_execution, _CARE))


def _with_options(command: Callable[..., Any], options: tuple[Callable[..., Any], ...]) -> Callable[..., Any]:
    for decorate in reversed(options):
        command = decorate(command)
    return command


_PLACE = (
    click.option(
        "--device",
        metavar="auto|cpu|cuda[:i]|mps",
        default="auto",
        show_default=True,
        shell_complete=completion.devices,
        help="Where to train; results from mps are marked as not comparable.",
    ),
    click.option(
        "--jobs",
        metavar="N|auto",
        help="Jobs at the same time, each in its own process; auto: one a GPU, or one a core.  [default: 1]",
    ),
    click.option(
        "--jobs-per-gpu",
        type=click.IntRange(min=1),
        metavar="N",
        help="Jobs that share a GPU; small networks leave a big one idle.  [default: 1]",
    ),
    click.option(
        "--threads",
        type=click.IntRange(min=1),
        metavar="N",
        help="CPU threads for a job. Results are equal bit for bit at equal threads.  [default: cores / jobs]",
    ),
    click.option(
        "--executor",
        metavar="NAME",
        default="local",
        show_default=True,
        shell_complete=completion.executors,
        help="Who carries out the jobs: local, slurm, ray or a plugin's; 'harness list executors' shows them.",
    ),
)
_CARE = (
    click.option(
        "--timeout",
        metavar="DURATION",
        default="1h",
        show_default=True,
        help="End a job that makes no progress for so long, such as 90s or 30m; 0 waits for ever.",
    ),
    click.option(
        "--checkpoint-every",
        metavar="DURATION",
        default="300s",
        show_default=True,
        help="Time between checkpoints within an epoch. Its end is one, too, unless the last was moments ago.",
    ),
    click.option(
        "--executor-option",
        "executor_options",
        metavar="KEY=VALUE",
        multiple=True,
        help="A setting of the executor, such as partition=gpu; repeatable.",
    ),
    click.option("--detach", is_flag=True, help="Submit to the cluster and return; 'harness status' shows the rest."),
    click.option("--in-process", is_flag=True, help="Train in this process, one job at a time, for a debugger."),
)
