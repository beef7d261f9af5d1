"""The fingerprint of a result: one hash of the architecture, the data and the protocol."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass

from harness.api import Job, ModelSpec
from harness.api.jobs import STANDARD_BUDGET
from harness.catalog import Offer
from harness.registry import Protocol


@dataclass(frozen=True, kw_only=True)
class Identity:
    """All that determines a job's numbers beside its names and its seed.

    Attributes:
        protocol: The protocol that is executed.
        model: The model and its owner, whose version counts since hashing cannot see every change of code.
        architecture: From ``architecture_digest``.
        lr_max: The learning-rate peak that is used.
        data: The data set's content fingerprint.
    """

    protocol: Protocol
    model: Offer[ModelSpec]
    architecture: str
    lr_max: float
    data: str


def job_fingerprint(job: Job, identity: Identity) -> str:
    """Return the hash of all that determines a job's numbers."""
    return fingerprints(job, identity)(job.seed)


def fingerprints(job: Job, identity: Identity) -> Callable[[int], str]:
    """Return the fingerprint as a function of the seed alone, for jobs that are equal but for the seed."""
    owner = identity.model.owner
    content: dict[str, object] = {
        "protocol": identity.protocol.digest,
        "model": [job.model, owner.distribution, owner.version, identity.architecture, identity.lr_max],
        "dataset": [job.dataset, identity.data],
        "seed": 0,
    }
    if job.budget != STANDARD_BUDGET:  # results from before budgets had names stay current
        content["budget"] = job.budget
    # The hashed JSON has its keys in order, so the seed comes last and the text before it is hashed once.
    before = hashlib.sha256(_canonical(content).removesuffix("0}").encode())

    def fingerprint(seed: int) -> str:
        digest = before.copy()
        digest.update(b"%d}" % seed)
        return digest.hexdigest()[:16]

    return fingerprint


def hash_of(value: object) -> str:
    """Return sixteen hex digits of the hash of anything that JSON can hold."""
    return hashlib.sha256(_canonical(value).encode()).hexdigest()[:16]


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
