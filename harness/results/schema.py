"""The content of ``result.json``: read in any known schema, and written only if it can be read again."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import msgspec

from harness.api import RunResult
from harness.errors import CannotContinueError, StoreError, legible

SCHEMA = 2
"""Version of ``result.json``."""


class DamagedResultError(StoreError):
    """A result file is there but can't be read."""


class UnwritableResultError(CannotContinueError):
    """A result holds a value that its file could not be read with."""


class _Versioned(msgspec.Struct):
    schema: int


def parse_result(content: bytes, where: str) -> RunResult:
    """Decode a ``result.json`` of any known schema.

    Args:
        content: The file's bytes.
        where: Names the file in errors.

    Raises:
        DamagedResultError: it is damaged, or was written by a newer harness.
    """
    try:
        schema = msgspec.json.decode(content, type=_Versioned).schema
        if schema == SCHEMA:
            result = msgspec.json.decode(content, type=RunResult)
        elif 1 <= schema < SCHEMA:
            result = msgspec.convert(_upgrade(msgspec.json.decode(content)), RunResult)
        else:
            raise DamagedResultError(
                f"{where} has schema {schema}, and this harness knows 1 to {SCHEMA}: a newer one wrote it. "
                "Install that version of xscore-harness to read it"
            )
    except (ValueError, RecursionError) as error:  # msgspec's errors and those of Unicode are ValueErrors
        raise DamagedResultError(f"{where} is damaged: {error}") from error
    if problem := impossible(result):
        raise DamagedResultError(f"{where} is damaged: {problem}")
    return result


def result_text(result: RunResult, where: str) -> str:
    """Return the content of a result's file, after reading it as ``parse_result`` does.

    Raises:
        UnwritableResultError: it could not be read again.
    """
    text = json.dumps({"schema": SCHEMA, **_plain_fields(result)}, indent=2) + "\n"
    try:
        parse_result(text.encode(), where)
    except DamagedResultError as error:
        raise UnwritableResultError(
            f"The result of {result.job} was not written, since it could not be read again: {error}. The trained "
            "weights are kept: the same command goes on from them."
        ) from error
    return text


def impossible(result: RunResult) -> str:
    """Describe a number that no run can have; empty if there is none."""
    top1 = result.metrics.get("top1", 0.0)
    if not 0 <= top1 <= 100:
        return f"top1 is {top1:g}, expected 0 to 100 percent"
    if result.job.seed < 0:
        return f"the seed is {result.job.seed}, expected 0 or more"
    if result.seconds < 0 or result.parameters < 0 or result.test_reads < 0:
        return "seconds, parameters or test_reads is negative"
    return ""


def _upgrade(content: dict[str, Any]) -> dict[str, Any]:
    """Upgrade the content of a known, earlier schema to the current one, one version after the other."""
    for schema in range(content["schema"], SCHEMA):
        content = _STEPS[schema](content) | {"schema": schema + 1}
    return content


def _to_2(content: dict[str, Any]) -> dict[str, Any]:
    """Schema 2 added the executed facts, which are unknown for older runs."""
    return content | {"executed": None, "executed_digest": None, "deviations": []}


_STEPS: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _to_2}


def _plain_fields(value: Any) -> dict[str, Any]:
    return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}


def _plain(value: Any) -> Any:
    """Return a value as JSON holds it; a text for what JSON has no form for, such as NaN.

    The environment and the executed facts hold values of plugins, of any type. A number that a result must have stays
    no number, which the check before writing refuses.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return legible(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else repr(float(value))
    if is_dataclass(value) and not isinstance(value, type):
        return _plain_fields(value)
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in value]
    return _plain(value.tolist()) if hasattr(value, "tolist") else type(value).__name__
