"""ResourceRequest (devices and jobs, as typed) -> Resources, checked against this machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from harness.api import ExecutorSpec, Resources
from harness.errors import WrongUseError, unknown_name
from harness.machine import device_without_torch, room_on_cpu, torch_threads

_SECONDS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, kw_only=True)
class ResourceRequest:
    """The resources that the user asked for, as typed.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        jobs: Jobs at the same time: a number, or ``auto`` for as many as there is room for; None for one.
        jobs_per_gpu: How many share a GPU; None for one.
        threads: CPU threads for a job; None for the cores divided by the jobs.
        timeout: How long a job may go without progress, such as ``90``, ``30m`` or ``0`` for ever.
        in_process: Train in the calling process.
        detach: Submit and return.
        executor_options: ``KEY=VALUE`` for the executor.
    """

    device: str = "auto"
    jobs: str | None = None
    jobs_per_gpu: int | None = None
    threads: int | None = None
    timeout: str = "1h"
    in_process: bool = False
    detach: bool = False
    executor_options: tuple[str, ...] = ()


def resolve_resources(asked: ResourceRequest, executor: ExecutorSpec, *, accelerator: bool) -> Resources:
    """Turn a request into the resources that the executor gets.

    Args:
        asked: The request, as typed.
        executor: The executor that will carry out the jobs.
        accelerator: True for a protocol that is made for an accelerator.

    Raises:
        WrongUseError: what was asked does not go together, or does not exist.
        CannotContinueError: this machine has no such device.
    """
    options = _parse_options(asked.executor_options, executor)
    timeout = parse_duration("--timeout", asked.timeout) or None
    jobs = _number("--jobs", asked.jobs)
    if asked.detach and executor.waiting is None:
        raise WrongUseError(
            f"--detach does not go with the executor '{executor.name}', which keeps no queue of its own."
        )
    if executor.remote:
        if asked.in_process:
            raise WrongUseError(f"--in-process does not go with the executor '{executor.name}'.")
        return Resources(
            devices=(asked.device,),
            jobs=jobs,
            jobs_per_gpu=asked.jobs_per_gpu or 1,
            threads=asked.threads or 1,
            timeout=timeout,
            needs_gpu=asked.device.startswith("cuda") or (accelerator and asked.device == "auto"),
            detach=asked.detach,
            options=options,
        )
    devices = _slots(asked, jobs)
    if asked.in_process and len(devices) > 1:
        raise WrongUseError(f"--in-process trains one job at a time, but --jobs is {len(devices)}.")
    return Resources(
        devices=devices,
        jobs=len(devices),
        jobs_per_gpu=asked.jobs_per_gpu or 1,
        threads=asked.threads or threads_for_each(len(devices)),
        timeout=timeout,
        in_process=asked.in_process,
        options=options,
    )


def threads_for_each(jobs: int) -> int | None:
    """Return the CPU threads for each of several jobs: torch's own number divided by them; None leaves it alone.

    Two trainings that each start as many threads as there are cores were measured 10 to 30 times slower than one after
    the other: OpenMP's threads spin while they wait.
    """
    return None if jobs == 1 else max(1, torch_threads() // jobs)


def parse_duration(option: str, text: str) -> float:
    """Return seconds.

    >>> [parse_duration("--timeout", text) for text in ("90", "1.5h", "30m", "0")]
    [90.0, 5400.0, 1800.0, 0.0]

    Raises:
        WrongUseError: it is no duration.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower())
    if not match or match[2] not in _SECONDS:
        raise WrongUseError(f"{option} is {text!r}, expected a duration such as 90, 90s, 30m, 2h or 1d.")
    return float(match[1]) * _SECONDS[match[2]]


def _slots(asked: ResourceRequest, jobs: int | None) -> tuple[str, ...]:
    """Return a device name for each job at the same time."""
    if device_without_torch(asked.device) is not None:
        if asked.jobs_per_gpu is not None:
            raise WrongUseError("--jobs-per-gpu does not apply to the device 'cpu'.")
        return ("cpu",) * (jobs or (room_on_cpu() if asked.jobs == "auto" else 1))
    import torch

    from harness.machine import resolve_device

    first = resolve_device(asked.device)
    if first.type != "cuda":
        if asked.jobs_per_gpu is not None:
            raise WrongUseError(f"--jobs-per-gpu does not apply to the device '{first}'.")
        if first.type == "mps" and (jobs or 1) > 1:
            raise WrongUseError(f"--jobs is {jobs}, but an MPS device carries out one job at a time.")
        return (str(first),) * (jobs or (room_on_cpu() if asked.jobs == "auto" and first.type == "cpu" else 1))
    named = ":" in asked.device
    gpus = [first.index or 0] if named else list(range(torch.cuda.device_count()))
    each = asked.jobs_per_gpu or 1
    room = len(gpus) * each
    count = jobs or (room if asked.jobs == "auto" or asked.jobs_per_gpu else 1)
    if count > room:
        raise WrongUseError(
            f"--jobs is {count}, but there is room for {room}: {len(gpus)} GPU{'s' if len(gpus) > 1 else ''} with "
            f"{each} job{'s' if each > 1 else ''} each. Several share one with --jobs-per-gpu {-(-count // len(gpus))}."
        )
    return tuple(f"cuda:{gpus[slot % len(gpus)]}" for slot in range(count))


def _number(option: str, text: str | None) -> int | None:
    if text is None or text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise WrongUseError(f"{option} is {text!r}, expected a number from 1 on, or auto.")
    return int(text)


def _parse_options(pairs: tuple[str, ...], executor: ExecutorSpec) -> Mapping[str, str]:
    found = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign:
            raise WrongUseError(f"--executor-option is {pair!r}, expected KEY=VALUE.")
        if name not in executor.options:
            raise WrongUseError(unknown_name(f"option of the executor '{executor.name}'", name, executor.options))
        found[name] = value
    return MappingProxyType(found)
