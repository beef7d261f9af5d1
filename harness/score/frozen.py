"""Anchors that a user measured and froze: a TOML file that says what was measured, under which protocol, from whom.

A file is written once and never changed: its name is its version, and its digest covers every value together with the
metric and the protocol, so that scores on two different scales cannot pass for one.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import CannotContinueError, WrongUseError
from harness.files import write_text_atomically, writing_to
from harness.score.anchors import Anchors

SCHEMA = 1
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_TEXTS = ("name", "metric", "protocol", "protocol_digest", "created")


@dataclass(frozen=True)
class FrozenAnchors:
    """A scale and where it comes from.

    ``zero`` and ``one`` hold, by data set, the metric's value that normalises to 0 and to 1, in the metric's own
    direction: for a loss ``zero`` is the larger number. ``protocol_digest`` is empty where the values came from a file
    of accuracies, whose protocol nobody knows. ``models`` are those whose extrema these are.
    """

    name: str
    metric: str
    higher_is_better: bool
    protocol: str
    protocol_digest: str
    created: str
    models: tuple[str, ...]
    zero: Mapping[str, float] = field(hash=False)
    one: Mapping[str, float] = field(hash=False)

    @property
    def digest(self) -> str:
        """Twelve hex digits over the values, the metric and the protocol."""
        values = {dataset: [self.zero[dataset], self.one[dataset]] for dataset in sorted(self.zero)}
        content = [values, self.metric, self.higher_is_better, self.protocol_digest]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]

    def anchors(self) -> Anchors:
        """Return the scale for ``score``; the signs are turned where lower is better, as they are in its accuracies."""
        sign = 1.0 if self.higher_is_better else -1.0
        return Anchors(
            self.name,
            {dataset: sign * value for dataset, value in self.zero.items()},
            {dataset: sign * value for dataset, value in self.one.items()},
        )


def check_anchor_name(name: str) -> str:
    """Return a name under which anchors can be filed. Raises WrongUseError for another one."""
    if not _NAME.fullmatch(name) or name == "own":
        raise WrongUseError(
            f"'{name}' is no name for anchors: use lower-case letters, digits, '.', '_' and '-', such as 'lab-2026' "
            "('own' is taken). The name is the version: anchors are never changed, only succeeded."
        )
    return name


def write_anchors(path: Path, frozen: FrozenAnchors) -> bool:
    """Write anchors, once; return whether a file was written. The same values again are no change.

    Raises:
        WrongUseError: other anchors are there under this name.
        CannotContinueError: what is there cannot be read.
        StoreError: the folder cannot be written.
    """
    frozen.anchors()  # refuses a scale without length before anything is written
    if path.exists():
        there = read_anchors(path)
        if there.digest == frozen.digest:
            return False
        raise WrongUseError(
            f"{path} already holds other anchors (digest {there.digest}, these have {frozen.digest}). "
            "Frozen anchors are never changed, because old scores would change their meaning: choose another name."
        )
    with writing_to(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, _as_toml(frozen))
    return True


def read_anchors(path: Path) -> FrozenAnchors:
    """Read a file of anchors.

    Raises ``CannotContinueError``, naming the file, where it cannot be read, is no TOML, lacks a key, holds something
    that is no number, or its digest does not belong to its values.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CannotContinueError(f"The anchors {path} cannot be read: {error.strerror or error}.") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CannotContinueError(f"The anchors {path} are no TOML in UTF-8: {error}.") from error
    if content.get("schema") != SCHEMA:
        raise CannotContinueError(f"The anchors {path} have schema {content.get('schema')}, expected {SCHEMA}.")
    try:
        frozen = FrozenAnchors(
            **{key: _text(content[key]) for key in _TEXTS},
            higher_is_better=bool(content["higher_is_better"]),
            models=tuple(_text(model) for model in content["models"]),
            zero={name: float(value) for name, value in content["zero"].items()},
            one={name: float(value) for name, value in content["one"].items()},
        )
        recorded = _text(content["digest"])
    except KeyError as error:
        raise CannotContinueError(f"The anchors {path} lack the key {error}.") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise CannotContinueError(f"The anchors {path} hold something impossible: {error}.") from error
    frozen.anchors()
    if recorded != frozen.digest:
        raise CannotContinueError(
            f"The anchors {path} were changed after they were frozen: their digest is {frozen.digest}, "
            f"the file says {recorded}. Restore the file, or freeze new anchors under another name."
        )
    return frozen


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value


def _as_toml(frozen: FrozenAnchors) -> str:
    def line(key: str, value: object) -> str:
        # A JSON string, number, boolean or list of strings is the same in TOML.
        return f"{key} = {json.dumps(value)}"

    head = [
        "# Frozen anchors of xscore-harness. Never edit: the digest would not fit. Make new ones under another name.",
        line("schema", SCHEMA),
        *(line(key, getattr(frozen, key)) for key in _TEXTS),
        line("higher_is_better", frozen.higher_is_better),
        line("models", list(frozen.models)),
        line("digest", frozen.digest),
    ]
    for title, values in (("zero", frozen.zero), ("one", frozen.one)):
        head += ["", f"[{title}]", *(line(json.dumps(name), value) for name, value in values.items())]
    return "\n".join(head) + "\n"
