"""Images per second of the data path on one core, against what users would pick instead.

    pip install "xscore-harness[bench]"        # for kornia
    python benchmarks/data_path.py [--shapes cifar10 stored224 stored64] [--rounds 5] [--quick]

Every candidate does the whole chain of the frozen protocol (flip, colour jitter with hue, upsampling where the stored
image is smaller than the input, CutMix, normalisation) in batches of 32, on one core with one thread. The harness's own
row is the real training loop around a model that costs nothing, from the start of a step until its batch reaches the
model. Exits with 1 if it is not 5 times as fast as the authors' pipeline on CIFAR-10 and 2 times on stored images.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import measure
import torch
from apart import Apart
from real_run import SHORTEST_EPOCH, RealRun, Stub
from rivals import (
    CLASSES,
    PREFETCH,
    Batches,
    Recipe,
    Stored,
    cutmix,
    frozen_protocol,
    gathered,
    invent,
    kornia_transform,
    loaded,
    pil_transform,
    settle,
    v2_transform,
    wait_for,
)

from harness.catalog import discover
from harness.data.prepared import PreparedDataset
from harness.machine import resolve_device
from harness.registry import Protocol
from harness.train.pipeline import Augment, InputPipeline, Resize, Stage
from harness.train.seeds import Position

NO_KORNIA = (
    "kornia is not installed: 'pip install \"xscore-harness[bench]\"' installs it (in a checkout: pip install -e "
    "'.[bench]'), and --without-kornia leaves its row out."
)
AUTHORS = "PIL, DataLoader"
NOTES = {
    "harness": "the real loop: memory-mapped store, batched, parameters for each image",
    AUTHORS: "(a) torchvision on PIL images in the order of the authors' scripts, images stored decoded",
    "PIL, DataLoader, jitter first": "(a) in the protocol's order: jitter at the stored size, then resize",
    "PIL, DataLoader, JPEG": "(a) as the authors' scripts do it, decoding JPEGs of just this size",
    "PIL, DataLoader, 2 workers": "(a) with two workers and all cores: not per core, for information",
    "v2, DataLoader": "(b) torchvision v2 on uint8 tensors, one image at a time",
    "v2, batched": "(b) on whole batches: NOT the protocol, all images of a batch get the same parameters",
    "kornia, batched": "(c) kornia.augmentation on float batches; one order of the jitter's operations a batch",
}
HOW = (
    "Images per second of the whole chain in batches of 32, on one core and one thread; medians of {rounds} readings "
    "of {seconds:g} s, taken in turns. A ratio is the median of the rounds' ratios. Pictures are invented, with the "
    "smooth areas and the grain of photographs."
)
SHAPES = {
    "cifar10": (32, 224, 5120, 50_000 // 32),
    "stored224": (224, 224, 512, SHORTEST_EPOCH),
    "stored64": (64, 64, 2560, SHORTEST_EPOCH),
}
"""Stored side, input side, images that are invented, and steps of a real epoch, two of which are probed."""
AIMS = {"cifar10": 5.0, "stored224": 2.0}


@dataclass(frozen=True)
class Bench:
    """What all candidates of a shape share."""

    dataset: PreparedDataset
    protocol: Protocol
    stored: int
    device: torch.device
    seconds: float
    epoch: int

    @property
    def recipe(self) -> Recipe:
        """The chain as numbers."""
        return Recipe.of(self.protocol, self.dataset)


@dataclass
class Seconds:
    """Seconds by part of the data path, added up over ordinary steps: those that the recorder does not probe."""

    spent: dict[str, float] = field(default_factory=dict)
    ordinary: bool = False

    def of(self, part: str, call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        if not self.ordinary:
            return call(*arguments, **named)
        began = time.perf_counter()
        result = call(*arguments, **named)
        self.spent[part] = self.spent.get(part, 0.0) + time.perf_counter() - began
        return result


def timed_pipeline(pipeline: InputPipeline, clock: Seconds, steps: int) -> InputPipeline:
    """Return the same pipeline, which times each of its stages; the clock costs a fraction of a microsecond."""

    class Timed(InputPipeline):
        def train_batch(self, images: Any, labels: Any, position: Position, applied: Any = None) -> Any:
            clock.ordinary = 0 < position.step < steps - 1
            return clock.of("whole pipeline", super().train_batch, images, labels, position, applied)

    return Timed(tuple(timed_stage(stage, clock) for stage in pipeline.stages), pipeline.num_classes)


def timed_stage(stage: Stage, clock: Seconds) -> Stage:
    """Return the same stage, which adds its time to the clock's."""
    if isinstance(stage, Augment):
        transform = stage.transform
        return replace(stage, transform=lambda *arguments: clock.of(stage.name, transform, *arguments))
    kind: Any = type(stage)  # kept as a base: the recorder knows stages by their class

    class Timed(kind):  # type: ignore[misc]
        def __call__(self, images: torch.Tensor) -> Any:
            return clock.of("upsample" if kind is Resize else "normalise", super().__call__, images)

    timed: Stage = Timed(**vars(stage))
    return timed


class HarnessPath:
    """Readings of the harness: the time from the start of each step until its batch reaches the model."""

    def __init__(self, bench: Bench) -> None:
        catalog = discover()
        # Of the model offered beside the stub, nothing but its layout is used: channels_last.
        model = next(offer for offer in catalog.models.values() if offer.spec.memory_format == "channels_last")
        self._bench = bench
        stub = Stub(CLASSES)
        self._run = RealRun(stub, model, bench.dataset, bench.protocol, catalog, bench.device, every=True)
        self._steps = 4
        self.probes: list[float] = []

    def read(self) -> float:
        """Images per second over an epoch: its first and last step, which the recorder probes, and ordinary ones."""
        data = self._run.train(self._steps).data
        ordinary = statistics.mean(data[2:])
        self.probes.append(1e6 * 2 * (data[1] - ordinary) / self._bench.epoch / self._bench.protocol.batch_size)
        self._steps = max(4, min(self._run.steps - 2, int(self._bench.seconds / ordinary)))
        step = ordinary + 2 * (data[1] - ordinary) / self._bench.epoch
        return self._bench.protocol.batch_size / step

    def probing(self) -> list[float]:
        """Microseconds per image that the two probed steps of an epoch cost, by reading."""
        return self.probes

    def parts(self) -> dict[str, float]:
        """Microseconds per image of each part in an ordinary step."""
        clock, plain = Seconds(), self._run.pipeline
        self._run.use(timed_pipeline(plain, clock, self._run.steps))
        data = self._run.train(self._steps).data[2:]
        self._run.use(plain)
        spent = dict(clock.spent)
        whole = spent.pop("whole pipeline")
        chain = {
            "gather from the store, shuffle, layout": sum(data) - whole,
            "uint8 to float, targets": whole - sum(spent.values()),
            **spent,
        }
        per_image = 1e6 / (len(data) * self._bench.protocol.batch_size)
        return {name: seconds * per_image for name, seconds in chain.items()}


def reading(bench: Bench, batches: Batches, *, skip: int = 0, mix: bool = True) -> Callable[[], float]:
    """A candidate: pull batches for a while, mix them, and return images per second.

    ``skip``: batches that a loader's workers had ready before the clock starts, and that therefore must not count.
    """

    def read() -> float:
        for _ in range(skip):
            next(batches)
        wait_for(bench.device)
        count, began = 0, time.perf_counter()
        while count == 0 or time.perf_counter() - began < bench.seconds:
            images, labels = next(batches)
            images, labels = images.to(bench.device), labels.to(bench.device)
            if mix:
                images, partner, _ = cutmix(images, bench.recipe.alpha)
                labels[partner]
            count += len(images)
            wait_for(bench.device)
        speed = count / (time.perf_counter() - began)
        settle()
        return speed

    return read


def candidates(bench: Bench, *, kornia: bool, every_core: set[int]) -> Iterator[tuple[str, Callable[[], float]]]:
    """The rivals by name."""
    recipe, stored, dataset = bench.recipe, bench.stored, bench.dataset

    def single(transform: Callable[[Any], Any], form: str = "pil", workers: int = 0) -> Callable[[], float]:
        batches = loaded(Stored(dataset, transform, form=form), recipe.batch, workers=workers)
        return reading(bench, batches, skip=2 * PREFETCH * workers)

    yield AUTHORS, single(pil_transform(recipe, stored))
    if stored != recipe.size:
        yield "PIL, DataLoader, jitter first", single(pil_transform(recipe, stored, resize_first=False))
    else:
        yield "PIL, DataLoader, JPEG", single(pil_transform(recipe, stored), "jpeg")
    with spread(every_core):  # workers inherit it
        several = single(pil_transform(recipe, stored), workers=2)
    yield "PIL, DataLoader, 2 workers", several
    transform = v2_transform(recipe, stored)
    yield "v2, DataLoader", single(transform, "tensor")
    yield "v2, batched", reading(bench, gathered(dataset, recipe.batch, bench.device, transform, floats=False))
    if kornia:
        batched = kornia_transform(recipe, stored).to(bench.device)
        yield "kornia, batched", reading(bench, gathered(dataset, recipe.batch, bench.device, batched, floats=True))


@contextlib.contextmanager
def spread(cores: set[int]) -> Iterator[None]:
    """Give this process other cores for a moment, where the system can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def take(bench: Bench, *, kornia: bool, cores: set[int], rounds: int) -> dict[str, Any]:
    """All readings of a shape: images per second by candidate, and microseconds per image by part."""
    own = Apart(HarnessPath, bench)
    calls = {"harness": lambda: own.call("read"), **dict(candidates(bench, kornia=kornia, every_core=cores))}
    found: dict[str, Any] = {"images_per_second": measure.take_turns(calls, rounds=rounds)}
    if bench.device.type == "cpu":  # elsewhere the parts overlap
        several = [own.call("parts") for _ in range(rounds)]
        found["microseconds_per_image"] = {name: [one[name] for one in several] for name in several[0]}
        found["microseconds_per_image"]["probing, twice an epoch"] = own.call("probing")[1:]
    own.close()
    return found


def page(readings: dict[str, Any]) -> tuple[str, list[str]]:
    """The tables of all shapes, and the aims that are missed."""
    texts, missed = [], []
    for shape, found in readings.items():
        speeds = found["images_per_second"]
        rows = [
            (
                name,
                f"{measure.median(values):.0f}",
                f"{measure.ratio(speeds['harness'], values):.2f}",
                NOTES[name],
            )
            for name, values in speeds.items()
        ]
        texts.append(f"## {shape}: stored {SHAPES[shape][0]}, input {SHAPES[shape][1]}")
        texts.append(measure.table(("candidate", "images/s", "harness is times as fast", "what it is"), rows))
        if shape in AIMS:
            ratio, aim = measure.ratio(speeds["harness"], speeds[AUTHORS]), AIMS[shape]
            verdict = "reached" if ratio >= aim else "MISSED"
            texts.append(f"Aim: at least {aim:g} times (a) in the authors' order. {ratio:.2f}: {verdict}.")
            missed += [shape] if ratio < aim else []
        parts = found.get("microseconds_per_image")
        if parts:
            lines = [(name, f"{measure.median(values):.1f}") for name, values in parts.items()]
            lines.append(("together", f"{sum(measure.median(values) for values in parts.values()):.1f}"))
            texts.append(measure.table(("part of the harness's path", "microseconds per image"), lines))
    return "\n\n".join(texts), missed


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=re.split(r"\n\n", __doc__ or "")[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a reading")
    parser.add_argument("--device", default="cpu", help="where batches are augmented, if the candidate can")
    parser.add_argument("--without-kornia", action="store_true")
    parser.add_argument("--quick", action="store_true", help="one round of short readings: proves that it works")
    given = parser.parse_args(arguments)
    if not given.without_kornia and find_spec("kornia") is None:
        print(NO_KORNIA, file=sys.stderr)
        return 2
    rounds, seconds = (1, 0.1) if given.quick else (given.rounds, given.seconds)
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    threads = torch.get_num_threads()
    # Workers are forked or spawned with this environment; this process's own torch is told below.
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    readings: dict[str, Any] = {}
    try:
        with (
            tempfile.TemporaryDirectory(prefix="harness data path ") as folder,
            spread({max(cores)} if cores else cores),
        ):
            for shape in given.shapes:
                stored, size, images, epoch = SHAPES[shape]
                bench = Bench(
                    dataset=invent(Path(folder) / shape, side=stored, images=images),
                    protocol=frozen_protocol(size),
                    stored=stored,
                    device=resolve_device(given.device),
                    seconds=seconds,
                    epoch=epoch,
                )
                print(f"{shape} ...", file=sys.stderr)
                readings[shape] = take(bench, kornia=not given.without_kornia, cores=cores, rounds=rounds)
    finally:
        torch.set_num_threads(threads)
    text, missed = page(readings)
    measure.write(
        "data_path-quick" if given.quick else "data_path",
        title="The data path on one core",
        command=" ".join(["python benchmarks/data_path.py", *(sys.argv[1:] if arguments is None else arguments)]),
        text=HOW.format(rounds=rounds, seconds=seconds) + "\n\n" + text,
        readings={"rounds": rounds, "seconds_of_a_reading": seconds, "device": given.device, "shapes": readings},
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
