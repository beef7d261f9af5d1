"""The place of a job in a runs folder, and the way back from a place to its job."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from harness.api import Job
from harness.errors import JobLockedError
from harness.results.store import RunsFolder, job_at, job_place
from harness.verify.runs import find_runs

JOB = Job("pocket-1.0", "starnet", "pocket_digits", 12)


def test_job_is_found_again_from_its_place(tmp_path: Path) -> None:
    assert job_place(JOB) == ("pocket-1.0", "starnet", "pocket_digits", "seed-12")
    assert job_at(job_place(JOB)) == JOB
    runs = RunsFolder(tmp_path)
    assert runs.of(JOB).path == tmp_path / "pocket-1.0" / "starnet" / "pocket_digits" / "seed-12"
    runs.of(JOB).path.mkdir(parents=True)
    assert list(runs.jobs("pocket-1.0")) == [JOB]


@pytest.mark.parametrize(
    "place",
    [
        ("starnet", "pocket_digits", "seed-1"),
        ("runs", "pocket-1.0", "starnet", "pocket_digits", "seed-1"),
        *(("pocket-1.0", "starnet", "dots", name) for name in ("seed-", "seed-x", "seed--1", "set-aside", "seed-1 ")),
        ("pocket-1.0", "starnet", "dots", "seed-" + "9" * 5000),
        ("pocket-1.0@", "starnet", "dots", "seed-1"),
        ("pocket-1.0@2.5M", "starnet", "dots", "seed-1"),
    ],
)
def test_other_places_belong_to_no_job(place: tuple[str, ...]) -> None:
    assert job_at(place) is None


def test_job_as_a_dictionary_has_its_five_values() -> None:
    four = {"protocol": "pocket-1.0", "model": "starnet", "dataset": "pocket_digits", "seed": 12}
    assert JOB.as_dict() == four | {"budget": "2.5M"}
    assert Job(**JOB.as_dict()) == JOB  # type: ignore[arg-type]


def test_jobs_of_another_budget_lie_in_a_folder_of_their_own(tmp_path: Path) -> None:
    larger = replace(JOB, budget="5M")
    assert job_place(larger) == ("pocket-1.0@5M", "starnet", "pocket_digits", "seed-12")
    assert job_at(job_place(larger)) == larger
    assert str(larger) == "starnet on pocket_digits, seed 12, budget 5M"
    runs = RunsFolder(tmp_path)
    for job in (JOB, larger):
        runs.of(job).path.mkdir(parents=True)
    assert list(runs.jobs("pocket-1.0")) == [JOB]
    assert list(runs.jobs("pocket-1.0", "5M")) == [larger]
    assert list(runs.all_jobs()) == [JOB, larger]
    assert runs.budgets("pocket-1.0") == ["2.5M", "5M"]
    assert runs.budgets("pocket") == []


def test_runs_are_found_below_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunsFolder(tmp_path).of(JOB)
    folder.path.mkdir(parents=True)
    folder.result.write_text("{}")
    monkeypatch.chdir(tmp_path / "pocket-1.0" / "starnet")
    ((label, found),) = find_runs(Path("pocket_digits"))
    assert (Path(label), found.job) == (Path("pocket_digits/seed-12"), JOB)


def test_a_job_is_locked_where_the_file_system_has_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    folder = RunsFolder(tmp_path).of(JOB)
    assert not folder.is_locked()
    lock = folder.acquire()
    assert folder.is_locked()
    with pytest.raises(JobLockedError, match=r"this file system has no locks, and .*seed-12\.held names the process"):
        folder.acquire()
    lock.release()
    assert not folder.is_locked()
    folder.acquire().release()
