"""Equations (1) to (3), anchors, lambda, and every refusal of a bad table."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.errors import CannotContinueError, WrongUseError
from harness.score import (
    Anchors,
    lambda_sensitivity,
    normalize,
    read_accuracies,
    score,
)
from tests.support import FILES

pytestmark = pytest.mark.portable

PUBLISHED = FILES / "published_accuracy.csv"
FOUR = ["cifar10", "ham10000", "stanford_dogs", "indoor67"]


@pytest.fixture
def published() -> pd.DataFrame:
    return read_accuracies(PUBLISHED)


@pytest.fixture
def anchors(published: pd.DataFrame) -> Anchors:
    return Anchors.from_table("published-2025", published)


def small() -> pd.DataFrame:
    return pd.DataFrame({"x": [50.0, 60.0, 70.0], "y": [20.0, 40.0, 30.0]}, index=["a", "b", "c"])


def test_the_package_is_cheap_to_import() -> None:
    code = (
        "import sys, harness.score\n"
        "heavy = {'pandas', 'numpy', 'torch', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- scores ---------------------------------------------------------------------------------------------------------


def test_published_check_values(published: pd.DataFrame, anchors: Anchors) -> None:
    table = score(published, anchors)
    assert round(table["xscore"]["efficientnet"], 3) == 0.962
    assert round(table["xscore"]["convmixer"], 3) == 0.853
    assert list(table.index[:2]) == ["efficientnet", "convmixer"]
    assert table.index[-1] == "convnext"


@pytest.mark.parametrize("lam", [0, 0.25, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("suite", [FOUR, None])
def test_score_equals_the_equations_in_plain_pandas(
    published: pd.DataFrame, anchors: Anchors, lam: float, suite: list[str] | None
) -> None:
    frame = published[suite] if suite else published
    scaled = (frame - frame.min()) / (frame.max() - frame.min())
    expected = (scaled.mean(axis=1) - lam * scaled.var(axis=1)).sort_values(ascending=False)
    table = score(frame, anchors, lam=lam)
    pd.testing.assert_series_equal(table["xscore"], expected, check_names=False)
    assert table["rank"].tolist() == list(range(1, 12))
    assert set(table["lambda"]) == {lam}
    assert set(table["anchors"]) == {"published-2025"}
    np.testing.assert_allclose(
        table[[f"normalized.{name}" for name in frame.columns]].to_numpy(), scaled.loc[table.index].to_numpy()
    )


def test_values_beyond_the_anchors_are_kept() -> None:
    anchors = Anchors("a", {"x": 50, "y": 20}, {"x": 60, "y": 40})
    values = normalize(pd.DataFrame({"x": [70.0, 40.0], "y": [20.0, 40.0]}, index=["up", "down"]), anchors)
    assert values.loc["up", "x"] == 2
    assert values.loc["down", "x"] == -1


def test_incomplete_models_are_shown_and_not_averaged(published: pd.DataFrame, anchors: Anchors) -> None:
    whole = score(published, anchors)
    holed = published.copy()
    holed.loc["efficientnet", ["cifar100", "indoor67"]] = np.nan
    table = score(holed, anchors)
    last = table.iloc[-1]
    assert (last.name, last["status"], last["missing"]) == ("efficientnet", "incomplete", "cifar100, indoor67")
    assert pd.isna(last["rank"])
    assert np.isnan(last[["xscore", "mean", "variance"]].astype(float)).all()
    assert not np.isnan(last["normalized.cifar10"])
    assert table["rank"].tolist()[:-1] == list(range(1, 11))
    np.testing.assert_allclose(table["xscore"].iloc[:-1], whole["xscore"].iloc[1:])


def test_ties_share_a_rank_and_stand_in_the_order_of_their_names() -> None:
    frame = pd.DataFrame({"x": [60.0, 70.0, 60.0, 50.0], "y": [30.0, 40.0, 30.0, 20.0]}, index=["z", "top", "b", "low"])
    anchors = Anchors.from_table("a", frame)
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        table = score(frame.iloc[order], anchors)
        assert list(table.index) == ["top", "b", "z", "low"]
        assert table["rank"].tolist() == [1, 2, 2, 4]


def test_a_single_data_set_is_refused(published: pd.DataFrame, anchors: Anchors) -> None:
    with pytest.raises(WrongUseError, match="at least two data sets, and there is only 'cifar10'"):
        score(published[["cifar10"]], anchors)


@pytest.mark.parametrize("lam", [-0.1, float("nan"), float("inf")])
def test_an_impossible_lambda_is_refused(published: pd.DataFrame, anchors: Anchors, lam: float) -> None:
    with pytest.raises(WrongUseError, match="Lambda is"):
        score(published, anchors, lam=lam)


@pytest.mark.parametrize(
    ("value", "message"),
    [(100.5, "'b' on 'y' is 100.5"), (-1.0, "between 0 and 100"), (float("inf"), "'b' on 'y' is inf")],
)
def test_impossible_accuracies_are_refused(value: float, message: str) -> None:
    frame = small()
    anchors = Anchors.from_table("a", frame)
    frame.loc["b", "y"] = value
    with pytest.raises(CannotContinueError, match=message):
        score(frame, anchors)


def test_other_bad_tables_are_refused() -> None:
    anchors = Anchors.from_table("a", small())
    with pytest.raises(CannotContinueError, match="fractions"):
        score(small() / 100, anchors)
    with pytest.raises(CannotContinueError, match="more than one model named: a"):
        score(small().rename(index={"b": "a"}), anchors)
    with pytest.raises(CannotContinueError, match="more than one data set named: x"):
        score(small().rename(columns={"y": "x"}), anchors)
    with pytest.raises(CannotContinueError, match="no value for: z"):
        score(small().rename(columns={"y": "z"}), anchors)
    with pytest.raises(CannotContinueError, match="not a number"):
        score(small().astype(object).replace(20.0, "twenty"), anchors)
    with pytest.raises(CannotContinueError, match="is empty"):
        score(small().iloc[:0], anchors)


def test_another_metric_may_lie_outside_the_percentages() -> None:
    losses = -pd.DataFrame({"x": [0.1, 0.5], "y": [0.3, 2.0]}, index=["good", "bad"])
    table = score(losses, Anchors.from_table("nll", losses), percent=False)
    assert table["xscore"].to_dict() == {"good": 1.0, "bad": 0.0}


def test_ten_thousand_models_are_quick(published: pd.DataFrame, anchors: Anchors) -> None:
    rng = np.random.default_rng(0)
    table = score(pd.DataFrame(rng.uniform(20, 90, (10_000, 7)), columns=published.columns), anchors)
    assert table["xscore"].is_monotonic_decreasing


# --- lambda ---------------------------------------------------------------------------------------------------------


def test_rank_changes_with_lambda(published: pd.DataFrame, anchors: Anchors) -> None:
    found = lambda_sensitivity(published, anchors, [0, 0.25, 0.5, 1, 2])
    for lam in (0, 0.25, 0.5, 1, 2):
        expected = score(published, anchors, lam=lam)["rank"].astype("int64")
        pd.testing.assert_series_equal(found.ranks[lam], expected.reindex(found.ranks.index), check_names=False)
    # Every crossing is real: just before and just after it the two models stand in opposite order.
    assert len(found.crossings) == 4
    for row in found.crossings.itertuples():
        at = float(row[1])
        before, after = (score(published, anchors, lam=at + step)["xscore"] for step in (-1e-6, 1e-6))
        up, down = str(row.overtaking), str(row.overtaken)
        assert before[up] < before[down]
        assert after[up] > after[down]
    with pytest.raises(WrongUseError, match="Lambda is -1"):
        lambda_sensitivity(published, anchors, [-1])
    with pytest.raises(WrongUseError, match="at least one lambda"):
        lambda_sensitivity(published, anchors, [])


def test_all_order_changes_are_found() -> None:
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(rng.uniform(20, 90, (20, 5)), columns=list("abcde"), index=[f"m{i}" for i in range(20)])
    anchors = Anchors.from_table("a", frame)
    found = lambda_sensitivity(frame, anchors, [0, 2])
    low, high = (score(frame, anchors, lam=lam)["xscore"] for lam in (0, 2))
    swapped = {(a, b) for a in frame.index for b in frame.index if low[a] < low[b] and high[a] > high[b]}
    assert set(zip(found.crossings["overtaking"], found.crossings["overtaken"], strict=True)) == swapped


# --- anchors --------------------------------------------------------------------------------------------------------


def test_anchors_are_the_column_extrema_and_frozen(published: pd.DataFrame, anchors: Anchors) -> None:
    assert anchors.minimum["cifar10"] == 91.97
    assert anchors.maximum["cifar10"] == 95.19
    assert anchors.datasets == tuple(published.columns)
    with pytest.raises(TypeError):
        anchors.minimum["cifar10"] = 0  # type: ignore[index]
    again = pickle.loads(pickle.dumps(anchors))
    assert again == anchors
    assert again.digest == anchors.digest
    assert Anchors("other", anchors.minimum, {**anchors.maximum, "cifar10": 96}).digest != anchors.digest


def test_bad_anchors_are_refused() -> None:
    with pytest.raises(CannotContinueError, match="'x' have minimum 50 and maximum 50"):
        Anchors("a", {"x": 50}, {"x": 50})
    with pytest.raises(CannotContinueError, match="only one of the two is given for: y"):
        Anchors("a", {"x": 50, "y": 1}, {"x": 60})
    with pytest.raises(CannotContinueError, match="finite"):
        Anchors("a", {"x": float("nan")}, {"x": 60})
    with pytest.raises(CannotContinueError, match="no data set"):
        Anchors("a", {}, {})
    with pytest.raises(CannotContinueError, match="empty"):
        Anchors.from_table("a", small().iloc[:0])
    with pytest.raises(CannotContinueError, match="missing for: b on y"):
        Anchors.from_table("a", small().mask(small() == 40))
    with pytest.raises(CannotContinueError, match="repeats a data set: x"):
        Anchors.from_table("a", small().rename(columns={"y": "x"}))


# --- reading a table ------------------------------------------------------------------------------------------------


def test_reading_the_published_table(published: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(published, pd.read_csv(PUBLISHED).set_index("model"))


def test_byte_order_mark_blank_lines_quotes_and_spaces_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes('\ufeffx, model ,y\r\n\r\n50,"a, big",20\r\n 60 ,b,40\r\n,,\r\n'.encode())
    frame = read_accuracies(path, known=["x", "y"])
    assert frame.to_dict("index") == {"a, big": {"x": 50, "y": 20}, "b": {"x": 60, "y": 40}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model,x,y\na,50,\n", r"row 2, column 'y': the accuracy is missing"),
        ("model,x,y\na,50,20\nb,NaN,20\n", r"row 3, column 'x': the accuracy is missing \('NaN'\)"),
        ("model,x\na,100.1\n", r"row 2, column 'x': the accuracy is 100.1"),
        ("model,x\na,-3\n", "between 0 and 100"),
        ("model,x\na,inf\n", "the accuracy is inf"),
        ("model,x,y\na,0.5,0.4\nb,0.6,1\n", "look like fractions"),
        ("model,x\na,50\n\nb,60\na,70\n", "row 5, column 'model': the model 'a' is already in row 2"),
        ("model,x,x\na,50,60\n", "row 1, column 3: the column 'x' appears more than once"),
        ("model,x,\na,50,60\n", "row 1, column 3: the column has no name"),
        ("model,x,cifar\na,50,60\n", "column 'cifar': There is no data set named 'cifar'. Did you mean 'cifar10'"),
        ("model;x;y\na;50,1;60\n", "separated by semicolons"),
        ("model\tx\na\t50\n", "separated by tabs"),
        ("", "the file is empty"),
        ("  \n\n", "the file is empty"),
        (",,\n", "only separators"),
        ("model,x\n", "no row with a model"),
        ("name,x\na,50\n", "row 1: no column is named 'model'. The columns are: name, x"),
        ("model\na\n", "only column is 'model'"),
        ("model,x\n,50\n", "row 2, column 'model': the model has no name"),
        ("model,x\na,good\n", "row 2, column 'x': 'good' is not a number"),
        ("model,x\na,50%\n", "Leave the percent sign out"),
        ('model,x\na,"50,1"\n', "decimal comma as a point"),
        ("model,x\na,5_0\n", "'5_0' is not a number"),
        ("model,x,y\na,50\n", "row 2: has 2 cells, but the header has 3"),
        ("model,x\na,50,1\n", "row 2: has 3 cells"),
        ('model,x\n"a"b,50\n', "row 2: is not valid CSV"),
    ],
)
def test_a_bad_file_is_refused_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.csv"
    path.write_bytes(text.encode())
    with pytest.raises(CannotContinueError, match=message) as caught:
        read_accuracies(path, known=["x", "y", "cifar10"])
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 3


def test_other_encodings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_bytes("model,x\na,50\nmodèle,60\n".encode("latin-1"))
    with pytest.raises(CannotContinueError, match=r"row 3: is not UTF-8 \(byte 0xe8"):
        read_accuracies(path)
    for encoding in ("utf-16", "utf-16-le"):
        path.write_bytes("model,x\na,50\n".encode(encoding))
        with pytest.raises(CannotContinueError, match="UTF-16"):
            read_accuracies(path)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotContinueError, match=r"nothing\.csv: cannot be read"):
        read_accuracies(tmp_path / "nothing.csv")
    with pytest.raises(CannotContinueError, match="cannot be read"):
        read_accuracies(tmp_path)
