"""What each measure of docs/performance.md is worth: the harness with all of them, and without one at a time.

    python benchmarks/gains.py                      # 2 models at 64 and 224 pixels: about 8 minutes
    python benchmarks/gains.py --models starnet --sizes 64 --rounds 5

Two readings a variant and size: milliseconds of making one batch of inputs (stored at the input's size), and of a
whole training step of the harness. Variants take turns; a ratio above 1 says how much slower it is without the measure.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from measure import median, ratio, table, take_turns, write
from msgspec.structs import replace

from harness.api import Job, StoppedError
from harness.catalog import Catalog, discover
from harness.data.prepared import PreparedDataset
from harness.price.trial import invented_dataset
from harness.registry import Protocol, load_benchmark
from harness.train import observe
from harness.train.checkpoint import Found
from harness.train.environment import fill_uninitialized_memory, frozen_numerics, kept_memory
from harness.train.feeder import Feeder
from harness.train.in_progress import JobInProgress
from harness.train.loop import Training
from harness.train.observer import Observer
from harness.train.pipeline import Normalise
from harness.train.seeds import Position
from harness.train.state import TrainingState
from harness.train.task import Task, build_model

CPU = torch.device("cpu")
Variant = Callable[[], contextlib.AbstractContextManager[object]]


def broadcast(self: Normalise, images: torch.Tensor) -> torch.Tensor:
    """Normalise in the obvious way."""
    return (images - self.mean) / self.std


@contextlib.contextmanager
def always_filling() -> Iterator[None]:
    """Fill new tensors in every step, not only in the probed ones; ``frozen_numerics`` ends it."""
    fill_uninitialized_memory(True)
    with mock.patch.object(observe, "fill_uninitialized_memory"):
        yield


VARIANTS: dict[str, Variant] = {
    "all measures": contextlib.nullcontext,
    "memory given back to the kernel": contextlib.nullcontext,  # see ``kept`` below
    "moments broadcast along the pixels": lambda: mock.patch.object(Normalise, "__call__", broadcast),
    "new tensors filled with NaN": always_filling,
}
NOT_KEPT = "memory given back to the kernel"


@contextlib.contextmanager
def variant(name: str) -> Iterator[None]:
    kept = contextlib.nullcontext() if name == NOT_KEPT else kept_memory(CPU)
    with frozen_numerics(), kept, VARIANTS[name]():
        yield


def task_of(model: str, protocol: Protocol, dataset: PreparedDataset, catalog: Catalog, folder: Path) -> Task:
    job = Job(protocol.name, model, dataset.manifest.dataset, 0)
    return Task(job, protocol, catalog.model(model), dataset, catalog, CPU, folder / f"{model}.pt")


def batch_seconds(name: str, training: Training, count: int) -> float:
    order = torch.arange(32 * (count + 1)).numpy()
    with variant(name), Feeder(training.train, CPU).batches(order, size=32) as feed:
        spans = []
        for step, batch in enumerate(feed):
            began = time.perf_counter()
            training.pipeline.train_batch(batch.images, batch.labels, Position(seed=0, epoch=0, step=step))
            spans.append(time.perf_counter() - began)
    return 1e3 * statistics.median(spans[1:])


class Stop(Observer):
    """Takes the time of every step and stops the run after ``count`` of them."""

    def __init__(self, count: int) -> None:
        self.count, self.marks = count, [0.0]

    def step_finished(self, state: TrainingState) -> None:
        self.marks.append(time.perf_counter())

    def should_stop(self) -> bool:
        return len(self.marks) > self.count


def step_seconds(name: str, task: Task, count: int) -> float:
    with variant(name):
        run = JobInProgress(task, build_model(task), Found(None))
        watch = Stop(count + 2)
        with contextlib.suppress(StoppedError):
            run.train(watch, saving=False)
    spans = [later - sooner for sooner, later in itertools.pairwise(watch.marks[2:])]
    return 1e3 * statistics.median(spans)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["starnet", "mobilenet"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 224])
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    catalog, frozen = discover(), load_benchmark().protocol("xscore-1.0")
    rows, readings = [], {}
    with tempfile.TemporaryDirectory() as name:
        for size in given.sizes:
            folder = Path(name) / str(size)
            dataset = invented_dataset(folder, name="invented", classes=10, side=size, images=640)
            protocol = replace(frozen, input_size=size)
            count = 12 if size < 100 else 4
            tasks = {model: task_of(model, protocol, dataset, catalog, folder) for model in given.models}
            training = JobInProgress(next(iter(tasks.values())), build_model(next(iter(tasks.values()))), Found(None))
            kinds: dict[str, Callable[[str], float]] = {
                "inputs alone": partial(batch_seconds, training=training.training, count=count),
                **{model: partial(step_seconds, task=task, count=count) for model, task in tasks.items()},
            }
            for what, measure in kinds.items():
                turns = {v: partial(measure, v) for v in VARIANTS}
                found = take_turns(turns, rounds=given.rounds)
                readings[f"{what} at {size}, ms a batch of 32"] = found
                for v in VARIANTS:
                    rows.append(
                        [size, what, v, f"{median(found[v]):.1f}", f"{ratio(found[v], found['all measures']):.2f}"]
                    )
    text = f"{torch.get_num_threads()} threads, batch 32, medians of {given.rounds} readings in turns.\n\n" + table(
        ["pixels", "what", "variant", "ms a batch", "times as long"], rows
    )
    options = f"--models {' '.join(given.models)} --sizes {' '.join(map(str, given.sizes))} --rounds {given.rounds}"
    write(
        "gains", title="What each measure is worth", command=f"python benchmarks/gains.py {options}", text=text,
        readings=readings,
    )  # fmt: skip


if __name__ == "__main__":
    main()
