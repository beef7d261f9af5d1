"""Failed jobs, damaged and stale results, and wrong use: each is a sentence, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from tests.support import (
    TINY_REGISTRY,
    Command,
    Ran,
    cell_folder,
    read_result,
)

pytestmark = pytest.mark.portable


CELL = cell_folder()


def states(ran: Ran) -> dict[str, str]:
    return {f"{row['model']}/{row['dataset']}/{row['seed']}": row["state"] for row in ran.rows}


def test_failed_job_is_recorded_and_stops_no_other(tiny_harness: Command) -> None:
    ran = tiny_harness("run", "diverging", "tiny", "--dataset", "dots", "--format", "json")
    assert ran.code == 1
    assert states(ran) == {"diverging/dots/0": "failed", "tiny/dots/0": "done"}
    error = Path("runs/tiny-1.0/diverging/dots/seed-0/error.txt").read_text()
    assert "Traceback" in error
    assert error.splitlines()[-1].startswith("The loss became nan in epoch 2 of 3, step 4 of 8.")
    status = tiny_harness("status", "diverging", "--dataset", "dots", "--format", "json")
    assert status.rows[0]["state"] == "failed"
    assert "epoch 2 of 3, step 4 of 8" in status.rows[0]["detail"]


def test_model_that_does_not_build_stops_no_other_job(tiny_harness: Command) -> None:
    ran = tiny_harness("run", "unbuildable", "tiny", "--dataset", "dots", "--format", "json")
    assert ran.code == 1
    assert states(ran) == {"unbuildable/dots/0": "failed", "tiny/dots/0": "done"}
    assert "RuntimeError: no weights for 4 classes" in ran.rows[0]["detail"]
    alone = tiny_harness("run", "unbuildable", "--dataset", "dots")
    assert alone.code == 1
    assert "does not build for 4 classes" in alone.err


@pytest.mark.parametrize("name", ["palette", "wrong_label", "short", "long", "raising"])
def test_bad_data_set_stops_before_any_training(name: str, tiny_harness: Command) -> None:
    ran = tiny_harness("run", "tiny", "--suite", "bad", "--dataset", name)
    assert ran.code == 3
    assert f"'{name}'" in ran.err
    assert not Path("runs/tiny-1.0").exists()


def test_all_bad_data_sets_are_named_at_once(tiny_harness: Command) -> None:
    ran = tiny_harness("run", "tiny", "--suite", "bad")
    assert ran.code == 3
    assert all(f"'{name}'" in ran.err for name in ("palette", "wrong_label", "short", "long", "raising"))


def test_over_budget_is_refused_unless_allowed_and_marked(tiny_harness: Command) -> None:
    refused = tiny_harness("run", "big", "--dataset", "dots")
    assert refused.code == 1
    assert "big has 2,072 trainable parameters at 4 classes; the limit is 390" in refused.err
    assert not Path("runs/tiny-1.0").exists()
    mixed = tiny_harness("run", "big", "tiny", "gentle", "--format", "json")
    assert mixed.code == 1
    assert states(mixed)["big/dots/0"] == "failed"
    assert states(mixed)["tiny/dots/0"] == "done"
    allowed = tiny_harness("run", "big", "--allow-over-budget", "--format", "json")
    assert allowed.code == 0
    assert {row["over_budget"] for row in allowed.rows} == {True}
    board = tiny_harness("leaderboard", "--format", "json")
    assert {row["model"] for row in board.rows} == {"tiny", "gentle"}
    assert "Left out, over the budget: big" in board.err


def test_check_budget(tiny_harness: Command) -> None:
    within = tiny_harness("check-budget", "tiny", "--format", "json")
    assert within.code == 0
    assert list(within.rows[0])[:6] == ["model", "parameters", "macs", "budget", "tolerance", "verdict"]
    assert within.rows[0]["parameters"] == {"4": 268}
    assert within.rows[0]["verdict"] == "within"
    assert tiny_harness("check-budget", "big").code == 1
    misshapen = tiny_harness("check-budget", "misshapen", "tiny")
    assert misshapen.code == 1
    assert "expected one float32 tensor of shape (2, 4)" in misshapen.err
    assert "within" in misshapen.out


def test_damaged_result_is_set_aside_redone_and_reported(tiny_harness: Command) -> None:
    first = tiny_harness("run", "tiny", "--dataset", "dots", "--format", "json")
    (CELL / "result.json").write_text("{")
    status = tiny_harness("status", "tiny", "--dataset", "dots", "--format", "json")
    assert status.rows[0]["state"] == "stale"
    assert "result.json is damaged" in status.rows[0]["detail"]
    ran = tiny_harness("run", "tiny", "--dataset", "dots", "--format", "json")
    assert ran.rows[0]["accuracy"] == first.rows[0]["accuracy"]
    assert "set aside" in ran.err
    (aside,) = (CELL.parent / "set-aside").iterdir()
    assert (aside / "result.json").read_text() == "{"


def test_damaged_checkpoint_is_set_aside_and_job_restarted(tiny_harness: Command) -> None:
    first = tiny_harness("run", "tiny", "--dataset", "dots", "--format", "json")
    hash_ = read_result(CELL)["weights_sha256"]
    (CELL / "result.json").unlink()
    (CELL / "checkpoint.pt").write_bytes(b"PK nonsense")
    ran = tiny_harness("run", "tiny", "--dataset", "dots", "--format", "json")
    assert ran.rows[0]["accuracy"] == first.rows[0]["accuracy"]
    assert "checkpoint was damaged and set aside" in ran.err
    result = read_result(CELL)
    assert result["weights_sha256"] == hash_
    assert "damaged" in result["notes"][0]
    assert len((CELL / "history.jsonl").read_text().splitlines()) == 3
    (aside,) = (CELL.parent / "set-aside").iterdir()
    assert aside.read_bytes() == b"PK nonsense"


def test_stale_result_is_set_aside_never_used_never_deleted(tiny_harness: Command, tmp_path: Path) -> None:
    tiny_harness("run", "tiny", "tiny2")
    other = tmp_path / "other.toml"
    other.write_text(TINY_REGISTRY.read_text().replace("label_smoothing = 0.05", "label_smoothing = 0.1"))
    options = ("--registry", str(other), "--format", "json")
    from harness.cli import run_command

    status = tiny_harness("status", "tiny", "--dataset", "dots", "--format", "json")
    assert status.rows[0]["state"] == "done"
    result = (CELL / "result.json").read_bytes()
    assert run_command(["run", "tiny", "--dataset", "dots", *options]) == 0
    (aside,) = (CELL.parent / "set-aside").iterdir()
    assert (aside / "result.json").read_bytes() == result
    status = tiny_harness("status", "tiny", "--dataset", "dots", "--format", "json")
    assert status.rows[0]["state"] == "stale"
    board = tiny_harness("leaderboard", "--format", "json")
    assert "1 stale result is not counted" in board.err
    # Only tiny2 is complete now, and one model has no extrema to be normalised by.
    assert board.code == 3
    assert "found 1 with a result on every data set, expected at least 2" in board.err


def test_job_that_another_process_works_on_is_left_alone(tiny_harness: Command) -> None:
    CELL.mkdir(parents=True)
    with FileLock(CELL.parent / ".seed-0.lock"):
        status = tiny_harness("status", "tiny", "--dataset", "dots", "--format", "json")
        ran = tiny_harness("run", "tiny", "--dataset", "dots", "--format", "json")
    assert states(status) == {"tiny/dots/0": "running"}
    assert states(ran) == {"tiny/dots/0": "running"}
    assert "another process is working on it" in ran.rows[0]["detail"]
    assert ran.code == 0


@pytest.mark.parametrize("path", ["/proc/nowhere", "a-file/runs"])
def test_unwritable_runs_folder_is_a_sentence(path: str, tiny_harness: Command) -> None:
    Path("a-file").write_text("")
    ran = tiny_harness("run", "tiny", "--runs", path)
    assert ran.code == 3
    assert "Cannot write in" in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run",), "Which models? Name some"),
        (("run", "tiny", "--all"), "Name models or use --all, not both"),
        (("run", "tinny"), "no model named 'tinny'. Did you mean 'tiny'"),
        (("run", "tiny", "--suite", "tyny"), "no suite named 'tyny'. Did you mean 'tiny'"),
        (("run", "tiny", "--dataset", "dot"), "'dot' is not part of the suite 'tiny', which has dots, bars"),
        (("run", "tiny", "--protocol", "tiny"), "no protocol named 'tiny'. Did you mean 'tiny-1.0'"),
        (("run", "tiny", "--seeds", "0"), "--seeds"),
        (("run", "tiny", "--device", "gpu"), "no device 'gpu'"),
        (("run", "tiny", "--executor", "slrm"), "no executor named 'slrm'"),
        (("run", "tiny", "--jobs", "0"), "--jobs is '0', expected a number from 1 on, or auto"),
        (("run", "tiny", "--jobs", "2", "--in-process"), "--in-process trains one job at a time, but --jobs is 2"),
        (
            ("run", "tiny", "--jobs-per-gpu", "2", "--device", "cpu"),
            "--jobs-per-gpu does not apply to the device 'cpu'",
        ),
        (("run", "tiny", "--timeout", "soon"), "--timeout is 'soon', expected a duration such as 90"),
        (("run", "tiny", "--executor-option", "partition"), "expected KEY=VALUE"),
        (("run", "tiny", "--executor", "slurm", "--executor-option", "part=x"), "Did you mean 'partition'?"),
        (("run", "tiny", "--detach"), "--detach does not go with the executor 'local'"),
        (("run", "tiny", "--sweets", "x"), "No such option"),
        (("check-budget",), "Which models?"),
        (("leaderboard", "--lambda", "-1"), "Lambda is -1"),
        (("leaderboard", "--format", "xml"), "--format"),
        (("list", "model"), "model"),
    ],
)
def test_wrong_use_is_answered_with_a_sentence(arguments: tuple[str, ...], message: str, tiny_harness: Command) -> None:
    if arguments[0] == "leaderboard":
        tiny_harness("run", "tiny", "gentle")
    ran = tiny_harness(*arguments)
    assert ran.code == 2
    assert message in " ".join(ran.err.split())
    assert "Traceback" not in ran.err
    assert ran.out == ""


def test_unknown_command_gets_a_suggestion(harness: Command) -> None:
    ran = harness("leaderbord")
    assert ran.code == 2
    assert "Did you mean 'leaderboard'?" in ran.err


def test_protocol_for_an_accelerator_explains_its_cost_on_a_cpu(
    harness: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    ran = harness("run", "shufflenet", "--suite", "xscore7")
    assert ran.code == 3
    assert "No CUDA device was found" in ran.err
    # 7 data sets' whole batches of 32, times 100 epochs.
    assert "The 7 jobs of this plan train on 23,376,000 images" in ran.err
    assert "To train here, use --device cpu" in ran.err
    assert "harness run --all --suite pocket" in ran.err
    assert not list(Path("runs").iterdir())


def test_a_job_that_fails_again_for_the_same_reason_is_told(tiny_harness: Command) -> None:
    first = tiny_harness("run", "diverging", "--dataset", "dots")
    assert first.code == 1
    assert "as the last time" not in first.err
    second = tiny_harness("run", "diverging", "--dataset", "dots")
    assert second.code == 1
    assert "it failed for the same reason as the last time" in " ".join(second.err.split())


def test_a_model_whose_structure_never_repeats_is_told(install: Callable[..., Path], tiny_harness: Command) -> None:
    source = """
        import time
        from harness.api import ModelSpec, hookimpl

        def build(num_classes):
            from torch import nn
            class Tagged(nn.Flatten):
                def extra_repr(self):
                    return f"made={self.made}"
            flat = Tagged()
            flat.made = time.time_ns()
            return nn.Sequential(nn.AdaptiveAvgPool2d(4), flat, nn.Linear(48, num_classes))

        @hookimpl
        def harness_models():
            return [ModelSpec(name="tagged", build=build, paper="none")]
    """
    install("tagged", source)
    first = tiny_harness("run", "tagged", "--dataset", "dots")
    assert first.code == 0, first.err
    assert "no result of it will ever count" not in " ".join(first.err.split())
    second = tiny_harness("run", "tagged", "--dataset", "dots")
    assert "no result of it will ever count" in " ".join(second.err.split())
