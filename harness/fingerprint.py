"""The fingerprint of a result: one hash of the architecture, the data and the protocol."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from harness.api import Job, ModelSpec
from harness.catalog import Offer
from harness.registry import Protocol

if TYPE_CHECKING:
    pass


def job_fingerprint(
    job: Job, *, protocol: Protocol, model: Offer[ModelSpec], architecture: str, lr_max: float, data: str
) -> str:
    """Hash of all that determines a job's numbers.

    Args:
        job: The cell.
        protocol: The protocol that is executed.
        model: The model and its owner, whose version counts since code that hashing cannot see may have changed.
        architecture: From ``architecture_digest``.
        lr_max: The learning-rate peak that is used.
        data: The data set's content fingerprint.
    """
    one = fingerprints(
        job.model, job.dataset, protocol=protocol, model=model, architecture=architecture, lr_max=lr_max, data=data
    )
    return one(job.seed)


def fingerprints(
    name: str, dataset: str, *, protocol: Protocol, model: Offer[ModelSpec], architecture: str, lr_max: float, data: str
) -> Callable[[int], str]:
    """Return the fingerprint as a function of the seed alone, for the seeds of one model on one data set.

    What is hashed is JSON with its keys in order, and the seed comes last; what stands before it is hashed once.
    """
    owner = model.owner
    content = {
        "protocol": protocol.digest,
        "model": [name, owner.distribution, owner.version, architecture, lr_max],
        "dataset": [dataset, data],
        "seed": 0,
    }
    before = hashlib.sha256(_canonical(content).removesuffix("0}").encode())

    def fingerprint(seed: int) -> str:
        digest = before.copy()
        digest.update(b"%d}" % seed)
        return digest.hexdigest()[:16]

    return fingerprint


def hash_of(value: object) -> str:
    """Sixteen hex digits over anything that JSON can hold."""
    return hashlib.sha256(_canonical(value).encode()).hexdigest()[:16]


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
