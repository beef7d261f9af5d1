"""Anchors of a table: found by name, frozen into a user's file, read from it, or taken from the table itself.

A user's file holds the measured values, their metric, protocol and models. It is written once and never changed: its
name is its version, and its digest covers values, metric and protocol, so that two scales cannot be confused.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.api import MetricSpec
from harness.api.jobs import STANDARD_BUDGET
from harness.errors import CannotContinueError, WrongUseError, unknown_name
from harness.files import write_text_atomically, writing_to
from harness.registry import AnchorTable, Benchmark, Protocol, Suite
from harness.score import Anchors

if TYPE_CHECKING:
    import pandas as pd

OWN = "own"
"""Value of ``--anchors`` that chooses the extrema of the table itself."""

SCHEMA = 1
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_TEXTS = ("name", "metric", "protocol", "protocol_digest", "created")


@dataclass(frozen=True)
class FrozenAnchors:
    """A scale and its origin.

    ``zero`` and ``one`` hold, by data set, the metric's value that normalises to 0 and to 1, in the metric's own
    direction: for a loss ``zero`` is the larger number. ``protocol_digest`` is empty for values from a file of
    accuracies, whose protocol is unknown. ``budget`` is empty for the standard one. The values are the extrema of
    ``models``.
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
    budget: str = ""

    @property
    def digest(self) -> str:
        """Twelve hex digits over the values, the metric, the protocol and any budget but the standard one."""
        values = {dataset: [self.zero[dataset], self.one[dataset]] for dataset in sorted(self.zero)}
        content = [values, self.metric, self.higher_is_better, self.protocol_digest]
        if self.budget:
            content.append(self.budget)
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]

    def anchors(self) -> Anchors:
        """Return the scale for ``score``, with opposite signs where lower is better, like its accuracies."""
        sign = 1.0 if self.higher_is_better else -1.0
        return Anchors(
            self.name,
            {dataset: sign * value for dataset, value in self.zero.items()},
            {dataset: sign * value for dataset, value in self.one.items()},
        )


def check_anchor_name(name: str) -> str:
    """Return a valid name for anchors. Raises WrongUseError for an invalid one."""
    if not _NAME.fullmatch(name) or name == OWN:
        raise WrongUseError(
            f"'{name}' is not a valid name for anchors: use lower-case letters, digits, '.', '_' and '-', such as "
            "'lab-2026' ('own' is taken). The name is the version: anchors never change; new values get a new name."
        )
    return name


def anchor_file(runs: Path, name: str) -> Path:
    """Return the path of the user's anchors of this name. Raises WrongUseError for an invalid name."""
    return runs / "anchors" / f"{check_anchor_name(name)}.toml"


def registry_anchors(table: AnchorTable) -> Anchors:
    """Return the registry's anchors as ``score`` takes them."""
    return Anchors(name=table.name, minimum=table.minimum, maximum=table.maximum)


def find_anchors(name: str, benchmark: Benchmark, runs: Path, *, metric: MetricSpec, suite: Suite | None) -> Anchors:
    """Find anchors by name, in the registry or among the user's, or by the path of their file.

    Args:
        name: A name, or a path that ends in ``.toml``.
        benchmark: Holds the registry's anchors, which are of the protocol's own metric.
        runs: The runs folder, which holds the user's anchors.
        metric: The metric that is scored.
        suite: The suite of the results; None for a file of accuracies, which has the protocol's own metric.

    Raises:
        WrongUseError: no anchors have that name, or they are of another metric, protocol or budget.
        CannotContinueError: their file is damaged.
    """
    protocol = benchmark.protocol(suite.protocol) if suite else None
    if name in benchmark.anchors:
        if protocol is not None and metric.name != protocol.metric:
            raise WrongUseError(
                f"The anchors '{name}' are of {protocol.metric}, and the score asked for is of {metric.name}. "
                "Freeze anchors of that metric with 'harness score --make-anchors NAME --metric "
                f"{metric.name}', or use --anchors {OWN}."
            )
        return registry_anchors(benchmark.anchor_table(name))
    path = Path(name) if name.endswith(".toml") else anchor_file(runs, name)
    if not path.is_file():
        mine = [file.stem for file in sorted((runs / "anchors").glob("*.toml"))]
        if name.endswith(".toml"):
            raise CannotContinueError(f"The file of anchors {path} does not exist.")
        raise WrongUseError(unknown_name("set of anchors", name, [*benchmark.anchors, *mine, OWN]))
    frozen = read_anchors(path)
    if frozen.metric != metric.name:
        raise WrongUseError(
            f"The anchors '{frozen.name}' are of {frozen.metric}, and the score asked for is of {metric.name}."
        )
    if protocol is not None and frozen.protocol_digest and frozen.protocol_digest != protocol.digest:
        raise WrongUseError(
            f"The anchors '{frozen.name}' were measured under {frozen.protocol} (digest {frozen.protocol_digest}), "
            f"and these results under {protocol.name} (digest {protocol.digest}). Scores across protocols would not "
            "be comparable; freeze anchors of this protocol."
        )
    measured_at = frozen.budget or STANDARD_BUDGET
    if suite and frozen.protocol_digest and measured_at != suite.budget:
        raise WrongUseError(
            f"The anchors '{frozen.name}' were measured at the budget {measured_at}, and these results at "
            f"{suite.budget}. Scores across budgets would not be comparable; freeze anchors of this budget."
        )
    return frozen.anchors()


def suite_anchors(benchmark: Benchmark, suite: Suite, metric: str) -> Anchors | None:
    """Return a suite's fixed anchors; None where it has none, or where they are of another metric."""
    if suite.anchors is None or metric != benchmark.protocol(suite.protocol).metric:
        return None
    return registry_anchors(benchmark.anchor_table(suite.anchors))


def own_anchors(frame: pd.DataFrame, what: str, hint: str) -> Anchors:
    """Return the extrema of the complete models of ``frame``, in which larger values are better.

    Raises CannotContinueError where fewer than two models are complete, or all are equal on a data set. The message
    calls the table ``what`` and ends with ``hint``.
    """
    complete = frame.dropna()
    if len(complete) < 2:
        raise CannotContinueError(
            f"{what} has no fixed anchors, so its scores are normalised by the best and the worst complete model: "
            f"found {len(complete)} with a result on every data set, expected at least 2. {hint}"
        )
    return Anchors.from_table(f"measured: {len(complete)} models", complete)


def freeze(
    name: str, frame: pd.DataFrame, metric: MetricSpec, protocol: Protocol | None, budget: str = STANDARD_BUDGET
) -> FrozenAnchors:
    """Make anchors from the extrema of a complete table (index model) in the metric's own direction."""
    check_anchor_name(name)
    sign = 1.0 if metric.higher_is_better else -1.0
    scale = Anchors.from_table(name, sign * frame)
    return FrozenAnchors(
        name=name,
        metric=metric.name,
        higher_is_better=metric.higher_is_better,
        protocol=protocol.name if protocol else "",
        protocol_digest=protocol.digest if protocol else "",
        budget="" if budget == STANDARD_BUDGET else budget,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        models=tuple(str(model) for model in frame.index),
        zero={dataset: sign * value for dataset, value in scale.minimum.items()},
        one={dataset: sign * value for dataset, value in scale.maximum.items()},
    )


def write_anchors(path: Path, frozen: FrozenAnchors) -> bool:
    """Write anchors once; return False if the file exists with the same values.

    Raises:
        WrongUseError: the file exists with other values.
        CannotContinueError: the existing file cannot be read.
        StoreError: the folder cannot be written.
    """
    frozen.anchors()  # raises for a scale without length, before anything is written
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

    Raises ``CannotContinueError``, naming the file, where it cannot be read, is not TOML, lacks a key, has a value of
    the wrong type, or has the digest of other values.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CannotContinueError(f"The anchors {path} cannot be read: {error.strerror or error}.") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CannotContinueError(f"The anchors {path} are not TOML in UTF-8: {error}.") from error
    if content.get("schema") != SCHEMA:
        raise CannotContinueError(f"The anchors {path} have schema {content.get('schema')}, expected {SCHEMA}.")
    try:
        frozen = FrozenAnchors(
            **{key: _text(content[key]) for key in _TEXTS},
            higher_is_better=bool(content["higher_is_better"]),
            budget=_text(content.get("budget", "")),
            models=tuple(_text(model) for model in content["models"]),
            zero={name: float(value) for name, value in content["zero"].items()},
            one={name: float(value) for name, value in content["one"].items()},
        )
        recorded = _text(content["digest"])
    except KeyError as error:
        raise CannotContinueError(f"The anchors {path} lack the key {error}.") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise CannotContinueError(f"The anchors {path} hold an impossible value: {error}.") from error
    frozen.anchors()
    if recorded != frozen.digest:
        raise CannotContinueError(
            f"The anchors {path} were changed after they were frozen: their digest is {frozen.digest}, "
            f"not {recorded}. Restore the file, or freeze new anchors under another name."
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
        *([line("budget", frozen.budget)] if frozen.budget else []),
        line("higher_is_better", frozen.higher_is_better),
        line("models", list(frozen.models)),
        line("digest", frozen.digest),
    ]
    for title, values in (("zero", frozen.zero), ("one", frozen.one)):
        head += ["", f"[{title}]", *(line(json.dumps(name), value) for name, value in values.items())]
    return "\n".join(head) + "\n"
