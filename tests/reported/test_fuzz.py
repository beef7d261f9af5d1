"""A short fuzz of every boundary; ``fuzz.py`` plays as many rounds as one likes."""

from __future__ import annotations

from tests.reported.boundaries import BOUNDARIES
from tests.reported.fuzz import fuzz


def test_damage_ends_in_a_sentence_and_loses_nothing() -> None:
    assert fuzz(list(BOUNDARIES), seed=100, rounds=3, seconds=60) == []
