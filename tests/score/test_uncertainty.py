"""Uncertainty of scores: the pieces against SciPy and brute force, the whole against simulations with a known truth."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.interpolate import CubicSpline

from harness.errors import CannotContinueError, WrongUseError
from harness.score import (
    Anchors,
    UncertaintySettings,
    as_runs,
    mean_accuracies,
    read_accuracies,
    score,
    score_uncertainty,
    seeds_needed,
)
from harness.score.noise import score_variance, score_weights
from harness.score.uncertainty import _critical_ratio, group_letters, rank_bounds, tied_groups
from tests.support import FILES

PUBLISHED = read_accuracies(FILES / "published_accuracy.csv")
ANCHORS = Anchors.from_table("published-2025", PUBLISHED)
SIZES = dict(zip(PUBLISHED.columns, (10_000, 10_000, 3_925, 1_503, 8_580, 1_340, 10_000), strict=True))
SEED_SD = np.array([0.15, 0.3, 0.5, 0.8, 0.8, 1.0, 0.3])
AVERAGE = PUBLISHED.mean().to_numpy()


def make_runs(accuracy: np.ndarray) -> pd.DataFrame:
    """Runs from an array (models, data sets, seeds)."""
    model, dataset, seed = (index.ravel() for index in np.indices(accuracy.shape))
    return pd.DataFrame(
        {
            "model": [f"m{i}" for i in model],
            "dataset": PUBLISHED.columns.to_numpy()[dataset],
            "seed": seed,
            "accuracy": accuracy.ravel(),
        }
    )


def simulate(truth: np.ndarray, seed_sd: np.ndarray, seeds: int, rng: np.random.Generator) -> pd.DataFrame:
    """One experiment: a test set drawn once for each cell and shared by its seeds, and a normal error for each seed."""
    sizes = np.array(list(SIZES.values()))
    tested = 100 * rng.binomial(sizes, truth / 100) / sizes
    noise = rng.normal(size=(*truth.shape, seeds)) * seed_sd[..., None]
    return make_runs(np.clip(tested[..., None] + noise, 0, 100))


def true_scores(truth: np.ndarray, lam: float = 0.5) -> pd.Series:
    frame = pd.DataFrame(truth, index=[f"m{i}" for i in range(len(truth))], columns=PUBLISHED.columns)
    return score(frame, ANCHORS, lam=lam)["xscore"]


def coverage(runs: pd.DataFrame, truth: pd.Series, lam: float = 0.5, **options: Any) -> float:
    table = score_uncertainty(runs, ANCHORS, SIZES, lam=lam, settings=UncertaintySettings(**options)).table
    expected = truth.reindex(table.index)
    return float(((table["lower"] <= expected) & (expected <= table["upper"])).mean())


class QuickRatio:
    """Critical ratios of up to thousands of experiments, interpolated: SciPy takes a tenth of a second for each."""

    def __init__(self, models: int, level: float) -> None:
        inverse = np.concatenate([np.linspace(0, 0.25, 26), [1 / 3, 0.5, 0.7, 1]])
        exact = [_critical_ratio(np.full(models, np.inf if x == 0 else 1 / x), level) for x in inverse]
        self._interpolated = CubicSpline(inverse, exact)
        self._models, self._level = models, level

    def __call__(self, degrees: np.ndarray, level: float) -> float:
        assert (len(degrees), level) == (self._models, self._level)
        return float(self._interpolated(1 / degrees.min()))


@pytest.mark.slow
@pytest.mark.parametrize("models", [2, 11])
@pytest.mark.parametrize("least", [4.3, 9.5, 23.7, 1000.0])
def test_quick_ratio_is_the_exact_one(models: int, least: float) -> None:
    degrees = np.linspace(least, 2 * least, models)
    assert QuickRatio(models, 0.95)(degrees, 0.95) == pytest.approx(_critical_ratio(degrees, 0.95), rel=1e-3)


# --- simulations with a known truth ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seeds", "lam", "noise", "pooled"),
    [
        (3, 0.5, 1, True),
        (3, 0.5, 3, True),
        (3, 2.0, 2, True),
        (1, 0.5, 0, True),
        (3, 0.5, 3, False),
        (5, 0.5, 2, False),
    ],
)
def test_intervals_cover_at_their_level(seeds: int, lam: float, noise: float, pooled: bool) -> None:
    """Two thousand models in one table are two thousand experiments, since each interval is about one model alone."""
    rng = np.random.default_rng(11)
    truth = np.tile(PUBLISHED.to_numpy(), (182, 1))
    runs = simulate(truth, np.broadcast_to(noise * SEED_SD, truth.shape), seeds, rng)
    found = coverage(runs, true_scores(truth, lam), lam=lam, pooled=pooled, draws=1000)
    assert 0.93 <= found <= 0.97


def test_equal_models_share_a_group_fast() -> None:
    rng = np.random.default_rng(12)
    shared = 0
    for _ in range(60):
        runs = simulate(np.tile(AVERAGE, (6, 1)), np.tile(SEED_SD, (6, 1)), 3, rng)
        shared += len(score_uncertainty(runs, ANCHORS, SIZES, settings=UncertaintySettings(draws=100)).groups) == 1
    assert shared >= 54  # of 60; 57 are expected, and 53 or fewer would come up in less than 3 % of such tests


@pytest.mark.slow
@pytest.mark.parametrize(
    ("models", "seeds", "noise"), [(11, 3, 1.0), (11, 2, 1.0), (11, 3, 3.0), (3, 3, 1.0), (1, 3, 1.0)]
)
def test_small_tables_cover_at_their_level(
    models: int, seeds: int, noise: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few models, so the pooled seed variance is itself uncertain: whole experiments are repeated."""
    monkeypatch.setattr("harness.score.uncertainty._critical_ratio", lambda *_: 3.0)  # of ties, not of intervals
    rng = np.random.default_rng(13)
    truth = PUBLISHED.to_numpy()[:models]
    expected, spread = true_scores(truth), np.tile(noise * SEED_SD, (models, 1))
    found = [
        coverage(simulate(truth, spread, seeds, rng), expected, draws=1000, seed=i) for i in range(3000 // (models + 2))
    ]
    assert 0.93 <= float(np.mean(found)) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(("models", "seeds"), [(2, 3), (11, 3), (11, 1)])
def test_equal_models_share_a_group(models: int, seeds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.score.uncertainty._critical_ratio", QuickRatio(models, 0.95))
    rng = np.random.default_rng(14)
    spread = np.tile(SEED_SD if seeds > 1 else 0 * SEED_SD, (models, 1))
    shared, ranks = [], []
    for _ in range(1500):
        found = score_uncertainty(
            simulate(np.tile(AVERAGE, (models, 1)), spread, seeds, rng),
            ANCHORS,
            SIZES,
            settings=UncertaintySettings(draws=100),
        )
        shared.append(len(found.groups) == 1)
        ranks.append((found.table["rank_lower"] == 1).all())
    assert np.mean(shared) >= 0.945  # 0.95, less the error of 1,500 experiments
    assert np.mean(ranks) >= 0.945


def test_the_plain_score_is_biased_and_the_corrected_one_is_not() -> None:
    rng = np.random.default_rng(15)
    truth = np.tile(AVERAGE, (4000, 1))
    runs = simulate(truth, np.broadcast_to(3 * SEED_SD, truth.shape), 3, rng)
    table = score_uncertainty(runs, ANCHORS, SIZES, lam=2.0, settings=UncertaintySettings(draws=100)).table
    expected = true_scores(truth[:1], 2.0).iloc[0]
    margin = 4 * float(table["corrected"].std()) / math.sqrt(4000)
    assert table["xscore"].mean() < expected - 2 * margin
    assert abs(table["corrected"].mean() - expected) < margin
    assert float(table["standard_error"].mean()) == pytest.approx(float(table["corrected"].std()), rel=0.1)


# --- what the result says -------------------------------------------------------------------------------------------


def test_one_seed_counts_sampling_alone_and_says_so() -> None:
    found = score_uncertainty(as_runs(PUBLISHED), ANCHORS, SIZES)
    plain = score(PUBLISHED, ANCHORS)
    pd.testing.assert_frame_equal(found.table[["rank", "xscore"]], plain[["rank", "xscore"]])
    assert set(found.table["noise"]) == {"sampling alone"}
    assert set(found.table["seeds"]) == {1}
    assert found.critical * math.sqrt(2) == pytest.approx(4.55, abs=0.005)  # Tukey's table: 11 groups, 5 %
    assert "One seed per cell" in found.notes[0]
    assert found.noise["seed_sd"].isna().all()
    assert found.noise["sampling_sd"]["indoor67"] == pytest.approx(1.35, abs=0.02)
    table = found.table
    assert ((table["lower"] < table["xscore"]) & (table["xscore"] < table["upper"])).all()
    assert ((table["rank_lower"] <= table["rank"]) & (table["rank"] <= table["rank_upper"])).all()
    assert ("efficientnet", "convmixer") in found.groups
    assert ("convnext",) in found.groups
    pd.testing.assert_frame_equal(table, score_uncertainty(as_runs(PUBLISHED), ANCHORS, SIZES).table)


def test_seeds_are_counted_where_there_are_some() -> None:
    rng = np.random.default_rng(0)
    runs = simulate(PUBLISHED.to_numpy(), np.tile(SEED_SD, (11, 1)), 3, rng)
    everywhere = score_uncertainty(runs, ANCHORS, SIZES)
    assert set(everywhere.table["noise"]) == {"seeds and sampling"}
    assert everywhere.notes == ()
    assert set(everywhere.noise["degrees"]) == {22}
    by_cell = runs.groupby(["model", "dataset"])["accuracy"].var().groupby("dataset").mean()
    np.testing.assert_allclose(everywhere.noise["seed_sd"] ** 2, by_cell[list(PUBLISHED.columns)])
    np.testing.assert_allclose(everywhere.noise["seed_sd"], SEED_SD, rtol=0.5)

    part = runs[(runs["seed"] == 0) | ((runs["dataset"] == "indoor67") & (runs["model"] == "m0"))]
    found = score_uncertainty(part, ANCHORS, SIZES)
    assert set(found.table["noise"]) == {"sampling, and seeds on some data sets"}
    assert "No model has a second seed on cifar10, cifar100" in found.notes[0]
    assert "very few repeated runs on indoor67" in found.notes[1]
    alone = score_uncertainty(part, ANCHORS, SIZES, settings=UncertaintySettings(pooled=False)).table
    assert alone["noise"]["m0"] == "sampling, and seeds on some data sets"
    assert alone["noise"]["m1"] == "sampling alone"


def test_an_incomplete_model_has_no_interval() -> None:
    runs = as_runs(PUBLISHED.mask(PUBLISHED == 95.11))
    table = score_uncertainty(runs, ANCHORS, SIZES).table
    last = table.iloc[-1]
    assert (last.name, last["status"], last["groups"], last["seeds"]) == ("efficientnet", "incomplete", "", 0)
    assert last[["xscore", "lower", "upper", "standard_error", "rank", "rank_lower"]].isna().all()
    assert table["rank_upper"].max() == 10


def test_a_perfect_result_on_a_small_test_set_is_not_certain() -> None:
    frame = pd.DataFrame({"x": [100.0, 50.0], "y": [100.0, 40.0]}, index=["a", "b"])
    found = score_uncertainty(as_runs(frame), Anchors.from_table("a", frame), {"x": 50, "y": 50})
    assert found.table["standard_error"]["a"] > 0.01


def test_less_shared_noise_narrows_intervals() -> None:
    rng = np.random.default_rng(0)
    runs = simulate(PUBLISHED.to_numpy(), np.tile(SEED_SD, (11, 1)), 3, rng)
    wide, narrow = (
        score_uncertainty(runs, ANCHORS, SIZES, settings=UncertaintySettings(shared=s)).table["standard_error"]
        for s in (1.0, 0.5)
    )
    assert (narrow < wide).all()


def test_many_models_have_ranks_and_no_groups() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(30, 90, (300, 7))
    found = score_uncertainty(
        simulate(truth, np.tile(SEED_SD, (300, 1)), 2, rng), ANCHORS, SIZES, settings=UncertaintySettings(draws=200)
    )
    assert found.groups == ()
    assert "more than 200 models" in found.notes[-1]
    assert (found.table["rank_lower"] <= found.table["rank_upper"]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lam": -1.0}, "Lambda is -1"),
        ({"level": 1.0}, "The level is 1"),
        ({"draws": 10}, "10 draws are too few"),
        ({"shared": 1.5}, "must be between 0 and 1"),
    ],
)
def test_impossible_options_are_refused(options: Mapping[str, Any], message: str) -> None:
    with pytest.raises(WrongUseError, match=message):
        coverage(as_runs(PUBLISHED), pd.Series(), **options)


def test_bad_runs_are_refused() -> None:
    runs = as_runs(PUBLISHED)
    with pytest.raises(WrongUseError, match="missing for: indoor67"):
        score_uncertainty(runs, ANCHORS, {k: v for k, v in SIZES.items() if k != "indoor67"})
    with pytest.raises(WrongUseError, match="has 0 images"):
        score_uncertainty(runs, ANCHORS, SIZES | {"indoor67": 0})
    with pytest.raises(WrongUseError, match="at least two data sets"):
        score_uncertainty(runs[runs["dataset"] == "cifar10"], ANCHORS, SIZES)
    with pytest.raises(CannotContinueError, match="'convmixer' on 'cifar10' with seed 0 appears more than once"):
        mean_accuracies(pd.concat([runs, runs]))
    with pytest.raises(CannotContinueError, match="no column: seed"):
        mean_accuracies(runs.drop(columns="seed"))
    with pytest.raises(CannotContinueError, match=r"is 101\.0; it must be"):
        mean_accuracies(runs.replace(94.52, 101.0))
    with pytest.raises(CannotContinueError, match="is nan; it must be"):
        mean_accuracies(runs.replace(94.52, np.nan))
    with pytest.raises(CannotContinueError, match="fractions"):
        mean_accuracies(runs.assign(accuracy=runs["accuracy"] / 100))
    with pytest.raises(CannotContinueError, match="is empty"):
        mean_accuracies(runs.iloc[:0])


def test_runs_and_tables_are_two_forms_of_one_thing() -> None:
    pd.testing.assert_frame_equal(mean_accuracies(as_runs(PUBLISHED)), PUBLISHED)


# --- more seeds -----------------------------------------------------------------------------------------------------


def noisy_pair(gap: float, seeds: int = 3) -> pd.DataFrame:
    """Two models that differ by ``gap`` percent everywhere, with seeds exactly one standard deviation around."""
    steps = np.linspace(-1, 1, seeds)
    truth = np.stack([AVERAGE, AVERAGE + gap])
    return make_runs(truth[..., None] + steps * SEED_SD[None, :, None])


def test_a_seed_plan_is_the_smallest_that_works() -> None:
    large = dict.fromkeys(SIZES, 1_000_000)
    found = score_uncertainty(noisy_pair(0.3), ANCHORS, large)
    plan = seeds_needed(found, "m1", "m0")
    assert plan.possible
    assert not plan.separated
    assert plan.difference > 0
    assert plan.error_floor < plan.error_needed < plan.error
    assert plan.error_needed == pytest.approx(plan.difference / (found.critical + stats.norm.ppf(0.8)))
    assert sum(plan.plan.values()) > 0
    # The plan does what it says when the seeds are there, and one seed less anywhere does not.
    weights, variance = found.weights, found.cells

    def error(extra: Mapping[str, int]) -> float:
        more = np.array([extra.get(name, 0) for name in variance.datasets])
        scale = np.array([ANCHORS.maximum[d] - ANCHORS.minimum[d] for d in variance.datasets])
        spread = np.sqrt(variance.variance(variance.seeds + more)) / scale
        return math.sqrt(score_variance(weights * scale, spread, found.lam).sum())

    assert error({}) == pytest.approx(plan.error)
    assert error(plan.plan) <= plan.error_needed
    for name in plan.plan:
        assert error({**plan.plan, name: plan.plan[name] - 1}) > plan.error_needed
    for name, count in plan.single.items():
        if count is not None:
            assert error({name: count}) <= plan.error_needed < error({name: count - 1})
            assert count >= sum(plan.plan.values())
        else:
            assert error({name: 1000}) > plan.error_needed
    assert "more seeds" in plan.reason


def test_seeds_cannot_replace_test_images() -> None:
    plan = seeds_needed(score_uncertainty(noisy_pair(0.3), ANCHORS, SIZES), "m0", "m1")
    assert not plan.possible
    assert plan.plan == {}
    assert set(plan.single.values()) == {None}
    assert "No number of seeds" in plan.reason


def test_models_apart_need_nothing() -> None:
    plan = seeds_needed(score_uncertainty(noisy_pair(4), ANCHORS, SIZES), "m0", "m1")
    assert plan.separated
    assert plan.possible
    assert plan.plan == {}
    assert set(plan.single.values()) == {0}
    assert plan.difference < 0


def test_too_many_seeds_are_not_promised() -> None:
    large = dict.fromkeys(SIZES, 10**9)
    plan = seeds_needed(score_uncertainty(noisy_pair(0.02), ANCHORS, large), "m0", "m1", most=20)
    assert not plan.possible
    assert "more than 20 further seeds" in plan.reason


def test_impossible_questions_are_refused() -> None:
    found = score_uncertainty(noisy_pair(1), ANCHORS, SIZES)
    with pytest.raises(WrongUseError, match="no model named 'm2'"):
        seeds_needed(found, "m0", "m2")
    with pytest.raises(WrongUseError, match="two different models"):
        seeds_needed(found, "m0", "m0")
    with pytest.raises(WrongUseError, match="The power is 1"):
        seeds_needed(found, "m0", "m1", power=1)
    with pytest.raises(CannotContinueError, match="seed noise is unknown on cifar10"):
        seeds_needed(score_uncertainty(as_runs(PUBLISHED), ANCHORS, SIZES), "convmixer", "efficientnet")
    holed = noisy_pair(1)
    holed = holed[(holed["model"] != "m0") | (holed["dataset"] != "indoor67")]
    with pytest.raises(CannotContinueError, match="'m0' has no score yet; accuracies are missing for: indoor67"):
        seeds_needed(score_uncertainty(holed, ANCHORS, SIZES), "m0", "m1")


# --- the pieces -----------------------------------------------------------------------------------------------------


def test_score_variance_equals_simulation() -> None:
    rng = np.random.default_rng(2)
    values, spread = rng.uniform(0, 1, 5), np.array([0.1, 0.3, 0.2, 0.05, 0.4])
    for lam in (0.0, 0.5, 3.0):
        noisy = values + spread * rng.normal(size=(400_000, 5))
        scores = noisy.mean(axis=1) - lam * noisy.var(axis=1, ddof=1)
        found = score_variance(score_weights(values[None], lam), spread[None], lam)[0]
        assert found == pytest.approx(scores.var(), rel=0.02)


def test_groups_are_all_largest_sets_of_ties() -> None:
    rng = np.random.default_rng(5)
    for _ in range(30):
        estimates, errors = rng.normal(size=8), rng.uniform(0.05, 0.6, 8)

        def tied(i: int, j: int, e: np.ndarray = estimates, s: np.ndarray = errors) -> bool:
            return bool(abs(e[i] - e[j]) <= 2 * math.hypot(s[i], s[j]))

        cliques = {
            frozenset(group)
            for size in range(1, 9)
            for group in itertools.combinations(range(8), size)
            if all(tied(i, j) for i, j in itertools.combinations(group, 2))
        }
        largest = {group for group in cliques if not any(group < other for other in cliques)}
        found = tied_groups(estimates, errors, 2.0)
        assert {frozenset(group) for group in found} == largest
        assert len(found) == len(largest)
        best, worst = rank_bounds(estimates, errors, 2.0)
        for i in range(8):
            apart = [j for j in range(8) if not tied(i, j)]
            assert best[i] == 1 + sum(estimates[j] > estimates[i] for j in apart)
            assert worst[i] == 8 - sum(estimates[j] < estimates[i] for j in apart)


def test_letters_go_on_after_z() -> None:
    letters = group_letters([(0, 1), (1,), *[(2,)] * 26], 3)
    assert letters[:2] == ["a", "a, b"]
    assert letters[2].endswith("z, aa, ab")
