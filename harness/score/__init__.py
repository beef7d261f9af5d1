"""From accuracies to conclusions, as plain arithmetic on pandas frames: scores, subset search, uncertainty.

Importing this package is cheap; pandas, NumPy and SciPy are imported when a function is called.
"""

from __future__ import annotations

from harness.score.anchors import Anchors
from harness.score.frozen import FrozenAnchors, read_anchors, write_anchors
from harness.score.noise import as_runs, mean_accuracies
from harness.score.seeds import SeedPlan, seeds_needed
from harness.score.select import SubsetModel, SubsetSearch, fit_subset, search_subsets
from harness.score.table import read_accuracies
from harness.score.uncertainty import ScoreUncertainty, score_uncertainty
from harness.score.xscore import (
    COMPLETE,
    DEFAULT_LAMBDA,
    INCOMPLETE,
    NORMALIZED_PREFIX,
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
    "FrozenAnchors",
    "LambdaSensitivity",
    "ScoreUncertainty",
    "SeedPlan",
    "SubsetModel",
    "SubsetSearch",
    "as_runs",
    "check_accuracies",
    "fit_subset",
    "lambda_sensitivity",
    "mean_accuracies",
    "normalize",
    "read_accuracies",
    "read_anchors",
    "score",
    "score_uncertainty",
    "search_subsets",
    "seeds_needed",
    "write_anchors",
]
