"""Rules for metrics: a metric is a finite number, in its declared unit and direction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.api import MetricSpec
from harness.errors import one_line
from harness.testing.rules import (
    RAISED,
    Failed,
    Rule,
    Skipped,
    Warned,
    description_rule,
    pickling_rule,
    rule,
    side_effect_rules,
)
from harness.testing.sandbox import changed, random_states

if TYPE_CHECKING:
    import torch

IMAGES, CLASSES = 200, 10
_SHARES = (0.0, 0.5, 1.0)


@dataclass(frozen=True)
class MetricCase:
    """A metric."""

    spec: MetricSpec

    def value(self, logits: torch.Tensor, labels: torch.Tensor) -> float:
        """Compute it. Raises Skipped if there is no number, which ``metric-number`` reports."""
        try:
            found = float(self.spec.compute(logits.clone(), labels.clone()))
        except RAISED as error:
            raise Skipped(f"it does not compute: {one_line(error)}.") from error
        if not math.isfinite(found):
            raise Skipped(f"it computes {found}.")
        return found


def ordinary(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits (200, 10) of a mediocre model and labels (200,) of every class."""
    import torch

    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(IMAGES) % CLASSES
    logits = torch.randn(IMAGES, CLASSES, generator=draw, dtype=torch.float32)
    logits[torch.arange(IMAGES), labels] += 1.0
    return logits, labels


def graded(share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits that are certain: right for a share of the images, and wrong for the others."""
    import torch

    draw = torch.Generator().manual_seed(1)
    labels = torch.arange(IMAGES) % CLASSES
    logits = torch.randn(IMAGES, CLASSES, generator=draw, dtype=torch.float32)
    right = torch.arange(IMAGES) < round(share * IMAGES)
    logits[torch.arange(IMAGES), labels] = torch.where(right, 12.0, -12.0)
    wrong = (labels + 1) % CLASSES
    logits[~right, wrong[~right]] = 12.0
    return logits, labels


@rule("metric-number")
def is_a_number(case: MetricCase) -> None:
    """Results are written as JSON, which holds finite numbers."""
    for logits, labels in (ordinary(), graded(0.0), graded(1.0)):
        try:
            found = case.spec.compute(logits, labels)
        except RAISED as error:
            raise Failed(f"200 images of 10 classes raised {one_line(error)}.") from error
        if not isinstance(found, float) or not math.isfinite(found):
            raise Failed(f"it returns {type(found).__name__} {found!r}, expected a finite float.")


@rule("metric-direction")
def has_direction(case: MetricCase) -> str:
    """Tables put the best first, by the direction that the metric declares."""
    values = [case.value(*graded(share)) for share in _SHARES]
    signed = values if case.spec.higher_is_better else [-value for value in values]
    shown = ", ".join(f"{value:.4g}" for value in values)
    if not signed[0] <= signed[1] <= signed[2] or signed[0] == signed[2]:
        direction = "higher" if case.spec.higher_is_better else "lower"
        raise Failed(f"none, half and all answers right give {shown}, but it declares that {direction} is better.")
    return f"none, half and all right: {shown}"


@rule("metric-range")
def in_range(case: MetricCase) -> None:
    """A percentage outside of 0..100 shows a mistake in the formula or in the unit."""
    if case.spec.unit != "%":
        raise Skipped("its unit is not '%'.")
    for logits, labels in (ordinary(), *(graded(share) for share in _SHARES)):
        value = case.value(logits, labels)
        if not -1e-9 <= value <= 100 + 1e-9:
            raise Failed(f"it computes {value:.6g} %, expected 0 to 100.")
    values = [case.value(*graded(share)) for share in _SHARES]
    if max(values) <= 1 < max(abs(value) for value in values) * 100 and case.spec.higher_is_better:
        raise Failed(f"everything right gives {max(values):.4g} %: a share is not a percentage.")


@rule("metric-order")
def ignores_order(case: MetricCase) -> None:
    """The order of the images has no meaning."""
    import torch

    logits, labels = ordinary()
    value = case.value(logits, labels)
    for seed in range(3):
        order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(seed))
        found = case.value(logits[order], labels[order])
        if not math.isclose(found, value, rel_tol=1e-5, abs_tol=1e-6):
            raise Failed(f"the same images in another order give {found!r} instead of {value!r}.")


@rule("metric-ties")
def breaks_ties_low(case: MetricCase) -> None:
    """Between equal logits the harness predicts the class with the lowest index everywhere."""
    import torch

    draw = torch.Generator().manual_seed(2)
    labels = torch.randint(0, CLASSES, (IMAGES,), generator=draw)
    tied = torch.randint(0, 3, (IMAGES, CLASSES), generator=draw).to(torch.float32)
    low_first = tied - 1e-4 * torch.arange(CLASSES, dtype=torch.float32)
    found, expected = case.value(tied, labels), case.value(low_first, labels)
    if not math.isclose(found, expected, rel_tol=5e-3, abs_tol=1e-3):
        raise Failed(f"tied logits give {found:.6g}; with the lowest index preferred they would give {expected:.6g}.")


@rule("metric-small")
def works_when_small(case: MetricCase) -> None:
    """A class may have no test image, and a data set may have two classes."""
    import torch

    one = torch.tensor([[0.3, 2.0, -1.0]]), torch.tensor([1])
    unused = ordinary()[0][:20], torch.arange(20) % 3
    binary = torch.tensor([[1.0, 0.0], [0.2, 0.9], [2.0, -1.0]]), torch.tensor([0, 1, 1])
    for (logits, labels), what in ((one, "one image"), (unused, "classes without images"), (binary, "two classes")):
        try:
            value = float(case.spec.compute(logits, labels))
        except RAISED as error:
            raise Failed(f"{what} raised {one_line(error)}.") from error
        if not math.isfinite(value):
            raise Failed(f"{what} gives {value}, expected a finite number.")


@rule("metric-inputs")
def leaves_inputs(case: MetricCase) -> None:
    """All metrics get the same tensors, one after the other."""
    import torch

    logits, labels = ordinary()
    case.value(logits, labels)
    given = logits.clone(), labels.clone()
    case.spec.compute(*given)
    if not torch.equal(given[0], logits) or not torch.equal(given[1], labels):
        raise Failed("it changes its arguments; clone them first.")


@rule("metric-repeats")
def repeats(case: MetricCase) -> None:
    """A random number can't be verified."""
    import torch

    values = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = random_states()
        values.append(case.value(*ordinary()))
        if found := changed(before, random_states()):
            raise Failed(f"it draws from {found[0]}, expected no randomness.")
    if values[0] != values[1]:
        raise Failed(f"the same predictions give {values[0]!r} and then {values[1]!r}.")


@rule("metric-undefined")
def refuses_undefined(case: MetricCase) -> None:
    """A finite number for logits that are not finite hides that a model has diverged."""
    logits, labels = ordinary()
    case.value(logits, labels)
    logits[3] = math.nan
    try:
        value = float(case.spec.compute(logits, labels))
    except RAISED:
        return
    if math.isfinite(value):
        raise Warned(f"logits that are not finite give {value:.6g}, expected ValueError.")


def _use(case: object) -> object:
    assert isinstance(case, MetricCase)
    return case.spec.compute(*ordinary())


RULES: tuple[Rule, ...] = (
    is_a_number,
    has_direction,
    in_range,
    ignores_order,
    breaks_ties_low,
    works_when_small,
    leaves_inputs,
    repeats,
    refuses_undefined,
    *side_effect_rules("metric", "computing the metric", _use),
    pickling_rule("metric"),
    description_rule("metric", "A number without a readable name means nothing in a table.", (), ("title",)),
)
