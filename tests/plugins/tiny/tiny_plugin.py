"""A plugin of tiny models and data sets, good and bad, that trains in a second. Installed for a test by its folder."""

from __future__ import annotations

import os
from pathlib import Path

from harness.api import DatasetSpec, ModelSpec, hookimpl

COLOURS = ((200, 40, 40), (40, 200, 40), (40, 40, 200), (180, 180, 40))


def build(num_classes):
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, num_classes),
    )


def build_big(num_classes):
    from torch import nn

    return nn.Sequential(*build(4), nn.Linear(4, 200), nn.Linear(200, num_classes))


def build_diverging(num_classes):
    """Becomes undefined in the fourth training step of the second epoch."""
    import torch
    from torch import nn

    class Diverging(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = build(num_classes)
            self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

        def forward(self, images):
            logits = self.inner(images)
            if self.training:
                self.steps += 1
                if self.steps == 8 + 4:
                    return logits * float("nan")
            return logits

    return Diverging()


def build_wrong_shape(num_classes):
    return build(num_classes + 1)


def build_nothing(num_classes):
    raise RuntimeError(f"no weights for {num_classes} classes")


def images(split, count, size_of, mode="RGB", label_of=lambda i: i % 4, colours=COLOURS):
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(len(split))
    for index in range(count):
        side = size_of(index)
        noise = random.integers(-30, 30, (side, side, 3))
        pixels = np.clip(np.array(colours[index % len(colours)]) + noise, 0, 255).astype(np.uint8)
        yield Image.fromarray(pixels).convert(mode), label_of(index), f"{split}-{index}"


SPLITS = {"train": 64, "test": 40}


LEAKAGE = {"bars": "3 of 40 test images show a bar that is also in train"}


def dataset(name, read):
    return DatasetSpec(
        name=name,
        title=name.title(),
        classes=("red", "green", "blue", "yellow"),
        splits=SPLITS,
        read=read,
        licence="CC0-1.0",
        citation="nobody",
        leakage=LEAKAGE.get(name, ""),
    )


def read_dots(folder: Path, split):
    return images(split, SPLITS[split], lambda index: 10)


def read_bars(folder: Path, split):
    return images(split, SPLITS[split], lambda index: 10 + index % 7)


def read_palette(folder: Path, split):
    return images(split, SPLITS[split], lambda index: 10, mode="P")


def read_wrong_label(folder: Path, split):
    return images(split, SPLITS[split], lambda index: 10, label_of=lambda i: i % 5)


def read_short(folder: Path, split):
    return images(split, SPLITS[split] - 1, lambda index: 10)


def read_long(folder: Path, split):
    return images(split, SPLITS[split] + 1, lambda index: 10)


def read_raising(folder: Path, split):
    yield from images(split, 3, lambda index: 10)
    raise OSError("the archive ends early")


def read_grey(folder: Path, split):
    return images(split, SPLITS[split], lambda index: 10, mode="L", colours=[(60, 60, 60), (180, 180, 180)])


@hookimpl
def harness_models():
    return [
        ModelSpec(name="tiny", build=build, paper="none"),
        ModelSpec(name="tiny2", build=build, paper="none", memory_format="contiguous"),
        ModelSpec(name="gentle", build=build, paper="none", lr_max=5e-4),
        ModelSpec(name="big", build=build_big, paper="none"),
        ModelSpec(name="diverging", build=build_diverging, paper="none"),
        ModelSpec(name="misshapen", build=build_wrong_shape, paper="none"),
        ModelSpec(name="unbuildable", build=build_nothing, paper="none"),
    ]


@hookimpl
def harness_datasets():
    readers = {
        "dots": read_dots,
        "bars": read_bars,
        "grey": read_grey,
        "palette": read_palette,
        "wrong_label": read_wrong_label,
        "short": read_short,
        "long": read_long,
        "raising": read_raising,
    }
    return [dataset(name, read) for name, read in readers.items()]


def _log(line):
    if path := os.environ.get("TINY_LOG"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(line + "\n")


@hookimpl
def harness_run_started(job):
    _log(f"started {job.model} {job.dataset}")
    if os.environ.get("TINY_OBSERVER_FAILS"):
        raise RuntimeError("the tracker's server is away")


@hookimpl
def harness_epoch_finished(job, record):
    _log(f"epoch {record.epoch}")


@hookimpl
def harness_run_finished(result):
    _log(f"finished {result.metrics['top1']:.1f}")
