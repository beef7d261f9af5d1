"""The fingerprint of a result: one hash of the architecture, the data and the protocol."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from harness.api import Job, ModelSpec
from harness.api.jobs import STANDARD_BUDGET
from harness.catalog import Offer
from harness.registry import Protocol

_ADDRESS = re.compile(r"\b0x(?:[0-9a-f]+|[0-9A-F]{9,})\b")
_ID = re.compile(r"\b[0-9a-f]{6,}\b")
_STRING = re.compile(r"(?<!\w)(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")")
_TOKEN = re.compile(rf"{_STRING.pattern}|[^'\"(){{}}\[\],]+|.", re.DOTALL)
_NUMBER = re.compile(r"[-+\d.e]+")
_CLOSING = {"{": "}", "(": ")", "[": "]"}


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


def repeatable(text: str, numbers: Iterable[int] = ()) -> str:
    """Return a text that objects print of themselves without what differs between two processes.

    Addresses are left out, and the elements of a printed set are sorted; a set of numbers has the same order always, as
    a dict has. Any other text stays as it is.

    Args:
        text: As printed.
        numbers: Numbers to leave out, such as the ids of the objects.

    >>> repeatable("kinds={'max', 'avg'}, pool=<Pool object at 0x7f01>")
    "kinds={'avg', 'max'}, pool=<Pool object at >"
    """
    text = _ADDRESS.sub("", text)
    if _ID.search(text):
        named = {form for number in numbers for form in (f"{number}", f"{number:x}")}
        text = _ID.sub(lambda word: "" if word[0] in named else word[0], text)
    return _sets_sorted(text) if "{" in text else text


def _sets_sorted(text: str) -> str:
    """Sort the elements of every set in braces, from the innermost outwards."""
    parts: list[list[str]] = [[""]]  # by level of brackets: the elements so far
    opened: list[str] = []
    for token in _TOKEN.findall(text):
        if token in _CLOSING:
            opened.append(token)
            parts.append([""])
        elif opened and token == _CLOSING[opened[-1]]:
            elements = parts.pop()
            parts[-1][-1] += _joined(opened.pop(), elements) + token
        elif token == "," and opened:
            parts[-1].append("")
        else:
            parts[-1][-1] += token
    while opened:  # brackets that nothing closes are plain text
        elements = parts.pop()
        parts[-1][-1] += opened.pop() + ",".join(elements)
    return parts[0][0]


def _joined(opening: str, elements: list[str]) -> str:
    is_set = opening == "{" and len(elements) > 1 and not any(":" in _STRING.sub("", one) for one in elements)
    if not is_set or all(_NUMBER.fullmatch(one.strip()) for one in elements):
        return opening + ",".join(elements)
    return opening + ", ".join(sorted(one.strip() for one in elements))


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
