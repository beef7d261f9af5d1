"""How fast a model trains on a device: a few real steps, timed."""

from __future__ import annotations

import time

import torch
from torch.nn import functional as F

from harness.api import ModelSpec
from harness.catalog import Offer
from harness.identity import build_module
from harness.registry import Protocol
from harness.train.environment import frozen_numerics
from harness.train.loop import build_optimizer, seeded, to_layout

_CLASSES = 100


def training_images_per_second(
    model: Offer[ModelSpec], protocol: Protocol, device: torch.device, *, steps: int = 1
) -> float:
    """Time forward, backward and optimiser on random batches at the protocol's size, after one step to warm up.

    Raises:
        PluginError: the model does not build.
    """
    with frozen_numerics(), seeded(0, "speed"):
        module = to_layout(build_module(model, _CLASSES), device, model.spec.memory_format).train()
        optimizer = build_optimizer(module, protocol)
        size = protocol.input_size
        inputs = torch.randn(protocol.batch_size, 3, size, size, device=device)
        inputs = inputs.to(memory_format=torch.channels_last)
        labels = torch.zeros(protocol.batch_size, dtype=torch.int64, device=device)
        began = 0.0
        for step in range(steps + 1):
            if step == 1:
                began = _clock(device)
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(module(inputs), labels).backward()
            optimizer.step()
        return steps * protocol.batch_size / (_clock(device) - began)


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic()
