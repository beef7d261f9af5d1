"""Memory of a training run against the size of its data set.

    python benchmarks/memory.py                 # 1,000, 10,000 and 100,000 images of 64 pixels: 1.4 GB of disk

Each size is trained for some steps and evaluated in a process of its own, which looks at itself every few milliseconds.
Anonymous memory is what the run needs. Mapped pages of the images are the kernel's: it keeps them while there is room
and takes them back when there is none, so they are shown apart. Linux only, for it tells the two apart.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np

SIZES = (1_000, 10_000, 100_000)
SIDE, CLASSES, STEPS = 64, 100, 8
MODEL = "mobilenet"
_CHUNK = 1_000


def write_dataset(folder: Path, images: int, side: int) -> None:
    """Write random images as a prepared data set: ``images`` for training and a tenth of them to test."""
    random = np.random.default_rng(0)
    block = random.integers(0, 256, (min(images, _CHUNK), side, side, 3), dtype=np.uint8)
    for split, count in (("train", images), ("test", test_images(images))):
        with (folder / f"{split}.images.npy").open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (count, side, side, 3)}
            np.lib.format.write_array_header_1_0(file, header)
            for first in range(0, count, len(block)):
                file.write(block[: count - first].data)
        np.save(folder / f"{split}.labels.npy", np.arange(count, dtype=np.int64) % CLASSES)


def test_images(images: int) -> int:
    """A tenth, and a few whole batches at least, so that evaluation needs as much for every size."""
    return max(images // 10, 512)


def memory() -> dict[str, int]:
    """What this process holds now, in bytes: anonymous memory, pages of files, and both."""
    found = {}
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name in ("RssAnon", "RssFile", "VmRSS", "VmHWM"):
            found[name] = int(value.split()[0]) * 1024
    return found


class Peaks:
    """Looks at this process's memory every few milliseconds."""

    def __init__(self) -> None:
        self.most: dict[str, int] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peaks:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._end.wait(0.003):
            self._look()

    def _look(self) -> None:
        for name, value in memory().items():
            self.most[name] = max(value, self.most.get(name, 0))


def probe(folder: Path, images: int, side: int) -> dict[str, Any]:
    """Train and evaluate on an invented data set in this process; return the peaks in bytes."""
    import msgspec
    import torch

    from harness.api import EpochRecord, Job, StoppedError
    from harness.catalog import discover
    from harness.data.prepared import SCHEMA, DatasetManifest, PreparedDataset
    from harness.registry import load_benchmark
    from harness.train.checkpoint import Found
    from harness.train.environment import frozen_numerics
    from harness.train.in_progress import JobInProgress
    from harness.train.observer import Observer
    from harness.train.state import TrainingState
    from harness.train.task import Task, build_model

    class Watch(Observer):
        steps = 0

        def step_finished(self, state: TrainingState) -> None:
            self.steps += 1

        def batch_evaluated(self) -> None:
            self.steps = 0  # evaluation goes to its end

        def should_stop(self) -> bool:
            return self.steps == STEPS

    write_dataset(folder, images, side)
    torch.set_num_threads(1)
    benchmark, catalog = load_benchmark(), discover()
    protocol = msgspec.structs.replace(benchmark.protocol("pocket-1.0"), input_size=side)
    manifest = DatasetManifest(
        schema=SCHEMA, dataset="invented", definition="", fingerprint="invented",
        classes=tuple(str(label) for label in range(CLASSES)), size=(side, side), native=True,
        counts={"train": images, "test": test_images(images)}, class_counts={},
        mean=(0.5, 0.5, 0.5), std=(0.3, 0.3, 0.3), plugin="", libraries={}, created="",
    )  # fmt: skip
    task = Task(
        job=Job(protocol.name, MODEL, "invented", 0), protocol=protocol, model=catalog.model(MODEL),
        dataset=PreparedDataset(folder, manifest), catalog=catalog, device=torch.device("cpu"),
        checkpoint=folder / "checkpoint.pt",
    )  # fmt: skip
    built = build_model(task)
    before = memory()
    with Peaks() as peaks, frozen_numerics(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as a run does, which keeps those that matter
        run = JobInProgress(task, built, Found(None))
        watch = Watch()
        with contextlib.suppress(StoppedError):
            run.train(watch)
        # As if the other steps had been taken: the test split opens after the last epoch alone.
        ended = EpochRecord(epoch=0, lr=1e-3, loss=1.0, images_per_second=1.0, seconds=1.0)
        run.state.history = [ended] * protocol.epochs
        run.state.epoch = protocol.epochs
        watch.steps = 0
        logits, _ = run.test(watch)
    size = sum(file.stat().st_size for file in folder.glob("*.images.npy"))
    return {
        "images": images, "dataset_bytes": size, "before": before, "peak": peaks.most, "logits_bytes": logits.nbytes,
    }  # fmt: skip


def probe_apart(images: int, side: int = SIDE) -> dict[str, Any]:
    """Do the same in a process of its own, in a folder that is removed."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--probe", folder, "--images", str(images), "--side", str(side)]
        ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(ran.stdout.splitlines()[-1])
    assert isinstance(found, dict)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), metavar="IMAGES")
    parser.add_argument("--side", type=int, default=SIDE)
    parser.add_argument("--probe", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--images", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.probe:
        print(json.dumps(probe(asked.probe, asked.images, asked.side)))
        return
    import measure

    found = [probe_apart(images, asked.side) for images in asked.sizes]
    mib = 1024**2
    rows = [
        [
            f"{one['images']:,}",
            *(
                f"{value / mib:,.0f}"
                for value in (
                    one["dataset_bytes"],
                    one["before"]["RssAnon"],
                    one["peak"]["RssAnon"],
                    one["peak"]["RssFile"],
                    one["peak"]["VmHWM"],
                )
            ),
            f"{(one['peak']['RssAnon'] - found[0]['peak']['RssAnon']) / one['images']:,.0f}",
        ]
        for one in found
    ]
    columns = (
        "training images", "data set, MiB", "anonymous before, MiB", "anonymous at most, MiB", "files' pages, MiB",
        "resident at most, MiB", "bytes an image more than the first row",
    )  # fmt: skip
    measure.write(
        "memory",
        title="Memory of a training run",
        command="python benchmarks/memory.py",
        text=f"{MODEL} at {asked.side} pixels, batch 32, {CLASSES} classes, {STEPS} steps and the whole test split "
        f"(a tenth of the training images, at least 512).\n\n{measure.table(columns, rows)}",
        readings={"runs": found},
    )


if __name__ == "__main__":
    main()
