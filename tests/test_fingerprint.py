"""Texts that objects print of themselves, and digests of models that are the same in every process."""

from __future__ import annotations

import os
import subprocess
import sys
from textwrap import dedent

import pytest

from harness.fingerprint import repeatable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kinds={'max', 'avg'}", "kinds={'avg', 'max'}"),
        ("frozenset({'max', 'avg'}), 1", "frozenset({'avg', 'max'}), 1"),
        ("[{'b', 'a'}, {'d': {'y', 'x'}}]", "[{'a', 'b'}, {'d': {'x', 'y'}}]"),
        ("{(2, 'b'), (1, 'a')}", "{(1, 'a'), (2, 'b')}"),
        ("{'a, }b', 'A'}", "{'A', 'a, }b'}"),
        ("it's {'b', 'a'}, isn't it", "it's {'a', 'b'}, isn't it"),
        ("<function <lambda> at 0x7f2a>", "<function <lambda> at >"),
        ("<Pool object at 0x000001A2B3C4D5E6>", "<Pool object at >"),
        ("{<Pool object at 0x2>, <Act object at 0x1>}", "{<Act object at >, <Pool object at >}"),
    ],
)
def test_a_text_loses_what_differs_between_processes(text: str, expected: str) -> None:
    assert repeatable(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "3, 8, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), bias=False",
        "widths={8, 1, 4}",
        "{'stride': 2, 'groups': 1}",
        "{'b'}",
        "{'a', 'b'}",
        "unclosed {'b', 'a'",
        "closed )}] {",
        "a 'quote {b, ",
        "",
    ],
)
def test_any_other_text_stays(text: str) -> None:
    assert repeatable(text) == text


def test_ids_of_objects_are_left_out() -> None:
    assert repeatable("id=1407374 hex=15798e other=14073740", {1407374}) == "id= hex= other=14073740"


MODELS = dedent(
    """
    from torch import nn
    from harness.models import architecture_digest

    class Base(nn.Module):
        kinds = {"avg", "max", "lp", "gem", "mixed"}
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)
            self.names = {"x", "y", "zed"}
            self.nested = {"all": [frozenset({"q", "w", "e"})]}
            self.act = lambda x: x
            self.calls = 0

    class Printed(Base):
        def extra_repr(self):
            return f"{self.kinds}, {self.names}, {self.nested}, {self.act}"

    class Joined(Base):
        def extra_repr(self):
            return ", ".join(self.kinds) + str({name: 1 for name in self.names}) + str(list(self.names))

    class Numbered(Base):
        def extra_repr(self):
            return f"{id(self)}, {id(self.act):x}, {hex(id(self.names))}, {object()}"

    class Counting(Base):
        def extra_repr(self):
            self.calls += 1
            return f"call {self.calls}"

    for kind in (Printed, Joined, Numbered, Counting):
        module = kind()
        print(kind.__name__, architecture_digest(module), architecture_digest(module), architecture_digest(kind()))
        assert type(module.names) is set and "kinds" not in vars(module)
    """
)


def test_digests_of_models_are_the_same_in_every_process() -> None:
    printed = [
        subprocess.run(
            [sys.executable, "-c", MODELS],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert printed[0] == printed[1]
    for line in printed[0].splitlines():
        assert len(set(line.split()[1:])) == 1, line
