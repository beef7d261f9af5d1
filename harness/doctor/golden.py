"""The certificate: the numbers that the frozen protocol computes, in a file, to detect a library that changes them.

Tests that compare the harness with torchvision fail to notice a new version that changes both in the same way. So the
certificate holds the output of each part of the protocol when it was frozen, for images and numbers from plain
arithmetic: random draws, order, learning rates, every augmentation, resizing, normalisation, loss, gradient, Adam.

    python -m harness.doctor.golden          compare this machine with the certificate
    python -m harness.doctor.golden --write  write a new one: only together with a new protocol
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch.nn import functional as F

from harness.catalog import Catalog, discover
from harness.registry import Protocol, load_benchmark
from harness.train.environment import frozen_numerics
from harness.train.pipeline import Augment, InputPipeline
from harness.train.schedule import learning_rate
from harness.train.seeds import Position, generator
from harness.train.setup import build_optimizer, build_pipeline

if TYPE_CHECKING:
    import numpy.typing as npt

Numbers: TypeAlias = list[float]

FILE = Path(__file__).with_name("golden.json")
PROTOCOL = "xscore-1.0"
TOLERANCE = 2e-5
"""Difference that float32 rounding on different processors explains, for a value near 1; one level of a pixel is 200
times as much. Draws and orders must be equal."""

_COUNT, _SIDE, _CLASSES, _KEPT = 8, 32, 10, 48
_MEAN, _STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def compute(protocol: Protocol, catalog: Catalog) -> dict[str, Numbers]:
    """Return a sample of the output of every part of a protocol for the certificate's images, on the CPU."""
    with frozen_numerics():
        pipeline = build_pipeline(
            protocol, catalog, num_classes=_CLASSES, moments=(_MEAN, _STD), device=torch.device("cpu")
        )
        return {
            **_draws(),
            "learning_rate": [
                1e3 * learning_rate(epoch, protocol, protocol.lr_max) for epoch in range(protocol.epochs)
            ],
            "stored_resize": _sample(_resized(photograph(300, 200, 1)[0], protocol.input_size)),
            **_augmented(pipeline),
            **_trained(protocol),
        }


def differences(found: Mapping[str, Numbers], certified: Mapping[str, Numbers]) -> dict[str, str]:
    """Return a sentence for each part that differs from the certificate; an empty dict if none does."""
    sentences = {}
    for name in sorted({*found, *certified}):
        if name not in found or name not in certified:
            sentences[name] = f"{name} is part only of {'the certificate' if name in certified else 'the protocol'}"
            continue
        here, there = np.array(found[name]), np.array(certified[name])
        if here.shape != there.shape:
            sentences[name] = f"{name} has {here.size} values, the certificate {there.size}"
            continue
        off = np.abs(here - there) / np.maximum(1.0, np.abs(there))
        limit = 0.0 if name.startswith("draws.") else TOLERANCE
        if not np.isfinite(off).all() or off.max() > limit:
            sentences[name] = (
                f"{name} differs by up to {off.max():.2g} in {int((off > limit).sum())} of {off.size} values"
            )
    return sentences


def certified() -> dict[str, Numbers]:
    """Return the certificate."""
    content: dict[str, Numbers] = json.loads(FILE.read_text(encoding="utf-8"))["values"]
    return content


def photograph(height: int, width: int, count: int) -> npt.NDArray[np.uint8]:
    """Return images uint8 (count, height, width, 3) with edges, gradients, greys and full colours, from integers."""
    n, y, x, c = np.ogrid[:count, :height, :width, :3]
    waves = (x * (5 + n) + y * (3 + 2 * c)) % 256
    blocks = ((x // 5 + y // 7 + n) % 3 == c) * 255
    greys = (x * y + 17 * n) % 256 + 0 * c
    pixels = np.where(y % 4 == 0, blocks, np.where((x + y) % 5 == 0, greys, waves))
    return np.asarray(pixels, dtype=np.uint8)


def _draws() -> dict[str, Numbers]:
    return {
        "draws.permutation": torch.randperm(1000, generator=generator(0, "shuffle", 0))[:_KEPT].tolist(),
        "draws.uniform": [
            float(value) for value in torch.rand(_KEPT, generator=generator(0, "augment", "color_jitter", 0, 0))
        ],
        "draws.integers": torch.randint(224, (_KEPT,), generator=generator(1, "augment", "cutmix", 2, 3)).tolist(),
    }


def _augmented(pipeline: InputPipeline) -> dict[str, Numbers]:
    stored = torch.from_numpy(photograph(_SIDE, _SIDE, _COUNT))
    labels = torch.arange(_COUNT) % _CLASSES
    floats = stored.permute(0, 3, 1, 2).float().div(255)
    targets = F.one_hot(labels, _CLASSES).float()
    found = {}
    for stage in (stage for stage in pipeline.stages if isinstance(stage, Augment)):
        for step in range(4):
            images, mixed = stage.apply(floats, targets, Position(0, 0, step))
            found[f"augmentation.{stage.name}.{step}"] = _sample(images.numpy()) + _sample(mixed.numpy())
    inputs, mixed = pipeline.train_batch(stored, labels, Position(0, 3, 5))
    found["train_batch"] = _sample(inputs.contiguous().numpy()) + _sample(mixed.numpy())
    found["test_batch"] = _sample(pipeline.test_batch(stored).contiguous().numpy())
    return found


def _trained(protocol: Protocol) -> dict[str, Numbers]:
    """Return the loss, its gradient, and three steps of Adam in units of the learning rate, on large gradients."""
    logits = torch.linspace(-3, 3, 40).view(4, 10).sin().mul(3).requires_grad_()
    targets = torch.linspace(0, 4, 40).view(4, 10).cos().softmax(dim=1)
    loss = F.cross_entropy(logits, targets, label_smoothing=protocol.label_smoothing)
    (gradient,) = torch.autograd.grad(loss, logits)
    layer = torch.nn.Linear(6, 4, bias=False)
    with torch.no_grad():
        layer.weight.zero_()
    optimizer = build_optimizer(layer, protocol)
    for step in range(3):
        layer.weight.grad = (torch.linspace(1, 9, 24) * (step + 1)).sin().mul(0.5).add(1).view(4, 6)
        optimizer.step()
    return {
        "loss": [loss.item()],
        "gradient": _sample(gradient.numpy()),
        "adam": _sample(layer.weight.detach().numpy() / protocol.lr_max),
    }


def _resized(pixels: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.float64]:
    from PIL import Image

    image = Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.float64) / 255


def _sample(values: npt.NDArray[np.generic]) -> Numbers:
    """Return some of the values, evenly spread, and the mean of all."""
    flat = np.asarray(values, dtype=np.float64).ravel()
    places = np.linspace(0, flat.size - 1, min(_KEPT, flat.size)).astype(np.int64)
    return [round(float(value), 7) for value in (*flat[places], flat.mean())]


def main() -> int:
    """Compare, or write with ``--write``; return the exit code."""
    found = compute(load_benchmark().protocol(PROTOCOL), discover())
    if sys.argv[1:] == ["--write"]:
        lines = ",\n".join(f'  "{name}": {json.dumps(values)}' for name, values in sorted(found.items()))
        FILE.write_text(f'{{"protocol": "{PROTOCOL}", "values": {{\n{lines}\n}}}}\n', encoding="utf-8")
        return 0
    wrong = differences(found, certified())
    print("\n".join(wrong.values()) or f"all {len(found)} parts of {PROTOCOL} agree with the certificate")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
