"""Subset search: against plain loops, brute-force refits, SciPy, and the published numbers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from harness.errors import CannotContinueError, WrongUseError
from harness.score import (
    Anchors,
    SearchSettings,
    fit_subset,
    read_accuracies,
    score,
    search_subsets,
)
from harness.score.least_squares import combinations, fit_subsets
from tests.support import FILES

PAPER = ("cifar10", "ham10000", "stanford_dogs", "indoor67")


@pytest.fixture
def published() -> pd.DataFrame:
    return read_accuracies(FILES / "published_accuracy.csv")


@pytest.fixture
def anchors(published: pd.DataFrame) -> Anchors:
    return Anchors.from_table("published-2025", published)


def synthetic(models: int, datasets: int, seed: int = 0) -> tuple[pd.DataFrame, Anchors]:
    rng = np.random.default_rng(seed)
    skill = rng.normal(size=(models, 1))
    values = 60 + 8 * skill + rng.normal(size=(models, datasets)) * 5
    frame = pd.DataFrame(values, index=[f"m{i}" for i in range(models)], columns=[f"d{i}" for i in range(datasets)])
    return frame, Anchors.from_table("synthetic", frame)


def plain_fit(x: np.ndarray, y: np.ndarray) -> tuple[float, float, np.ndarray]:
    """R^2, Q^2 by brute-force refits, and coefficients with the intercept first."""
    design = np.column_stack([np.ones(len(y)), x])
    beta = np.linalg.lstsq(design, y, rcond=None)[0]
    total = ((y - y.mean()) ** 2).sum()
    press = 0.0
    for out in range(len(y)):
        keep = np.arange(len(y)) != out
        press += (y[out] - design[out] @ np.linalg.lstsq(design[keep], y[keep], rcond=None)[0]) ** 2
    return float(1 - ((y - design @ beta) ** 2).sum() / total), float(1 - press / total), beta


def test_the_paper_s_subset_wins_by_r2_and_not_by_q2(published: pd.DataFrame, anchors: Anchors) -> None:
    found = search_subsets(published, anchors)
    best = found.table.iloc[0]
    assert best["datasets"] == PAPER
    assert round(best["r2"], 3) == 0.990
    assert round(best["q2"], 2) == 0.79
    assert len(found.table) == 35
    third = found.table.iloc[2]
    assert third["datasets"] == ("cifar10", "imagenette", "stanford_dogs", "indoor67")
    assert round(third["q2"], 2) == 0.90
    assert found.table["q2"].max() > 0.92
    assert found.resamples == 1000
    assert found.table["bootstrap"].sum() == pytest.approx(1)
    assert best["bootstrap"] < 0.5
    assert any("Judge by Q^2" in sentence for sentence in found.warnings)
    # The paper's fourth data set makes the prediction of a new model worse, not better.
    three = search_subsets(published, anchors, size=3, settings=SearchSettings(resamples=0)).table.set_index("datasets")
    assert three["q2"][[("cifar10", "stanford_dogs", "indoor67")]].item() > best["q2"] + 0.1


@pytest.mark.parametrize("size", range(1, 7))
def test_every_subset_equals_plain_loops(published: pd.DataFrame, anchors: Anchors, size: int) -> None:
    table = search_subsets(published, anchors, size=size, settings=SearchSettings(resamples=0)).table.set_index(
        "datasets"
    )
    y = score(published, anchors)["xscore"].reindex(published.index).to_numpy()
    assert len(table) == math.comb(7, size)
    assert table["r2"].is_monotonic_decreasing
    for names in itertools.combinations(published.columns, size):
        row = table.loc[[names]].iloc[0]
        x = published[list(names)].to_numpy()
        r2, q2, beta = plain_fit(x, y)
        fitted = beta[0] + x @ beta[1:]
        assert row["r2"] == pytest.approx(r2, abs=1e-9)
        assert row["q2"] == pytest.approx(q2, abs=1e-7)
        assert row["intercept"] == pytest.approx(beta[0], abs=1e-7)
        assert list(row["coefficients"]) == list(names)
        np.testing.assert_allclose(list(row["coefficients"].values()), beta[1:], atol=1e-8)
        assert row["spearman"] == pytest.approx(stats.spearmanr(fitted, y).statistic)
        assert row["kendall"] == pytest.approx(stats.kendalltau(fitted, y).statistic)


def test_rank_agreement_is_undefined_for_equal_predictions() -> None:
    frame, _ = synthetic(8, 3)
    frame["d0"] = 50.0
    anchors = Anchors("constant", dict.fromkeys(frame, 0.0), dict.fromkeys(frame, 100.0))
    table = search_subsets(frame, anchors, size=1, settings=SearchSettings(resamples=0)).table.set_index("datasets")
    constant = table.loc[[("d0",)]].iloc[0]
    assert math.isnan(constant["spearman"])
    assert math.isnan(constant["kendall"])
    assert table.loc[[("d1",)]].iloc[0]["spearman"] != 0


def test_normalised_values_give_the_same_fit(published: pd.DataFrame, anchors: Anchors) -> None:
    plain = search_subsets(published, anchors, settings=SearchSettings(resamples=50, seed=4)).table
    scaled = search_subsets(published, anchors, settings=SearchSettings("normalized", resamples=50, seed=4)).table
    same = ["datasets", "r2", "q2", "spearman", "kendall", "spearman_left_out", "bootstrap"]
    pd.testing.assert_frame_equal(plain[same], scaled[same])
    slope = plain["coefficients"][0]["cifar10"] * (anchors.maximum["cifar10"] - anchors.minimum["cifar10"])
    assert scaled["coefficients"][0]["cifar10"] == pytest.approx(slope)


def test_left_out_ranking_equals_refits(published: pd.DataFrame, anchors: Anchors) -> None:
    y = score(published, anchors)["xscore"].reindex(published.index).to_numpy()
    design = np.column_stack([np.ones(11), published[list(PAPER)]])
    left_out = [
        design[i] @ np.linalg.lstsq(np.delete(design, i, 0), np.delete(y, i), rcond=None)[0] for i in range(len(y))
    ]
    best = search_subsets(published, anchors, settings=SearchSettings(resamples=0)).table.iloc[0]
    assert best["spearman_left_out"] == pytest.approx(stats.spearmanr(left_out, y).statistic)


def test_the_bootstrap_is_seeded_and_counts_winners() -> None:
    frame, anchors = synthetic(30, 5)
    one = search_subsets(frame, anchors, size=2, settings=SearchSettings(resamples=60, seed=1))
    pd.testing.assert_frame_equal(
        one.table, search_subsets(frame, anchors, size=2, settings=SearchSettings(resamples=60, seed=1)).table
    )
    y = score(frame, anchors)["xscore"].reindex(frame.index).to_numpy()
    rng = np.random.default_rng(1)
    wins: dict[tuple[str, ...], int] = {}
    for _ in range(60):
        rows = rng.integers(0, 30, 30)
        best = max(
            itertools.combinations(frame.columns, 2),
            key=lambda names: plain_fit(frame[list(names)].to_numpy()[rows], y[rows])[0],
        )
        wins[best] = wins.get(best, 0) + 1
    for names, share in zip(one.table["datasets"], one.table["bootstrap"], strict=True):
        assert share == pytest.approx(wins.get(names, 0) / 60)


@pytest.mark.parametrize("models", [4, 5])
def test_an_underdetermined_fit_says_so(models: int) -> None:
    frame, anchors = synthetic(models, 6)
    found = search_subsets(frame, anchors, size=4, settings=SearchSettings(resamples=20))
    assert (found.table["r2"] == 1).all()
    assert found.table["q2"].isna().all()
    assert found.table["bootstrap"].isna().all()
    assert found.resamples == 0
    assert "perfect by construction" in found.warnings[0]
    model = fit_subset(frame, anchors, ["d0", "d1", "d2", "d3"])
    assert model.q2 is None
    assert "perfect by construction" in str(model.warning)


def test_constant_and_dependent_columns_drop_out() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(15, 3))
    y = x[:, 0] + rng.normal(size=15)
    table = np.column_stack([x, np.full(15, 63.7), 2 * x[:, 0] - x[:, 1] + 5])
    fits = fit_subsets(table, y, np.array([[0, 1, 3], [0, 1, 4], [0, 1, 2]]))
    assert fits.rank.tolist() == [2, 2, 3]
    r2, q2, _ = plain_fit(x[:, :2], y)
    np.testing.assert_allclose(fits.r2[:2], r2)
    np.testing.assert_allclose(fits.q2[:2], q2)


def test_a_point_that_a_column_serves_alone_leaves_q2_open() -> None:
    rng = np.random.default_rng(0)
    lonely = np.zeros(10)
    lonely[3] = 1
    fits = fit_subsets(np.column_stack([rng.normal(size=10), lonely]), rng.normal(size=10), combinations(2, 2))
    assert fits.r2[0] < 1
    assert np.isnan(fits.q2[0])


def test_prediction_of_the_full_score(published: pd.DataFrame, anchors: Anchors) -> None:
    model = fit_subset(published, anchors, PAPER)
    predicted = model.predict(published)
    assert predicted.name == "xscore7_predicted"
    full = score(published, anchors)["xscore"].reindex(published.index)
    residual = ((full - predicted) ** 2).sum()
    assert 1 - residual / ((full - full.mean()) ** 2).sum() == pytest.approx(model.r2)
    for on in ("accuracy", "normalized"):
        other = fit_subset(published, anchors, PAPER, on=on)
        pd.testing.assert_series_equal(other.predict(published[list(PAPER)]), predicted)
    new = pd.DataFrame({name: [published[name].max(), np.nan] for name in PAPER}, index=["best", "unfinished"])
    assert model.predict(new)["best"] > predicted.max()
    assert math.isnan(model.predict(new)["unfinished"])
    with pytest.raises(CannotContinueError, match="no column for: cifar10"):
        model.predict(published.drop(columns="cifar10"))


def test_impossible_searches_are_refused(published: pd.DataFrame, anchors: Anchors) -> None:
    for size in (0, 7, 8, -1):
        with pytest.raises(WrongUseError, match="between 1 and 6"):
            search_subsets(published, anchors, size=size)
    with pytest.raises(WrongUseError, match="Lambda is -1"):
        search_subsets(published, anchors, lam=-1)
    with pytest.raises(WrongUseError, match="not on 'rank'"):
        SearchSettings(on="rank")  # type: ignore[arg-type]
    with pytest.raises(WrongUseError, match="At least one subset"):
        SearchSettings(detailed=0)
    with pytest.raises(WrongUseError, match="Did you mean 'cifar10'"):
        fit_subset(published, anchors, ["cifar1O"])
    with pytest.raises(WrongUseError, match="more than once"):
        fit_subset(published, anchors, ["cifar10", "cifar10"])
    with pytest.raises(CannotContinueError, match="at least three"):
        search_subsets(published.iloc[:2], anchors)
    with pytest.raises(CannotContinueError, match="'convmixer' is unknown; accuracies are missing for: cifar100"):
        search_subsets(published.mask(published == 77.58), anchors)
    with pytest.raises(CannotContinueError, match="same full score"):
        search_subsets(pd.DataFrame([published.iloc[0]] * 4, index=list("abcd")), anchors)
    frame, wide = synthetic(5, 40)
    with pytest.raises(WrongUseError, match="subsets of 20 of 40"):
        search_subsets(frame, wide, size=20)


def test_all_subsets_of_ten_out_of_twenty_are_searched() -> None:
    """benchmarks/score.py holds the search against its limit of 10 s."""
    frame, anchors = synthetic(40, 20)
    found = search_subsets(frame, anchors, size=10)
    assert len(found.table) == 184_756
    assert found.table["spearman"].notna().sum() >= 100
    y = score(frame, anchors)["xscore"].reindex(frame.index).to_numpy()
    for at in (0, 5, 100_000, 184_755):
        row = found.table.iloc[at]
        r2, q2, _ = plain_fit(frame[list(row["datasets"])].to_numpy(), y)
        assert (row["r2"], row["q2"]) == (pytest.approx(r2), pytest.approx(q2))
