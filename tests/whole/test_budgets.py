"""Jobs and results of two budgets side by side: each command looks at one and names the other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import Ran

Command = Callable[..., Ran]
CELL = Path("tiny/dots/seed-0")
LARGE = ("--budget", "5M")


@pytest.fixture
def both(tiny_harness: Command) -> Command:
    """The command line, with two models trained at the standard budget and three at 5M."""
    assert tiny_harness("run", "tiny", "gentle").code == 0
    assert tiny_harness("run", "big", "tiny", "tiny2", *LARGE).code == 0
    return tiny_harness


def models(ran: Ran) -> set[str]:
    return {row["model"] for row in ran.rows}


def result(folder: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(folder) / CELL / "result.json").read_text())
    return content


def files(folder: Path) -> Iterator[tuple[str, bytes]]:
    return ((str(path), path.read_bytes()) for path in sorted(folder.rglob("*")) if path.is_file())


# ------------------------------------------------------------------------------------------------ before any training


def test_check_budget_judges_by_the_named_budget(tiny_harness: Command) -> None:
    assert tiny_harness("check-budget", "big").code == 1
    ran = tiny_harness("check-budget", "big", *LARGE, "--format", "json")
    assert ran.code == 0
    (row,) = ran.rows
    assert (row["budget"], row["budget_name"], row["limit"], row["verdict"]) == (2000, "5M", 2600, "within")
    standard = tiny_harness("check-budget", "tiny", "--format", "json")
    assert (standard.rows[0]["budget"], standard.rows[0]["budget_name"]) == (300, "2.5M")


def test_run_refuses_by_the_named_budget(tiny_harness: Command) -> None:
    refused = tiny_harness("run", "big", "--dataset", "dots")
    assert refused.code == 1
    assert "the limit is 390 (budget 2.5M: 300 + 30%)" in refused.err
    assert "Would be refused" not in tiny_harness("plan", "big", "--quick", *LARGE).err
    allowed = tiny_harness("run", "big", "--dataset", "dots", *LARGE, "--format", "json")
    assert allowed.code == 0
    assert [(row["budget"], row["over_budget"]) for row in allowed.rows] == [("5M", False)]


@pytest.mark.parametrize(
    "command",
    [
        ("check-budget", "tiny"), ("plan", "tiny"), ("run", "tiny"), ("status",), ("leaderboard",), ("score",),
        ("select",), ("patterns", "--suite", "tiny"), ("report", "page.html"), ("bundle", "--all", "-o", "one.zip"),
    ],
    ids=lambda command: command[0],
)  # fmt: skip
def test_unknown_budget_is_refused_with_the_known_ones(command: tuple[str, ...], tiny_harness: Command) -> None:
    ran = tiny_harness(*command, "--budget", "55M")
    assert ran.code == 2
    assert "There is no budget named '55M'. Did you mean '5M'? Known: 2.5M, 5M." in ran.err


@pytest.mark.parametrize(
    "command",
    [
        ("leaderboard", "--published"),
        ("report", "page.html", "--published"),
        ("select", "--published"),
        ("select", "--accuracies", "mine.csv"),
        ("score", "--accuracies", "mine.csv"),
        ("patterns",),
    ],
    ids=" ".join,
)
def test_numbers_from_elsewhere_take_no_budget(command: tuple[str, ...], harness: Command) -> None:
    ran = harness(*command, *LARGE)
    assert ran.code == 2
    assert "leave --budget out" in ran.err


def test_lists_show_budgets(tiny_harness: Command) -> None:
    budgets = tiny_harness("list", "budgets", "--format", "json").rows
    assert [(row["name"], row["parameters"], row["least"], row["most"]) for row in budgets] == [
        ("2.5M", 300, 210, 390),
        ("5M", 2000, 1400, 2600),
    ]
    assert [row["suites"] for row in budgets] == [["tiny", "bad"], []]
    assert {row["budget"] for row in tiny_harness("list", "suites", "--format", "json").rows} == {"2.5M"}


# ------------------------------------------------------------------------------------------------------------- results


def test_budgets_have_one_result_each(both: Command) -> None:
    small, large = result("runs/tiny-1.0"), result("runs/tiny-1.0@5M")
    assert (small["job"]["budget"], large["job"]["budget"]) == ("2.5M", "5M")
    assert small["fingerprint"] != large["fingerprint"]
    assert small["weights_sha256"] == large["weights_sha256"]
    assert not list(Path("runs").rglob("set-aside"))
    for option, found in (((), {"tiny", "gentle"}), (LARGE, {"big", "tiny", "tiny2"})):
        ran = both("status", *option, "--format", "json")
        assert {row["model"] for row in ran.rows if row["state"] == "done"} == found
        assert "stale" not in {row["state"] for row in ran.rows}
        again = both("run", *found, *option)
        assert "0 carried out by this command" in again.err


def test_no_table_holds_two_budgets(both: Command) -> None:
    for command in ("leaderboard", "score"):
        small = both(command, "--format", "json")
        assert (models(small), {row["budget"] for row in small.rows}) == ({"tiny", "gentle"}, {"2.5M"})
        assert "Budget: 2.5M (300 trainable parameters, plus or minus 30%)." in small.err
        assert "Results of other budgets are left out: 5M. --budget shows them." in small.err
        large = both(command, *LARGE, "--format", "json")
        assert (models(large), {row["budget"] for row in large.rows}) == ({"big", "tiny", "tiny2"}, {"5M"})
        assert "Budget: 5M (2,000 trainable parameters" in large.err
        assert "left out: 2.5M" in large.err
    assert "xScore (5M)" in both("leaderboard", *LARGE, "--format", "markdown").out
    assert "xScore (" not in both("leaderboard", "--format", "markdown").out
    for command in (("status",), ("plan", "tiny", "--quick")):
        assert "left out: 5M" in both(*command).err
        assert "left out: 2.5M" in both(*command, *LARGE).err


def test_select_patterns_and_report_look_at_the_named_budget(both: Command) -> None:
    chosen = both("select", "--size", "1", *LARGE, "--resamples", "10")
    assert "Budget: 5M" in chosen.err, chosen.err
    assert both("run", "gentle", *LARGE).code == 0  # the fourth, which an association needs
    associated = both("patterns", "big", "tiny", "tiny2", "gentle", "--suite", "tiny", *LARGE, "--association")
    assert "at the budget 5M" in associated.err + associated.out
    pytest.importorskip("altair")
    for option, budget, shown in (((), "2.5M (300", False), (LARGE, "5M (2,000", True)):
        assert both("report", "page.html", *option, "--no-patterns").code == 0
        page = Path("page.html").read_text(encoding="utf-8")
        assert f"{budget} trainable parameters, plus or minus 30%)" in page
        assert ("tiny2" in page) == shown


def test_nothing_finished_at_a_budget_is_an_error_that_names_it(tiny_harness: Command) -> None:
    assert tiny_harness("run", "tiny").code == 0
    for command in (("leaderboard",), ("report", "page.html")):
        ran = tiny_harness(*command, *LARGE)
        assert ran.code == 3
        assert "left out: 2.5M" in ran.err
        assert "harness run --all --suite tiny --budget 5M" in ran.err


def test_anchors_belong_to_a_budget(both: Command) -> None:
    assert both("score", *LARGE, "--make-anchors", "large").code == 0
    assert both("score", *LARGE, "--anchors", "large").code == 0
    refused = both("score", "--anchors", "large")
    assert refused.code == 2
    assert "were measured at the budget 5M, and these results at 2.5M" in refused.err


def test_verify_judges_by_the_budget_of_the_run(both: Command, tmp_path: Path) -> None:
    ran = both("verify", "runs", "--format", "json")
    assert ran.code == 0
    expected = {row["run"]: row["expected"] for row in ran.rows if row["check"] == "budget"}
    assert len(expected) == 10
    assert expected["runs/tiny-1.0/tiny/dots/seed-0"] == "at most 390"
    assert expected["runs/tiny-1.0@5M/big/dots/seed-0"] == "at most 2,600"
    Path("runs/tiny-1.0@5M").rename("runs/tiny-1.0@7M")
    moved = both("verify", "runs/tiny-1.0@7M/big/dots/seed-0", "--format", "json")
    assert moved.code == 0  # a folder that is named alone may lie anywhere
    whole = both("verify", "runs", "--format", "json")
    assert whole.code == 1
    assert {row["check"] for row in whole.rows if row["verdict"] == "failed"} == {"job"}


def test_a_budget_that_the_registry_lacks_is_not_checked(both: Command, harness: Command, tmp_path: Path) -> None:
    from tests.conftest import TINY_REGISTRY

    other = tmp_path / "other.toml"
    lines = TINY_REGISTRY.read_text().splitlines(keepends=True)
    other.write_text("".join(line for line in lines if not line.startswith('"5M"')))
    ran = harness("verify", "runs/tiny-1.0@5M/big/dots/seed-0", "--registry", str(other), "--format", "json")
    assert ran.code == 0
    (row,) = (row for row in ran.rows if row["check"] == "budget")
    assert (row["verdict"], "no budget named '5M'" in row["detail"]) == ("skipped", True)


def test_bundles_carry_both_budgets_apart(both: Command, harness: Command) -> None:
    assert both("bundle", "--all", "-o", "all.zip").code == 0
    merged = harness("merge", "all.zip", "--runs", "elsewhere", "--format", "json")
    assert merged.code == 0
    assert {(row["model"], row["budget"]) for row in merged.rows} == {
        ("tiny", "2.5M"), ("gentle", "2.5M"), ("tiny", "5M"), ("tiny2", "5M"), ("big", "5M")
    }  # fmt: skip
    here, there = (
        {name.partition("tiny-1.0")[2]: content for name, content in files(Path(runs)) if not name.endswith(".lock")}
        for runs in ("runs", "elsewhere")
    )
    assert there == {name: content for name, content in here.items() if "set-aside" not in name}
    assert {row["outcome"] for row in harness("merge", "runs", "--runs", "elsewhere", "--format", "json").rows} == {
        "identical"
    }
    some = both("bundle", "--all", "--suite", "tiny", *LARGE, "-o", "some.zip", "--format", "json")
    assert {(row["model"], row["budget"]) for row in some.rows} == {("tiny", "5M"), ("tiny2", "5M"), ("big", "5M")}
    standard = both("bundle", "--all", "--suite", "tiny", "-o", "standard.zip", "--format", "json")
    assert {(row["model"], row["budget"]) for row in standard.rows} == {("tiny", "2.5M"), ("gentle", "2.5M")}
    assert both("verify", "some.zip").code == 0


def test_a_protocol_of_ones_own_goes_with_any_budget(tiny_harness: Command, harness: Command) -> None:
    Path("short.toml").write_text('name = "short"\nbased_on = "tiny-1.0"\nepochs = 2\n')
    options = ("big", "--dataset", "dots", "--protocol", "short.toml", *LARGE)
    assert tiny_harness("run", *options).code == 0
    (kept,) = Path("runs").glob("*/protocol.json")
    assert "@" not in kept.parent.name
    folder = f"{kept.parent}@5M/big/dots/seed-0"
    assert Path(folder, "result.json").is_file()
    assert tiny_harness("verify", folder).code == 0
    assert tiny_harness("bundle", "--all", "-o", "one.zip").code == 0
    assert harness("merge", "one.zip", "--runs", "elsewhere").code == 0
    assert Path("elsewhere", kept.parent.name, "protocol.json").is_file()
    status = tiny_harness("status", *options, "--runs", "elsewhere", "--format", "json")
    assert [row["state"] for row in status.rows] == ["done"]


def test_a_suite_may_name_another_budget_as_its_own(tiny_harness: Command, harness: Command, tmp_path: Path) -> None:
    from tests.conftest import TINY_REGISTRY

    other = tmp_path / "other.toml"
    other.write_text(TINY_REGISTRY.read_text().replace("[suites.tiny]", '[suites.tiny]\nbudget = "5M"'))
    ran = harness("run", "big", "--dataset", "dots", "--registry", str(other), "--format", "json")
    assert [(row["state"], row["budget"]) for row in ran.rows] == [("done", "5M")]
    assert Path("runs/tiny-1.0@5M/big/dots/seed-0/result.json").is_file()
    status = tiny_harness("status", "big", "--dataset", "dots", *LARGE, "--format", "json")
    assert [row["state"] for row in status.rows] == ["done"]


def test_worker_processes_train_at_the_named_budget(tiny_harness: Command) -> None:
    ran = tiny_harness("run", "big", "tiny", "--dataset", "dots", "--jobs", "2", *LARGE, "--format", "json")
    assert ran.code == 0
    assert [(row["state"], row["budget"]) for row in ran.rows] == [("done", "5M")] * 2
    assert not Path("runs/tiny-1.0").exists()
