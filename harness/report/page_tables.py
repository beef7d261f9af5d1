"""Page content -> the page's tables, as cells with a text to read and a value to sort by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.report.content import PageContent, Patterns
from harness.report.rows import BASELINE_KIND, BoardRow, Value, board_columns, span_text


@dataclass(frozen=True)
class Column:
    """A column's heading. ``number`` is False for text; ``sorted`` is the order that the table starts with."""

    title: str
    number: bool = True
    sorted: str = ""


@dataclass(frozen=True)
class TableCell:
    """A cell's text, and the value to sort it by; an empty value stays at the end."""

    text: str
    value: str


@dataclass(frozen=True)
class Row:
    """A row. ``kind`` styles it, ``mark`` is a badge beside its name."""

    name: str
    cells: Sequence[TableCell]
    kind: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        id: Of its HTML element.
        header: Position of the column that names the rows.
        choose: Adds a box to each row, which shows its model in the figures.
        filter: Adds a field that hides rows.
    """

    id: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    header: int = 0
    choose: bool = False
    filter: bool = False


def page_tables(content: PageContent) -> dict[str, Table | None]:
    """Return every table of the page by name, None for those without content."""
    patterns = content.patterns
    published = content.published if content.measured else None
    return {
        "leaderboard": _leaderboard(content),
        "published": _board("published-table", _published_caption(published.rows), published.rows, {})
        if published
        else None,
        "subsets": _subsets(content),
        "elements": _elements(patterns) if patterns else None,
        "associations": _associations(patterns) if patterns and patterns.associations else None,
    }


def _cell(value: Value, digits: int = 3) -> TableCell:
    if value is None or value == "":
        return TableCell("–", "")
    if isinstance(value, str):
        return TableCell(value, value)
    if isinstance(value, tuple):
        return TableCell(span_text(value, digits), f"{value[0]:.10g}")
    return TableCell(f"{value:.{digits}f}" if digits else f"{value:,.0f}", f"{value:.10g}")


def _leaderboard(content: PageContent) -> Table:
    rows = content.board.rows
    if not content.measured:
        return _board("board", _published_caption(rows), rows, {}, choose=True)
    first = rows[0]
    caption = f"xScore with lambda {first.lam:g}, anchors {first.anchors}; {first.metric} by data set."
    return _board("board", caption, rows, content.titles, choose=True)


def _board(
    id_: str, caption: str, rows: Sequence[BoardRow], titles: Mapping[str, str], *, choose: bool = False
) -> Table:
    columns = board_columns(rows, "page", titles)
    headings = [
        Column(column.title, number=column.is_number, sorted="ascending" if column.key == "rank" else "")
        for column in columns
    ]
    made = [
        Row(
            row.model,
            [_cell(column.value(row), column.digits) for column in columns],
            kind="baseline" if row.kind == BASELINE_KIND else "",
            mark=_mark(row),
        )
        for row in rows
    ]
    header = [column.key for column in columns].index("model")
    return Table(id_, caption, headings, made, header, choose=choose, filter=not choose)


def _mark(row: BoardRow) -> str:
    if row.published:
        return "measured" if row.is_measured else ""
    return "incomplete" if row.missing else ""


def _published_caption(rows: Sequence[BoardRow]) -> str:
    first = rows[0]
    small, full = first.published.sizes if first.published else (0, 0)
    return (
        f"Published accuracies in percent and their scores, anchors {first.anchors}; xscore{small} is the score on "
        f"{small} data sets only, xscore{full} predicted a regression's estimate of the full one."
    )


def _subsets(content: PageContent) -> Table | None:
    if content.search is None:
        return None
    columns = [
        Column("data sets", number=False), Column("R²", sorted="descending"), Column("Q²"), Column("ρ"), Column("τ"),
        Column("wins, %"),
    ]  # fmt: skip
    rows = []
    for record in content.search.table.head(12).to_dict("records"):
        clean = {str(key): None if isinstance(v, float) and v != v else v for key, v in record.items()}
        names = ", ".join(record["datasets"])
        share = None if clean["bootstrap"] is None else 100 * clean["bootstrap"]
        cells = [_cell(names), *(_cell(clean[key]) for key in ("r2", "q2", "spearman", "kendall")), _cell(share, 1)]
        rows.append(Row(names, cells))
    caption = (
        f"The twelve best of {len(content.search.table)} subsets of {content.search.size} by R². Wins: share of "
        f"{content.search.resamples:,} resamples of the models in which a subset has the best R²."
    )
    return Table("subset-table", caption, columns, rows)


def _elements(patterns: Patterns) -> Table:
    names = patterns.titles
    columns = [
        Column("model", number=False), Column("xScore"), Column("MACs, M"), Column("parameters, M"),
        *(Column(title, number=False) for title in names.values()),
    ]  # fmt: skip
    rows = [
        Row(
            one.model,
            [
                _cell(one.model), _cell(patterns.scores.get(one.model)),
                _cell(patterns.macs[one.model] / 1e6 if one.model in patterns.macs else None, 0),
                _cell(one.parameters / 1e6, 2),
                *(TableCell("yes", "1") if one.elements[name].present else _cell(None) for name in names),
            ],
        )
        for one in patterns.described
    ]  # fmt: skip
    return Table("element-table", "Architectural elements (the paper's Table 6), detected.", columns, rows)


def _associations(patterns: Patterns) -> Table:
    names = patterns.titles
    columns = [
        Column("element", number=False), Column("with"), Column("without"), Column("difference"),
        Column("95 % interval"), Column("p"), Column("smallest possible p"), Column("p (Holm)"), Column("r given MACs"),
    ]  # fmt: skip
    rows = []
    for row in patterns.associations:
        span = None if row.lower is None or row.upper is None else (row.lower, row.upper)
        cells = [
            _cell(names[row.element]), _cell(row.models_with, 0), _cell(row.models_without, 0),
            _cell(row.effect, 2),
            _cell(span, 2), _cell(row.p_value), _cell(row.p_smallest), _cell(row.p_adjusted),
            _cell(row.partial, 2),
        ]  # fmt: skip
        rows.append(Row(row.element, cells))
    caption = "Score with an element minus score without it; permutation tests, exact for these models."
    return Table("association-table", caption, columns, rows)
