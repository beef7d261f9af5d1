"""How fast data sets are decoded and stored, against the plain loop that a user would write, and in how much memory.

    python benchmarks/prepare.py                 # photographs of 500 x 375 pixels, stored at 224
    python benchmarks/prepare.py --flat 100000   # peak memory after each tenth of a set of 100,000 images

Every variant runs in a process of its own, since peak memory is a process's. Results: benchmarks/prepare.md.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SIZE = 224


def write_photographs(folder: Path, count: int) -> None:
    """Write JPEGs with the size and the detail of Stanford Dogs' median image."""
    import numpy as np
    from PIL import Image

    rng = np.random.RandomState(0)
    for index in range(count):
        coarse = Image.fromarray(rng.randint(0, 256, (24, 32, 3), dtype=np.uint8)).resize(
            (500, 375), Image.Resampling.BICUBIC
        )
        noisy = np.asarray(coarse, dtype=np.int16) + rng.randint(-12, 13, (375, 500, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{index:05}.jpg", quality=85)


def plain_loop(folder: Path) -> int:
    """What a user would write: open, convert, resize, stack, save."""
    import numpy as np
    from PIL import Image

    images = []
    for path in sorted(folder.iterdir()):
        image = Image.open(path).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        images.append(np.asarray(image))
    with tempfile.TemporaryDirectory() as target:
        np.save(Path(target) / "images.npy", np.stack(images))
    return len(images)


def through_the_store(folder: Path, workers: int) -> int:
    """Decode, check, hash, measure and store with the harness."""
    from harness.api import DatasetSpec
    from harness.catalog import Offer, Plugin
    from harness.data.ingest import Ingestion, ingest

    paths = sorted(folder.iterdir())

    def read(_: Path, split: str) -> Iterator[Any]:
        for index, path in enumerate(paths if split == "train" else paths[:2]):
            yield path, index % 2

    spec = DatasetSpec(
        name="bench", title="Bench", classes=("a", "b"), splits={"train": len(paths), "test": 2}, read=read,
        licence="-", citation="-",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as root:
        offer = Offer(spec, Plugin("bench", "bench", "bench", "1"))
        ingest(Ingestion(offer, Path(root), SIZE, folder, workers=workers))
    return len(paths)


def flat_memory(count: int) -> None:
    """Print the peak memory after each tenth of a large set of small images."""
    from PIL import Image

    from harness.api import DatasetSpec
    from harness.catalog import Offer, Plugin
    from harness.data.ingest import Ingestion, ingest

    buffer = io.BytesIO()
    Image.effect_noise((128, 128), 60).convert("RGB").save(buffer, "JPEG", quality=75)
    content = buffer.getvalue()

    def read(_: Path, split: str) -> Iterator[Any]:
        for index in range(count if split == "train" else 2):
            yield content, index % 2

    def report(split: str, done: int, expected: int) -> None:
        if split == "train" and (done == expected or done * 10 // expected != (done - 512) * 10 // expected):
            print(
                f"{done:>8,} images, {time.perf_counter() - began:6.1f} s, peak {peak_memory() / 1e6:6.1f} MB",
                flush=True,
            )

    spec = DatasetSpec(
        name="flat", title="Flat", classes=("a", "b"), splits={"train": count, "test": 2}, read=read, licence="-",
        citation="-",
    )  # fmt: skip
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as root:
        offer = Offer(spec, Plugin("flat", "bench", "bench", "1"))
        prepared = ingest(Ingestion(offer, Path(root), SIZE, report=report))
        size = sum(file.stat().st_size for file in prepared.folder.iterdir())
    print(f"{size / 1e9:.2f} GB of arrays were written")


def peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(variant: str, folder: Path) -> dict[str, float]:
    """Run one variant in this process."""
    began, cpu = time.perf_counter(), time.process_time()
    count = plain_loop(folder) if variant == "plain" else through_the_store(folder, int(variant))
    return {
        "images": count,
        "per_second": count / (time.perf_counter() - began),
        "per_cpu_second": count / (time.process_time() - cpu),
        "peak_mb": peak_memory() / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--flat", type=int, metavar="N")
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.flat:
        flat_memory(options.flat)
    elif options.variant:
        print(json.dumps(measure(options.variant, options.folder)))
    else:
        with tempfile.TemporaryDirectory() as name:
            write_photographs(Path(name), options.images)
            print("variant        images/s  images/s of CPU  peak MB   (best of repeats)")
            for variant in ("plain", "1", str(os.cpu_count())):
                command = [sys.executable, __file__, "--variant", variant, "--folder", name]
                runs = [
                    json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
                    for _ in range(options.repeats)
                ]
                best = max(runs, key=lambda run: run["per_second"])
                label = "plain loop" if variant == "plain" else f"{variant} thread{'s' if variant != '1' else ''}"
                print(f"{label:<13}{best['per_second']:>10.0f}{best['per_cpu_second']:>17.0f}{best['peak_mb']:>9.0f}")


if __name__ == "__main__":
    main()
