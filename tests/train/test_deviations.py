"""The record of a run is read from the objects that did the work; every setting that differs must be named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.api import StoppedError
from harness.data.prepared import PreparedDataset
from harness.errors import DatasetError
from harness.train.checkpoint import find_checkpoint
from harness.train.deviations import (
    COVERAGE,
    SOURCES,
    accounted_reads,
    compare_facts,
    expected_facts,
    expected_order,
    facts_digest,
)
from harness.train.job import Trained, deviations_of, run_task
from harness.train.observe import RunRecorder
from harness.train.task import Task, build_model
from tests.support import FILES, Command, cell_folder
from tests.train.sabotage import SABOTAGE, batch_size_in_one_step, smoothing_forgotten
from tests.training import Watch, train

Patch = pytest.MonkeyPatch


def knobs(task: Task, trained: Trained) -> dict[str, Any]:
    assert trained.result.executed is not None
    return {one.setting: one.found for one in deviations_of(task, trained.result.executed)}


def test_code_that_was_edited_half_way_is_a_deviation(task: Task) -> None:
    expected = expected_facts(task.protocol, task.model.spec, task.dataset.manifest, 0)
    first = {"model tiny": "3.11:a", "augmentation cutmix": "3.11:b"}
    elsewhere = {"model tiny": "3.12:x", "augmentation cutmix": "3.12:y"}  # another Python says nothing
    assert compare_facts(expected | {SOURCES: [first, elsewhere]}, expected) == ()
    assert compare_facts(expected | {SOURCES: [first, first]}, expected) == ()
    (found,) = compare_facts(
        expected | {SOURCES: [first, elsewhere, first | {"augmentation cutmix": "3.11:c"}]}, expected
    )
    assert str(found) == "the source of augmentation cutmix was edited half-way, expected the same throughout"
    for damaged in ("x", [1], {"varied": 1}, None):
        assert compare_facts(expected | {SOURCES: damaged}, expected) == ()


def test_a_record_keeps_the_sources_of_all_processes() -> None:
    first = RunRecorder()
    first.see(SOURCES, {"model tiny": "a"})
    assert SOURCES not in first.facts()
    second = RunRecorder(json.loads(json.dumps(first.state())))
    second.see(SOURCES, {"model tiny": "b"})
    assert second.facts()[SOURCES] == [{"model tiny": "a"}, {"model tiny": "b"}]


# ----------------------------------------------------------------------------------------------------- the truth


def test_run_by_the_protocol_shows_exactly_what_is_expected(task: Task) -> None:
    result = train(task).result
    expected = expected_facts(task.protocol, task.model.spec, task.dataset.manifest, 0)
    assert result.deviations == []
    assert result.executed is not None
    assert set(result.executed) == set(expected)
    assert result.executed_digest == facts_digest(expected)
    # and what is expected is what the registry says, not what the code does
    assert expected["batch_size"] == 8
    assert expected["steps_per_epoch"] == 8
    assert expected["learning_rates"] == pytest.approx([1e-2, (1e-2 + 1e-5) / 2, 1e-5])
    assert [use["name"] for use in expected["augmentations"]] == ["horizontal_flip", "color_jitter", "cutmix"]


@pytest.mark.parametrize("steps", [1, 8, 13, 24])
def test_stopped_run_shows_the_same_facts(steps: int, task: Task, tmp_path: Path) -> None:
    whole = train(replace(task, checkpoint=tmp_path / "whole.pt")).result
    with pytest.raises(StoppedError):
        train(task, Watch(stop_after=steps))
    went_on = train(task).result
    assert len(went_on.interruptions) == 1
    assert went_on.executed == whole.executed
    assert went_on.executed_digest == whole.executed_digest
    assert went_on.deviations == []


def test_facts_of_different_jobs_differ_where_they_should(task: Task) -> None:
    manifest, spec = task.dataset.manifest, task.model.spec
    first = expected_facts(task.protocol, spec, manifest, 0)
    second = expected_facts(task.protocol, spec, manifest, 1)
    assert {one.setting for one in compare_facts(first, second)} == {"order"}
    gentle = expected_facts(task.protocol, task.catalog.model("gentle").spec, manifest, 0)
    assert {one.setting for one in compare_facts(gentle, first)} == {"learning_rates"}


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_run_on_cuda_shows_the_same_facts(task: Task, tmp_path: Path) -> None:
    on_cpu = train(replace(task, checkpoint=tmp_path / "cpu.pt")).result
    on_cuda = train(replace(task, device=torch.device("cuda"))).result
    assert on_cuda.deviations == []
    assert on_cuda.executed_digest == on_cpu.executed_digest
    assert on_cuda.environment["driver"]


def test_hooks_are_gone_after_a_run(task: Task) -> None:
    built = build_model(task)
    run_task(task, built, find_checkpoint(task.checkpoint, fingerprint=built.fingerprint), Watch())
    assert not built.module._forward_hooks


# -------------------------------------------------------------------------------------- each knob, turned in the code


@pytest.mark.parametrize(("sabotage", "knob"), SABOTAGE, ids=[f"{s.__name__}-{k}" for s, k in SABOTAGE])
def test_changed_setting_is_named(sabotage: Callable[[Patch], None], knob: str, task: Task, monkeypatch: Patch) -> None:
    sabotage(monkeypatch)
    trained = train(task)
    found = knobs(task, trained)
    assert knob in found
    assert any(
        sentence.startswith((f"{knob} was ", f"{knob} alternated between ")) for sentence in trained.result.deviations
    )
    # The configuration is untouched: nothing but the execution could give it away.
    assert trained.result.protocol_digest == task.protocol.digest
    assert trained.result.executed_digest != facts_digest(
        expected_facts(task.protocol, task.model.spec, task.dataset.manifest, 0)
    )


def test_setting_that_changes_in_a_run_shows_both_values(task: Task, monkeypatch: Patch) -> None:
    batch_size_in_one_step(monkeypatch)
    trained = train(task)
    assert knobs(task, trained) == {"batch_size": {"varied": [8, 6]}}
    assert trained.result.deviations == ["batch_size alternated between 8 and 6, expected 8"]


def test_sabotage_before_a_stop_is_still_seen_after_it(task: Task, monkeypatch: Patch) -> None:
    with monkeypatch.context() as patch:
        smoothing_forgotten(patch)
        with pytest.raises(StoppedError):
            train(task, Watch(stop_after=3))
    found = knobs(task, train(task))
    assert found == {"label_smoothing": {"varied": [0.0, 0.05]}}


def test_data_that_changed_between_two_processes_is_refused_and_would_be_seen(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoppedError):
        train(task, Watch(stop_after=3))
    images = np.load(task.dataset.folder / "train.images.npy")
    images[0, 0, 0, 0] += 1
    np.save(task.dataset.folder / "train.images.npy", images)
    with pytest.raises(DatasetError, match="its pixels have changed"):
        train(task)
    monkeypatch.setattr(PreparedDataset, "require_pixels", lambda *given: None)
    assert set(knobs(task, train(task))) == {"data"}


# ------------------------------------------------------------------------------------------- the parts, on their own


def test_order_is_a_new_permutation_every_epoch() -> None:
    assert expected_order(0, 23, 8, 2) != expected_order(0, 24, 8, 2)
    assert len({expected_order(seed, 23, 8, 2) for seed in range(4)}) == 4
    assert expected_order(0, 23, 8, 1) != expected_order(0, 23, 8, 2)


@pytest.mark.parametrize(
    ("reads", "at", "counted"),
    [(1, [], 1), (0, [], 0), (2, [], 2), (2, [1], 2), (2, [3], 1), (1, [3], 1), (3, [3], 3), (3, [3, 3], 1)],
)
def test_second_test_read_counts_unless_a_stop_explains_it(reads: int, at: list[int], counted: int) -> None:
    assert accounted_reads(reads, [{"epoch": epoch, "step": 0} for epoch in at], epochs=3) == counted


def test_state_goes_through_a_checkpoint(task: Task) -> None:
    train(task)
    fingerprint = build_model(task).fingerprint
    checkpoint = find_checkpoint(task.checkpoint, fingerprint=fingerprint).checkpoint
    assert checkpoint is not None
    again = RunRecorder(json.loads(json.dumps(checkpoint.witnessed)))
    assert again.state() == checkpoint.witnessed


# ------------------------------------------------------------------------------------------------- what users see


CELL = cell_folder()


def test_deviating_run_is_kept_and_marked_but_does_not_count(tiny_harness: Command, monkeypatch: Patch) -> None:
    with monkeypatch.context() as patch:
        smoothing_forgotten(patch)
        ran = tiny_harness("run", "tiny", "--format", "json")
    alone = tiny_harness("leaderboard")
    assert alone.code == 3
    assert "Left out, not trained by the protocol: tiny on bars, seed 0: label_smoothing was 0.0" in alone.err
    tiny_harness("run", "gentle", "tiny2")
    assert ran.code == 0
    assert {row["state"] for row in ran.rows} == {"done"}
    assert all("not counted: label_smoothing was 0.0, expected 0.05" in row["detail"] for row in ran.rows)
    board = tiny_harness("leaderboard", "--format", "json")
    assert {row["model"] for row in board.rows} == {"gentle", "tiny2"}
    assert "Left out, not trained by the protocol: tiny on dots, seed 0: label_smoothing was 0.0" in board.err
    verified = tiny_harness("verify", str(CELL), "--format", "json")
    assert verified.code == 1
    failed = [row for row in verified.rows if row["verdict"] == "failed"]
    assert [(row["check"], row["found"], row["expected"]) for row in failed] == [
        ("executed: label_smoothing", 0.0, 0.05)
    ]


def test_half_way_run_of_an_earlier_harness_resumes(tiny_harness: Command) -> None:
    """Its first steps were not observed; the rest is compared, and the gap is named."""
    old = FILES / "schema-1" / "tiny-1.0" / "tiny" / "dots" / "seed-1"
    shutil.copytree(old, "runs/tiny-1.0/tiny/dots/seed-1")
    ran = tiny_harness("run", "tiny", "--dataset", "dots", "--seeds", "2")
    assert ran.code == 0
    result = json.loads(Path("runs/tiny-1.0/tiny/dots/seed-1/result.json").read_text())
    assert [(entry["epoch"], entry["step"]) for entry in result["interruptions"]] == [(1, 5)]
    assert result["executed"][COVERAGE] == [1, 5]
    assert result["deviations"] == []
    verified = tiny_harness("verify", "runs", "--format", "json")
    assert verified.code == 0
    skipped = [row for row in verified.rows if row["verdict"] == "skipped"]
    assert [row["run"] for row in skipped] == ["runs/tiny-1.0/tiny/dots/seed-1"]
    assert "before epoch 2, step 6 was not observed" in skipped[0]["detail"]
    tiny_harness("run", "tiny", "--dataset", "dots", "--seeds", "2", "--runs", "fresh")
    fresh = json.loads(Path("fresh/tiny-1.0/tiny/dots/seed-1/result.json").read_text())
    assert fresh["weights_sha256"] == result["weights_sha256"]
