"""A user's CSV file of accuracies -> a checked pandas table; errors name file, row and column."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import CannotContinueError, unknown_name

if TYPE_CHECKING:
    import pandas as pd

MODEL_COLUMN = "model"
_MISSING = frozenset({"", "-", "?", "na", "n/a", "nan", "null", "none"})
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def read_accuracies(path: Path | str, *, known: Iterable[str] | None = None) -> pd.DataFrame:
    """Read comma-separated UTF-8 with a column ``model`` and one column per data set, in percent.

    Returns float64 percent, index ``model``, columns in the order of the file. With ``known``, other data sets are
    refused. Rows are counted as lines of the file, so the header is row 1.

    Raises ``CannotContinueError``, naming file, row and column, for a file that cannot be read, is not UTF-8, is empty,
    or is separated by something other than commas; without a model column, a model or a data set; with repeated or
    unknown names, rows of another length, cells that are missing or not a number, or accuracies outside 0 to 100
    percent; and if all of them are at most 1, which means fractions.
    """
    import pandas as pd

    path = Path(path)
    rows = _rows(path, _text(path))
    header_line, header = rows[0]
    datasets = _datasets(path, header_line, header, None if known is None else list(known))
    model_at = header.index(MODEL_COLUMN)
    first_line_of: dict[str, int] = {}
    values: list[list[float]] = []
    for line, cells in rows[1:]:
        where = f"{path}, row {line}"
        if len(cells) != len(header):
            raise CannotContinueError(
                f"{where}: has {len(cells)} cells, but the header has {len(header)} columns. "
                "A decimal comma or a missing cell does this; write one number with a decimal point in every cell."
            )
        model = cells[model_at]
        if not model:
            raise CannotContinueError(f"{where}, column '{MODEL_COLUMN}': the model has no name.")
        if model in first_line_of:
            raise CannotContinueError(
                f"{where}, column '{MODEL_COLUMN}': the model '{model}' is already in row {first_line_of[model]}. "
                "Give every model one row."
            )
        first_line_of[model] = line
        numbers = [cell for at, cell in enumerate(cells) if at != model_at]
        values.append([_accuracy(f"{where}, column '{d}'", c) for d, c in zip(datasets, numbers, strict=True)])
    if not values:
        raise CannotContinueError(f"{path}: has a header but no row with a model.")
    if all(value <= 1 for row in values for value in row):
        raise CannotContinueError(
            f"{path}: every accuracy is at most 1, so these look like fractions; percent are expected. "
            "Multiply them by 100."
        )
    return pd.DataFrame(values, index=pd.Index(list(first_line_of), name=MODEL_COLUMN), columns=datasets, dtype=float)


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CannotContinueError(f"{path}: cannot be read: {error.strerror or error}.") from error
    if not raw.strip():
        raise CannotContinueError(
            f"{path}: the file is empty. Expected: a header (model, then the data sets) and one row per model."
        )
    if raw.startswith(_UTF16_MARKS) or b"\x00" in raw:
        raise CannotContinueError(f"{path}: is not UTF-8 text (it looks like UTF-16). Save it as CSV in UTF-8.")
    try:
        # Spreadsheets put a byte-order mark before UTF-8, which must not become part of the first column's name.
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise CannotContinueError(
            f"{path}, row {line}: is not UTF-8 (byte 0x{raw[error.start]:02x} cannot be read). "
            "It was saved in another encoding; save it as CSV in UTF-8."
        ) from error


def _rows(path: Path, text: str) -> list[tuple[int, list[str]]]:
    """Return the cells of each line that is not empty, stripped, with its number; the header is the first."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[tuple[int, list[str]]] = []
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                rows.append((reader.line_num, stripped))
    except csv.Error as error:
        raise CannotContinueError(f"{path}, row {reader.line_num}: is not valid CSV: {error}.") from error
    if not rows:
        raise CannotContinueError(f"{path}: the file is empty; it holds only separators.")
    line, header = rows[0]
    if len(header) == 1:
        for separator, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")):
            if separator in header[0]:
                raise CannotContinueError(
                    f"{path}, row {line}: is separated by {name}; commas are expected, and a point in decimal numbers. "
                    "Save it as comma-separated CSV."
                )
    return rows


def _datasets(path: Path, line: int, header: Sequence[str], known: Sequence[str] | None) -> list[str]:
    where = f"{path}, row {line}"
    if MODEL_COLUMN not in header:
        raise CannotContinueError(
            f"{where}: no column is named '{MODEL_COLUMN}'. The columns are: {', '.join(header)}. "
            f"Name the column with the models' names '{MODEL_COLUMN}'."
        )
    for at, name in enumerate(header):
        if not name:
            raise CannotContinueError(f"{where}, column {at + 1}: the column has no name.")
        if name in header[:at]:
            raise CannotContinueError(f"{where}, column {at + 1}: the column '{name}' appears more than once.")
    datasets = [name for name in header if name != MODEL_COLUMN]
    if not datasets:
        raise CannotContinueError(f"{where}: the only column is '{MODEL_COLUMN}'. Add one column per data set.")
    for dataset in datasets:
        if known is not None and dataset not in known:
            raise CannotContinueError(f"{where}, column '{dataset}': {unknown_name('data set', dataset, known)}")
    return datasets


def _accuracy(where: str, cell: str) -> float:
    """Return one cell in percent; ``where`` begins the error message."""
    if cell.lower() in _MISSING:
        raise CannotContinueError(
            f"{where}: the accuracy is missing ('{cell}'). Fill it in, or leave that model or data set out."
        )
    try:
        # Python reads 9_4 as 94, but in a table it is a typing error.
        value = math.nan if "_" in cell else float(cell)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        hint = ""
        if cell.endswith("%"):
            hint = " Leave the percent sign out."
        elif "," in cell:
            hint = " Write the decimal comma as a point."
        raise CannotContinueError(f"{where}: '{cell}' is not a number.{hint}")
    if value < 0 or value > 100:
        raise CannotContinueError(f"{where}: the accuracy is {cell}; it must be between 0 and 100 percent.")
    return value
