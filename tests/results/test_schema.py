"""A result is written only if it can be read again, and what can't be right is not read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.api import Job, RunResult
from harness.results.schema import DamagedResultError, UnwritableResultError, parse_result, result_text
from harness.results.store import RunsFolder

RESULT = RunResult(
    job=Job("tiny-1.0", "tiny", "dots", 0),
    fingerprint="0123456789abcdef",
    protocol_digest="0123456789abcdef",
    metrics={"top1": 50.0},
    parameters=10,
    over_budget=False,
    lr_max=0.1,
    lr_exception=None,
    weights_sha256="00",
    test_reads=1,
    seconds=1.0,
    started="2026-01-01T00:00:00+00:00",
    finished="2026-01-01T00:00:01+00:00",
)


def again(result: RunResult) -> RunResult:
    return parse_result(result_text(result, "result.json").encode(), "result.json")


def test_a_result_is_read_as_it_was_written() -> None:
    whole = replace(RESULT, notes=["one"], environment={"threads": 1, "versions": {"torch": "2"}}, executed={"a": [1]})
    assert again(whole) == replace(whole, interruptions=[], deviations=[])


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (float("nan"), "nan"),
        (np.float32(0.5), 0.5),
        (np.arange(2), [0, 1]),
        (torch.tensor(3), 3),
        ((1, 2), [1, 2]),
        ({3}, [3]),
        ({1: "one"}, {"1": "one"}),
        ("\udcff", "\\udcff"),
        (object(), "object"),
        (RESULT.job, RESULT.job.as_dict()),
    ],
)
def test_values_of_plugins_are_written_as_json_holds_them(value: object, stored: object) -> None:
    found = again(replace(RESULT, environment={"odd": value}, executed={"odd": value}))
    assert found.environment["odd"] == stored
    assert found.executed == {"odd": stored}


@pytest.mark.parametrize(
    "change",
    [
        {"metrics": {"top1": float("nan")}},
        {"metrics": {"top1": None}},
        {"metrics": {"top1": 150.0}},
        {"seconds": float("inf")},
        {"lr_max": "0.1"},
        {"parameters": 1.5},
        {"notes": [1]},
        {"fingerprint": None},
    ],
)
def test_a_result_that_could_not_be_read_is_not_written(change: dict[str, Any], tmp_path: Path) -> None:
    folder = RunsFolder(tmp_path).of(RESULT.job)
    folder.path.mkdir(parents=True)
    broken = replace(RESULT, **change)
    with pytest.raises(UnwritableResultError, match=r"was not written.*weights are kept"):
        folder.finish(broken, torch.eye(2), torch.arange(2))
    assert list(folder.path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"metrics": {"top1": 150}}, "top1 is 150, expected 0 to 100 percent"),
        ({"metrics": {"top1": -5}}, "top1 is -5"),
        ({"seconds": -1}, "negative"),
        ({"job": {**RESULT.job.as_dict(), "seed": -1}}, "the seed is -1"),
        ({"schema": 99}, "a newer one wrote it"),
        ({"schema": 0}, "has schema 0"),
    ],
)
def test_a_number_that_no_run_has_makes_a_result_damaged(change: dict[str, Any], reason: str) -> None:
    content = json.loads(result_text(RESULT, "result.json")) | change
    with pytest.raises(DamagedResultError, match=reason):
        parse_result(json.dumps(content).encode(), "result.json")


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b'{"schema": 2, "job": "\xff"}', b'{"schema": 2}', b"NaN"])
def test_damage_of_any_kind_is_one_error(content: bytes) -> None:
    with pytest.raises(DamagedResultError, match=r"^result\.json is damaged: "):
        parse_result(content, "result.json")
