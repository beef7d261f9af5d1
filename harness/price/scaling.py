"""What was timed of some models -> what the others would take: by the same model elsewhere, else by multiply-adds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from harness.api import ModelSpec
from harness.catalog import Offer
from harness.machine import gc_paused
from harness.models import Architecture, build_module
from harness.price.price import Basis
from harness.price.timings import Timing, Timings, mean_timing

_SECONDS_PER_MAC = 1e-10  # of a training step and one thread; orders jobs where nothing was ever timed


@dataclass(frozen=True)
class Workload:
    """A (model, data set) of a plan: what it is, and what its speed is filed under.

    Attributes:
        model, dataset: Names.
        architecture: The model at the data set's number of classes.
        classes: That number.
        side: Of the stored images, in pixels.
        train, test: Numbers of images.
        key: From ``timing_key``.
    """

    model: str
    dataset: str
    architecture: Architecture
    classes: int
    side: int
    train: int
    test: int
    key: str


@dataclass(frozen=True)
class Rates:
    """What prices a case that was not timed itself.

    Attributes:
        by_model: A timing of each model that was timed on some data set; the size of the head hardly matters.
        per_mac: Seconds of a training step by multiply-add and image; None where there is nothing to scale from.
        parts: What does not depend on the model, as a mean over those timed.
        batch: Images in a training step.
        macs_of: Multiply-adds of an image; None where the model can't be traced.
    """

    by_model: Mapping[str, Timing]
    per_mac: float | None
    parts: Timing
    batch: int
    macs_of: Callable[[Workload], float | None]

    def timing(self, case: Workload) -> tuple[Timing, Basis] | None:
        """Return what a case takes and what that rests on; None where nothing is known."""
        if case.model in self.by_model:
            return self.by_model[case.model], "timed"
        macs = self.macs_of(case) if self.per_mac is not None else None
        if macs is None or self.per_mac is None:
            return None
        # A training step is a forward pass and about two more backwards.
        image = self.per_mac * macs
        return replace(self.parts, step=image * self.batch, image=image / 3), "scaled"


def find_rates(
    cases: Mapping[tuple[str, str], Workload], timed: Mapping[tuple[str, str], Timing | None], *, batch: int,
    macs_of: Callable[[Workload], float | None], nominal: bool,
) -> Rates:  # fmt: skip
    """Learn from the cases that were timed how long the others take.

    Args:
        cases: All, by model and data set.
        timed: The timing of each, where there is one.
        batch: Images in a training step.
        macs_of: Counts multiply-adds, which takes a moment; asked only where a model was not timed anywhere.
        nominal: Whether numbers in the right proportion, and no seconds, will do where nothing was timed.
    """
    nothing = Timing(0.0, 0.0, 0.0, 0.0, 0.0)
    by_model = {cases[name].model: timing for name, timing in timed.items() if timing}
    if all(case.model in by_model for case in cases.values()) or not (by_model or nominal):
        return Rates(by_model, None, nothing, batch, macs_of)
    ratios, timings = [], []
    for name, timing in timed.items():
        macs = macs_of(cases[name]) if timing else None
        if timing and macs:
            ratios.append(timing.step / macs / batch)
            timings.append(timing)
    if not ratios:
        return Rates(by_model, _SECONDS_PER_MAC if nominal else None, nothing, batch, macs_of)
    return Rates(by_model, statistics.median(ratios), mean_timing(timings), batch, macs_of)


def count_products(timings: Timings, model: Offer[ModelSpec], classes: int, digest: str, resolution: int) -> float:
    """Return the multiply-adds of an image's products, counted once a machine; 0 where the model refuses an image.

    Args:
        timings: Where the number is looked up, and left.
        model, classes: What to build, should it have to be counted.
        digest: Of the model's architecture at this class count.
        resolution: Pixels of a side.
    """
    name = "products", digest, resolution
    found = timings.number(*name)
    if found is None:
        from harness.macs import estimate_macs

        try:
            module = build_module(model, classes)
            with gc_paused():
                found = estimate_macs(module, resolution)
        except Exception:  # whatever a model raises; it then keeps its place in the order
            found = 0.0
        timings.put_number(found, *name)
    return found
