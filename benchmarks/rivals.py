"""What users would pick instead of the harness: the same augmentations from torchvision, kornia and timm's parts.

Every number of the chain is read from the frozen protocol, so that what is compared cannot drift apart.
"""

from __future__ import annotations

import io
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apart
import msgspec
import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import transforms
from torchvision.transforms import v2

from harness.data.prepared import PreparedDataset
from harness.price.trial import invented_dataset
from harness.registry import Protocol, load_benchmark

PREFETCH = 2  # batches a worker of torch's DataLoader makes ahead, by default
CLASSES = 10

Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]


def frozen_protocol(size: int) -> Protocol:
    """The protocol xscore-1.0, at another input size."""
    return msgspec.structs.replace(load_benchmark().protocol("xscore-1.0"), input_size=size)


@dataclass(frozen=True)
class Recipe:
    """The protocol's chain as numbers, and the moments of the invented data set."""

    size: int
    batch: int
    flip: float
    jitter: dict[str, Any]
    alpha: float
    smoothing: float
    mean: Sequence[float]
    std: Sequence[float]

    @classmethod
    def of(cls, protocol: Protocol, dataset: PreparedDataset) -> Recipe:
        strengths = {use.name: use.strengths for use in protocol.augmentations}
        return cls(
            size=protocol.input_size,
            batch=protocol.batch_size,
            flip=strengths["horizontal_flip"]["p"],
            jitter=dict(strengths["color_jitter"]),
            alpha=strengths["cutmix"]["alpha"],
            smoothing=protocol.label_smoothing,
            mean=dataset.manifest.mean,
            std=dataset.manifest.std,
        )


def invent(folder: Path, *, side: int, images: int) -> PreparedDataset:
    """A prepared data set of invented pictures with the smooth areas and the grain of photographs, ten classes."""
    dataset = invented_dataset(folder, name=f"invented-{side}", classes=CLASSES, side=side, images=images)
    random = np.random.default_rng(0)
    scenes = []
    for _ in range(min(images, 64)):
        coarse = random.integers(0, 256, (max(4, side // 16), max(4, side // 16), 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC), dtype=np.int16)
        scenes.append((smooth + random.integers(-12, 13, smooth.shape)).clip(0, 255).astype(np.uint8))
    pictures = np.lib.format.open_memmap(folder / "train.images.npy", mode="r+")
    for number in range(images):
        pictures[number] = np.roll(scenes[number % len(scenes)], number // len(scenes), axis=1)
    pictures.flush()
    return dataset


class Stored(Dataset[tuple[Any, int]]):
    """Single images for a DataLoader: decoded as PIL images or tensors, or as JPEG files in memory.

    Attributes:
        transform: What each image goes through; timm's ``create_loader`` sets it.
    """

    def __init__(
        self, dataset: PreparedDataset, transform: Callable[[Any], Any] | None = None, *, form: str = "pil"
    ) -> None:
        train = dataset.open_train()
        # Read into memory: no rival waits for the disk or copies from a map.
        self.images = np.array(train.images)
        self.labels = train.labels.tolist()
        self.transform = transform
        self.form = form
        self.files = [_jpeg(image) for image in self.images] if form == "jpeg" else []

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image: Any
        if self.form == "jpeg":
            image = Image.open(io.BytesIO(self.files[index])).convert("RGB")
        elif self.form == "pil":
            image = Image.fromarray(self.images[index])
        else:
            image = torch.from_numpy(self.images[index]).permute(2, 0, 1)
        return self.transform(image) if self.transform else image, self.labels[index]


def _jpeg(image: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=85)
    return file.getvalue()


def pil_transform(recipe: Recipe, stored: int, *, resize_first: bool = True) -> Callable[[Any], Any]:
    """torchvision's transforms on one PIL image. The authors' scripts resize first; the protocol jitters first."""
    resize = [transforms.Resize((recipe.size, recipe.size))] if stored != recipe.size else []
    colours = [transforms.RandomHorizontalFlip(recipe.flip), transforms.ColorJitter(**recipe.jitter)]
    chain = [*resize, *colours] if resize_first else [*colours, *resize]
    return transforms.Compose([*chain, transforms.ToTensor(), transforms.Normalize(recipe.mean, recipe.std)])


def v2_transform(recipe: Recipe, stored: int) -> Callable[[Any], Any]:
    """torchvision's v2 transforms on a uint8 tensor, as its documentation advises; in the protocol's order.

    Each call draws once: on one image that is the protocol, on a batch every image gets the same parameters.
    """
    resize = [v2.Resize((recipe.size, recipe.size), antialias=True)] if stored != recipe.size else []
    return v2.Compose(
        [
            v2.RandomHorizontalFlip(recipe.flip),
            v2.ColorJitter(**recipe.jitter),
            *resize,
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(recipe.mean, recipe.std),
        ]
    )


def kornia_transform(recipe: Recipe, stored: int) -> nn.Module:
    """kornia's augmentations on a float batch: parameters for each image, but one order of the jitter for all."""
    import kornia.augmentation as kornia

    resize = [kornia.Resize((recipe.size, recipe.size), align_corners=False)] if stored != recipe.size else []
    return nn.Sequential(
        kornia.RandomHorizontalFlip(p=recipe.flip),
        kornia.ColorJitter(**recipe.jitter, p=1.0, same_on_batch=False),
        *resize,
        kornia.Normalize(torch.tensor(recipe.mean), torch.tensor(recipe.std)),
    )


def loaded(data: Stored, batch: int, *, workers: int) -> Batches:
    """Batches of a DataLoader without end, so that no new epoch starts its workers afresh while they are timed."""
    endless = RandomSampler(data, replacement=True, num_samples=1 << 40)
    return iter(DataLoader(data, batch, sampler=endless, num_workers=workers, drop_last=True))


def gathered(
    dataset: PreparedDataset, batch: int, device: torch.device, transform: Callable[[Any], Any], *, floats: bool
) -> Batches:
    """Random batches of the memory-mapped store, through a transform that takes whole batches."""
    train = dataset.open_train()
    random = np.random.default_rng(0)
    while True:
        chosen = random.integers(0, len(train), batch)
        images = torch.from_numpy(train.images[chosen]).to(device).permute(0, 3, 1, 2)
        labels = torch.from_numpy(train.labels[chosen]).to(device)
        yield transform(images.float() / 255 if floats else images), labels


def cutmix(images: torch.Tensor, alpha: float) -> tuple[torch.Tensor, torch.Tensor, float]:
    """CutMix of a batch (N, 3, H, W), in place: the images, whom each got its box from, and the share that it kept."""
    count, _, height, width = images.shape
    keep = np.random.beta(alpha, alpha)
    partner = torch.randperm(count, device=images.device)
    tall, wide = int(height * (1 - keep) ** 0.5), int(width * (1 - keep) ** 0.5)
    y, x = np.random.randint(height), np.random.randint(width)
    top, bottom = max(y - tall // 2, 0), min(y + tall // 2, height)
    left, right = max(x - wide // 2, 0), min(x + wide // 2, width)
    images[:, :, top:bottom, left:right] = images[partner, :, top:bottom, left:right]
    return images, partner, 1 - (bottom - top) * (right - left) / (height * width)


def wait_for(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def settle() -> None:
    """Wait until loaders' workers have filled their queues and stand still, so that they do not run beside others.

    Where no /proc tells the processor time of a process, a second has to do.
    """
    children = multiprocessing.active_children()
    if not children:
        return
    before = children_seconds()
    if before is None:
        time.sleep(1)
        return
    still = 0
    while still < 3:  # a clock tick is 10 ms
        time.sleep(0.03)
        now = children_seconds()
        still = still + 1 if now == before else 0
        before = now


def children_seconds() -> float | None:
    """Processor seconds that loaders' workers of this process have used so far; None where there is no /proc."""
    total = 0
    for child in multiprocessing.active_children():
        if child.name == apart.NAME:
            continue
        try:
            fields = Path(f"/proc/{child.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        except OSError:
            return None
        total += int(fields[11]) + int(fields[12])
    return total / 100
