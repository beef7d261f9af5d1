"""(protocol, model, data set, seed) -> the facts that a run must show, and the settings in which two runs differ.

A fact is read from the objects that did the work (``harness.train.observe``), not from the configuration. The expected
facts are written here a second time, apart from the code that trains, so that a change of that code is noticed.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from harness.api import ModelSpec
from harness.data.prepared import DatasetManifest
from harness.fingerprint import hash_of
from harness.registry import Protocol
from harness.train.schedule import learning_rate, learning_rate_peak
from harness.train.seeds import generator

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Facts: TypeAlias = Mapping[str, Any]
"""Executed settings by name; values that JSON can hold."""

COVERAGE = "seen_from"
"""The key of the (epoch, step) at which the record starts; absent if that is the start of the run."""

SOURCES = "sources"
"""The key of the hashes of the plugins' code by role, a list of those of all processes; absent if they agree."""

_WHOLE_RUN = ("epochs", "steps_per_epoch", "learning_rates", "order")
"""Settings that can only be compared if the record covers the whole run."""


@dataclass(frozen=True)
class Deviation:
    """A setting that differed from the protocol's.

    ``found`` is ``{"varied": [...]}`` if it changed during the run, and None if it was never recorded.
    """

    setting: str
    found: Any
    expected: Any

    def __str__(self) -> str:
        verb = "alternated between" if _varied(self.found) else "was"
        return f"{self.setting} {verb} {_short(self.found)}, expected {_short(self.expected)}"


def expected_facts(protocol: Protocol, model: ModelSpec, data: DatasetManifest, seed: int) -> dict[str, Any]:
    """Return the facts that a whole run of a job must show."""
    classes = len(data.classes)
    steps = data.counts["train"] // protocol.batch_size
    peak, _ = learning_rate_peak(protocol, model)
    return {
        "batch_size": protocol.batch_size,
        "input_size": [protocol.input_size, protocol.input_size],
        "classes": classes,
        "epochs": protocol.epochs,
        "steps_per_epoch": steps,
        "learning_rates": [learning_rate(epoch, protocol, peak) for epoch in range(protocol.epochs)],
        "loss": "cross_entropy",
        "label_smoothing": protocol.label_smoothing,
        "gradients": "of one batch",
        "optimizer": {
            "class": f"torch.{protocol.optimizer.title()}",
            "betas": list(protocol.betas),
            "eps": protocol.eps,
            "weight_decay": protocol.weight_decay,
            "amsgrad": False,
            "maximize": False,
            "decoupled_weight_decay": False,
        },
        "trained_parameters": "all",
        "augmentations": [
            {"name": use.name, "at": use.at, "strengths": dict(use.strengths)}
            for at in ("stored", "input")
            for use in protocol.augmentations
            if use.at == at
        ],
        "resizing": {"mode": "bilinear", "align_corners": False},
        "normalisation": {"mean": [_float32(x) for x in data.mean], "std": [_float32(x) for x in data.std]},
        "order": expected_order(seed, data.counts["train"], protocol.batch_size, protocol.epochs),
        "data": data.fingerprint,
        "train_images": data.counts["train"],
        "test_images": data.counts["test"],
        "test_reads": 1,
        "precision": {"parameters": "float32", "inputs": "float32", "logits": "float32", "autocast": False},
        "numerics": {
            "float32_matmul_precision": "highest",
            "cudnn_tf32": False,
            "cudnn_benchmark": False,
            "deterministic_algorithms": True,
        },
        "mode": "train",
        "evaluation": {
            "mode": "eval",
            "input_size": [protocol.input_size, protocol.input_size],
            "normalisation": {"mean": [_float32(x) for x in data.mean], "std": [_float32(x) for x in data.std]},
            "inputs": "float32",
            "autocast": False,
        },
    }


def compare_facts(found: Facts, expected: Facts) -> tuple[Deviation, ...]:
    """Return every setting in which a run differs from the expected facts.

    If the record starts in the middle of the run, settings of the whole run are left out.
    """
    partly = COVERAGE in found
    edited = tuple(
        Deviation(f"the source of {role}", "edited half-way", "the same throughout") for role in edits(found)
    )
    return edited + tuple(
        Deviation(setting, found.get(setting), value)
        for setting, value in expected.items()
        if not _equal(found.get(setting), value)
        and not (partly and (setting in _WHOLE_RUN or found.get(setting) is None))
    )


def edits(facts: Facts) -> list[str]:
    """Return the plugins, such as ``model mynet``, whose code differed between the processes that carried a job out."""
    hashes = facts.get(SOURCES, ())
    if not isinstance(hashes, Sequence) or not all(isinstance(one, Mapping) for one in hashes):
        return []
    roles = sorted({str(role) for one in hashes for role in one})
    return [role for role in roles if _differ({str(one[role]) for one in hashes if role in one})]


def _differ(hashes: Collection[str]) -> bool:
    """Return whether hashes of code differ that one version of Python gave."""
    return len(hashes) > len({one.partition(":")[0] for one in hashes})


def facts_digest(facts: Facts) -> str:
    """Hash of what was executed: equal for two runs of one job, whatever the machine."""
    return hash_of(_plain(facts))


def expected_order(seed: int, images: int, batch_size: int, epochs: int) -> str:
    """Chain of hashes over the images of every batch of a run: a fresh permutation every epoch, the rest dropped."""
    import torch

    chain = ""
    for epoch in range(epochs):
        order = torch.randperm(images, generator=generator(seed, "shuffle", epoch)).numpy()
        for first in range(0, images - batch_size + 1, batch_size):
            chain = chained(chain, order[first : first + batch_size])
    return chain


def chained(chain: str, indices: npt.NDArray[np.int64]) -> str:
    """Extend a chain of hashes by the indices of a batch; it can be written down and gone on with at any step."""
    return hashlib.blake2b(chain.encode() + indices.astype("<i8").tobytes(), digest_size=8).hexdigest()


def accounted_reads(reads: int, interruptions: Sequence[Mapping[str, Any]], epochs: int) -> int:
    """Return how often the test split was read, leaving out repetitions that a stop explains.

    A process that ends between the last step and the result reads the split again when it resumes. The weights are
    final by then, so the read reveals nothing; it is an interruption in the last position.
    """
    after_the_end = sum(entry.get("epoch", 0) >= epochs for entry in interruptions)
    return 1 if 1 <= reads <= 1 + after_the_end else reads


def _equal(found: object, expected: object) -> bool:
    return json.dumps(_plain(found), sort_keys=True) == json.dumps(_plain(expected), sort_keys=True)


def _plain(value: object) -> object:
    """Lists for tuples and floats for numbers, so that 1 and 1.0, which a TOML file may both hold, are equal."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, str | bool) or value is None:
        return value
    if isinstance(value, int | float):
        return float(value)
    return [_plain(inner) for inner in value] if isinstance(value, Iterable) else repr(value)


def _float32(value: float) -> float:
    """The value as the device holds it."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def _varied(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == {"varied"}


def _short(value: Any) -> str:
    if _varied(value):
        return " and ".join(_short(inner) for inner in value["varied"])
    if value is None:
        return "never seen"
    text = value if isinstance(value, str) else json.dumps(value, default=list)
    return text if len(text) <= 200 else text[:200] + "..."
