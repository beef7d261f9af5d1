"""Files of commit f6f7df7 (tests/files/f6f7df7/README.md) are listed, verified, merged and resumed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.support import FILES, TINY_REGISTRY, Command, Ran, cell_folder, read_result

OLD = FILES / "f6f7df7"
SHORT = "short-48706837"


@pytest.fixture
def old_harness(harness: Command, tiny: None) -> Iterator[Command]:
    """The command line with the tiny plugin and the old tiny registry."""
    threads = torch.get_num_threads()
    yield lambda *arguments: harness(*arguments, "--registry", str(OLD / "tiny.toml"))
    torch.set_num_threads(threads)  # a run in this process sets the number of threads


@pytest.fixture
def finished(old_harness: Command) -> Command:
    """The finished runs in ``runs``, and the command line."""
    shutil.copytree(OLD / "finished", "runs")
    return old_harness


def states(ran: Ran) -> dict[str, str]:
    return {f"{row['model']}/{row['dataset']}": row["state"] for row in ran.rows}


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file by its path, locks left out."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def environment(runs: str | Path) -> tuple[str, str, int]:
    """The parts of a run's environment that its bits depend on."""
    found = read_result(cell_folder(runs=runs))["environment"]
    return found["device_name"], found["versions"]["torch"], found["threads"]


# ------------------------------------------------------------------------------------------------------- registries


@pytest.mark.parametrize(("old", "new"), [("registry.toml", None), ("tiny.toml", TINY_REGISTRY)])
def test_old_registry_loads_with_the_same_protocols_and_suites(
    old: str, new: Path | None, harness: Command, tiny: None
) -> None:
    now = ("--registry", str(new)) if new else ()
    for kind, keys in (("protocols", ("digest",)), ("suites", ("protocol", "datasets", "anchors"))):
        then = harness("list", kind, "--registry", str(OLD / old), "--format", "json")
        assert then.code == 0
        today = {row["name"]: row for row in harness("list", kind, *now, "--format", "json").rows}
        assert then.rows
        for row in then.rows:
            assert [today[row["name"]][key] for key in keys] == [row[key] for key in keys]


def test_old_registry_holds_its_budget(harness: Command, old_harness: Command) -> None:
    ran = harness("check-budget", "shufflenet", "--registry", str(OLD / "registry.toml"), "--format", "json")
    assert ran.code == 0
    assert set(ran.rows[0]["parameters"]) == {"7", "10", "67", "100", "120"}
    assert (ran.rows[0]["budget"], ran.rows[0]["tolerance"]) == (2_500_000, 0.1)
    tiny = old_harness("check-budget", "tiny", "--format", "json")
    assert tiny.rows[0]["parameters"] == {"4": 268}
    assert (tiny.rows[0]["budget"], tiny.rows[0]["tolerance"], tiny.rows[0]["verdict"]) == (300, 0.3, "within")


# ------------------------------------------------------------------------------------------------------------- runs


@pytest.mark.parametrize("registry", [OLD / "tiny.toml", TINY_REGISTRY])
def test_old_runs_are_done_and_stay_as_they_are(registry: Path, harness: Command, tiny: None) -> None:
    shutil.copytree(OLD / "finished", "runs")
    options = ("tiny", "tiny2", "--registry", str(registry), "--format", "json")
    status = harness("status", "diverging", *options)
    expected = {"tiny/dots": "done", "tiny/bars": "done", "tiny2/dots": "done", "tiny2/bars": "missing"}
    assert states(status) == expected | {"diverging/dots": "failed", "diverging/bars": "missing"}
    ran = harness("run", "--dataset", "dots", *options)
    assert states(ran) == {"tiny/dots": "done", "tiny2/dots": "done"}
    assert "0 carried out by this command" in ran.err
    assert contents(Path("runs")) == contents(OLD / "finished")


def test_old_runs_are_verified_and_repeated_from_their_spares(finished: Command) -> None:
    ran = finished("verify", "runs", "--replay", "--format", "json")
    assert ran.code == 0
    assert {row["run"] for row in ran.rows} == {
        f"runs/tiny-1.0/{name}/seed-0" for name in ("tiny/dots", "tiny/bars", "tiny2/dots")
    }
    replays = [row for row in ran.rows if row["check"] == "replay"]
    assert len(replays) == 3
    # The spare is the end of the second epoch, and holds packed tensors.
    assert all("from epoch 3, step 1 to the end" in row["detail"] for row in replays)


def test_old_profile_is_shown(finished: Command) -> None:
    ran = finished("run", "tiny2", "--dataset", "dots", "--profile")
    assert ran.code == 0
    assert "0 carried out by this command" in ran.err
    assert "tiny2  dots" in ran.err.partition("Time by phase")[2]


def test_old_bundle_is_merged_and_counts(finished: Command, harness: Command) -> None:
    merged = harness("merge", str(OLD / "bundle.zip"), "--runs", "runs", "--format", "json")
    assert merged.code == 0
    assert [row["outcome"] for row in merged.rows] == ["merged"] * 3
    assert states(finished("status", "gentle", "--format", "json")) == {"gentle/dots": "done", "gentle/bars": "done"}
    own = finished("status", "gentle", "--protocol", SHORT, "--format", "json")
    assert states(own) == {"gentle/dots": "done", "gentle/bars": "missing"}
    board = finished("leaderboard", "--format", "json")
    assert board.code == 0
    assert {row["model"]: row["accuracy"].get("dots") for row in board.rows} == {
        "tiny": 82.5, "gentle": 25.0, "tiny2": 90.0
    }  # fmt: skip
    again = harness("merge", str(OLD / "bundle.zip"), "--runs", "runs", "--format", "json")
    assert {row["outcome"] for row in again.rows} == {"identical"}


def test_old_bundle_is_verified(old_harness: Command) -> None:
    ran = old_harness("verify", str(OLD / "bundle.zip"), "--format", "json")
    assert ran.code == 0
    assert {row["run"].rpartition(":")[2] for row in ran.rows} == {
        "tiny-1.0/gentle/dots/seed-0", "tiny-1.0/gentle/bars/seed-0", f"{SHORT}/gentle/dots/seed-0"
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------------- half-way run


@pytest.mark.parametrize(("damaged", "position"), [(False, (1, 5)), (True, (1, 0))])
def test_half_way_run_is_resumed_to_the_weights_of_an_uninterrupted_run(
    damaged: bool, position: tuple[int, int], old_harness: Command
) -> None:
    shutil.copytree(OLD / "half-way", "runs")
    if damaged:  # the spare, the end of the first epoch, then takes the place of the checkpoint
        (cell_folder() / "checkpoint.pt").write_bytes(b"PK nonsense")
    for runs in ("runs", "whole"):
        arguments = ("run", "tiny", "--dataset", "dots", "--in-process", "--threads", "1")
        assert old_harness(*arguments, "--runs", runs).code == 0
    resumed, whole, stored = (read_result(cell_folder(runs=runs)) for runs in ("runs", "whole", OLD / "finished"))
    assert [(entry["epoch"], entry["step"]) for entry in resumed["interruptions"]] == [position]
    assert whole["interruptions"] == []
    assert resumed["executed"] == whole["executed"]
    assert resumed["deviations"] == []
    assert old_harness("verify", "runs").code == 0
    if whole["weights_sha256"] == stored["weights_sha256"]:
        assert resumed["weights_sha256"] == whole["weights_sha256"]
    else:
        # The stored steps were rounded by another kind of processor than this one, or by another torch.
        assert environment("whole") != environment(OLD / "finished")
        ends = [torch.load(cell_folder(runs=runs) / "checkpoint.pt")["weights"] for runs in ("runs", "whole")]
        torch.testing.assert_close(*ends, rtol=1e-3, atol=1e-4)
