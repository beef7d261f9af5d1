"""A result file's content of any known schema -> the present one. In memory: the file stays as it was written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

SCHEMA = 2
"""Version of ``result.json``."""


def upgrade(content: dict[str, Any]) -> dict[str, Any]:
    """Bring a decoded ``result.json`` to the present schema, one version after the other.

    Args:
        content: What the file holds; its ``schema`` is known and at most the present one.
    """
    for schema in range(content["schema"], SCHEMA):
        content = _STEPS[schema](content) | {"schema": schema + 1}
    return content


def known(schema: int) -> bool:
    """Whether results of a schema can be read."""
    return 1 <= schema <= SCHEMA


def _to_2(content: dict[str, Any]) -> dict[str, Any]:
    """Schema 2 added what was executed. Nobody looked before, and nothing is made up for it."""
    return content | {"executed": None, "executed_digest": None, "deviations": []}


_STEPS: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _to_2}
