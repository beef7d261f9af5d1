"""A leaderboard's rows keep their JSON keys, and its columns appear where they have something to show."""

from __future__ import annotations

from dataclasses import replace

from harness.report.rows import BoardRow, RowPublished, RowTraining, RowUncertainty, Viewer, board_columns, span_text

KEYS = [
    "rank", "model", "xscore", "mean", "variance", "normalized", "accuracy", "lambda", "anchors", "metric", "kind",
    "status", "missing",
]  # fmt: skip
PLAIN = BoardRow(
    rank=1, model="mynet", xscore=0.5, mean=0.6, variance=0.2, normalized={"digits": 0.5, "earth": 0.7},
    accuracy={"digits": 90.0, "earth": 80.0}, lam=0.5, anchors="own", metric="top1", kind="model", status="complete",
    missing=[],
)  # fmt: skip
UNCERTAINTY = RowUncertainty(0.5, 0.01, 0.48, 0.52, 1, 2, "a", "sampling alone")
PUBLISHED = RowPublished("published", "scripts", {"0.25": 0.55}, 0.5, 0.51, sizes=(4, 7))


def titles(rows: list[BoardRow], viewer: Viewer) -> list[str]:
    return [column.title for column in board_columns(rows, viewer, {"digits": "Digits"})]


def test_a_part_adds_its_keys_and_no_others() -> None:
    assert list(PLAIN.as_row()) == KEYS
    row = replace(PLAIN, uncertainty=UNCERTAINTY, above_baseline={}, training=RowTraining(), published=PUBLISHED)
    assert list(row.as_row()) == [
        *KEYS, "corrected", "standard_error", "lower", "upper", "rank_lower", "rank_upper", "groups", "noise",
        "above_baseline", "seeds", "parameters", "lr_max", "seconds", "not_comparable_on", "source", "protocol",
        "xscore_by_lambda", "xscore4", "xscore7_predicted",
    ]  # fmt: skip


def test_columns_appear_where_some_row_needs_them() -> None:
    always = ["rank", "model", "xScore", "mean", "variance", "Digits", "earth"]
    assert titles([PLAIN], "command") == titles([PLAIN], "page") == always
    sure = replace(
        PLAIN, uncertainty=UNCERTAINTY, training=RowTraining(seeds={"digits": 2}, not_comparable_on=["earth"])
    )
    known = ["95 % interval", "ranks", "ties", "mean", "variance", "Digits", "earth"]
    assert titles([PLAIN, sure], "command") == ["rank", "model", "xScore", "", *known]
    assert titles([PLAIN, sure], "page") == ["rank", "model", "xScore", *known, "seeds"]
    assert board_columns([], "page", {}) == []


def test_the_protocol_is_shown_where_rows_have_two() -> None:
    published = replace(PLAIN, published=PUBLISHED)
    measured = replace(PLAIN, published=replace(PUBLISHED, source="measured", protocol="xscore-1.0"))
    assert {"lambda 0.25", "xscore4", "xscore7 predicted"} <= set(titles([published], "page"))
    assert "trained under" not in titles([published], "command")
    assert "trained under" in titles([published, measured], "command")
    assert "trained under" not in titles([published, measured], "page")


def test_cells_hold_the_row_s_values() -> None:
    row = replace(PLAIN, uncertainty=UNCERTAINTY)
    cells = {column.key: column.cell(row) for column in board_columns([row], "command", {})}
    assert cells["interval"] == "0.480 to 0.520"
    assert (cells["ranks"], cells["groups"], cells["accuracy.earth"]) == ("1 to 2", "a", 80.0)
    assert span_text((2, 2), 0) == "2"
