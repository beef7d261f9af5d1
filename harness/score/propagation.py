"""Noise of accuracies through Equations (2) and (3): the score's variance, exactly, and its distribution, by bootstrap.

Throughout, ``values`` and ``spread`` are (models, data sets): normalised accuracies and the standard deviations of
their independent normal errors, on the same scale. A model with a missing value gets NaN everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np

    Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

# Doubles in one block of models times draws.
_BLOCK_DOUBLES = 1_000_000


def denoised(values: Floats, spread: Floats) -> Floats:
    """Draw each model's values towards their mean until their variance is what it is without the noise.

    Noise adds the mean of ``spread**2`` to the variance V over data sets, on average. A bootstrap around the values as
    observed would add it a second time, and so misjudge the noise of V itself.
    """
    import numpy as np

    variance = values.var(axis=1, ddof=1)
    left = np.maximum(variance - (spread**2).mean(axis=1), 0.0)
    keep = np.sqrt(left / np.where(variance > 0, variance, 1.0))
    mean = values.mean(axis=1, keepdims=True)
    result: Floats = mean + keep[:, None] * (values - mean)
    return result


def corrected_scores(values: Floats, spread: Floats, lam: float) -> Floats:
    """The xScores (models,) without the bias that noise gives them: plus lambda times the mean of ``spread**2``."""
    variance = values.var(axis=1, ddof=1) - (spread**2).mean(axis=1)
    result: Floats = values.mean(axis=1) - lam * variance
    return result


def score_weights(values: Floats, lam: float) -> Floats:
    """Derivatives (models, data sets) of the xScore by each normalised accuracy."""
    count = values.shape[1]
    centred = values - values.mean(axis=1, keepdims=True)
    result: Floats = 1 / count - 2 * lam * centred / (count - 1)
    return result


def score_variance(weights: Floats, spread: Floats, lam: float) -> Floats:
    """Variance (models,) of the xScore: exact for normal errors, for a linear and a quadratic term are all there is.

    The linear term gives ``sum (w s)^2``; the quadratic form ``lambda e' M e``, with ``M = (I - J / k) / (k - 1)``,
    gives ``2 lambda^2 tr((M S)^2)``, with S the errors' diagonal covariance; normal errors do not correlate the two.
    """
    count = weights.shape[1]
    square = spread**2
    trace = (square**2).sum(axis=1) * (1 - 2 / count) + square.sum(axis=1) ** 2 / count**2
    result: Floats = ((weights * spread) ** 2).sum(axis=1) + 2 * lam**2 * trace / (count - 1) ** 2
    return result


def deviation_quantiles(
    values: Floats, spread: Floats, lam: float, level: float, draws: int, generator: np.random.Generator
) -> tuple[Floats, Floats]:
    """Lower and upper quantiles (models,) of simulated xScore minus its mean, each with ``(1 - level) / 2`` beyond it.

    All models see the same standard normal draws, scaled by their own spread: each interval is about one model alone,
    and 10,000 models then cost three matrix products.
    """
    import numpy as np

    models, count = values.shape
    noise = generator.standard_normal((draws, count))
    tails = [(1 - level) / 2, (1 + level) / 2]
    centred = values - values.mean(axis=1, keepdims=True)
    low, high = np.empty(models), np.empty(models)
    block = max(1, _BLOCK_DOUBLES // draws)
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
