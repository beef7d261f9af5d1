"""Upgrade the content of a result file from any known schema to the current one. The file stays unchanged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

SCHEMA = 2
"""Version of ``result.json``."""


def upgrade(content: dict[str, Any]) -> dict[str, Any]:
    """Upgrade a decoded ``result.json`` to the current schema, one version after the other.

    Args:
        content: The file's content; its ``schema`` is known and at most the current one.
    """
    for schema in range(content["schema"], SCHEMA):
        content = _STEPS[schema](content) | {"schema": schema + 1}
    return content


def known(schema: int) -> bool:
    """Return whether results of a schema can be read."""
    return 1 <= schema <= SCHEMA


def _to_2(content: dict[str, Any]) -> dict[str, Any]:
    """Schema 2 added the executed facts, which are unknown for older runs."""
    return content | {"executed": None, "executed_digest": None, "deviations": []}


_STEPS: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _to_2}
