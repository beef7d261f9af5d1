"""``harness score``, ``leaderboard`` and ``select`` as a user meets them, with every kind of bad input."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from tests.support import FILES, Command, Rows

PUBLISHED = FILES / "published_accuracy.csv"

CONTRACT = ["model", "xscore", "mean", "variance", "normalized", "accuracy", "lambda", "anchors"]


# ---------------------------------------------------------------------------------------------------- published table


def test_the_published_ranking_is_reproduced(rows: Rows) -> None:
    table = rows("leaderboard", "--published")
    assert [row["model"] for row in table] == [
        "efficientnet", "convmixer", "mobilevit", "mobilenet", "starnet", "fbnet", "shufflenet", "ghostnet",
        "mobileone", "tinynet", "convnext",
    ]  # fmt: skip
    score = {row["model"]: row for row in table}
    assert round(score["efficientnet"]["xscore"], 3) == 0.962
    assert round(score["convmixer"]["xscore"], 3) == 0.853
    assert score["efficientnet"]["xscore_by_lambda"].keys() == {"0.25", "0.5", "1"}
    assert score["efficientnet"]["xscore4"] == pytest.approx(0.9416, abs=1e-4)
    assert score["efficientnet"]["xscore7_predicted"] == pytest.approx(0.9524, abs=1e-4)
    assert all(row["source"] == "published" and row["anchors"] == "published-2025" for row in table)
    assert all(row["rank_lower"] <= row["rank"] <= row["rank_upper"] for row in table)
    assert all(list(row)[1:9] == CONTRACT for row in table)


def test_a_suite_with_published_scores_the_four(rows: Rows) -> None:
    table = {row["model"]: row for row in rows("leaderboard", "--published", "--suite", "xscore4")}
    assert table["convmixer"]["xscore"] == table["convmixer"]["xscore4"]


def test_the_baseline_row_stays_out_of_json_unless_asked_for(pocket_harness: Command, rows: Rows) -> None:
    assert len(rows("leaderboard", "--published")) == 11
    last = rows("leaderboard", "--published", "--baseline")[-1]
    assert (last["model"], last["rank"], last["accuracy"]["ham10000"]) == ("majority class", None, 66.93)
    assert "majority class" in pocket_harness("leaderboard", "--published").out
    assert "majority class" not in pocket_harness("leaderboard", "--published", "--no-baseline").out


@pytest.mark.parametrize("format_", ["table", "csv", "markdown", "latex"])
def test_every_format_prints(pocket_harness: Command, format_: str) -> None:
    ran = pocket_harness("leaderboard", "--published", "--format", format_)
    assert ran.code == 0
    assert ("0.962" in ran.out) or ("0.9619" in ran.out)
    assert ("toprule" in ran.out) == (format_ == "latex")


def test_a_users_model_stands_among_the_published_and_is_marked(rows: Rows, tmp_path: Path) -> None:
    """Through the builder, since runs on the seven data sets cannot be made here."""
    import pandas as pd

    from harness.registry import load_benchmark
    from harness.report.published import build_published, published_accuracies, published_anchors
    from harness.report.rows import Leaderboard
    from harness.score import as_runs

    benchmark = load_benchmark()
    published = published_accuracies(benchmark)
    mine = pd.DataFrame([published.loc["mobilenet"] + 0.1, published.loc["fbnet"]], index=["mynet", "fbnet"])
    mine.loc["fbnet", "cifar10"] = float("nan")
    measured = Leaderboard((), published_anchors(benchmark), (), mine, as_runs(mine))
    board = build_published(benchmark, lam=0.5, measured=measured)
    found = {row.model: row.as_row() for row in board.rows}
    assert found["mynet"]["rank"] == 4
    assert found["mobilenet"]["rank"] == 5
    assert (found["mynet"]["source"], found["mynet"]["protocol"]) == ("measured", "xscore-1.0")
    assert (found["fbnet"]["source"], found["fbnet"]["rank"]) == ("published", 7)
    assert found["fbnet (measured)"]["xscore"] is None
    assert found["fbnet (measured)"]["missing"] == ["cifar10"]
    assert any("which depart from it" in note for note in board.notes)


def test_published_takes_neither_anchors_nor_a_pocket_suite(pocket_harness: Command) -> None:
    assert pocket_harness("leaderboard", "--published", "--anchors", "own").code == 2
    ran = pocket_harness("leaderboard", "--published", "--suite", "pocket")
    assert ran.code == 3
    assert "without published accuracies" in ran.err


# ------------------------------------------------------------------------------------------------------ measured runs


def test_pocket_leaderboard_has_intervals_and_a_baseline(rows: Rows, pocket_runs: Path) -> None:
    table = rows("leaderboard", "--suite", "pocket", "--runs", pocket_runs, "--baseline")
    assert [row["model"] for row in table] == ["starnet", "mobilenet", "shufflenet", "fbnet", "majority class"]
    best = table[0]
    assert best["anchors"] == "measured: 3 models"
    assert best["lower"] < best["corrected"] < best["upper"]
    assert best["noise"] == "seeds and sampling"
    for name, value in best["accuracy"].items():
        assert best["above_baseline"][name] == pytest.approx(value - table[-1]["accuracy"][name])
    incomplete = table[3]
    assert (incomplete["status"], incomplete["missing"]) == ("incomplete", ["pocket_earth"])
    assert incomplete["xscore"] is incomplete["mean"] is incomplete["rank"] is None


def test_no_results_is_an_error_with_a_way_out(pocket_harness: Command, tmp_path: Path) -> None:
    for command in ("leaderboard", "score", "select"):
        ran = pocket_harness(command, "--suite", "pocket", "--runs", tmp_path / "nothing")
        assert (ran.code, ran.out) == (3, "")
        assert "harness run --all --suite pocket" in ran.err


def test_any_metric_scores_from_the_stored_predictions(pocket_harness: Command, rows: Rows, pocket_runs: Path) -> None:
    for metric in ("macro_f1", "nll", "ece", "balanced_accuracy"):
        table = rows("score", "--suite", "pocket", "--runs", pocket_runs, "--metric", metric)
        assert {row["metric"] for row in table} == {metric}
    by_loss = rows("score", "--suite", "pocket", "--runs", pocket_runs, "--metric", "nll")
    assert by_loss[0]["accuracy"]["pocket_digits"] < by_loss[2]["accuracy"]["pocket_digits"]
    assert by_loss[0]["xscore"] > by_loss[2]["xscore"]
    assert "upper" not in by_loss[0]
    ran = pocket_harness("score", "--suite", "pocket", "--runs", pocket_runs, "--metric", "macrof1")
    assert ran.code == 2
    assert "Did you mean 'macro_f1'" in ran.err


def test_damaged_predictions_are_named(pocket_harness: Command, copied_runs: Path) -> None:
    path = copied_runs / "pocket-1.0/starnet/pocket_digits/seed-0/predictions.npz"
    path.write_bytes(b"no zip file")
    ran = pocket_harness("score", "--suite", "pocket", "--runs", copied_runs, "--metric", "nll")
    assert ran.code == 3
    assert "predictions.npz is damaged" in ran.err
    path.unlink()
    assert "is missing" in pocket_harness("score", "--suite", "pocket", "--runs", copied_runs, "--metric", "nll").err
    assert pocket_harness("score", "--suite", "pocket", "--runs", copied_runs).code == 0


# ------------------------------------------------------------------------------------------------------------ anchors


def test_frozen_anchors_keep_the_scale(pocket_harness: Command, rows: Rows, copied_runs: Path) -> None:
    common = ("score", "--suite", "pocket", "--runs", copied_runs)
    ran = pocket_harness(*common, "--make-anchors", "lab-2026")
    assert ran.code == 0, ran.err
    path = copied_runs / "anchors/lab-2026.toml"
    assert path.is_file()
    assert "digest" in path.read_text()
    for how in ("lab-2026", str(path)):
        table = rows(*common, "--anchors", how)
        assert {row["anchors"] for row in table} == {"lab-2026"}
        assert table[0]["mean"] == pytest.approx(1)
    assert "Found the same" in pocket_harness(*common, "--make-anchors", "lab-2026").err
    # A better model on one's own scale exceeds 1 instead of moving it.
    for worst in copied_runs.glob("pocket-1.0/shufflenet"):
        import shutil

        shutil.rmtree(worst)
    assert rows(*common, "--anchors", "lab-2026")[1]["mean"] > 0
    ran = pocket_harness(*common, "--make-anchors", "lab-2026")
    assert ran.code == 2
    assert "never changed" in ran.err


def test_anchors_of_a_loss_keep_its_direction(pocket_harness: Command, rows: Rows, copied_runs: Path) -> None:
    import tomllib

    common = ("score", "--suite", "pocket", "--runs", copied_runs, "--metric", "nll")
    assert pocket_harness(*common, "--make-anchors", "loss-1").code == 0
    content = tomllib.loads((copied_runs / "anchors/loss-1.toml").read_text())
    assert all(content["zero"][name] > content["one"][name] for name in content["zero"])
    assert rows(*common, "--anchors", "loss-1")[0]["mean"] == pytest.approx(1)


def test_anchors_that_do_not_belong_are_refused(pocket_harness: Command, copied_runs: Path) -> None:
    common = ("score", "--suite", "pocket", "--runs", copied_runs)
    assert pocket_harness(*common, "--make-anchors", "lab-1").code == 0
    path = copied_runs / "anchors/lab-1.toml"
    good = path.read_text()
    for change, says, code in (
        (("top1", "top5"), "changed after they were frozen", 3),
        (('digest = "', 'digest = "0'), "", 3),
        (("schema = 1", "schema = 9"), "schema 9, expected 1", 3),
        (("[zero]", "[naught]"), "lack the key 'zero'", 3),
        (("[zero]", "[zero"), "not TOML", 3),
    ):
        path.write_text(good.replace(*change))
        ran = pocket_harness(*common, "--anchors", "lab-1")
        assert (ran.code, says in ran.err) == (code, True), ran.err
    path.write_text(good)
    for arguments, says in (
        (("--anchors", "lab-1", "--metric", "nll"), "are of top1"),
        (("--anchors", "published-2025", "--metric", "nll"), "are of top1"),
        (("--anchors", "lab-2"), "Did you mean 'lab-1'"),
        (("--make-anchors", "published-2025"), "never change"),
        (("--make-anchors", "own"), "not a valid name"),
        (("--make-anchors", "../up"), "not a valid name"),
    ):
        ran = pocket_harness(*common, *arguments)
        assert (ran.code, says in ran.err) == (2, True), ran.err
    assert pocket_harness(*common, "--anchors", "published-2025").code == 3
    assert pocket_harness(*common, "--anchors", "nowhere.toml").code == 3


def test_anchors_of_another_protocol_are_refused(pocket_harness: Command, copied_runs: Path, tmp_path: Path) -> None:
    from harness.registry import load_benchmark, shipped_registry

    assert pocket_harness("score", "--suite", "pocket", "--runs", copied_runs, "--make-anchors", "lab-1").code == 0
    from harness.catalog import discover
    from harness.errors import WrongUseError
    from harness.report.anchor_files import find_anchors

    benchmark = load_benchmark(shipped_registry())
    spec = discover().metric("top1").spec
    with pytest.raises(WrongUseError, match=r"measured under pocket-1\.0"):
        find_anchors("lab-1", benchmark, copied_runs, metric=spec, suite=benchmark.suite("xscore7"))


def test_results_of_different_protocols_are_refused_in_one_table() -> None:
    from dataclasses import replace

    from harness.api import Job, RunResult
    from harness.errors import WrongUseError
    from harness.registry import load_benchmark
    from harness.report.ranking import Measurements, ScoreSettings, build_leaderboard

    one = RunResult(
        job=Job("pocket-1.0", "a", "pocket_digits", 0), fingerprint="", protocol_digest="x", metrics={"top1": 50.0},
        parameters=1, over_budget=False, lr_max=1e-3, lr_exception=None, weights_sha256="", test_reads=1, seconds=1.0,
        started="", finished="",
    )  # fmt: skip
    benchmark = load_benchmark()
    measured = Measurements([one, replace(one, protocol_digest="y")])
    with pytest.raises(WrongUseError, match="2 different protocols"):
        build_leaderboard(benchmark, benchmark.suite("pocket"), measured, ScoreSettings())


# ------------------------------------------------------------------------------------------------------- CSV of a user


def test_a_csv_is_scored_over_its_own_columns(rows: Rows, pocket_harness: Command) -> None:
    table = rows("score", "--accuracies", PUBLISHED)
    assert round(table[0]["xscore"], 3) == 0.962
    assert len(table[0]["accuracy"]) == 7
    four = rows("score", "--accuracies", PUBLISHED, "--suite", "xscore4")
    assert len(four[0]["accuracy"]) == 4
    own = rows("score", "--accuracies", PUBLISHED, "--anchors", "own")
    assert own[0]["xscore"] == pytest.approx(table[0]["xscore"])
    out = pocket_harness("score", "--accuracies", PUBLISHED, "--format", "csv").out
    assert next(csv.DictReader(io.StringIO(out)))["accuracy.cifar10"] == "95.11"


def test_values_above_one_and_below_zero_are_kept(rows: Rows, tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("model,cifar10,ham10000\nbetter,96.5,85\nworse,80,60\n")
    table = rows("score", "--accuracies", path)
    assert table[0]["normalized"]["cifar10"] > 1
    assert table[1]["normalized"]["ham10000"] < 0


def test_sensitivity_lists_ranks_and_crossings(pocket_harness: Command, rows: Rows) -> None:
    table = {row["model"]: row for row in rows("score", "--accuracies", PUBLISHED, "--sensitivity")}
    assert table["tinynet"]["rank_by_lambda"] == {"0": 8, "0.25": 8, "0.5": 10, "1": 10, "1.5": 10, "2": 10}
    assert "ghostnet passes tinynet" in pocket_harness("score", "--accuracies", PUBLISHED, "--sensitivity").err


BAD = {
    "nan": ("model,cifar10,ham10000\na,nan,70\nb,90,71\n", "is missing"),
    "not a number": ("model,cifar10,ham10000\na,ninety,70\nb,90,71\n", "not a number"),
    "above 100": ("model,cifar10,ham10000\na,101,70\nb,90,71\n", "between 0 and 100"),
    "below 0": ("model,cifar10,ham10000\na,-1,70\nb,90,71\n", "between 0 and 100"),
    "fractions": ("model,cifar10,ham10000\na,0.9,0.7\nb,0.91,0.72\n", "fractions"),
    "missing cell": ("model,cifar10,ham10000\na,,70\nb,90,71\n", "is missing"),
    "short row": ("model,cifar10,ham10000\na,90\nb,90,71\n", "2 cells"),
    "repeated model": ("model,cifar10,ham10000\na,90,70\na,91,71\n", "already in row 2"),
    "repeated column": ("model,cifar10,cifar10\na,90,70\n", "more than once"),
    "unknown data set": ("model,cifar11,ham10000\na,90,70\nb,91,71\n", "Did you mean 'cifar10'"),
    "semicolons": ("model;cifar10;ham10000\na;90;70\n", "semicolons"),
    "one data set": ("model,cifar10\na,90\nb,91\n", "at least two data sets"),
    "empty": ("", "empty"),
    "no model": ("name,cifar10,ham10000\na,90,70\n", "no column is named 'model'"),
}


@pytest.mark.parametrize(
    ("command", "case"),
    # A search is about anybody's data sets, so it knows no unknown ones.
    [*(("score", case) for case in BAD), *(("select", case) for case in BAD if case != "unknown data set")],
)
def test_bad_files_are_refused_with_a_sentence(
    pocket_harness: Command, tmp_path: Path, case: str, command: str
) -> None:
    text, says = BAD[case]
    path = tmp_path / "bad.csv"
    path.write_text(text)
    ran = pocket_harness(command, "--accuracies", path)
    assert ran.code in (2, 3)
    assert ran.out == ""
    assert "Traceback" not in ran.err
    assert says in ran.err or (command == "select" and case == "one data set")


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_other_encodings_are_refused(pocket_harness: Command, tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("model,cifar10,ham10000\nmodèle,90,70\nb,91,71\n", encoding=encoding)
    ran = pocket_harness("score", "--accuracies", path)
    assert ran.code == 3
    assert "UTF-8" in ran.err


def test_impossible_options_are_refused(pocket_harness: Command, tmp_path: Path) -> None:
    equal = tmp_path / "equal.csv"
    equal.write_text("model,a,b\nx,90,70\ny,90,71\n")
    for arguments, code, says in (
        (("score", "--accuracies", PUBLISHED, "--lambda", "-1"), 2, "zero or positive"),
        (("score", "--accuracies", PUBLISHED, "--lambda", "nan"), 2, "zero or positive"),
        (("leaderboard", "--published", "--lambda", "-0.1"), 2, "zero or positive"),
        (("score", "--accuracies", equal, "--anchors", "own"), 3, "maximum must lie above the minimum"),
        (("score", "--accuracies", PUBLISHED, "--metric", "nll"), 2, "needs stored predictions"),
        (("score", "--accuracies", "absent.csv"), 3, "cannot be read"),
        (("score", "--suite", "xscore5"), 2, "Did you mean"),
        (("select", "--published", "--size", "7"), 2, "between 1 and 6"),
        (("select", "--published", "--size", "0"), 2, "between 1 and 6"),
        (("select", "--published", "--accuracies", PUBLISHED), 2, "has its own accuracies"),
    ):
        ran = pocket_harness(*arguments)
        assert (ran.code, ran.out, says in ran.err) == (code, "", True), (arguments, ran.err)


# ------------------------------------------------------------------------------------------------------------- select


def test_select_finds_the_published_subset_with_its_worth(rows: Rows, pocket_harness: Command) -> None:
    table = rows("select", "--published")
    assert len(table) == 35
    assert table[0]["datasets"] == ["cifar10", "ham10000", "stanford_dogs", "indoor67"]
    assert round(table[0]["r2"], 3) == 0.990
    assert round(table[0]["q2"], 2) == 0.79
    assert list(table[0]["coefficients"]) == table[0]["datasets"]
    assert {"spearman", "intercept", "kendall", "bootstrap"} <= table[0].keys()
    assert "Judge by Q^2" in pocket_harness("select", "--published").err


def test_select_on_a_file_and_on_runs(rows: Rows, pocket_runs: Path) -> None:
    assert rows("select", "--accuracies", PUBLISHED)[0]["r2"] == pytest.approx(rows("select", "--published")[0]["r2"])
    assert len(rows("select", "--published", "--size", "1", "--normalized")) == 7
    assert len(rows("select", "--suite", "pocket", "--runs", pocket_runs, "--size", "1")) == 4
    assert len(rows("select", "--published", "--top", "3")) == 3


# --------------------------------------------------------------------------------------------------------- more seeds


def test_how_many_more_seeds_would_separate_two_models(rows: Rows, pocket_harness: Command, pocket_runs: Path) -> None:
    common = ("leaderboard", "--suite", "pocket", "--runs", pocket_runs, "--separate")
    table = rows(*common, "shufflenet", "mobilenet")
    assert [row["dataset"] for row in table] == ["pocket_digits", "pocket_fashion", "pocket_textures", "pocket_earth"]
    assert {row["separated"] for row in table} <= {True, False}
    assert len(pocket_harness(*common, "shufflenet", "mobilenet").err.strip()) > 20
    assert pocket_harness(*common, "shufflenet", "fbnet").code == 3  # incomplete
    assert pocket_harness(*common, "shufflenet", "mobilnet").code == 2
    ran = pocket_harness("leaderboard", "--published", "--separate", "starnet", "mobilenet")
    assert ran.code == 3
    assert "second seed" in ran.err
