"""Checks of devices, threads, determinism and arithmetic."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from harness.doctor import Examination, Finding
from harness.errors import one_line
from harness.machine import (
    bound_cores,
    core_limit,
    cpu_name,
    gigabytes,
    memory_bytes,
    nvidia_driver,
    thread_variables,
    usable_cores,
)

if TYPE_CHECKING:
    from torch import nn

_BUSY = 0.5  # share of the cores that other programs may use before a warning
_SIDE, _CLASSES, _BATCH, _STEPS = 16, 4, 8, 4


def check_devices(examination: Examination) -> Iterator[Finding]:
    """Train a step on every device that torch sees."""
    import torch

    yield _trained("cpu", f"{cpu_name()}, {usable_cores()} cores, {_memory()} of memory")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for index in range(count):
        facts = torch.cuda.get_device_properties(index)
        yield _trained(
            f"cuda:{index}", f"{facts.name}, {gigabytes(facts.total_memory)}, driver {nvidia_driver() or 'unknown'}"
        )
    if torch.backends.mps.is_available():
        yield _trained("mps", "Apple GPU; its results are not comparable with those of other devices")
    if examination.protocol.accelerator and not count:
        reason = "torch was built without CUDA" if not torch.version.cuda else "torch sees no CUDA device"
        yield Finding(
            "cuda",
            "warning",
            f"{reason}, and {examination.protocol.name} is made for one",
            "On a machine with an NVIDIA GPU, install its driver and a CUDA build of torch. Without: "
            "harness run --all --suite pocket",
        )


def check_chosen_device(examination: Examination) -> Iterator[Finding]:
    """Find the requested device."""
    from harness.machine import resolve_device

    device = resolve_device(examination.device)
    if examination.device != "auto":
        yield Finding("device", "ok", f"{examination.device} is there")
    elif device.type == "cpu":
        yield Finding("device", "ok", "auto means the CPU here")
    else:
        yield Finding("device", "ok", f"auto means {device} here")


def check_threads(_examination: Examination) -> Iterator[Finding]:
    """Compare cores, limits and variables with the threads that torch would start, and read the machine's load."""
    import torch

    cores, threads = usable_cores(), torch.get_num_threads()
    limit = core_limit()
    facts = [f"{cores} usable cores", f"{threads} threads in torch"]
    if limit is not None and limit < bound_cores():
        facts.append(f"a container limit of {limit:g} cores")
    facts += [f"{name}={value}" for name, value in thread_variables().items()]
    if threads > cores:
        yield Finding(
            "threads",
            "warning",
            ", ".join(facts),
            f"More threads than cores wait for each other: say --threads {cores}, or export OMP_NUM_THREADS={cores}.",
        )
    else:
        yield Finding("threads", "ok", ", ".join(facts))
    if hasattr(os, "getloadavg"):
        load = os.getloadavg()[0]
        busy = f"load average {load:.1f} on {cores} cores"
        if load > _BUSY * cores:
            advice = "Other programs use the cores; training and timing are slower until they end."
            yield Finding("load", "warning", busy, advice)
        else:
            yield Finding("load", "ok", busy)


def check_determinism(examination: Examination) -> Iterator[Finding]:
    """Train twice on the chosen device from one seed; the weights must be the same bits."""
    from harness.machine import resolve_device

    device = str(resolve_device(examination.device))
    first, second = train_probe(device), train_probe(device)
    if first == second:
        cublas = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
        flags = f"; CUBLAS_WORKSPACE_CONFIG is {cublas or 'set by every run'}" if device.startswith("cuda") else ""
        yield Finding("determinism", "ok", f"two trainings of {_STEPS} steps on {device} end in the same bits{flags}")
    else:
        yield Finding(
            "determinism",
            "problem",
            f"two trainings of {_STEPS} steps on {device} end in weights {first[:12]} and {second[:12]}",
            "Results on this device can't be repeated bit for bit. Look for faulty memory or an unusual build of "
            "torch; on CUDA, leave CUBLAS_WORKSPACE_CONFIG unset or at :4096:8.",
        )


def check_arithmetic(examination: Examination) -> Iterator[Finding]:
    """Compare the numbers of the installed libraries with the certificate of the frozen protocol."""
    from harness.doctor.golden import PROTOCOL, certified, compute, differences

    if PROTOCOL not in examination.workspace.benchmark.protocols:
        yield Finding("arithmetic", "skipped", f"the registry in use has no protocol {PROTOCOL}")
        return
    found = compute(examination.workspace.benchmark.protocol(PROTOCOL), examination.workspace.catalog)
    wrong = differences(found, certified())
    if not wrong:
        yield Finding("arithmetic", "ok", f"all {len(found)} parts of {PROTOCOL} agree with the certificate")
    else:
        yield Finding(
            "arithmetic",
            "problem",
            "; ".join(wrong.values()),
            "An installed library computes other numbers than when the protocol was frozen, so results would not be "
            "comparable. Install the versions that the harness was released with.",
        )


def train_probe(device: str) -> str:
    """Train a small network for a few steps on random images; return the hash of its weights.

    It has the operations of the architectures: convolutions, plain and per channel, normalisation, dropout, attention.
    """
    import torch
    from torch.nn import functional as F

    from harness.train.environment import frozen_numerics
    from harness.train.setup import seeded
    from harness.train.task import weights_hash

    with frozen_numerics(), seeded(0, "doctor"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about operators without a deterministic form, which the comparison finds
        module = _probe().to(device).train()
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
        for _ in range(_STEPS):
            images = torch.rand(_BATCH, 3, _SIDE, _SIDE).to(device)
            labels = torch.randint(_CLASSES, (_BATCH,)).to(device)
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(module(images), labels, label_smoothing=0.05).backward()
            optimizer.step()
        return weights_hash(module)


def _probe() -> nn.Module:
    import torch
    from torch import nn

    class Probe(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.SiLU(),
                nn.Conv2d(16, 16, 5, padding=2, groups=16), nn.GELU(), nn.Conv2d(16, 32, 1), nn.Dropout(0.1),
            )  # fmt: skip
            self.attention = nn.MultiheadAttention(32, 2, batch_first=True)
            self.head = nn.Linear(32, _CLASSES)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            tokens = self.body(images).flatten(2).transpose(1, 2)
            tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
            logits: torch.Tensor = self.head(tokens.mean(dim=1))
            return logits

    return Probe()


def _trained(device: str, facts: str) -> Finding:
    try:
        train_probe(device)
    except Exception as error:  # drivers fail in their own ways
        advice = "Update the driver, or choose another device with --device." if device != "cpu" else ""
        return Finding(device, "problem", f"{facts}; training on it fails: {one_line(error)[:300]}", advice)
    return Finding(device, "ok", f"{facts}; a training step works")


def _memory() -> str:
    memory = memory_bytes()
    return "an unknown amount" if memory is None else gigabytes(memory)
