"""The place of a job in a runs folder, and the way back from a place to its job."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.api import Job
from harness.results.store import RunsFolder, job_at, job_place
from harness.verify.verify import find_runs

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
    ],
)
def test_other_places_belong_to_no_job(place: tuple[str, ...]) -> None:
    assert job_at(place) is None


def test_job_as_a_dictionary_has_its_four_values() -> None:
    assert JOB.as_dict() == {"protocol": "pocket-1.0", "model": "starnet", "dataset": "pocket_digits", "seed": 12}
    assert Job(**JOB.as_dict()) == JOB  # type: ignore[arg-type]


def test_runs_are_found_below_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunsFolder(tmp_path).of(JOB)
    folder.path.mkdir(parents=True)
    folder.result.write_text("{}")
    monkeypatch.chdir(tmp_path / "pocket-1.0" / "starnet")
    ((label, found),) = find_runs(Path("pocket_digits"))
    assert (Path(label), found.job) == (Path("pocket_digits/seed-12"), JOB)
