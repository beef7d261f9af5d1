"""The learning rate as a pure function of the epoch."""

from __future__ import annotations

import math

from harness.api import ModelSpec
from harness.registry import Protocol


def learning_rate(epoch: int, protocol: Protocol, lr_max: float) -> float:
    """Return the rate of a whole epoch: linear warm-up, then a cosine down to ``lr_min`` in the last epoch.

    With w warm-up epochs of E: ``lr_max (e+1)/w`` for e < w, afterwards
    ``lr_min + (lr_max - lr_min) (1 + cos(pi (e+1-w)/(E-w))) / 2`` (the xScore authors' code).

    Args:
        epoch: Counted from 0.
        protocol: Gives ``epochs``, ``warmup_epochs`` and ``lr_min``.
        lr_max: The peak for this model.
    """
    warmup = protocol.warmup_epochs
    if epoch < warmup:
        return lr_max * (epoch + 1) / warmup
    progress = (epoch + 1 - warmup) / (protocol.epochs - warmup)
    return protocol.lr_min + (lr_max - protocol.lr_min) * (1 + math.cos(math.pi * progress)) / 2


def learning_rate_peak(protocol: Protocol, spec: ModelSpec) -> tuple[float, str | None]:
    """Return the peak for a model, and the source of an exception: ``protocol``, ``model`` or None.

    The protocol's own list of exceptions is frozen and goes first; a plugin may declare another peak for its model,
    which is shown beside its results.
    """
    if spec.name in protocol.lr_max_exceptions:
        return protocol.lr_max_exceptions[spec.name], "protocol"
    if spec.lr_max is not None and spec.lr_max != protocol.lr_max:
        return spec.lr_max, "model"
    return protocol.lr_max, None
