"""harness verify: every claim of a result is checked, each false one is named, and what can't be checked is said."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.verify import replay, runs
from tests.support import FILES, TINY_PLUGIN, Command, Ran, cell_folder, read_result

CELL = cell_folder()
OLD = FILES / "schema-1"


@pytest.fixture
def finished(tiny_harness: Command, finished_runs: Path) -> Command:
    """A finished run in ``CELL``, and the command line."""
    shutil.copytree(finished_runs / "tiny-1.0/tiny/dots", "runs/tiny-1.0/tiny/dots")
    return tiny_harness


def edit_json(name: str, **changes: Any) -> None:
    content = json.loads((CELL / name).read_text())
    (CELL / name).write_text(json.dumps(content | changes))


def edit_predictions(change: Callable[[np.ndarray, np.ndarray], None]) -> None:
    with np.load(CELL / "predictions.npz") as stored:
        logits, labels = stored["logits"].copy(), stored["labels"].copy()
    change(logits, labels)
    np.savez_compressed(CELL / "predictions.npz", logits=logits, labels=labels)


def edit_checkpoint(change: Callable[[dict[str, Any]], None], name: str = "checkpoint.pt") -> None:
    content = torch.load(CELL / name, weights_only=True)
    change(content)
    torch.save(content, CELL / name)


def edit_history(change: Callable[[list[dict[str, Any]]], None]) -> None:
    lines = [json.loads(line) for line in (CELL / "history.jsonl").read_text().splitlines()]
    change(lines)
    (CELL / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def edit_environment(**changes: Any) -> None:
    environment = read_result(CELL)["environment"]
    edit_json("result.json", environment=environment | changes)


def verdicts(ran: Ran) -> dict[str, str]:
    return {row["check"]: row["verdict"] for row in ran.rows}


def failed(ran: Ran) -> set[str]:
    return {row["check"] for row in ran.rows if row["verdict"] == "failed"}


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*") if p.is_file()}


# ------------------------------------------------------------------------------------------------------ what is true


def test_true_run_passes_every_check_and_is_left_as_it_is(finished: Command) -> None:
    before = stamps(Path("runs"))
    ran = finished("verify", str(CELL), "--replay", "--format", "json")
    assert ran.code == 0
    assert set(verdicts(ran).values()) == {"ok"}
    assert list(ran.rows[0]) == ["run", "check", "verdict", "found", "expected", "detail"]
    assert {
        *("schema", "job", "protocol", "fingerprint", "weights", "history", "learning rates", "predictions"),
        *("metric top1", "metric nll", "test reads", "parameters", "budget", "executed", "evaluation", "replay"),
        "replay weights",
    } <= set(verdicts(ran))
    assert f"1 run: {len(ran.rows)} ok." in ran.err
    assert stamps(Path("runs")) == before


def test_runs_folder_is_verified_whole(finished: Command) -> None:
    finished("run", "tiny2", "--seeds", "2")
    ran = finished("verify", "runs", "--format", "json")
    assert ran.code == 0
    assert {row["run"] for row in ran.rows} == {
        "runs/tiny-1.0/tiny/dots/seed-0",
        *(f"runs/tiny-1.0/tiny2/{data}/seed-{seed}" for data in ("dots", "bars") for seed in (0, 1)),
    }
    shutil.copytree(CELL, "moved elsewhere")
    assert finished("verify", "moved elsewhere").code == 0


@pytest.mark.parametrize("format_", ["table", "json", "csv", "markdown", "latex"])
def test_every_format(format_: str, finished: Command) -> None:
    ran = finished("verify", str(CELL), "--format", format_)
    assert ran.code == 0
    assert "fingerprint" in ran.out


def test_model_over_the_budget_passes_as_long_as_it_says_so(tiny_harness: Command) -> None:
    tiny_harness("run", "big", "--dataset", "dots", "--allow-over-budget")
    cell = Path("runs/tiny-1.0/big/dots/seed-0")
    ran = tiny_harness("verify", str(cell), "--format", "json")
    assert ran.code == 0
    assert [row["detail"] for row in ran.rows if row["check"] == "budget"] == ["It is over the budget, marked as such."]
    content = read_result(cell) | {"over_budget": False}
    (cell / "result.json").write_text(json.dumps(content))
    ran = tiny_harness("verify", str(cell), "--format", "json")
    assert ran.code == 1
    assert failed(ran) == {"budget"}


# ----------------------------------------------------------------------------------------------- what is not true


def other_weight(content: dict[str, Any]) -> None:
    content["weights"]["0.weight"][0, 0, 0, 0] += 0.5


def other_fact(knob: str, value: Any) -> Callable[[], None]:
    def change() -> None:
        facts = read_result(CELL)["executed"]
        edit_json("result.json", executed=facts | {knob: value})

    return change


def other_fingerprint() -> None:
    edit_json("result.json", fingerprint="0123456789abcdef")
    edit_json("job.json", fingerprint="0123456789abcdef")
    edit_checkpoint(lambda content: content.update(fingerprint="0123456789abcdef"))


FALSE = [
    ("weights", lambda: edit_checkpoint(other_weight), {"weights", "evaluation"}),
    ("no weights", lambda: (CELL / "checkpoint.pt").unlink(), {"weights"}),
    ("damaged weights", lambda: (CELL / "checkpoint.pt").write_bytes(b"PK"), {"weights"}),
    ("logits", lambda: edit_predictions(lambda a, b: a.__imul__(1.01)), {"metric ece", "metric nll", "evaluation"}),
    (
        "labels",
        lambda: edit_predictions(lambda a, b: b.__setitem__(slice(0, 8), a[:8].argmax(axis=1))),
        {"evaluation", "metric top1", "metric nll", "metric ece", "metric macro_f1", "metric balanced_accuracy"},
    ),
    ("no predictions", lambda: (CELL / "predictions.npz").unlink(), {"predictions"}),
    ("metric", lambda: edit_json("result.json", metrics={"top1": 99.0}), {"metric top1"}),
    ("hash", lambda: edit_json("result.json", weights_sha256="0" * 64), {"weights"}),
    ("rate", lambda: edit_history(lambda lines: lines[1].update(lr=1e-3)), {"learning rates", "history"}),
    ("epoch left out", lambda: edit_history(lambda lines: lines.pop(1)), {"history"}),
    ("epoch twice", lambda: edit_history(lambda lines: lines.append(lines[-1])), {"history"}),
    ("loss", lambda: edit_history(lambda lines: lines[2].update(loss=0.1)), {"history"}),
    ("peak", lambda: edit_json("result.json", lr_max=5e-3), {"learning rates", "lr_max"}),
    ("test read again", lambda: edit_json("result.json", test_reads=2), {"test reads"}),
    ("parameters", lambda: edit_json("result.json", parameters=250), {"parameters"}),
    ("protocol", lambda: edit_json("result.json", protocol_digest="0" * 16), {"protocol"}),
    ("fingerprint", other_fingerprint, {"fingerprint"}),
    ("job", lambda: edit_json("job.json", seed=3), {"job"}),
    ("fact", other_fact("batch_size", 16), {"executed digest", "executed: batch_size"}),
    ("precision", other_fact("precision", {"autocast": True}), {"executed digest", "executed: precision"}),
    ("facts' digest", lambda: edit_json("result.json", executed_digest="0" * 16), {"executed digest"}),
]  # fmt: skip


@pytest.mark.parametrize(("change", "expected"), [case[1:] for case in FALSE], ids=[case[0] for case in FALSE])
def test_false_claim_is_named(change: Callable[[], None], expected: set[str], finished: Command) -> None:
    change()
    ran = finished("verify", str(CELL), "--format", "json")
    assert ran.code == 1
    assert failed(ran) == expected
    for name in expected:
        assert f"Failed: {CELL}: {name}: " in ran.err


def test_result_under_another_jobs_name_is_named(finished: Command) -> None:
    shutil.copytree(CELL, CELL.with_name("seed-1"))
    ran = finished("verify", "runs", "--format", "json")
    assert ran.code == 1
    assert {(row["run"], row["check"]) for row in ran.rows if row["verdict"] == "failed"} == {
        (str(CELL.with_name("seed-1")), "job")
    }


# ------------------------------------------------------------------------------------- another machine, fewer means


def test_other_machine_is_compared_within_a_stated_tolerance(finished: Command) -> None:
    edit_environment(device_name="another processor", threads=64)
    edit_predictions(lambda logits, labels: logits.__setitem__((0, 0), logits[0, 0] + 1e-5))
    ran = finished("verify", str(CELL), "--replay", "--format", "json")
    assert ran.code == 0
    rows = {row["check"]: row for row in ran.rows}
    assert "Compared within a tolerance, since the environment differs" in rows["evaluation"]["detail"]
    assert "device_name another processor then" in rows["evaluation"]["detail"]
    assert "threads 64 then" in rows["replay"]["detail"]
    assert rows["replay weights"]["verdict"] == "skipped"
    edit_predictions(lambda logits, labels: logits.__setitem__((0, 0), logits[0, 0] + 0.5))
    ran = finished("verify", str(CELL), "--format", "json")
    assert "evaluation" in failed(ran)


def test_uninstalled_plugin_leaves_the_rest_checked(finished: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(TINY_PLUGIN)])
    ran = finished("verify", str(CELL), "--replay", "--format", "json")
    assert ran.code == 0
    found = verdicts(ran)
    for name in ("job", "protocol", "weights", "history", "learning rates", "metric top1", "test reads", "budget"):
        assert found[name] == "ok"
    for name in ("fingerprint", "parameters", "executed", "evaluation", "replay"):
        assert found[name] == "skipped"
    assert "Not checked: evaluation: There is no model named 'tiny'." in ran.err
    edit_json("result.json", metrics={"top1": 99.0})
    assert failed(finished("verify", str(CELL), "--format", "json")) == {"metric top1"}


def test_missing_data_set_leaves_the_rest_checked(
    tiny_harness: Command, install: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(
        "lone_model",
        """
        from harness.api import ModelSpec, hookimpl
        from torch import nn

        def build(classes):
            return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, classes))

        @hookimpl
        def harness_models():
            return [ModelSpec(name="lone", build=build, paper="none")]
        """,
    )
    tiny_harness("run", "lone", "--dataset", "dots")
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(TINY_PLUGIN)])
    ran = tiny_harness("verify", "runs", "--format", "json")
    assert ran.code == 0
    found = verdicts(ran)
    assert found["lr_max"] == found["metric top1"] == "ok"
    assert found["fingerprint"] == found["evaluation"] == "skipped"
    assert "There is no data set named 'dots'" in ran.err


def test_unknown_protocol_leaves_the_rest_checked(finished: Command, harness: Command) -> None:
    ran = harness("verify", str(CELL), "--format", "json")
    found = verdicts(ran)
    assert ran.code == 0
    assert found["protocol"] == found["learning rates"] == "skipped"
    assert found["weights"] == found["history"] == found["metric top1"] == "ok"


# --------------------------------------------------------------------------------------------------------- replay


def test_replay_repeats_the_end_from_the_spare(finished: Command) -> None:
    ran = finished("verify", str(CELL), "--replay", "--format", "json")
    (row,) = [row for row in ran.rows if row["check"] == "replay"]
    assert row["detail"] == "Repeated from epoch 3, step 1 to the end, equal bits."


def test_replay_finds_another_position_of_the_optimiser(finished: Command) -> None:
    def change(content: dict[str, Any]) -> None:
        content["optimizer"]["state"][0]["exp_avg"] += 1e-2

    edit_checkpoint(change, "checkpoint.spare.pt")
    ran = finished("verify", str(CELL), "--replay", "--format", "json")
    assert ran.code == 1
    assert failed(ran) == {"replay", "replay weights"}
    assert "the loss of the last epoch's step 2 differs" in ran.err


def test_replay_of_a_short_run_without_a_spare_repeats_all_of_it(finished: Command) -> None:
    (CELL / "checkpoint.spare.pt").unlink()
    ran = finished("verify", str(CELL), "--replay", "--format", "json")
    assert ran.code == 0
    assert verdicts(ran)["replay weights"] == "ok"
    (row,) = [row for row in ran.rows if row["check"] == "replay"]
    assert row["detail"] == "Repeated from the first step to the end, equal bits."
    edit_checkpoint(lambda content: content["losses"].add_(1e-3))
    assert failed(finished("verify", str(CELL), "--replay", "--format", "json")) == {"replay"}


@pytest.mark.parametrize("spare", ["missing", "damaged"])
def test_replay_without_a_spare_repeats_the_first_epoch(
    spare: str, finished: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "WHOLE_SECONDS", 0.0)
    file = CELL / "checkpoint.spare.pt"
    file.unlink() if spare == "missing" else file.write_bytes(file.read_bytes()[:100])
    ran = finished("verify", str(CELL), "--replay", "--format", "json")
    assert ran.code == 0
    (row,) = [row for row in ran.rows if row["check"] == "replay"]
    assert row["found"] == row["expected"] == json.loads((CELL / "history.jsonl").read_text().splitlines()[0])["loss"]
    assert "so the first epoch was repeated" in row["detail"]
    edit_history(lambda lines: lines[0].update(loss=lines[0]["loss"] * 1.0001))
    assert "replay" in failed(finished("verify", str(CELL), "--replay", "--format", "json"))


# ---------------------------------------------------------------------------------------- schemas and wrong use


def test_result_of_schema_1_is_read_counted_and_left_as_it_is(tiny_harness: Command) -> None:
    shutil.copytree(OLD, "runs", ignore=shutil.ignore_patterns("seed-1"))
    before = stamps(Path("runs"))
    status = tiny_harness("status", "tiny", "--dataset", "dots", "--format", "json")
    assert [(row["state"], row["accuracy"]) for row in status.rows] == [("done", 82.5)]
    ran = tiny_harness("verify", "runs", "--replay", "--format", "json")
    assert ran.code == 0
    assert verdicts(ran)["executed"] == "skipped"
    assert "a harness that did not record what was executed" in ran.err
    again = tiny_harness("run", "tiny", "--dataset", "dots", "--format", "json")
    assert [row["state"] for row in again.rows] == ["done"]
    after = {name: stamp for name, stamp in stamps(Path("runs")).items() if not name.endswith(".lock")}
    assert after == before


def test_newer_schema_is_refused_with_a_sentence(finished: Command) -> None:
    edit_json("result.json", schema=99)
    ran = finished("verify", str(CELL), "--format", "json")
    assert ran.code == 3
    assert "has schema 99, and this harness knows 1 to 2: a newer one wrote it" in ran.err
    status = finished("status", "tiny", "--dataset", "dots", "--format", "json")
    assert [row["state"] for row in status.rows] == ["stale"]
    assert "newer one wrote it" in status.rows[0]["detail"]


def test_damaged_result_among_others_does_not_hide_them(finished: Command) -> None:
    finished("run", "tiny2", "--dataset", "dots")
    (CELL / "result.json").write_text("{")
    ran = finished("verify", "runs", "--format", "json")
    assert ran.code == 1
    assert {row["run"] for row in ran.rows} == {str(CELL), "runs/tiny-1.0/tiny2/dots/seed-0"}
    assert finished("verify", str(CELL)).code == 3


def test_wrong_use(finished: Command) -> None:
    assert finished("verify").code == 2
    assert finished("verify", "nowhere").code == 3
    assert finished("verify", str(CELL), "--device", "gpu").code == 2
    (CELL / "result.json").unlink()
    ran = finished("verify", str(CELL))
    assert ran.code == 3
    assert "is not finished" in ran.err
    assert finished("verify", "runs").code == 3


def test_provenance_names_every_plugin_and_its_commit(finished: Command) -> None:
    environment = read_result(CELL)["environment"]
    plugins = {role: entry for entry in environment["plugins"] for role in entry["gave"]}
    assert {"model tiny", "data set dots", "augmentation cutmix", "metric top1"} <= set(plugins)
    assert (plugins["model tiny"]["distribution"], plugins["model tiny"]["version"]) == ("tiny-plugin", "1.0")
    assert plugins["metric top1"]["distribution"] == "xscore-harness"
    assert {"python", "host", "threads", "cores", "deterministic", "driver", "harness"} <= set(environment)


def test_commit_of_a_plugin_in_a_checkout(tmp_path: Path) -> None:
    from harness.train.provenance import Sources

    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=n", "-c", "user.email=e@example.org")
        done = subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    package = tmp_path / "a package" / "mynet"
    package.mkdir(parents=True)
    for name in ("__init__.py", "network.py"):
        (package / name).write_text("")
    file = package / "network.py"
    assert Sources().of(file) == {"commit": None, "dirty": None}
    git("init", "-q")
    assert Sources().of(file) == {"commit": None, "dirty": None}  # there, but not tracked
    git("add", ".")
    git("commit", "-qm", "first")
    assert Sources().of(file) == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (package / "__init__.py").write_text("changed = True")
    assert Sources().of(file) == {"commit": git("rev-parse", "HEAD"), "dirty": True}


def test_provenance_does_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.train.provenance import Sources

    monkeypatch.setenv("PATH", str(tmp_path))
    assert Sources().of(Path(__file__)) == {"commit": None, "dirty": None}


def test_a_check_that_raises_stops_no_other(finished: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(run: Any) -> Any:
        raise AttributeError("no attribute 'get'")

    checks = [(name, raising if name == "evaluation" else check) for name, check in runs._CHECKS]
    monkeypatch.setattr(runs, "_CHECKS", tuple(checks))
    ran = finished("verify", "runs", "--format", "json")
    assert ran.code == 1
    assert failed(ran) == {"evaluation"}
    assert "It could not be made: AttributeError: no attribute 'get'." in ran.err
    assert verdicts(ran)["weights"] == verdicts(ran)["executed"] == "ok"


@pytest.mark.parametrize("environment", [{}, {"versions": []}, {"versions": None, "threads": "x", "device": 7}])
def test_an_odd_environment_is_no_traceback(environment: dict[str, Any], finished: Command) -> None:
    edit_json("result.json", environment=environment)
    ran = finished("verify", str(CELL), "--replay", "--format", "json")
    assert ran.code in (0, 1)
    assert {"job", "weights", "executed digest", "evaluation"} <= set(verdicts(ran))
