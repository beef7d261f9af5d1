"""Turns accuracies into scores, subset searches and uncertainty, by plain arithmetic on pandas frames.

The package is cheap to import: its functions import pandas, NumPy and SciPy when they are called.
"""

from __future__ import annotations

from harness.score.accuracies import read_accuracies
from harness.score.noise import UncertaintySettings, as_runs, mean_accuracies
from harness.score.seed_plan import SeedPlan, seeds_needed
from harness.score.subset_search import SearchSettings, SubsetModel, SubsetSearch, fit_subset, search_subsets
from harness.score.uncertainty import ScoreUncertainty, score_uncertainty
from harness.score.xscore import (
    COMPLETE,
    DEFAULT_LAMBDA,
    INCOMPLETE,
    NORMALIZED_PREFIX,
    Anchors,
    LambdaSensitivity,
    check_accuracies,
    lambda_sensitivity,
    normalize,
    score,
)

__all__ = [
    "COMPLETE",
    "DEFAULT_LAMBDA",
    "INCOMPLETE",
    "NORMALIZED_PREFIX",
    "Anchors",
    "LambdaSensitivity",
    "ScoreUncertainty",
    "SearchSettings",
    "SeedPlan",
    "SubsetModel",
    "SubsetSearch",
    "UncertaintySettings",
    "as_runs",
    "check_accuracies",
    "fit_subset",
    "lambda_sensitivity",
    "mean_accuracies",
    "normalize",
    "read_accuracies",
    "score",
    "score_uncertainty",
    "search_subsets",
    "seeds_needed",
]
