"""Tests of this tracker alone; test_conformance.py has the rules for all trackers."""

import json
from dataclasses import replace

from xscore_plugin_jsonl import file_of, harness_trackers

from harness.testing import fakes


def lines_of(run):
    return [json.loads(line) for line in file_of(run).read_text().splitlines()]


def test_every_event_is_one_line_of_json(tmp_path):
    (spec,) = harness_trackers()
    run, records = fakes.tracked_run(tmp_path / "a folder"), fakes.epoch_records()
    fakes.follow(spec, run, records[:2], failure="RuntimeError: the disk is full")
    fakes.follow(spec, replace(run, resumed=True), records[1:], result=fakes.run_result())
    lines = lines_of(run)
    events = ["started", "epoch", "epoch", "failed", "started", "epoch", "finished"]
    assert [line["event"] for line in lines] == events
    assert {(line["model"], line["seed"]) for line in lines} == {("fake_net", 0)}
    assert [line["epoch"] for line in lines if line["event"] == "epoch"] == [0, 1, 2]
    assert [line["resumed"] for line in lines if line["event"] == "started"] == [False, True]
    assert lines[3]["reason"] == "RuntimeError: the disk is full"
    assert lines[-1]["metrics"] == {"top1": 61.5, "nll": 1.25}


def test_half_a_line_of_a_killed_process_is_skipped(tmp_path):
    (spec,) = harness_trackers()
    run, records = fakes.tracked_run(tmp_path), fakes.epoch_records()
    fakes.follow(spec, run, records[:2])
    text = file_of(run).read_text()
    file_of(run).write_text(text[:-20])
    fakes.follow(spec, replace(run, resumed=True), records[1:])
    whole = [line for line in file_of(run).read_text().splitlines() if line.endswith("}")]
    assert [json.loads(line).get("epoch") for line in whole] == [None, 0, None, 1, 2]
