"""Facts -> the page's tables, cell by cell: the text that is read and the value that is sorted by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.report.facts import Facts, Patterns
from harness.report.leaderboard import BASELINE_KIND
from harness.report.published import LAMBDAS


@dataclass(frozen=True)
class Column:
    """A column's heading; whether it is a number; how the table is sorted by it at first."""

    title: str
    number: bool = True
    sorted: str = ""


@dataclass(frozen=True)
class Cell:
    """What is read, and what is sorted by; an empty value stays at the end."""

    text: str
    value: str


@dataclass(frozen=True)
class Row:
    """One row; ``kind`` styles it, ``mark`` is a badge beside its name."""

    name: str
    cells: Sequence[Cell]
    kind: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """A table; ``header`` is the position of the column that names its rows, ``choose`` adds a box a row,
    ``filter`` a field that hides rows."""

    id: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    header: int = 0
    choose: bool = False
    filter: bool = False


def page_tables(facts: Facts) -> dict[str, Table | None]:
    """Return every table of the page by name, None for those without content."""
    published = facts.published if facts.measured else None
    return {
        "leaderboard": _leaderboard(facts),
        "published": None if published is None else _published(published.rows, facts.predicted, "published-table"),
        "subsets": _subsets(facts),
        "elements": _elements(facts.patterns) if facts.patterns else None,
        "associations": _associations(facts.patterns) if facts.patterns and facts.patterns.associations else None,
    }


def _number(value: float | int | None, digits: int = 3) -> Cell:
    if value is None:
        return Cell("–", "")
    return Cell(f"{value:.{digits}f}" if digits else f"{value:,.0f}", f"{value:.10g}")


def _text(value: str | None) -> Cell:
    return Cell(value or "–", value or "")


def _yes(*, present: bool) -> Cell:
    return Cell("yes", "1") if present else Cell("–", "")


def _span(row: Mapping[str, Any], low: str, high: str, digits: int) -> Cell:
    if row.get(low) is None:
        return Cell("–", "")
    ends = [f"{row[end]:.{digits}f}" for end in (low, high)]
    return Cell(ends[0] if ends[0] == ends[1] else " to ".join(ends), f"{row[low]:.10g}")


def _leaderboard(facts: Facts) -> Table:
    if not facts.measured and facts.published is not None:
        return _published(facts.board.rows, facts.predicted, "board", choose=True)
    rows = facts.board.rows
    columns = [
        Column("rank", sorted="ascending"), Column("model", number=False), Column("xScore"), Column("95 % interval"),
        Column("ranks"), Column("ties", number=False), Column("mean"), Column("variance"),
        *(Column(title) for title in facts.titles.values()), Column("seeds"),
    ]  # fmt: skip
    made = [
        Row(
            row["model"],
            [
                _number(row["rank"], 0), _text(row["model"]), _number(row["xscore"]), _span(row, "lower", "upper", 2),
                _span(row, "rank_lower", "rank_upper", 0), _text(row.get("groups")), _number(row["mean"]),
                _number(row["variance"]), *(_number(row["accuracy"].get(name), 2) for name in facts.titles),
                _number(min(row["seeds"].values()) if row.get("seeds") else None, 0),
            ],
            kind="baseline" if row["kind"] == BASELINE_KIND else "",
            mark="incomplete" if row["missing"] else "",
        )
        for row in rows
    ]  # fmt: skip
    first = rows[0]
    caption = f"xScore with lambda {first['lambda']:g}, anchors {first['anchors']}; {first['metric']} by data set."
    return Table("board", caption, columns, made, header=1, choose=True)


def _published(rows: Sequence[Mapping[str, Any]], predicted: str, id_: str, *, choose: bool = False) -> Table:
    first = rows[0]
    few = next(
        key for key in first if key.startswith("xscore") and key not in ("xscore", "xscore_by_lambda", predicted)
    )
    columns = [
        Column("rank", sorted="ascending"), Column("model", number=False), Column("xScore"), Column("95 % interval"),
        Column("ranks"), Column("ties", number=False), Column("mean"), Column("variance"),
        *(Column(f"λ {value:g}") for value in LAMBDAS), Column(few), Column(predicted.replace("_", " ")),
        *(Column(name.replace("_", " ")) for name in first["accuracy"]),
    ]  # fmt: skip
    made = [
        Row(
            row["model"],
            [
                _number(row["rank"], 0), _text(row["model"]), _number(row["xscore"]), _span(row, "lower", "upper", 2),
                _span(row, "rank_lower", "rank_upper", 0), _text(row.get("groups")), _number(row["mean"]),
                _number(row["variance"]),
                *(_number((row["xscore_by_lambda"] or {}).get(f"{value:g}")) for value in LAMBDAS),
                _number(row[few]), _number(row[predicted]),
                *(_number(value, 2) for value in row["accuracy"].values()),
            ],
            kind="baseline" if row["kind"] == BASELINE_KIND else "",
            mark="measured" if row["source"] == "measured" else "",
        )
        for row in rows
    ]  # fmt: skip
    caption = (
        f"Published accuracies in percent and their scores, anchors {first['anchors']}; {few} is the score on the four "
        f"data sets alone, {predicted.replace('_', ' ')} a regression's guess of the full one."
    )
    return Table(id_, caption, columns, made, header=1, choose=choose, filter=True)


def _subsets(facts: Facts) -> Table | None:
    if facts.search is None:
        return None
    columns = [
        Column("data sets", number=False), Column("R²", sorted="descending"), Column("Q²"), Column("ρ"), Column("τ"),
        Column("wins, %"),
    ]  # fmt: skip
    rows = []
    for record in facts.search.table.head(12).to_dict("records"):
        clean = {str(key): None if isinstance(v, float) and v != v else v for key, v in record.items()}
        names = ", ".join(record["datasets"])
        share = None if clean["bootstrap"] is None else 100 * clean["bootstrap"]
        cells = [
            _text(names), _number(clean["r2"]), _number(clean["q2"]), _number(clean["spearman"]),
            _number(clean["kendall"]), _number(share, 1),
        ]  # fmt: skip
        rows.append(Row(names, cells))
    caption = (
        f"The twelve best of {len(facts.search.table)} subsets of {facts.search.size} by R². Wins: how often a subset "
        f"has the best R² in {facts.search.resamples:,} resamples of the models."
    )
    return Table("subset-table", caption, columns, rows)


def _elements(patterns: Patterns) -> Table:
    names = {name: element.title for one in patterns.described for name, element in one.elements.items()}
    columns = [
        Column("model", number=False), Column("xScore"), Column("MACs, M"), Column("parameters, M"),
        *(Column(title, number=False) for title in names.values()),
    ]  # fmt: skip
    rows = [
        Row(
            one.model,
            [
                _text(one.model), _number(patterns.scores.get(one.model)),
                _number(patterns.macs[one.model] / 1e6 if one.model in patterns.macs else None, 0),
                _number(one.parameters / 1e6, 2),
                *(_yes(present=one.elements[name].present) for name in names),
            ],
        )
        for one in patterns.described
    ]  # fmt: skip
    return Table("element-table", "Architectural elements (the paper's Table 6), detected.", columns, rows)


def _associations(patterns: Patterns) -> Table:
    names = {name: element.title for one in patterns.described for name, element in one.elements.items()}
    columns = [
        Column("element", number=False), Column("with"), Column("without"), Column("difference"),
        Column("95 % interval"), Column("p"), Column("smallest possible p"), Column("p (Holm)"), Column("r given MACs"),
    ]  # fmt: skip
    rows = []
    for row in patterns.associations:
        span = {"lower": row.lower, "upper": row.upper}
        cells = [
            _text(names[row.element]), _number(row.models_with, 0), _number(row.models_without, 0),
            _number(row.effect, 2),
            _span(span, "lower", "upper", 2), _number(row.p_value), _number(row.p_smallest), _number(row.p_adjusted),
            _number(row.partial, 2),
        ]  # fmt: skip
        rows.append(Row(row.element, cells))
    caption = "Score of models with an element minus that of models without; permutation tests, exact for these models."
    return Table("association-table", caption, columns, rows)
