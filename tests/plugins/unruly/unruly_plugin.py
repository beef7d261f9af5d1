"""Models that end or block the process that trains them, in the fourth step of the second epoch."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from harness.api import ModelSpec, hookimpl


def build_with(misdeed, num_classes):
    import torch
    from torch import nn

    class Unruly(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(
                nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(8),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(8, num_classes),
            )
            self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

        def forward(self, images):
            if self.training:
                self.steps += 1
                if self.steps == 8 + 4:
                    misdeed()
            return self.inner(images)

    return Unruly()


def once(misdeed):
    """Do it only in the first process that comes here; the others find the mark."""
    mark = Path(os.environ["UNRULY_MARK"])
    if not mark.exists():
        mark.write_text("")
        misdeed()


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def crash():
    os.kill(os.getpid(), signal.SIGSEGV)


def hang():
    time.sleep(3600)


def exhaust():
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 1 GiB")


def chatter():
    print("a plugin that prints to stdout")
    sys.stdout.flush()


def build_killed_once(num_classes):
    return build_with(lambda: once(kill), num_classes)


def build_asked_once(num_classes):
    return build_with(lambda: once(lambda: os.kill(os.getpid(), signal.SIGTERM)), num_classes)


def build_crashing(num_classes):
    return build_with(crash, num_classes)


def build_hanging(num_classes):
    return build_with(hang, num_classes)


def build_exhausting(num_classes):
    return build_with(exhaust, num_classes)


def build_chatty(num_classes):
    return build_with(chatter, num_classes)


@hookimpl
def harness_models():
    return [
        ModelSpec(name="killed_once", build=build_killed_once, paper="none"),
        ModelSpec(name="asked_once", build=build_asked_once, paper="none"),
        ModelSpec(name="crashing", build=build_crashing, paper="none"),
        ModelSpec(name="hanging", build=build_hanging, paper="none"),
        ModelSpec(name="exhausting", build=build_exhausting, paper="none"),
        ModelSpec(name="chatty", build=build_chatty, paper="none"),
    ]
