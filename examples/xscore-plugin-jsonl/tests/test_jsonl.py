"""What is special about this tracker; the rules for every one are in test_conformance.py."""

import json

from xscore_plugin_jsonl import file_of, harness_epoch_finished, harness_run_finished, harness_run_started

from harness.testing import fakes


def test_every_event_is_a_line_of_json(tmp_path, monkeypatch):
    monkeypatch.setenv("XSCORE_PLUGIN_JSONL_FOLDER", str(tmp_path / "a folder"))
    harness_run_started(fakes.JOB)
    for record in fakes.epoch_records():
        harness_epoch_finished(fakes.JOB, record)
    harness_run_started(fakes.JOB)  # it goes on after a stop
    harness_run_finished(fakes.JOB, fakes.run_result())
    lines = [json.loads(line) for line in file_of(fakes.JOB).read_text().splitlines()]
    assert [line["event"] for line in lines] == ["started", "epoch", "epoch", "epoch", "started", "finished"]
    assert {(line["model"], line["seed"]) for line in lines} == {("fake_net", 0)}
    assert [line["epoch"] for line in lines if line["event"] == "epoch"] == [0, 1, 2]
    assert lines[-1]["metrics"] == {"top1": 61.5, "nll": 1.25}
