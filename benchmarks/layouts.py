"""Which memory layout trains faster, for every model: the evidence for the ``memory_format`` that each declares.

    python benchmarks/layouts.py [--models NAME...] [--sizes 64 224] [--threads 1 2] [--rounds 5] [--quick]

Times the bare training step (forward, loss, backward, fused Adam) on one batch that is ready, in both layouts in turns.
Exits with 1 if a model declares a layout that is slower by more than 3 % on the geometric mean of all cases.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import sys
import time
from collections.abc import Mapping
from typing import Any

import measure
import torch
from rivals import CLASSES, frozen_protocol, wait_for
from torch.nn import functional as F
from training import LAYOUTS, geometric_mean, steps_in

from harness.api import ModelSpec
from harness.catalog import Catalog, Offer, discover
from harness.machine import resolve_device, usable_cores
from harness.models import build_module
from harness.train.setup import build_optimizer, to_layout

ALLOWED = 0.97


class BareStep:
    """A model's training step in a layout, read in images per second."""

    def __init__(self, model: Offer[ModelSpec], layout: str, size: int, device: torch.device, seconds: float) -> None:
        protocol = frozen_protocol(size)
        torch.manual_seed(0)
        self._module = to_layout(build_module(model, CLASSES).train(), device, layout)
        self._optimizer = build_optimizer(self._module, protocol)
        images = torch.randn(protocol.batch_size, 3, size, size, device=device)
        self._images = images.contiguous(memory_format=LAYOUTS[layout])
        self._labels = torch.arange(protocol.batch_size, device=device) % CLASSES
        self._device, self._seconds, self._steps = device, seconds, 0

    def read(self) -> float:
        """Images per second, after a step that does not count. The first call finds out how many steps follow."""
        self._time(1)
        if not self._steps:
            step = self._time(1)
            self._steps = steps_in(self._seconds, step)
            return len(self._images) / step
        return len(self._images) / self._time(self._steps)

    def _time(self, steps: int) -> float:
        wait_for(self._device)
        began = time.perf_counter()
        for _ in range(steps):
            loss = F.cross_entropy(self._module(self._images), self._labels, label_smoothing=0.05)
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._optimizer.step()
        wait_for(self._device)
        return (time.perf_counter() - began) / steps


def page(readings: Mapping[str, Mapping[str, Any]], catalog: Catalog) -> tuple[str, list[str]]:
    """The table of all models, and those that declare the wrong layout."""
    rows, wrong = [], []
    for model, cases in readings.items():
        declared = catalog.model(model).spec.memory_format
        ratios = [measure.ratio(speeds["channels_last"], speeds["contiguous"]) for speeds in cases.values()]
        gain = geometric_mean(ratios)
        gain_of_declared = gain if declared == "channels_last" else 1 / gain
        wrong += [model] if gain_of_declared < ALLOWED else []
        speeds = [f"{measure.median(case[layout]):.1f}" for case in cases.values() for layout in LAYOUTS]
        rows.append([model, declared, f"{gain:.2f}", *(f"{ratio:.2f}" for ratio in ratios), *speeds])
    cases = next(iter(readings.values()))
    titles = ["model", "declares", "channels_last / contiguous, geometric mean", *(f"{case}: ratio" for case in cases)]
    titles += [f"{case}, {layout}, images/s" for case in cases for layout in LAYOUTS]
    verdict = f"Slower in the declared layout: {', '.join(wrong)}." if wrong else "No model is slower as declared."
    return measure.table(titles, rows) + "\n\n" + verdict, wrong


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=re.split(r"\n\n", __doc__ or "")[0])
    parser.add_argument("--models", nargs="+", help="all that are installed, if left out")
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 224])
    parser.add_argument("--threads", nargs="+", type=int, default=sorted({1, usable_cores()}))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a reading, about")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="one round of short readings: proves that it works")
    given = parser.parse_args(arguments)
    rounds, seconds = (1, 0.0) if given.quick else (given.rounds, given.seconds)
    catalog, device = discover(), resolve_device(given.device)
    before = torch.get_num_threads()
    readings: dict[str, dict[str, Any]] = {}
    wrong: list[str] = []
    try:
        for name in given.models or sorted(catalog.models):
            readings[name] = {}
            for size in given.sizes:
                for threads in given.threads:
                    torch.set_num_threads(threads)
                    steps = {
                        layout: BareStep(catalog.model(name), layout, size, device, seconds) for layout in LAYOUTS
                    }  # fmt: skip
                    calls = {layout: step.read for layout, step in steps.items()}
                    case = f"{size} px, {threads} thread{'s' if threads > 1 else ''}"
                    readings[name][case] = measure.take_turns(calls, rounds=rounds)
            text, wrong = page(readings, catalog)
            with contextlib.redirect_stdout(io.StringIO()) as written:  # rewritten, so that a stop loses nothing
                measure.write(
                    "layouts-quick" if given.quick else "layouts",
                    title="Memory layouts",
                    command=" ".join(
                        ["python benchmarks/layouts.py", *(sys.argv[1:] if arguments is None else arguments)]
                    ),
                    text=f"The bare training step, batch 32, medians of {rounds} readings taken in turns.\n\n{text}",
                    readings={"rounds": rounds, "device": given.device, "images_per_second": readings},
                )
            print(f"{name} done", file=sys.stderr)
    finally:
        torch.set_num_threads(before)
    print(written.getvalue())
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
