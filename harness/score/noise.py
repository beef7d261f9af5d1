"""How uncertain each accuracy is: runs and test-set sizes in, the variance of every model's mean accuracy out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from harness.errors import CannotContinueError, WrongUseError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

RUN_COLUMNS = ("model", "dataset", "seed", "accuracy")


@dataclass(frozen=True)
class Cells:
    """Arrays (models, data sets) in percent, or percent squared for variances, about the mean over seeds.

    ``seeds``: runs behind each mean, 0 where there is none. ``sampling``: variance from the draw of the test images,
    which all seeds share. ``seed_variance``: variance of one run around the model's mean, on a given test set, with
    ``degrees`` degrees of freedom; NaN and 0 where nothing tells it.
    """

    models: tuple[str, ...]
    datasets: tuple[str, ...]
    mean: Floats
    seeds: Floats
    sampling: Floats
    seed_variance: Floats
    degrees: Floats

    def variance(self, seeds: Floats | None = None) -> Floats:
        """Variance of the mean over ``seeds`` runs (default: those there are); no seeds' part where it is unknown."""
        import numpy as np

        count = self.seeds if seeds is None else seeds
        return self.sampling + np.nan_to_num(self.seed_variance) / np.maximum(count, 1)


def as_runs(accuracies: pd.DataFrame) -> pd.DataFrame:
    """Turn a table (index model, columns data sets, percent) into runs with one seed each; missing cells drop out."""
    table = accuracies.rename_axis(index="model").reset_index()
    runs = table.melt(id_vars="model", var_name="dataset", value_name="accuracy").dropna(subset=["accuracy"])
    runs.insert(2, "seed", 0)
    return runs.reset_index(drop=True)


def mean_accuracies(runs: pd.DataFrame) -> pd.DataFrame:
    """Average over seeds: a table (index model, columns data sets, percent) in order of appearance.

    ``runs`` has the columns ``model``, ``dataset``, ``seed`` and ``accuracy`` (percent). A pair without a run is NaN.
    Raises ``CannotContinueError`` for a missing column, a repeated run, or an accuracy that is missing or not 0 to 100.
    """
    _check_runs(runs)
    means = runs.groupby(["model", "dataset"], sort=False)["accuracy"].mean().unstack("dataset")
    return means.reindex(index=runs["model"].unique(), columns=runs["dataset"].unique()).rename_axis(columns=None)


def estimate_cells(runs: pd.DataFrame, test_sizes: Mapping[str, int], *, pooled: bool, shared: float) -> Cells:
    """Means over seeds and their variances.

    The sampling variance is ``shared * p (1 - p) / n`` with p from ``(correct + 2) / (n + 4)`` (Agresti and Coull,
    1998), since a perfect result on a small test set is not a certain one. Where there is nothing that tells the seeds'
    part, the single run's whole ``p (1 - p) / n`` stands. ``pooled`` averages the seed variance of a data set over all
    models, weighted by degrees of freedom: the 95 % interval of a variance from three seeds alone spans a factor of
    146, from eleven models with three seeds each a factor of 3.

    Raises ``CannotContinueError`` for bad runs, ``WrongUseError`` for a missing test-set size or a ``shared`` that is
    not in 0 to 1.
    """
    import numpy as np

    if not 0 <= shared <= 1:
        raise WrongUseError(f"The shared part of the sampling noise is {shared:g}; it must be between 0 and 1.")
    mean = mean_accuracies(runs)
    _check_sizes([str(dataset) for dataset in mean.columns], test_sizes)
    groups = runs.groupby(["model", "dataset"], sort=False)["accuracy"]
    count = groups.size().unstack("dataset").reindex_like(mean).fillna(0).to_numpy(dtype=np.float64)
    scatter = groups.var(ddof=1).unstack("dataset").reindex_like(mean).to_numpy(dtype=np.float64, na_value=np.nan)
    degrees = np.maximum(count - 1, 0)
    squares = np.where(degrees > 0, scatter * degrees, 0.0)
    if pooled:
        degrees = np.broadcast_to(degrees.sum(axis=0), count.shape).copy()
        squares = np.broadcast_to(squares.sum(axis=0), count.shape)
    known = degrees > 0
    seed_variance = np.where(known, squares / np.where(known, degrees, 1), np.nan)
    sizes = np.array([test_sizes[dataset] for dataset in mean.columns], dtype=np.float64)
    values = mean.to_numpy(dtype=np.float64, na_value=np.nan)
    p = (values / 100 * sizes + 2) / (sizes + 4)
    binomial = 1e4 * p * (1 - p) / sizes
    return Cells(
        models=tuple(str(model) for model in mean.index),
        datasets=tuple(str(dataset) for dataset in mean.columns),
        mean=values,
        seeds=count,
        sampling=np.where(known, shared, 1.0) * binomial,
        seed_variance=seed_variance,
        degrees=degrees,
    )


def _check_runs(runs: pd.DataFrame) -> None:
    import numpy as np
    import pandas as pd

    absent = [column for column in RUN_COLUMNS if column not in runs.columns]
    if absent:
        raise CannotContinueError(f"The table of runs has no column: {', '.join(absent)}.")
    if runs.empty:
        raise CannotContinueError("The table of runs is empty.")
    repeated = runs.duplicated(["model", "dataset", "seed"])
    if repeated.any():
        row = runs[repeated].iloc[0]
        raise CannotContinueError(
            f"The run of '{row['model']}' on '{row['dataset']}' with seed {row['seed']} is there more than once."
        )
    values = pd.to_numeric(runs["accuracy"], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    bad = ~((values >= 0) & (values <= 100))
    if bad.any():
        row = runs[bad].iloc[0]
        raise CannotContinueError(
            f"The accuracy of '{row['model']}' on '{row['dataset']}' with seed {row['seed']} is {row['accuracy']}; "
            "it must be a number between 0 and 100 percent."
        )
    if float(values.max()) <= 1:
        raise CannotContinueError("Every accuracy is at most 1, so these look like fractions; percent are expected.")


def _check_sizes(datasets: list[str], test_sizes: Mapping[str, int]) -> None:
    absent = [dataset for dataset in datasets if dataset not in test_sizes]
    if absent:
        raise WrongUseError(
            f"The number of test images is needed for the sampling noise and is not given for: {', '.join(absent)}."
        )
    for dataset in datasets:
        if not (math.isfinite(test_sizes[dataset]) and test_sizes[dataset] >= 1):
            raise WrongUseError(
                f"The test set of '{dataset}' is said to have {test_sizes[dataset]} images; at least 1 is needed."
            )
