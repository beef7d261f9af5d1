"""Prints rows to stdout in one of the formats, and nothing else; messages go to stderr."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from harness.errors import CannotContinueError, legible
from harness.guard import Careless, Patient, lend, text_stream

_CONTROL = re.compile(
    r"\x1b(?!\[(?:0|1|2|3[0-7]|9[0-7])m)"  # all but the colours that the harness itself uses
    r"|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)
_INDENTED = 1000  # rows of JSON
_STYLES = {"table": "simple", "markdown": "pipe", "latex": "latex_booktabs"}


class _Stdout(Patient):
    """The command's own stdout. A reader that has read enough, such as ``head``, is no error."""

    _gone = False

    def write(self, data: Any, /) -> int:
        """Write, and return the number of bytes.

        Raises:
            CannotContinueError: the disk is full, for instance; raised once, and the rest is lost.
        """
        try:
            if not self._gone:
                return super().write(data)
        except BrokenPipeError:
            self._gone = True
        except OSError as error:
            self._gone = True
            raise CannotContinueError(
                f"The output can't be written to stdout: {error.strerror}. Send it elsewhere; finished runs are kept, "
                "and 'harness status' shows them."
            ) from error
        return memoryview(data).nbytes


def take_streams() -> None:
    """Take stdout for the rows of this process's command, and lead all else that is written there to stderr.

    So the output of a driver, or of a child process, does not get into the rows. Streams that are closed lead nowhere:
    else the next file that is opened would take their place, and what is written to stderr.
    """
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(nowhere, number)
        os.set_inheritable(number, True)  # nowhere may be one of them itself
    if sys.platform == "win32":  # a console there takes no bytes
        return
    own = os.dup(1)
    # At completion the terminal shows an unfinished line, which nothing must disturb.
    os.dup2(nowhere if "_HARNESS_COMPLETE" in os.environ else 2, 1)
    sys.stdout = text_stream(_Stdout(own, "w"), sys.stdout)
    sys.stderr = text_stream(Careless(2, "w", closefd=False), sys.stderr)


class Command(click.Command):
    """A command. While it works, ``sys.stdout`` leads to stderr; ``emit`` and ``print_rows`` alone write to stdout."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.help = self.help or STRIPPED

    def invoke(self, ctx: click.Context) -> Any:
        """Carry the command out."""
        ctx.obj = sys.stdout
        with contextlib.redirect_stdout(lend(sys.stderr)):
            return super().invoke(ctx)


STRIPPED = "Python runs with -OO (PYTHONOPTIMIZE=2), which removes the text of this help; run it without."


def shown(path: Path) -> str:
    """Return a path as a user sees it: from the working folder, if it is below."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def say(text: str) -> None:
    """Write a line to stderr; what would move the cursor or hide text, such as a file may hold, is shown as escapes."""
    click.echo(printable(text), err=True)


def printable(text: str) -> str:
    """Return a text with escapes for characters that control a terminal; colours and line ends stay.

    >>> print(printable("ok" + chr(27) + "[2J"))
    ok\\x1b[2J
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def emit(text: str = "", *, end: str = "\n") -> None:
    """Write text to stdout. Raises CannotContinueError if that is not possible."""
    context = click.get_current_context(silent=True)
    click.echo(legible(text) + end, file=context.obj if context else None, nl=False)


def print_rows(
    rows: Sequence[Mapping[str, Any]],
    format_: str,
    *,
    columns: Mapping[str, str] | None = None,
    digits: Mapping[str, int] | None = None,
) -> None:
    """Print rows to stdout.

    Args:
        rows: One mapping per row, all with the same keys; nested mappings become columns ``outer.inner``.
        format_: ``json`` (one object per row, nothing rounded), ``csv`` (the same, flat), or ``table``, ``markdown``,
            ``latex`` for people.
        columns: For people: the keys to show and their headings; None shows all.
        digits: For people: decimals by key.
    """
    if format_ == "json":
        emit(_json(rows))
        return
    flat = [_flatten(row) for row in rows]
    if format_ == "csv":
        emit(_csv(flat), end="")
        return
    from tabulate import tabulate

    shown = dict(columns) if columns else {key: key for key in (flat[0] if flat else {})}
    table = [[_cell(row.get(key), (digits or {}).get(key)) for key in shown] for row in flat]
    if table or format_ != "table":
        emit(
            tabulate(
                table,
                headers=list(shown.values()),
                tablefmt=_STYLES[format_],
                disable_numparse=True,
                colalign=_alignment(flat, list(shown)) if table else None,
            )
        )


def _json(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return an array of objects: indented, or with one object per line if there are many."""
    if len(rows) <= _INDENTED:
        return json.dumps([dict(row) for row in rows], indent=2, default=_plain, allow_nan=False)
    # Only Python's encoder indents; it takes ten times as long as the one in C.
    encode = json.JSONEncoder(default=_plain, allow_nan=False).encode
    return "[\n  " + ",\n  ".join([encode(dict(row)) for row in rows]) + "\n]"


def _csv(flat: Sequence[Mapping[str, Any]]) -> str:
    """Return comma-separated rows with the keys of all rows as columns; missing values are empty."""
    names = list(dict.fromkeys(key for row in flat for key in row))
    if not names:
        return "\n"
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([[_cell_of_csv(row.get(name)) for name in names] for row in flat])
    return text.getvalue()


def _cell_of_csv(value: object) -> object:
    return "" if value is None or value != value else value


def _flatten(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        elif isinstance(value, list | tuple):
            flat[f"{prefix}{key}"] = ", ".join(str(item) for item in value)
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _alignment(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[str]:
    def numeric(key: str) -> bool:
        values = [row.get(key) for row in rows if row.get(key) is not None]
        return bool(values) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)

    return ["right" if numeric(key) else "left" for key in keys]


def _cell(value: object, digits: int | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.{2 if digits is None else digits}f}"
    if isinstance(value, int):
        return f"{value:,}"
    return printable(str(value)).replace("\n", " ")


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
