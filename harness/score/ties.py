"""Which models cannot be told apart: estimates, their errors and a critical ratio in, rank intervals and groups out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np

    Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
    Ints: TypeAlias = np.ndarray[Any, np.dtype[np.intp]]

# Doubles in one block of pairs.
_BLOCK_DOUBLES = 100_000


def rank_bounds(estimates: Floats, errors: Floats, critical: float) -> tuple[Ints, Ints]:
    """Best and worst rank (models,) of each model that its significant differences allow; 1 is best.

    Two models differ where ``|difference| > critical * sqrt(error_1^2 + error_2^2)``. Below a model stand at least
    those that are significantly worse, above it those significantly better. All intervals hold unless a pair is
    misjudged.
    """
    import numpy as np

    models = len(estimates)
    best, worst = np.empty(models, dtype=np.intp), np.empty(models, dtype=np.intp)
    square = (critical * errors) ** 2
    block = max(1, _BLOCK_DOUBLES // models)
    for start in range(0, models, block):
        part = slice(start, start + block)
        # Squares with their sign, compared with squares: for 10,000 models the roots would be half of the time.
        ahead = estimates[None, :] - estimates[part, None]
        ahead *= np.abs(ahead)
        margin = square[None, :] + square[part, None]
        best[part] = 1 + np.count_nonzero(ahead > margin, axis=1)
        worst[part] = models - np.count_nonzero(ahead < -margin, axis=1)
    return best, worst


def tied_groups(estimates: Floats, errors: Floats, critical: float) -> tuple[tuple[int, ...], ...]:
    """All largest sets of models of which no two differ, as positions, each set and the sets in descending estimate.

    Being tied is not transitive, so a model may belong to several sets, and a model without a tie is a set of its own.
    """
    import numpy as np

    order = np.argsort(-estimates, kind="stable")
    values, square = estimates[order], errors[order] ** 2
    tied = np.abs(values[:, None] - values[None, :]) <= critical * np.sqrt(square[:, None] + square[None, :])
    np.fill_diagonal(tied, False)
    neighbours = [sum(1 << int(j) for j in np.flatnonzero(row)) for row in tied]
    cliques = sorted(_members(clique) for clique in _maximal_cliques(neighbours))
    return tuple(tuple(int(order[at]) for at in clique) for clique in cliques)


def group_letters(groups: Sequence[Sequence[int]], models: int) -> list[str]:
    """Letters of the groups that each model belongs to: ``"a"``, ``"a, b"``; after ``z`` follow ``aa``, ``ab``."""
    letters: list[list[str]] = [[] for _ in range(models)]
    for at, group in enumerate(groups):
        for model in group:
            letters[model].append(_letter(at))
    return [", ".join(of_model) for of_model in letters]


def _letter(number: int) -> str:
    text = ""
    number += 1
    while number:
        number, digit = divmod(number - 1, 26)
        text = chr(ord("a") + digit) + text
    return text


def _members(bits: int) -> tuple[int, ...]:
    return tuple(at for at in range(bits.bit_length()) if bits >> at & 1)


def _maximal_cliques(neighbours: Sequence[int]) -> list[int]:
    """Bron and Kerbosch (1973) with a pivot; sets of vertices are the bits of an integer."""
    found: list[int] = []
    waiting = [(0, (1 << len(neighbours)) - 1, 0)]
    while waiting:
        clique, candidates, excluded = waiting.pop()
        if not candidates and not excluded:
            found.append(clique)
            continue
        pivot = max(_members(candidates | excluded), key=lambda at: (candidates & neighbours[at]).bit_count())
        for vertex in _members(candidates & ~neighbours[pivot]):
            bit = 1 << vertex
            waiting.append((clique | bit, candidates & neighbours[vertex], excluded & neighbours[vertex]))
            candidates &= ~bit
            excluded |= bit
    return found
