"""Accuracies and anchors, the fixed scale of a score -> xScores, by Equations (1) to (3) of the paper."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from harness.errors import CannotContinueError, WrongUseError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

COMPLETE = "complete"
INCOMPLETE = "incomplete"
NORMALIZED_PREFIX = "normalized."
DEFAULT_LAMBDA = 0.5
SENSITIVITY_LAMBDAS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)


@dataclass(frozen=True)
class Anchors:
    """Named, frozen ``min_j`` and ``max_j`` of Equation (1), in percent by data set.

    The name carries the version (``published-2025``). Anchors are never edited, only replaced by new ones, because an
    edit would silently change the meaning of every score computed with them.

    Raises ``CannotContinueError`` where the two mappings name different data sets, a value is not finite, or a maximum
    is not above its minimum.
    """

    name: str
    minimum: Mapping[str, float] = field(hash=False)
    maximum: Mapping[str, float] = field(hash=False)

    def __post_init__(self) -> None:
        """Copy both mappings, so that nothing outside can edit them, and check them."""
        object.__setattr__(self, "minimum", MappingProxyType({k: float(v) for k, v in self.minimum.items()}))
        object.__setattr__(self, "maximum", MappingProxyType({k: float(v) for k, v in self.maximum.items()}))
        if not self.minimum:
            raise CannotContinueError(f"The anchors '{self.name}' name no data set.")
        one_sided = sorted(set(self.minimum) ^ set(self.maximum))
        if one_sided:
            raise CannotContinueError(
                f"The anchors '{self.name}' must give a minimum and a maximum for every data set; "
                f"only one of the two is given for: {', '.join(one_sided)}."
            )
        for dataset, low in self.minimum.items():
            high = self.maximum[dataset]
            if not (math.isfinite(low) and math.isfinite(high)):
                raise CannotContinueError(
                    f"The anchors '{self.name}' of '{dataset}' are {low} and {high}; both must be finite numbers."
                )
            if high <= low:
                raise CannotContinueError(
                    f"The anchors '{self.name}' of '{dataset}' have minimum {low:g} and maximum {high:g}; the maximum "
                    "must lie above the minimum. Use models that differ there, or leave this data set out."
                )

    def __reduce__(self) -> tuple[type[Anchors], tuple[str, dict[str, float], dict[str, float]]]:
        """Pickle plain dictionaries, because a read-only view cannot be pickled."""
        return Anchors, (self.name, dict(self.minimum), dict(self.maximum))

    @classmethod
    def from_table(cls, name: str, frame: pd.DataFrame) -> Anchors:
        """Take the column extrema of a table (index model, columns data sets, percent), as the paper does with Table 4.

        Raises ``CannotContinueError`` for an empty table, a missing value, or a column in which all models are equal.
        """
        if frame.empty:
            raise CannotContinueError(f"The anchors '{name}' cannot be taken from an empty table.")
        repeated = sorted(set(frame.columns[frame.columns.duplicated()].map(str)))
        if repeated:
            raise CannotContinueError(f"The table for the anchors '{name}' repeats a data set: {', '.join(repeated)}.")
        gaps = [
            f"{model} on {dataset}"
            for dataset in frame.columns
            for model in frame.index[frame[dataset].isna().to_numpy()]
        ]
        if gaps:
            more = f" and {len(gaps) - 3} more" if len(gaps) > 3 else ""
            raise CannotContinueError(
                f"The anchors '{name}' need a complete table; an accuracy is missing for: {', '.join(gaps[:3])}{more}."
            )
        low, high = frame.min(), frame.max()
        return cls(
            name,
            {str(dataset): float(low[dataset]) for dataset in frame.columns},
            {str(dataset): float(high[dataset]) for dataset in frame.columns},
        )

    @property
    def datasets(self) -> tuple[str, ...]:
        """The data sets that have anchors, in the order of their table."""
        return tuple(self.minimum)

    @property
    def digest(self) -> str:
        """Twelve hex digits over the values, which differ between two scales of one name."""
        values = {dataset: [self.minimum[dataset], self.maximum[dataset]] for dataset in sorted(self.minimum)}
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:12]

    def require(self, datasets: Iterable[str]) -> None:
        """Raise ``CannotContinueError`` unless each of these data sets has anchors."""
        missing = [str(dataset) for dataset in datasets if dataset not in self.minimum]
        if missing:
            raise CannotContinueError(
                f"The anchors '{self.name}' have no value for: {', '.join(missing)}. "
                f"They cover: {', '.join(self.datasets)}. Leave that data set out, or freeze anchors that include it."
            )


@dataclass(frozen=True)
class LambdaSensitivity:
    """The dependence of the ranking on lambda.

    ``ranks`` has one row per model and one column per lambda (1 is best; equal scores share the better rank).
    ``crossings`` lists every change of order within the range of the lambdas, also between them: at ``lambda`` the
    model ``overtaking`` passes the model ``overtaken`` as lambda grows. A score is a straight line in lambda, so two
    models change places at most once.
    """

    ranks: pd.DataFrame
    crossings: pd.DataFrame


def check_lambda(lam: float) -> float:
    """Return lambda as a float. Raises ``WrongUseError`` for a negative one, which would reward uneven models."""
    if not 0 <= lam <= 1e6:  # and nan; beyond, a score is no longer a number
        raise WrongUseError(
            f"Lambda is {lam:g}; it must be a number that is zero or positive, at most a million (the paper uses 0.5)."
        )
    return float(lam)


def check_accuracies(accuracies: pd.DataFrame, *, percent: bool = True) -> None:
    """Raise ``CannotContinueError`` unless this is a table of accuracies (index model, columns data sets).

    A missing value is allowed and makes its model incomplete. ``percent=False`` drops the checks of the range 0 to 100,
    for a metric in another unit.
    """
    import numpy as np

    if accuracies.shape[0] == 0 or accuracies.shape[1] == 0:
        raise CannotContinueError("The table of accuracies is empty; it needs at least one model and one data set.")
    for axis, what in ((accuracies.index, "model"), (accuracies.columns, "data set")):
        repeated = sorted({str(name) for name in axis[axis.duplicated()]})
        if repeated:
            raise CannotContinueError(f"The table of accuracies has more than one {what} named: {', '.join(repeated)}.")
    values = _values(accuracies)
    bad = np.isinf(values)
    wanted = "a finite number"
    if percent:
        bad |= (values < 0) | (values > 100)
        wanted = "between 0 and 100 percent"
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        raise CannotContinueError(
            f"The accuracy of '{accuracies.index[row]}' on '{accuracies.columns[column]}' is {values[row, column]:g}; "
            f"it must be {wanted}."
        )
    if percent and bool((values[~np.isnan(values)] <= 1).all()) and not np.isnan(values).all():
        raise CannotContinueError(
            "Every accuracy is at most 1, so these look like fractions; percent are expected. Multiply them by 100."
        )


def normalize(accuracies: pd.DataFrame, anchors: Anchors) -> pd.DataFrame:
    """Apply Equation (1): ``(A_ij - min_j) / (max_j - min_j)``, not clipped.

    Turns percent (models, data sets) into dimensionless values of the same shape, above 1 for a model beyond the best
    anchor and negative below the worst one. A missing accuracy stays missing. Raises ``CannotContinueError`` for a data
    set without anchors.
    """
    import numpy as np
    import pandas as pd

    anchors.require(accuracies.columns)
    low = np.array([anchors.minimum[dataset] for dataset in accuracies.columns])
    high = np.array([anchors.maximum[dataset] for dataset in accuracies.columns])
    scaled = (_values(accuracies) - low) / (high - low)
    return pd.DataFrame(scaled, index=accuracies.index, columns=accuracies.columns)


def score(
    accuracies: pd.DataFrame, anchors: Anchors, *, lam: float = DEFAULT_LAMBDA, percent: bool = True
) -> pd.DataFrame:
    """Score a table by Equations (1) to (3), ``xscore = mean - lam * variance``.

    ``accuracies`` has one row per model (the index) and one column per data set of the suite, in percent. The variance
    over data sets has ``ddof = 1``, as the authors compute it.

    Returns one row per model, best first, equal scores in the order of their names, incomplete models last. Columns are
    ``rank`` (Int64; equal scores share the better rank), ``xscore``, ``mean``, ``variance``, ``status`` (``complete``
    or ``incomplete``), ``missing`` (names of the data sets without an accuracy, joined by commas), ``lambda``,
    ``anchors`` (their name) and ``normalized.<data set>``. A model without all its accuracies has no rank, score, mean
    or variance, because a mean over fewer data sets is not comparable.

    ``percent=False`` accepts values outside 0 to 100, for another metric with its own anchors; pass the negative of a
    metric where lower is better.

    Raises ``WrongUseError`` for a negative lambda or a single data set, ``CannotContinueError`` for bad accuracies or a
    data set without anchors.
    """
    import numpy as np
    import pandas as pd

    lam = check_lambda(lam)
    check_accuracies(accuracies, percent=percent)
    check_enough_datasets(accuracies.columns)
    scaled = normalize(accuracies, anchors)
    values = scaled.to_numpy()
    absent = np.isnan(values)
    incomplete = absent.any(axis=1)
    # NumPy makes the mean and variance of a missing value missing; pandas would average the rest.
    mean = values.mean(axis=1)
    variance = values.var(axis=1, ddof=1)
    names = [str(dataset) for dataset in accuracies.columns]
    missing = [""] * len(values)
    for row in np.flatnonzero(incomplete):
        missing[row] = ", ".join(name for name, gone in zip(names, absent[row], strict=True) if gone)
    table = pd.DataFrame(
        {
            "xscore": mean - lam * variance,
            "mean": mean,
            "variance": variance,
            "status": np.where(incomplete, INCOMPLETE, COMPLETE),
            "missing": missing,
            "lambda": lam,
            "anchors": anchors.name,
        },
        index=accuracies.index,
    )
    table.index.name = "model"
    return _ordered(pd.concat([table, scaled.add_prefix(NORMALIZED_PREFIX)], axis=1))


def lambda_sensitivity(
    accuracies: pd.DataFrame, anchors: Anchors, lams: Sequence[float] = SENSITIVITY_LAMBDAS, *, percent: bool = True
) -> LambdaSensitivity:
    """Rank the complete models at each lambda, and find every lambda at which two of them change places.

    Incomplete models are left out, as they have no rank. Raises what ``score`` raises.
    """
    import pandas as pd

    if not lams:
        raise WrongUseError("Name at least one lambda.")
    lams = sorted({check_lambda(lam) for lam in lams})
    table = score(accuracies, anchors, lam=lams[0], percent=percent)
    table = table[table["status"] == COMPLETE]
    ranks = pd.DataFrame(
        {lam: (table["mean"] - lam * table["variance"]).rank(method="min", ascending=False) for lam in lams}
    )
    ranks.columns.name = "lambda"
    return LambdaSensitivity(ranks.astype("int64"), _crossings(table, lams[0], lams[-1]))


def check_enough_datasets(datasets: Iterable[object]) -> None:
    """Raise ``WrongUseError`` for a single data set, because one value has no variance."""
    names = list(datasets)
    if len(names) < 2:
        raise WrongUseError(
            f"An xScore needs at least two data sets, and there is only '{names[0]}', which has no variance over data "
            "sets. Compare the accuracies themselves, or add a data set."
        )


def _values(frame: pd.DataFrame) -> np.ndarray[Any, np.dtype[np.float64]]:
    import numpy as np

    try:
        return frame.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise CannotContinueError(f"The table of accuracies holds something that is not a number: {error}.") from error


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    """Sort best first with incomplete models last, break ties by name, and put the rank in front."""
    by_name = table.iloc[table.index.astype(str).argsort(kind="stable")]
    ordered = by_name.sort_values("xscore", ascending=False, kind="stable", na_position="last")
    ordered.insert(0, "rank", ordered["xscore"].rank(method="min", ascending=False).astype("Int64"))
    return ordered


def _crossings(table: pd.DataFrame, lower: float, upper: float) -> pd.DataFrame:
    """Return all lambdas strictly between two at which the order of two models changes, in ascending order."""
    import numpy as np
    import pandas as pd

    # Scores are straight lines in lambda, so only models whose order differs at the two ends cross.
    names = np.array([str(name) for name in table.index], dtype=object)
    mean, variance = table["mean"].to_numpy(), table["variance"].to_numpy()
    rows: list[tuple[float, str, str]] = []
    for i in range(len(names)):
        gap_low = (mean - lower * variance) - (mean[i] - lower * variance[i])
        gap_high = (mean - upper * variance) - (mean[i] - upper * variance[i])
        for j in np.flatnonzero((gap_low > 0) & (gap_high < 0)):
            at = float((mean[j] - mean[i]) / (variance[j] - variance[i]))
            rows.append((at, str(names[i]), str(names[j])))
    return pd.DataFrame(sorted(rows), columns=["lambda", "overtaking", "overtaken"])
