"""Runs and test-set sizes -> the variance of each mean accuracy, and its effect on the score.

Equations (2) and (3) turn noise of accuracies into noise of the score: its variance is exact, its distribution comes
from a bootstrap. In these functions ``values`` and ``spread`` are (models, data sets): normalised accuracies and the
standard deviations of their independent normal errors on the same scale. A model with a missing value gets NaN.
"""

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
# Doubles in one block of models times draws.
_BLOCK_DOUBLES = 1_000_000


@dataclass(frozen=True)
class UncertaintySettings:
    """Settings of ``score_uncertainty``.

    Attributes:
        level: Probability with which an interval covers the true score.
        draws: Draws of the bootstrap.
        seed: Fixes the draws.
        pooled: Averages the seed variance of a data set over all models, weighted by degrees of freedom. The 95 %
            interval of a variance from three seeds spans a factor of 146, from eleven models with three seeds each a
            factor of 3.
        shared: Share of the binomial variance that all seeds of a model have in common.

    Raises ``WrongUseError`` for impossible values.
    """

    level: float = 0.95
    draws: int = 4000
    seed: int = 0
    pooled: bool = True
    shared: float = 1.0

    def __post_init__(self) -> None:
        """Check the values."""
        if not 0.5 <= self.level < 1:
            raise WrongUseError(f"The level is {self.level:g}; it must be at least 0.5 and below 1 (0.95 is usual).")
        if self.draws < 100:
            raise WrongUseError(f"{self.draws} draws are too few for an interval; use at least 100 (4000 is usual).")
        if not 0 <= self.shared <= 1:
            raise WrongUseError(
                f"The shared part of the sampling noise is {self.shared:g}; it must be between 0 and 1."
            )


@dataclass(frozen=True)
class Cells:
    """Means over seeds and their variances, as arrays (models, data sets) in percent and percent squared.

    Attributes:
        mean: Mean over seeds; NaN without a run.
        seeds: Number of runs behind each mean.
        sampling: Variance from the draw of the test images, which all seeds share.
        seed_variance: Variance of one run around the model's mean on a given test set; NaN where unknown.
        degrees: Degrees of freedom of ``seed_variance``; 0 where it is unknown.
    """

    models: tuple[str, ...]
    datasets: tuple[str, ...]
    mean: Floats
    seeds: Floats
    sampling: Floats
    seed_variance: Floats
    degrees: Floats

    def variance(self, seeds: Floats | None = None) -> Floats:
        """Return the variance of the mean over ``seeds`` runs, by default the existing ones.

        An unknown seed variance counts as 0.
        """
        import numpy as np

        count = self.seeds if seeds is None else seeds
        return self.sampling + np.nan_to_num(self.seed_variance) / np.maximum(count, 1)


def as_runs(accuracies: pd.DataFrame) -> pd.DataFrame:
    """Turn a table (index model, columns data sets, percent) into runs of one seed each, without the missing cells."""
    table = accuracies.rename_axis(index="model").reset_index()
    runs = table.melt(id_vars="model", var_name="dataset", value_name="accuracy").dropna(subset=["accuracy"])
    runs.insert(2, "seed", 0)
    return runs.reset_index(drop=True)


def mean_accuracies(runs: pd.DataFrame) -> pd.DataFrame:
    """Average over seeds; return a table (index model, columns data sets, percent) in order of appearance.

    ``runs`` has the columns ``model``, ``dataset``, ``seed`` and ``accuracy`` (percent). A pair without a run is NaN.
    Raises ``CannotContinueError`` for a missing column, a repeated run, or an accuracy that is missing or not 0 to 100.
    """
    _check_runs(runs)
    means = runs.groupby(["model", "dataset"], sort=False)["accuracy"].mean().unstack("dataset")
    return means.reindex(index=runs["model"].unique(), columns=runs["dataset"].unique()).rename_axis(columns=None)


def estimate_cells(runs: pd.DataFrame, test_sizes: Mapping[str, int], settings: UncertaintySettings) -> Cells:
    """Estimate the means over seeds and their variances.

    The sampling variance is ``shared * p (1 - p) / n`` with p from ``(correct + 2) / (n + 4)`` (Agresti and Coull,
    1998), since a perfect result on a small test set is not certain. It is the whole ``p (1 - p) / n`` where the seed
    variance is unknown.

    Raises ``CannotContinueError`` for bad runs, ``WrongUseError`` for a missing test-set size.
    """
    import numpy as np

    mean = mean_accuracies(runs)
    _check_sizes([str(dataset) for dataset in mean.columns], test_sizes)
    groups = runs.groupby(["model", "dataset"], sort=False)["accuracy"]
    count = groups.size().unstack("dataset").reindex_like(mean).fillna(0).to_numpy(dtype=np.float64)
    scatter = groups.var(ddof=1).unstack("dataset").reindex_like(mean).to_numpy(dtype=np.float64, na_value=np.nan)
    degrees = np.maximum(count - 1, 0)
    squares = np.where(degrees > 0, scatter * degrees, 0.0)
    if settings.pooled:
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
        sampling=np.where(known, settings.shared, 1.0) * binomial,
        seed_variance=seed_variance,
        degrees=degrees,
    )


def denoised(values: Floats, spread: Floats) -> Floats:
    """Shrink each model's values towards their mean until their variance is the estimate without noise.

    Noise adds the mean of ``spread**2`` to the variance V over data sets, on average. A bootstrap around the observed
    values would add it again, and misjudge the noise of V.
    """
    import numpy as np

    variance = values.var(axis=1, ddof=1)
    left = np.maximum(variance - (spread**2).mean(axis=1), 0.0)
    keep = np.sqrt(left / np.where(variance > 0, variance, 1.0))
    mean = values.mean(axis=1, keepdims=True)
    result: Floats = mean + keep[:, None] * (values - mean)
    return result


def corrected_scores(values: Floats, spread: Floats, lam: float) -> Floats:
    """Return the xScores (models,) without the bias from noise: plus lambda times the mean of ``spread**2``."""
    variance = values.var(axis=1, ddof=1) - (spread**2).mean(axis=1)
    result: Floats = values.mean(axis=1) - lam * variance
    return result


def score_weights(values: Floats, lam: float) -> Floats:
    """Return the derivatives (models, data sets) of the xScore by each normalised accuracy."""
    count = values.shape[1]
    centred = values - values.mean(axis=1, keepdims=True)
    result: Floats = 1 / count - 2 * lam * centred / (count - 1)
    return result


def score_variance(weights: Floats, spread: Floats, lam: float) -> Floats:
    """Return the variance (models,) of the xScore, exact for normal errors, as the score is linear plus quadratic.

    The linear term gives ``sum (w s)^2``; the quadratic form ``lambda e' M e``, with ``M = (I - J / k) / (k - 1)``,
    gives ``2 lambda^2 tr((M S)^2)``, with S the errors' diagonal covariance; normal errors do not correlate the two.
    """
    count = weights.shape[1]
    square = spread**2
    trace = (square**2).sum(axis=1) * (1 - 2 / count) + square.sum(axis=1) ** 2 / count**2
    result: Floats = ((weights * spread) ** 2).sum(axis=1) + 2 * lam**2 * trace / (count - 1) ** 2
    return result


def deviation_quantiles(
    values: Floats, spread: Floats, lam: float, settings: UncertaintySettings
) -> tuple[Floats, Floats]:
    """Return the quantiles (models,) ``(1 - level) / 2`` and ``(1 + level) / 2`` of simulated xScore minus its mean.

    All models share the same standard normal draws, scaled by their own spread. That is allowed because each interval
    is about one model by itself, and 10,000 models then cost three matrix products.
    """
    import numpy as np

    models, count = values.shape
    noise = np.random.default_rng(settings.seed).standard_normal((settings.draws, count))
    tails = [(1 - settings.level) / 2, (1 + settings.level) / 2]
    centred = values - values.mean(axis=1, keepdims=True)
    low, high = np.empty(models), np.empty(models)
    block = max(1, _BLOCK_DOUBLES // settings.draws)
    for start in range(0, models, block):
        part = slice(start, start + block)
        a, s = centred[part], spread[part]
        total = s @ noise.T
        squares = (a**2).sum(axis=1, keepdims=True) + 2 * (a * s) @ noise.T + (s**2) @ (noise**2).T
        variance = (squares - total**2 / count) / (count - 1)
        expected = a.var(axis=1, ddof=1) + (s**2).mean(axis=1)
        deviation = total / count - lam * (variance - expected[:, None])
        low[part], high[part] = np.quantile(deviation, tails, axis=1)
    return low, high


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
            f"The run of '{row['model']}' on '{row['dataset']}' with seed {row['seed']} appears more than once."
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
        raise CannotContinueError("Every accuracy is at most 1, so these look like fractions. Multiply them by 100.")


def _check_sizes(datasets: list[str], test_sizes: Mapping[str, int]) -> None:
    absent = [dataset for dataset in datasets if dataset not in test_sizes]
    if absent:
        raise WrongUseError(
            f"The sampling noise needs the number of test images, which is missing for: {', '.join(absent)}."
        )
    for dataset in datasets:
        if not (math.isfinite(test_sizes[dataset]) and test_sizes[dataset] >= 1):
            raise WrongUseError(f"The test set of '{dataset}' has {test_sizes[dataset]} images; at least 1 is needed.")
