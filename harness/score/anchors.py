"""The fixed scale of a score: the accuracies that count as 0 and as 1, for each data set."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from harness.errors import CannotContinueError

if TYPE_CHECKING:
    import pandas as pd


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
        import hashlib
        import json

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
