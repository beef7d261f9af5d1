"""Accuracies -> how well each subset of the data sets predicts the full score, by exhaustive search."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from harness.errors import CannotContinueError, WrongUseError, unknown_name
from harness.score.least_squares import SubsetFits, combinations, fit_subsets
from harness.score.xscore import DEFAULT_LAMBDA, Anchors, check_accuracies, check_enough_datasets, normalize, score

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
    Ints: TypeAlias = np.ndarray[Any, np.dtype[np.intp]]

Predictors: TypeAlias = Literal["accuracy", "normalized"]

MOST_SUBSETS = 5_000_000


@dataclass(frozen=True)
class SubsetModel:
    """The regression of the full score on a subset's accuracies: ``intercept + sum of coefficient times predictor``.

    ``coefficients`` are per percent where ``on`` is ``accuracy``, and per unit of the anchors' scale where it is
    ``normalized``. ``q2`` is None, with a ``warning``, where a fit without one of the models is undetermined.
    """

    datasets: tuple[str, ...]
    full_size: int
    on: Predictors
    lam: float
    anchors: Anchors
    intercept: float
    coefficients: Mapping[str, float] = field(hash=False)
    r2: float
    q2: float | None
    warning: str | None

    def predict(self, accuracies: pd.DataFrame) -> pd.Series[float]:
        """Predict the full score of every model (index) from its accuracies in percent; NaN where one is missing.

        The series is named ``xscore7_predicted`` for a full score over seven data sets. It is not the xScore of the
        subset itself. Raises ``CannotContinueError`` where a data set's column is missing.
        """
        import pandas as pd

        absent = [dataset for dataset in self.datasets if dataset not in accuracies.columns]
        if absent:
            raise CannotContinueError(
                f"The full score is predicted from {', '.join(self.datasets)}; "
                f"there is no column for: {', '.join(absent)}."
            )
        table = accuracies[list(self.datasets)]
        check_accuracies(table)
        x = _predictors(table, self.anchors, self.on)
        weights = [self.coefficients[dataset] for dataset in self.datasets]
        return pd.Series(self.intercept + x @ weights, index=table.index, name=f"xscore{self.full_size}_predicted")


def _check_predictors(on: str) -> None:
    if on not in ("accuracy", "normalized"):
        raise WrongUseError(f"The search is on 'accuracy' or 'normalized' values, not on '{on}'.")


@dataclass(frozen=True)
class SearchSettings:
    """Settings of ``search_subsets``.

    Attributes:
        on: Predictors: accuracies, or normalised values. An affine change of each column leaves R^2, Q^2 and every
            prediction as they are and changes only the coefficients, so it is no independent confirmation.
        detailed: Number of subsets with rank agreement and coefficients, best by R^2 and best by Q^2, and of those that
            the bootstrap compares, best by R^2.
        resamples: Resamples of the bootstrap over models.
        seed: Fixes the resamples.

    Raises ``WrongUseError`` for impossible values.
    """

    on: Predictors = "accuracy"
    detailed: int = 100
    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values."""
        _check_predictors(self.on)
        if self.detailed < 1 or self.resamples < 0:
            raise WrongUseError(
                "At least one subset is needed in detail and zero or more resamples; "
                f"got {self.detailed} and {self.resamples}."
            )


_USUAL = SearchSettings()


@dataclass(frozen=True)
class SubsetSearch:
    """Every subset of one size, best R^2 first, equal ones in the order of the columns.

    ``table`` has the columns ``datasets`` (tuple of names), ``r2``, ``q2`` (NaN where undetermined) and, for the
    detailed subsets only, ``spearman`` and ``kendall`` (predicted against full score, in the sample),
    ``spearman_left_out`` (the same with each model predicted by the fit without it), ``bootstrap`` (share of the
    resamples in which the subset has the highest R^2), ``intercept`` and ``coefficients`` (dictionary by data set).
    Other rows hold NaN and None. ``resamples`` counts the resamples behind ``bootstrap``. ``warnings`` are sentences
    for readers of the table.
    """

    table: pd.DataFrame
    size: int
    models: int
    on: Predictors
    lam: float
    anchors: str
    resamples: int
    warnings: tuple[str, ...]


def search_subsets(
    accuracies: pd.DataFrame,
    anchors: Anchors,
    *,
    size: int = 4,
    lam: float = DEFAULT_LAMBDA,
    settings: SearchSettings = _USUAL,
) -> SubsetSearch:
    """Regress the full xScore on every subset of ``size`` data sets, over the models (paper, Section 3.2).

    ``accuracies`` (models, data sets) in percent, complete. All subsets get R^2 and leave-one-model-out Q^2.
    Resamples with too few different models to test a fit (at most ``size + 1``) are drawn again. Where most are of that
    kind, there is no bootstrap, and a warning.

    Raises ``WrongUseError`` for an impossible size or lambda, ``CannotContinueError`` for bad or incomplete accuracies,
    fewer than three models, or a full score in which all models are equal.
    """
    import numpy as np
    import pandas as pd

    names = [str(dataset) for dataset in accuracies.columns]
    _check_size(names, size)
    y = _full_score(accuracies, anchors, lam)
    x = _predictors(accuracies, anchors, settings.on)
    subsets = combinations(len(names), size)
    fits = fit_subsets(x, y, subsets)
    by_r2 = np.argsort(-np.round(fits.r2, 12), kind="stable")
    by_q2 = np.argsort(-np.nan_to_num(fits.q2, nan=-np.inf), kind="stable")
    best = by_r2[: settings.detailed]
    details = {
        at: _details(x[:, subsets[at]], y, [names[c] for c in subsets[at]], has_q2=not np.isnan(fits.q2[at]))
        for at in np.union1d(best, by_q2[: settings.detailed]).tolist()
    }
    candidates = np.sort(best)
    wins, used = _bootstrap_wins(x, y, subsets[candidates], settings)
    for at, share in zip(candidates.tolist(), wins, strict=True):
        details[at]["bootstrap"] = float(share)
    columns = {key: [value] * len(subsets) for key, value in _UNKNOWN.items()}
    for at, row in details.items():
        for key, value in row.items():
            columns[key][at] = value
    table = pd.DataFrame(
        {"datasets": [tuple(names[c] for c in subset) for subset in subsets.tolist()], "r2": fits.r2, "q2": fits.q2}
        | columns
    )
    table = table.iloc[by_r2].reset_index(drop=True)
    warnings = _fit_warnings(len(y), size, fits)
    if settings.resamples and not used:
        warnings.append(
            f"There is no bootstrap: most resamples of {len(y)} models hold too few different ones to test "
            f"{size + 1} coefficients."
        )
    return SubsetSearch(table, size, len(y), settings.on, lam, anchors.name, used, tuple(warnings))


def fit_subset(
    reference: pd.DataFrame,
    anchors: Anchors,
    datasets: Sequence[str],
    *,
    lam: float = DEFAULT_LAMBDA,
    on: Predictors = "accuracy",
) -> SubsetModel:
    """Fit the full xScore of the ``reference`` models (complete, percent) on their accuracies on ``datasets``.

    Raises what ``search_subsets`` raises, and ``WrongUseError`` for an unknown or repeated data set.
    """
    import numpy as np

    names = [str(dataset) for dataset in reference.columns]
    for dataset in datasets:
        if dataset not in names:
            raise WrongUseError(unknown_name("data set", dataset, names))
    if len(set(datasets)) != len(datasets):
        raise WrongUseError(f"A data set is named more than once in the subset: {', '.join(datasets)}.")
    _check_size(names, len(datasets))
    _check_predictors(on)
    y = _full_score(reference, anchors, lam)
    subset = np.array([[names.index(dataset) for dataset in datasets]], dtype=np.intp)
    x = _predictors(reference, anchors, on)
    fits = fit_subsets(x, y, subset)
    fit = _solve(x[:, subset[0]], y)
    return SubsetModel(
        datasets=tuple(datasets),
        full_size=len(names),
        on=on,
        lam=lam,
        anchors=anchors,
        intercept=fit.intercept,
        coefficients=MappingProxyType(dict(zip(datasets, fit.slopes.tolist(), strict=True))),
        r2=float(fits.r2[0]),
        q2=None if np.isnan(fits.q2[0]) else float(fits.q2[0]),
        warning=" ".join(_fit_warnings(len(y), len(datasets), fits)) or None,
    )


@dataclass(frozen=True)
class _Fit:
    intercept: float
    slopes: Floats
    fitted: Floats
    left_out: Floats


def _solve(x: Floats, y: Floats) -> _Fit:
    """Return one fit; ``left_out`` is each point's prediction by the fit without it, if its leverage is below 1."""
    import numpy as np

    centre = x.mean(axis=0)
    centred = x - centre
    slopes, *_ = np.linalg.lstsq(centred, y - y.mean(), rcond=None)
    intercept = float(y.mean() - centre @ slopes)
    fitted = intercept + x @ slopes
    leverage = 1 / len(y) + np.einsum("nk,kn->n", centred, np.linalg.pinv(centred))
    free = np.where(leverage < 1 - 1e-9, 1 - leverage, np.nan)
    return _Fit(intercept, slopes, fitted, y - (y - fitted) / free)


# Columns of a search that only detailed subsets have.
_UNKNOWN: Mapping[str, Any] = MappingProxyType(
    dict.fromkeys(("spearman", "kendall", "spearman_left_out", "bootstrap", "intercept"), math.nan)
    | {"coefficients": None}
)


def _details(x: Floats, y: Floats, names: Sequence[str], *, has_q2: bool) -> dict[str, Any]:
    """Return the columns of one detailed subset."""
    from scipy import stats

    fit = _solve(x, y)
    return {
        "spearman": _spearman(fit.fitted, y),
        "kendall": float(stats.kendalltau(fit.fitted, y, method="asymptotic").statistic),
        "spearman_left_out": _spearman(fit.left_out, y) if has_q2 else math.nan,
        "bootstrap": math.nan,
        "intercept": fit.intercept,
        "coefficients": {name: float(slope) for name, slope in zip(names, fit.slopes, strict=True)},
    }


def _spearman(predicted: Floats, full: Floats) -> float:
    """Return Spearman's rho of the predicted and the full scores; NaN where all predictions are equal."""
    import numpy as np
    from scipy import stats

    return float(stats.spearmanr(predicted, full).statistic) if np.ptp(predicted) > 0 else math.nan


def _bootstrap_wins(x: Floats, y: Floats, subsets: Ints, settings: SearchSettings) -> tuple[Floats, int]:
    """Return the share of resamples of models in which each subset has the highest R^2, and the resamples used."""
    import numpy as np

    generator, resamples = np.random.default_rng(settings.seed), settings.resamples
    models, size = len(y), subsets.shape[1]
    wins, used = np.zeros(len(subsets)), 0
    for _ in range(2 * resamples):
        if used == resamples:
            break
        rows = generator.integers(0, models, models)
        # With at most as many different models as coefficients every subset fits perfectly, and none wins.
        if len(np.unique(rows)) <= size + 1 or np.ptp(y[rows]) == 0:
            continue
        r2 = fit_subsets(x[rows], y[rows], subsets).r2
        best = r2 >= r2.max() - 1e-12
        wins += best / best.sum()
        used += 1
    # Too few after twice as many draws: most resamples cannot be used, and the others are a biased choice.
    if used < resamples or used == 0:
        return np.full(len(subsets), np.nan), 0
    return wins / used, used


def _fit_warnings(models: int, size: int, fits: SubsetFits) -> list[str]:
    import numpy as np

    count = f"{models} models and {size + 1} coefficients"
    if models <= size + 1:
        return [
            f"{count}: every fit is perfect by construction, so R^2 = 1 means nothing and Q^2 does not exist. "
            f"Use at least {size + 3} models, or a smaller subset."
        ]
    warnings = []
    if models < 3 * (size + 1):
        warnings.append(f"{count}: R^2 is high for almost any subset. Judge by Q^2.")
    if bool(np.isnan(fits.q2).any()):
        warnings.append("Q^2 is undefined where a fit without one of the models is undetermined.")
    if bool((fits.rank < size).any()):
        warnings.append("In some subsets a data set is constant or follows exactly from the others; it adds nothing.")
    return warnings


def _check_size(names: Sequence[str], size: int) -> None:
    check_enough_datasets(names)
    if not 1 <= size < len(names):
        raise WrongUseError(
            f"The subset's size is {size}; it must be between 1 and {len(names) - 1}, "
            f"as there are {len(names)} data sets."
        )
    count = math.comb(len(names), size)
    if count > MOST_SUBSETS:
        raise WrongUseError(
            f"There are {count:,} subsets of {size} of {len(names)} data sets; at most {MOST_SUBSETS:,} are searched. "
            "Use fewer data sets or another size."
        )


def _full_score(accuracies: pd.DataFrame, anchors: Anchors, lam: float) -> Floats:
    """Return the score on all data sets, in the order of ``accuracies``; models must be complete and not all equal."""
    import numpy as np

    full = score(accuracies, anchors, lam=lam)
    gaps = full[full["missing"] != ""]
    if len(gaps):
        raise CannotContinueError(
            f"The full score of '{gaps.index[0]}' is unknown; accuracies are missing for: {gaps['missing'].iloc[0]}. "
            "The search needs complete models: leave the incomplete ones out."
        )
    if len(full) < 3:
        raise CannotContinueError(f"A regression over models needs at least three of them; there are {len(full)}.")
    y = full["xscore"].reindex(accuracies.index).to_numpy(dtype=np.float64)
    if np.ptp(y) <= 1e-12 * max(1.0, float(np.abs(y).max())):
        raise CannotContinueError("All models have the same full score; there is nothing that a subset could explain.")
    return y


def _predictors(accuracies: pd.DataFrame, anchors: Anchors, on: Predictors) -> Floats:
    import numpy as np

    frame = accuracies if on == "accuracy" else normalize(accuracies, anchors)
    return frame.to_numpy(dtype=np.float64, na_value=np.nan)
