"""Find the anchors of a table: by name or file, the suite's fixed ones, or the table's own extrema; and freeze them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from harness.api import MetricSpec
from harness.errors import CannotContinueError, WrongUseError, unknown_name
from harness.registry import AnchorTable, Benchmark, Protocol, Suite
from harness.score import Anchors
from harness.score.frozen import FrozenAnchors, check_anchor_name, read_anchors

if TYPE_CHECKING:
    import pandas as pd

OWN = "own"
"""Value of ``--anchors`` that chooses the extrema of the table itself."""


def anchor_file(runs: Path, name: str) -> Path:
    """Return the path of the user's anchors of this name. Raises WrongUseError for an invalid name."""
    return runs / "anchors" / f"{check_anchor_name(name)}.toml"


def registry_anchors(table: AnchorTable) -> Anchors:
    """Return the registry's anchors as ``score`` takes them."""
    return Anchors(name=table.name, minimum=table.minimum, maximum=table.maximum)


def find_anchors(
    name: str, benchmark: Benchmark, runs: Path, *, metric: MetricSpec, protocol: Protocol | None
) -> Anchors:
    """Find anchors by name, in the registry or among the user's, or by the path of their file.

    Args:
        name: A name, or a path that ends in ``.toml``.
        benchmark: Holds the registry's anchors, which are of the protocol's own metric.
        runs: The runs folder, which holds the user's anchors.
        metric: The metric that is scored.
        protocol: The protocol of the results; None for a file of accuracies, which has the protocol's own metric.

    Raises:
        WrongUseError: no anchors have that name, or they are of another metric or protocol.
        CannotContinueError: their file is damaged.
    """
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


def freeze(name: str, frame: pd.DataFrame, metric: MetricSpec, protocol: Protocol | None) -> FrozenAnchors:
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
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        models=tuple(str(model) for model in frame.index),
        zero={dataset: sign * value for dataset, value in scale.minimum.items()},
        one={dataset: sign * value for dataset, value in scale.maximum.items()},
    )
