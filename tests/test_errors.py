"""Texts that several messages share."""

from __future__ import annotations

import pytest

from harness.errors import one_line, unknown_name


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("two\n   lines."), "ValueError: two lines"),
        (KeyError("x"), "KeyError: 'x'"),
        (RuntimeError(), "RuntimeError"),
        (SystemExit(3), "SystemExit: 3"),
    ],
)
def test_error_in_one_line_has_its_type_and_no_full_stop(error: BaseException, expected: str) -> None:
    assert one_line(error) == expected


def test_unknown_name_comes_with_the_nearest_known_one() -> None:
    assert unknown_name("model", "starnt", ["starnet", "convnext"]) == (
        "There is no model named 'starnt'. Did you mean 'starnet'? Known: convnext, starnet."
    )
    assert unknown_name("suite", "x", []) == "There is no suite named 'x'. Known: none."
