"""Weights & Biases' files, read back record by record after real runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support import Command, read_result, wait_until
from tests.xscore_plugins.tracked import CELL, RUN, free_port, record, result, spec_of, tracked_run
from xscore_plugins.trackers import wandb as wandb_plugin

# Of the tools' own making, on import or use.
pytestmark = [
    pytest.mark.usefixtures("own_settings"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*noload.*"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning"),
]


def wandb_records(file: Path) -> list[Any]:
    """The records of a .wandb file: LevelDB's log format, 32 kB blocks of (crc32, length, type, payload) chunks."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, position, payload, records = file.read_bytes(), 7, b"", []
    assert content[:4] == b":W&B"
    while position + 7 <= len(content):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        length, kind = int.from_bytes(content[position + 4 : position + 6], "little"), content[position + 6]
        payload += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last chunk of one
            records.append(Record.FromString(payload))
            payload = b""
    return records


def finished_wandb_records(file: Path) -> list[Any]:
    """The records of a run that has ended: wandb's own process goes on writing for a moment after ``finish()``."""

    def finished() -> list[Any]:
        records = wandb_records(file)
        return records if any(one.WhichOneof("record_type") == "exit" for one in records) else []

    return wait_until(finished, seconds=30)


def wandb_history(records: list[Any]) -> list[dict[str, Any]]:
    rows = [
        {item.key or item.nested_key[0]: json.loads(item.value_json) for item in one.history.item}
        for one in records
        if one.WhichOneof("record_type") == "history"
    ]
    return [row for row in rows if "epoch" in row]


def wandb_summary(records: list[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in records:
        for update in one.summary.update:
            found[update.key or update.nested_key[0]] = json.loads(update.value_json)
    return found


def test_wandb_holds_the_run_offline(tiny_harness: Command) -> None:
    tiny_harness(*RUN, "--track", "wandb")
    (file,) = Path("runs/tracking/wandb").rglob("*.wandb")
    assert file.parent.name.startswith("offline-run-")
    records = finished_wandb_records(file)
    history = [json.loads(line) for line in (CELL / "history.jsonl").read_text().splitlines()]
    rows = wandb_history(records)
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert [row["train/loss"] for row in rows] == [line["loss"] for line in history]
    kept = read_result(CELL)
    summary = wandb_summary(records)
    assert summary["test/top1"] == kept["metrics"]["top1"]
    assert summary["weights_sha256"] == kept["weights_sha256"]
    (run,) = [one.run for one in records if one.WhichOneof("record_type") == "run"]
    assert run.run_id == json.loads((CELL / "trackers.json").read_text())["id"]
    assert (run.display_name, run.project) == ("tiny on dots, seed 0", "xscore-harness")
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert (config["model"], config["epochs"], config["fingerprint"]) == ("tiny", 3, kept["fingerprint"])
    assert [one.exit.exit_code for one in records if one.WhichOneof("record_type") == "exit"] == [0]


def test_wandb_resumes_under_the_same_id(place: Path) -> None:
    run = tracked_run(place)
    first = spec_of("wandb").open(run)
    first.epoch_finished(record(0))
    first.close()
    second = spec_of("wandb").open(replace(run, resumed=True))
    second.epoch_finished(record(1))
    second.run_finished(result(run))
    second.close()
    # Folders are named by their time; the second of two within one second ends in "-1".
    parts = [finished_wandb_records(file) for file in sorted(place.rglob("*.wandb"))]
    assert [[row["epoch"] for row in wandb_history(part)] for part in parts] == [[0], [1]]
    ids = {one.run.run_id for part in parts for one in part if one.WhichOneof("record_type") == "run"}
    assert ids == {run.id}
    assert any(one.WhichOneof("record_type") == "preempting" for one in parts[0])
    assert wandb_summary(parts[1])["test/top1"] == 62.5


def test_wandb_without_its_server_harms_nothing(tiny_harness: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(wandb_plugin, "_SECONDS", 2.0)
    ran = tiny_harness(*RUN, "--track", "wandb")
    assert ran.code == 0
    (line,) = [line for line in ran.err.splitlines() if "Note:" in line]
    assert "tracker wandb: open raised" in line
    assert (CELL / "result.json").exists()
