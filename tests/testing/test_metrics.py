"""Every rule about metrics catches its offender, and no other rule complains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from harness.api import MetricSpec
from harness.testing.metrics import RULES, MetricCase
from tests.testing.offending import SIDE_EFFECTS, Offender, assert_exactly, complaints


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    if not torch.isfinite(logits).all():
        raise ValueError("logits are not finite")
    return 100.0 * int((logits.argmax(dim=1) == labels).sum()) / len(labels)


def as_tensor(logits: torch.Tensor, labels: torch.Tensor) -> Any:
    return torch.tensor(accuracy(logits, labels))


def as_whole_number(logits: torch.Tensor, labels: torch.Tensor) -> Any:
    return round(accuracy(logits, labels))


def as_share(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return accuracy(logits, labels) / 100


def doubled(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return 2 * accuracy(logits, labels)


def constant(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return 50.0 + 0 * accuracy(logits, labels)


def by_position(logits: torch.Tensor, labels: torch.Tensor) -> float:
    accuracy(logits, labels)
    weights = torch.arange(len(labels), 0, -1).double()
    right = (logits.argmax(dim=1) == labels).double()
    return 100.0 * float((weights * right).sum() / weights.sum())


def last_of_ties(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return accuracy(logits.flip(1), logits.shape[1] - 1 - labels)


def all_of_ties(logits: torch.Tensor, labels: torch.Tensor) -> float:
    accuracy(logits, labels)
    own = logits.gather(1, labels[:, None])[:, 0]
    return 100.0 * float((own >= logits.max(dim=1).values).double().mean())


def needs_two_images(logits: torch.Tensor, labels: torch.Tensor) -> float:
    if len(labels) < 2:
        raise ZeroDivisionError("no variance")
    return accuracy(logits, labels)


def needs_every_class(logits: torch.Tensor, labels: torch.Tensor) -> float:
    value = accuracy(logits, labels)
    counts = torch.bincount(labels, minlength=logits.shape[1]).double()
    return value * float((counts / counts).mean())


def in_place(logits: torch.Tensor, labels: torch.Tensor) -> float:
    value = accuracy(logits, labels)
    logits.sub_(logits.max(dim=1, keepdim=True).values)
    return value


def by_chance(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return accuracy(logits, labels) * (1 - 1e-9 * float(torch.rand(())))


def by_time(logits: torch.Tensor, labels: torch.Tensor) -> float:
    import time

    return accuracy(logits, labels) * (1 - 1e-9 * (time.perf_counter_ns() % 1000 + 1) / 1000)


def tolerant(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return accuracy(logits.nan_to_num(), labels)


def does(action: Callable[[], None], logits: torch.Tensor, labels: torch.Tensor) -> float:
    action()
    return accuracy(logits, labels)


def spec(compute: Callable[..., Any] = accuracy, **changes: Any) -> MetricSpec:
    healthy = MetricSpec(name="accuracy", title="Accuracy", unit="%", higher_is_better=True, compute=compute)
    return replace(healthy, **changes)


OFFENDERS = (
    Offender("metric-number", spec(as_tensor), says="Tensor"),
    Offender("metric-direction", spec(higher_is_better=False), says="declares that lower is better"),
    Offender("metric-direction", spec(constant), says="50, 50, 50"),
    Offender("metric-range", spec(as_share), says="a share is not a percentage"),
    Offender("metric-range", spec(doubled), says="200 %"),
    Offender("metric-order", spec(by_position), says="another order"),
    Offender("metric-ties", spec(last_of_ties), says="lowest index"),
    Offender("metric-ties", spec(all_of_ties), says="lowest index"),
    Offender("metric-small", spec(needs_two_images), says="one image raised ZeroDivisionError"),
    Offender("metric-small", spec(needs_every_class), says="nan"),
    Offender("metric-inputs", spec(in_place)),
    Offender("metric-repeats", spec(by_chance), says="torch's global generator"),
    Offender("metric-repeats", spec(by_time), says="and then"),
    Offender("metric-undefined", spec(tolerant), "warning", says="ValueError"),
    Offender("metric-spec-pickles", spec(lambda logits, labels: accuracy(logits, labels))),
    Offender("metric-described", spec(title=""), "warning", says="title"),
    *(Offender(f"metric-{end}", spec(partial(does, action)), says=says) for end, action, says in SIDE_EFFECTS),
)


@pytest.mark.parametrize("number", range(len(OFFENDERS)), ids=lambda number: f"{number}-{OFFENDERS[number].rule}")
def test_exactly_the_intended_rule_complains(number: int) -> None:
    offender = OFFENDERS[number]
    assert_exactly(offender, complaints(RULES, MetricCase(offender.what)))


def test_a_rounded_accuracy_is_no_float() -> None:
    found = complaints(RULES, MetricCase(spec(as_whole_number)))
    assert found["metric-number"].detail.startswith("it returns int")


def test_healthy_metric_keeps_every_rule() -> None:
    assert complaints(RULES, MetricCase(spec())) == {}
