"""Changes of JSON values, bytes, TOML files and arrays, drawn by a seed."""

from __future__ import annotations

import json
import random
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 7, 10**6, -(2**63), 2**63, 2**70, 10**400, 0.5, -0.0, 1e308, 1e-320,
    "", "x", "0", "nan", "1e999", "top1", "../..", "/", "a\x00b", "\x1b[2J", "\u202e", "\ud800", "9" * 5000, "\n",
    [], {}, [[]], [None], [1, "x"], {"": None}, {"x": {"x": {}}}, {"varied": [1, 2]}, [[1, 2], [3]],
)  # fmt: skip


def mutated(value: Any, draw: random.Random) -> Any:
    """Return a JSON value with one place changed: another value, a key or element removed, added or doubled."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(sorted(value))
        kind = draw.random()
        if kind < 0.1:
            return {name: inner for name, inner in value.items() if name != key}
        if kind < 0.15:
            return {**value, str(draw.choice(ODD)): draw.choice(ODD)}
        return {**value, key: mutated(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.8:
        at = draw.randrange(len(value))
        kind = draw.random()
        if kind < 0.1:
            return value[:at] + value[at + 1 :]
        if kind < 0.2:
            return value[:at] + value[at : at + 1] * 2 + value[at + 1 :]
        return [*value[:at], mutated(value[at], draw), *value[at + 1 :]]
    if isinstance(value, int | float) and not isinstance(value, bool) and draw.random() < 0.3:
        return draw.choice((-value, value + 1, value * 1000, str(value), [value]))
    return draw.choice(ODD)


def mutated_bytes(content: bytes, draw: random.Random) -> bytes:
    """Return bytes with a place changed, cut out, cut off or doubled."""
    kind, at = draw.random(), draw.randrange(len(content) + 1)
    length = draw.choice((1, 1, 4, 100))
    if kind < 0.5:
        return content[:at] + draw.randbytes(length) + content[at + length :]
    if kind < 0.7:
        return content[:at]
    if kind < 0.8:
        return content[:at] + content[at + length :]
    if kind < 0.9:
        return content[:at] + content[max(0, at - length) : at] + content[at:]
    return draw.choice((b"", b"\x00", b"\xff\xfe", b"[" * 20_000, b"\xef\xbb\xbf" + content, b"null"))


def damage_json(path: Path, draw: random.Random) -> None:
    """Change a value of a JSON file, or its bytes."""
    content = path.read_bytes()
    if draw.random() < 0.15:
        path.write_bytes(mutated_bytes(content, draw))
        return
    value = json.loads(content)
    for _ in range(draw.choice((1, 1, 2, 5))):
        value = mutated(value, draw)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def odd_array(draw: random.Random) -> Any:
    """Return an array of an odd type, shape or content."""
    shape = draw.choice(((), (0,), (3,), (40,), (40, 4), (0, 4), (40, 0), (40, 1), (2, 3, 4), (41, 4)))
    kind = draw.choice(("f4", "f8", "f2", "i8", "i4", "u8", "?", "c8", "U3", "M8[s]", "V4"))
    array = np.zeros(shape, dtype=kind)
    if array.size and array.dtype.kind in "fiuc" and kind != "f2":
        values = (0, 1, 3, 4, 10**6) + ((-3,) if array.dtype.kind in "fi" else ())
        array[...] = draw.choice(values)
        if array.dtype.kind == "f":
            array.flat[0] = draw.choice((float("nan"), float("inf"), -1e30))
    return array


def as_toml(value: Any) -> str:
    """Return a value as TOML writes it inline; of what TOML has no form for, a text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml_text(str(key))} = {as_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    return repr(value) if isinstance(value, int | float) else _toml_text(str(value))


def _toml_text(text: str) -> str:
    return json.dumps(text.encode("utf-8", "replace").decode()).replace("\x7f", "\\u007f")


def damage_toml(path: Path, text: str, draw: random.Random) -> None:
    """Write a changed TOML file."""
    if draw.random() < 0.15:
        path.write_bytes(mutated_bytes(text.encode(), draw))
        return
    table = tomllib.loads(text)
    for _ in range(draw.choice((1, 1, 2, 5))):
        table = mutated(table, draw)
        if not isinstance(table, dict):
            table = {"x": table}
    path.write_text("".join(f"{_toml_text(str(k))} = {as_toml(v)}\n" for k, v in table.items()), encoding="utf-8")
