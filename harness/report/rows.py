"""The leaderboard as typed values: its rows, and the columns that the command line and the page show of them.

A new column is a field of ``BoardRow``, or of one of its parts, and an entry of ``board_columns``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from harness.score import Anchors, ScoreUncertainty

if TYPE_CHECKING:
    import pandas as pd

BASELINE = "majority class"
"""Name of the row of a model that always answers with the most frequent class."""

MODEL_KIND, BASELINE_KIND = "model", "baseline"
PUBLISHED, MEASURED = "published", "measured"


@dataclass(frozen=True)
class RowUncertainty:
    """Columns of ``ScoreUncertainty.table``, which documents them; None for the baseline and incomplete models."""

    corrected: float | None = None
    standard_error: float | None = None
    lower: float | None = None
    upper: float | None = None
    rank_lower: int | None = None
    rank_upper: int | None = None
    groups: str | None = None
    noise: str | None = None


@dataclass(frozen=True)
class RowTraining:
    """Facts about the training of a model.

    Attributes:
        seeds: Number of seeds by data set.
        parameters: Trainable parameters.
        lr_max: Learning-rate peak where it differs from the protocol's; else None.
        seconds: Mean duration of a run.
        not_comparable_on: Data sets whose results come from a device with different arithmetic.
    """

    seeds: Mapping[str, int] = field(default_factory=dict)
    parameters: int | None = None
    lr_max: float | None = None
    seconds: float | None = None
    not_comparable_on: Sequence[str] = ()


@dataclass(frozen=True)
class RowPublished:
    """Origin and further scores of a row of the published leaderboard.

    Attributes:
        source: ``published`` or ``measured``.
        protocol: The protocol that the model was trained under.
        by_lambda: The score by lambda (as text); None for the baseline.
        small: The score on the registry's default suite only.
        predicted: The full score predicted from the default suite's accuracies.
        sizes: Numbers of data sets of the default suite and of the published table; they name two JSON keys.
    """

    source: str
    protocol: str
    by_lambda: Mapping[str, float | None] | None
    small: float | None
    predicted: float | None
    sizes: tuple[int, int]

    def as_row(self) -> dict[str, Any]:
        """Return the JSON keys and values."""
        small, full = self.sizes
        return {
            "source": self.source,
            "protocol": self.protocol,
            "xscore_by_lambda": self.by_lambda,
            f"xscore{small}": self.small,
            f"xscore{full}_predicted": self.predicted,
        }


@dataclass(frozen=True)
class BoardRow:
    """One row of a leaderboard.

    Attributes:
        rank: 1 is best; None for the baseline and incomplete models, which have no score, mean and variance either.
        normalized, accuracy: By data set; None where a value is missing. ``accuracy`` holds the metric's own value.
        lam: Weight of the variance.
        anchors, metric: Their names.
        kind: ``model`` or ``baseline``.
        status: ``complete`` or ``incomplete``.
        missing: Data sets without a result.
        uncertainty: None where the metric has no known sampling noise.
        above_baseline: Value minus the baseline's, by data set; None without a baseline.
        training: None for a table of accuracies, which holds no results.
        published: None outside the published leaderboard.
    """

    rank: int | None
    model: str
    xscore: float | None
    mean: float | None
    variance: float | None
    normalized: Mapping[str, float | None]
    accuracy: Mapping[str, float | None]
    lam: float
    anchors: str
    metric: str
    kind: str
    status: str
    missing: Sequence[str]
    uncertainty: RowUncertainty | None = None
    above_baseline: Mapping[str, float | None] | None = None
    training: RowTraining | None = None
    published: RowPublished | None = None

    @property
    def is_model(self) -> bool:
        """True for a model, False for the baseline."""
        return self.kind == MODEL_KIND

    @property
    def is_measured(self) -> bool:
        """True for the user's own row of the published leaderboard."""
        return self.published is not None and self.published.source == MEASURED

    def as_row(self) -> dict[str, Any]:
        """Return the row's JSON object. A part that is None adds no key."""
        row: dict[str, Any] = {
            "rank": self.rank,
            "model": self.model,
            "xscore": self.xscore,
            "mean": self.mean,
            "variance": self.variance,
            "normalized": self.normalized,
            "accuracy": self.accuracy,
            "lambda": self.lam,
            "anchors": self.anchors,
            "metric": self.metric,
            "kind": self.kind,
            "status": self.status,
            "missing": self.missing,
        }
        if self.uncertainty is not None:
            row |= vars(self.uncertainty)
        if self.above_baseline is not None:
            row["above_baseline"] = self.above_baseline
        if self.training is not None:
            row |= vars(self.training)
        if self.published is not None:
            row |= self.published.as_row()
        return row


@dataclass(frozen=True)
class Leaderboard:
    """A ranked table.

    Attributes:
        rows: Models, best first; the baseline last.
        anchors: The scale of the normalised accuracies.
        notes: Sentences on models that are left out, incomplete, or trained with an exception to the protocol.
        accuracies: Mean over seeds in the metric's own direction (index model, columns data sets).
        runs: One row per run: model, dataset, seed, accuracy (the metric's value).
        uncertainty: Intervals and ties; None where the metric has no known sampling noise.
    """

    rows: tuple[BoardRow, ...]
    anchors: Anchors
    notes: tuple[str, ...]
    accuracies: pd.DataFrame = field(repr=False)
    runs: pd.DataFrame = field(repr=False)
    uncertainty: ScoreUncertainty | None = field(default=None, repr=False)

    @property
    def models(self) -> list[BoardRow]:
        """The rows without the baseline."""
        return [row for row in self.rows if row.is_model]

    @property
    def scores(self) -> dict[str, float]:
        """The xScore by model, without incomplete models."""
        return {row.model: row.xscore for row in self.models if row.xscore is not None}


Viewer: TypeAlias = Literal["command", "page"]
Value: TypeAlias = float | str | tuple[float, float] | None


@dataclass(frozen=True)
class BoardColumn:
    """A column for people.

    Attributes:
        key: Its name, unique in the table.
        title: Its heading.
        value: Gives a row's cell: a number, a text, both ends of an interval, or None.
        digits: Decimals.
        is_number: False for text.
        viewers: Where it is shown.
        is_needed: Tells if these rows need the column.
    """

    key: str
    title: str
    value: Callable[[BoardRow], Value]
    digits: int = 3
    is_number: bool = True
    viewers: tuple[Viewer, ...] = ("command", "page")
    is_needed: Callable[[Sequence[BoardRow]], bool] = bool  # wherever there are rows

    def cell(self, row: BoardRow) -> float | str | None:
        """Return a row's cell; an interval becomes text."""
        value = self.value(row)
        return span_text(value, self.digits) if isinstance(value, tuple) else value


def span_text(span: tuple[float, float], digits: int) -> str:
    """Write an interval: ``0.79 to 0.84``, or one number where both ends look alike."""
    low, high = (f"{end:.{digits}f}" for end in span)
    return low if low == high else f"{low} to {high}"


def board_columns(rows: Sequence[BoardRow], viewer: Viewer, titles: Mapping[str, str]) -> list[BoardColumn]:
    """Return the columns that a viewer shows of these rows, in order; ``titles`` are headings by data set."""
    if not rows:
        return []
    first = rows[0]
    columns = [
        BoardColumn("rank", "rank", lambda row: row.rank, digits=0),
        BoardColumn("model", "model", lambda row: row.model, is_number=False),
        BoardColumn("xscore", "xScore", lambda row: row.xscore),
        BoardColumn("mark", "", _mark, is_number=False, viewers=("command",), is_needed=_has_marks),
        BoardColumn("interval", "95 % interval", _interval, is_needed=_has_intervals),
        BoardColumn("ranks", "ranks", _ranks, digits=0, is_needed=_has_intervals),
        BoardColumn("groups", "ties", _groups, is_number=False, is_needed=_has_intervals),
        BoardColumn("mean", "mean", lambda row: row.mean),
        BoardColumn("variance", "variance", lambda row: row.variance),
        *(_published_columns(first.published) if first.published else ()),
        *(_accuracy_column(name, titles.get(name, name.replace("_", " "))) for name in first.accuracy),
        BoardColumn("seeds", "seeds", _fewest_seeds, digits=0, viewers=("page",), is_needed=_has_seeds),
    ]
    return [column for column in columns if viewer in column.viewers and column.is_needed(rows)]


def _published_columns(known: RowPublished) -> list[BoardColumn]:
    small, full = known.sizes
    return [
        *(_lambda_column(lam) for lam in known.by_lambda or ()),
        BoardColumn("small", f"xscore{small}", lambda row: row.published.small if row.published else None),
        BoardColumn(
            "predicted", f"xscore{full} predicted", lambda row: row.published.predicted if row.published else None
        ),
        BoardColumn(
            "protocol",
            "trained under",
            lambda row: row.published.protocol if row.published else None,
            is_number=False,
            viewers=("command",),
            is_needed=lambda rows: len({row.is_measured for row in rows}) > 1,
        ),
    ]


def _lambda_column(lam: str) -> BoardColumn:
    def value(row: BoardRow) -> Value:
        scores = row.published.by_lambda if row.published else None
        return scores[lam] if scores else None

    return BoardColumn(f"xscore_by_lambda.{lam}", f"lambda {lam}", value)


def _accuracy_column(dataset: str, title: str) -> BoardColumn:
    return BoardColumn(f"accuracy.{dataset}", title, lambda row: row.accuracy.get(dataset), digits=2)


def _mark(row: BoardRow) -> str:
    return "not comparable" if row.training and row.training.not_comparable_on else ""


def _has_marks(rows: Sequence[BoardRow]) -> bool:
    return any(_mark(row) for row in rows)


def _interval(row: BoardRow) -> Value:
    known = row.uncertainty or RowUncertainty()
    return None if known.lower is None or known.upper is None else (known.lower, known.upper)


def _has_intervals(rows: Sequence[BoardRow]) -> bool:
    return any(_interval(row) is not None for row in rows)


def _ranks(row: BoardRow) -> Value:
    known = row.uncertainty or RowUncertainty()
    return None if known.rank_lower is None or known.rank_upper is None else (known.rank_lower, known.rank_upper)


def _groups(row: BoardRow) -> Value:
    return row.uncertainty.groups if row.uncertainty else None


def _fewest_seeds(row: BoardRow) -> Value:
    return min(row.training.seeds.values()) if row.training and row.training.seeds else None


def _has_seeds(rows: Sequence[BoardRow]) -> bool:
    return any(_fewest_seeds(row) is not None for row in rows)
