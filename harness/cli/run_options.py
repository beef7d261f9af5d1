"""Options of training: devices, parallel jobs, executor, and the options of each run."""

from __future__ import annotations

from typing import Any

import click

from harness.cli.common_options import complete_devices, complete_executors, complete_trackers, grouped
from harness.execute.resources import ResourceRequest, parse_duration
from harness.train.options import RunOptions
from harness.train.save_timer import EPOCH_PAUSE, SAVE_EVERY

COMPILE_MODES = ("default", "reduce-overhead")  # those of harness.train.environment, which imports torch

track_option = click.option(
    "--track",
    metavar="TRACKER",
    multiple=True,
    shell_complete=complete_trackers,
    envvar="HARNESS_TRACK",
    show_envvar=True,
    help="Log the runs to this tool; repeatable. 'harness list trackers' shows them.",
)


executor_option = click.option(
    "--executor",
    metavar="NAME",
    default="local",
    show_default=True,
    shell_complete=complete_executors,
    help="The executor: local, slurm, ray or a plugin's; 'harness list executors' shows them.",
)
_MOST = 1024  # parallel jobs, and threads of one


def _few_jobs(_: click.Context, parameter: click.Parameter, given: str | None) -> str | None:
    if given is not None and given.isdecimal() and (len(given) > 9 or int(given) > _MOST):
        raise click.BadParameter(f"{given} is more than {_MOST:,}.", param=parameter)
    return given


_PLACE = (
    click.option(
        "--device",
        metavar="auto|cpu|cuda[:i]|mps",
        default="auto",
        show_default=True,
        shell_complete=complete_devices,
        help="Device to train on; results from mps are marked as not comparable.",
    ),
    click.option(
        "--jobs",
        callback=_few_jobs,
        metavar="N|auto",
        help="Parallel jobs, each in its own process; auto: one per GPU, or one per core.  [default: 1]",
    ),
    click.option(
        "--jobs-per-gpu",
        type=click.IntRange(1, _MOST),
        metavar="N",
        help="Jobs that share a GPU; one small network leaves a large GPU idle.  [default: 1]",
    ),
    click.option(
        "--threads",
        type=click.IntRange(1, _MOST),
        metavar="N",
        help="CPU threads per job. Equal numbers of threads give equal bits.  [default: cores / jobs]",
    ),
)
_CARE = (
    click.option(
        "--timeout",
        metavar="DURATION",
        default="1h",
        show_default=True,
        help="Kill a job that makes no progress for this long, such as 90s or 30m; 0 never kills.",
    ),
    click.option(
        "--executor-option",
        "executor_options",
        metavar="KEY=VALUE",
        multiple=True,
        help="A setting of the executor, such as partition=gpu; repeatable.",
    ),
    click.option("--detach", is_flag=True, help="Submit to the cluster and exit; 'harness status' shows the jobs."),
    click.option(
        "--in-process",
        is_flag=True,
        help="Train in this process, for a debugger: one job at a time, and what one job's code changes in torch stays "
        "for the next.",
    ),
)
_TRAINING = (
    click.option(
        "--checkpoint-every",
        "save_every",
        metavar="DURATION",
        default=f"{SAVE_EVERY:g}s",
        show_default=True,
        help="Interval between checkpoints. One is also written at the end of an epoch, unless the last is under "
        f"{EPOCH_PAUSE:g} s old.",
    ),
    click.option(
        "--profile", is_flag=True, help="Measure each job's time by phase: profile.json, and a table at the end."
    ),
    click.option(
        "--compile",
        "compile_mode",
        type=click.Choice(COMPILE_MODES),
        help="Train with torch.compile. The results are marked; they agree with others, but not bit for bit.  "
        "[default: off]",
    ),
    track_option,
)


def _make_run_options(save_every: str, track: tuple[str, ...], **values: Any) -> RunOptions:
    return RunOptions(save_every=parse_duration("--checkpoint-every", save_every), trackers=track, **values)


place_options = grouped("resources", ResourceRequest, *_PLACE)
"""Adds the options of the device and of parallel jobs, and hands them to the command as one ResourceRequest."""
resource_options = grouped("resources", ResourceRequest, *_PLACE, *_CARE)
"""Adds the same options and those of time limits and executors."""
training_options = grouped("options", _make_run_options, *_TRAINING)
"""Adds the options of each run, and hands them to the command as one RunOptions."""
