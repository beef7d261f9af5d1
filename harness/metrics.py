"""Asks a metric's plugin for its value: it gets copies of the predictions, and must give one finite number."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from harness.api import MetricSpec
from harness.catalog import Offer
from harness.errors import HarnessError, PluginError
from harness.guard import guarded
from harness.torch_settings import kept_torch

if TYPE_CHECKING:
    import torch

_LONGEST = 80


def measure(offer: Offer[MetricSpec], logits: torch.Tensor, labels: torch.Tensor, what: str = "") -> float:
    """Return a metric of predictions; the plugin may work in place, for it gets copies.

    A number of numpy and a tensor of one element count as numbers. True, False and texts do not, for a metric that
    returns them computes something else than it says.

    Args:
        offer: The metric and its owner.
        logits: (N, C).
        labels: (N,).
        what: Names the predictions in an error, such as a job; nothing if the reader knows.

    Raises:
        PluginError: the plugin fails, or returns something else than one finite number.
    """
    called = f"{offer.spec.name} of {what}" if what else offer.spec.name
    try:
        with guarded(), kept_torch():
            value = offer.spec.compute(logits.clone(), labels.clone())
    except HarnessError as error:
        raise PluginError(f"{offer.owner} could not compute {called}: {error}.") from error
    number = _number(value)
    if number is None:
        raise PluginError(
            f"{offer.owner} computes {called} as {_shown(value)}, expected a finite number. The metric may be "
            "undefined for these labels."
        )
    return number


def _number(value: object) -> float | None:
    """Return a finite number as a float, and None for anything else."""
    try:
        with guarded():  # the value may be an object of the plugin
            plain = value.item() if hasattr(value, "item") else value
            number = math.nan if isinstance(plain, bool | str | bytes) else float(plain)  # type: ignore[arg-type]
    except HarnessError:
        return None
    return number if math.isfinite(number) else None


def _shown(value: object) -> str:
    """Return a value for a sentence: short, in one line."""
    if isinstance(value, float):
        return str(float(value))  # numpy's own repr would show its type
    if value is None or isinstance(value, bool | complex | str | bytes):
        text = " ".join(repr(value).split())
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    shape = getattr(value, "shape", None)
    called = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    return f"a value of type {called}" + (f" and shape {tuple(shape)}" if isinstance(shape, tuple) else "")
