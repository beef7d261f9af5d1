"""Thousands of results: the same answers as one by one, with one look at each file."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import models
from harness.api import Cell, Job
from harness.catalog import Catalog
from harness.fingerprint import Identity, hash_of, job_fingerprint
from harness.plan import Plan, Selection, build_plan
from harness.registry import Benchmark
from harness.results.grid import read_cell, read_grid
from harness.results.store import RunsFolder
from harness.workspace import Workspace
from harness.workspace.survey import survey_plan
from tests.support import Command

SEEDS = 500
PROTOCOL = "tiny-1.0"


@pytest.fixture
def plan(finished_runs: Path, tiny_benchmark: Benchmark, tiny_catalog: Catalog) -> Plan:
    return build_plan(tiny_benchmark, tiny_catalog, Selection(("tiny", "tiny2"), seeds=SEEDS))


@pytest.fixture
def workspace(many: RunsFolder, finished_runs: Path, tiny_benchmark: Benchmark, tiny_catalog: Catalog) -> Workspace:
    return Workspace(tiny_benchmark, tiny_catalog, many, finished_runs.parent / "data").with_fresh_models()


@pytest.fixture
def many(
    tmp_path: Path, finished_runs: Path, tiny_benchmark: Benchmark, tiny_catalog: Catalog, plan: Plan
) -> RunsFolder:
    """2,000 results: one that was really trained, with each job's models."""
    template = finished_runs / PROTOCOL / "tiny" / "dots" / "seed-0"
    content = json.loads((template / "result.json").read_text(encoding="utf-8"))
    runs = RunsFolder(tmp_path / "many runs")
    workspace = Workspace(tiny_benchmark, tiny_catalog, runs, finished_runs.parent / "data").with_fresh_models()
    for job in plan.jobs:
        content["job"] = {"protocol": PROTOCOL, "model": job.model, "dataset": job.dataset, "seed": job.seed}
        content["fingerprint"] = workspace.fingerprint(job)
        content["metrics"]["top1"] = 20.0 + job.seed % 50 + (30.0 if job.model == "tiny" else 0.0)
        folder = runs.of(job).path
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return runs


def change(runs: RunsFolder, job: Job, edit: Callable[[dict[str, Any]], object]) -> None:
    path = runs.of(job).result
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def spoil(runs: RunsFolder) -> dict[Job, str]:
    """Do to one result each what happens to results; return the states that these jobs must be told to be in."""
    jobs = [Job(PROTOCOL, "tiny", "dots", seed) for seed in range(3, 16)]
    content = runs.of(jobs[0]).result.read_bytes()
    runs.of(jobs[0]).result.write_bytes(content[:700])
    runs.of(jobs[1]).result.write_bytes(content.replace(b'"device": "cpu"', b'"device": "\xff\xfe"'))
    runs.of(jobs[2]).result.write_bytes(b"")
    change(runs, jobs[3], lambda c: c.update(schema=99))
    change(runs, jobs[4], lambda c: c.update(fingerprint="0" * 16))
    change(runs, jobs[5], lambda c: c.update(environment=7))
    runs.of(jobs[6]).result.unlink()
    (runs.of(jobs[6]).path / "error.txt").write_text("Traceback\n\nIt ran out of luck.\n")
    runs.of(jobs[7]).result.unlink()
    shutil.rmtree(runs.of(jobs[8]).path)
    change(runs, jobs[9], lambda c: c.update(notes=["seen in Zürich"]))
    change(runs, jobs[10], lambda c: c.update(notes=["long " * 20_000]))
    change(runs, jobs[11], lambda c: c.update(deviations=["batch_size was 7, expected 8"], over_budget=True))

    def age(content: dict[str, Any]) -> None:
        content["schema"] = 1
        for name in ("executed", "executed_digest", "deviations"):
            del content[name]

    change(runs, jobs[12], age)
    states = ["stale"] * 6 + ["failed", "missing", "missing"] + ["done"] * 4
    return dict(zip(jobs, states, strict=True))


def plain(cell: Cell) -> Cell:
    """A cell without what a brief result leaves out."""
    if cell.result is None:
        return cell
    values = {name: getattr(cell.result, name) for name in ("job", "fingerprint", "metrics", "notes", "deviations")}
    return replace(cell, result=values)  # type: ignore[arg-type]


@pytest.mark.parametrize("brief", [True, False])
def test_many_are_read_as_each_alone(many: RunsFolder, plan: Plan, workspace: Workspace, brief: bool) -> None:
    expected = spoil(many)
    cells = read_grid(many, plan.jobs, workspace.fingerprint, brief=brief)
    alone = [read_cell(many.of(job), workspace.fingerprint(job)) for job in plan.jobs]
    assert [cell.job for cell in cells] == list(plan.jobs)
    told = {cell.job: cell for cell in cells}
    assert {job: told[job].state for job in expected} == expected
    for found, careful in zip(cells, alone, strict=True):
        if not many.of(found.job).path.exists():
            assert (found.state, found.fingerprint) == ("missing", None)
        else:
            assert plain(found) == plain(careful)
            assert brief or found.result == careful.result


def test_brief_results_say_whether_they_are_comparable(many: RunsFolder, plan: Plan, workspace: Workspace) -> None:
    job = plan.jobs[0]
    change(many, job, lambda c: c["environment"].update(comparable=False))
    cell, other = read_grid(many, plan.jobs[:2], workspace.fingerprint, brief=True)
    assert cell.detail == "not comparable"
    assert other.detail == ""
    assert cell.result is not None
    assert cell.result.environment == {"comparable": False}


def test_status_counts_what_is_too_much_to_list(tiny_harness: Command, many: RunsFolder, tiny: None,
                                                finished_runs: Path) -> None:  # fmt: skip
    expected = spoil(many)
    where = ("tiny", "tiny2", "--runs", str(many.root), "--data", str(finished_runs.parent / "data"))
    ran = tiny_harness("status", *where)
    assert ran.code == 0
    lines = ran.out.splitlines()
    row = next(line.split() for line in lines if line.startswith("tiny ") and " dots " in line)
    # A folder that is gone is no job any more: its seed was not asked for.
    assert row[2:7] == ["491", "0", "1", "6", "1"]
    listed = [line for line in lines if "  stale" in line or "  failed" in line][-7:]
    assert len(listed) == 7
    assert "It ran out of luck." in ran.out
    assert "1,999 jobs are too many to list" in ran.err
    assert "1991 done" in ran.err
    rows = tiny_harness("status", *where, "--format", "json").rows
    assert len(rows) == 1999
    known = {(r["model"], r["dataset"], r["seed"]): r["state"] for r in rows}
    gone = Job(PROTOCOL, "tiny", "dots", 11)
    assert {job: known[job.model, job.dataset, job.seed] for job in expected if job != gone} == {
        job: state for job, state in expected.items() if job != gone
    }
    table = list(csv.DictReader(io.StringIO(tiny_harness("status", *where, "--format", "csv").out)))
    assert [(r["seed"], r["state"], r["detail"]) for r in table] == [
        (str(r["seed"]), r["state"], r["detail"]) for r in rows
    ]
    assert {r["accuracy"] for r in table if r["state"] != "done"} == {""}


def test_each_result_is_opened_once_and_no_other_file(
    many: RunsFolder, plan: Plan, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: Counter[str] = Counter()
    really = os.open

    def count(path: Any, *arguments: Any, **named: Any) -> int:
        opened[os.fspath(path)] += 1
        return really(path, *arguments, **named)

    survey_plan(workspace, replace(plan, jobs=plan.jobs[:1]))  # prepares the data sets and builds the models
    monkeypatch.setattr(os, "open", count)
    cells = survey_plan(workspace, plan, brief=True).cells
    assert {cell.state for cell in cells} == {"done"}
    mine = {path: number for path, number in opened.items() if path.startswith(str(many.root))}
    assert mine == {str(many.of(job).result): 1 for job in plan.jobs}


def test_sources_of_plugins_are_looked_at_once_a_command(
    tiny_harness: Command, many: RunsFolder, finished_runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    really = models.source_stamp

    def count(spec: Any) -> list[object]:
        looks.append(spec.name)
        return really(spec)

    monkeypatch.setattr(models, "source_stamp", count)
    where = ("--runs", str(many.root), "--data", str(finished_runs.parent / "data"))
    assert tiny_harness("status", "tiny", "tiny2", *where).code == 0
    assert 1 <= len(looks) <= 2


def test_leaderboard_over_many_seeds(tiny_harness: Command, many: RunsFolder, plan: Plan, finished_runs: Path) -> None:
    where = ("--runs", str(many.root), "--data", str(finished_runs.parent / "data"), "--format", "json")
    rows = tiny_harness("leaderboard", *where).rows
    assert [row["model"] for row in rows] == ["tiny", "tiny2"]
    seeds = range(SEEDS)
    mean = sum(20.0 + seed % 50 for seed in seeds) / SEEDS
    assert rows[1]["accuracy"]["dots"] == pytest.approx(mean)
    assert rows[0]["accuracy"]["bars"] == pytest.approx(mean + 30)
    assert rows[0]["seeds"] == {"dots": SEEDS, "bars": SEEDS}


def test_fingerprint_of_a_seed_is_that_of_the_whole(
    plan: Plan, workspace: Workspace, tiny_catalog: Catalog, finished_runs: Path
) -> None:
    model = tiny_catalog.model("tiny")
    for seed in (0, 7, 12345):
        job = Job(PROTOCOL, "tiny", "dots", seed)
        asked: dict[str, Any] = {"architecture": "a" * 16, "lr_max": 0.01, "data": "d" * 16}
        whole = {
            "protocol": plan.protocol.digest,
            "model": ["tiny", model.owner.distribution, model.owner.version, asked["architecture"], asked["lr_max"]],
            "dataset": ["dots", asked["data"]],
            "seed": seed,
        }
        assert job_fingerprint(job, Identity(protocol=plan.protocol, model=model, **asked)) == hash_of(whole)
    result = RunsFolder(finished_runs).of(Job(PROTOCOL, "tiny", "dots", 0)).read_result()
    assert result is not None
    assert workspace.fingerprint(result.job) == result.fingerprint


def test_jobs_on_disk_are_told_in_order(many: RunsFolder) -> None:
    cell = many.root / PROTOCOL / "tiny" / "dots"
    (cell / "seed-x").mkdir()
    (cell / "seed-77777").write_text("a file")
    (cell / "set-aside").mkdir()
    found = list(many.jobs(PROTOCOL))
    assert len(found) == 4 * SEEDS
    assert [str(many.of(job).path) for job in found] == sorted(str(many.of(job).path) for job in found)
    assert list(many.jobs("no-such-protocol")) == []
