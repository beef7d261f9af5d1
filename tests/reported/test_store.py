"""Reported: prepared data was lost, stale, half-written, or in the way of other people's files."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.reported.conftest import Bench

SETS = """
import csv, os, time
from pathlib import Path
from harness.api import DatasetSpec, Source, hookimpl

BASE = Path(os.environ.get("SETS_BASE", "nowhere"))

def table(folder, split):
    for row in csv.DictReader((folder / "labels.csv").open()):
        if row["split"] == split:
            yield folder / row["file"], int(row["label"])

def here(folder, split):
    return table(BASE / "birds", split)

def given(folder, split):
    return table(folder / "birds", split)

def drawn(folder, split):
    from PIL import Image
    for i in range(40 if split == "train" else 20):
        if split == "train" and i == 10:
            time.sleep(float(os.environ.get("SETS_SLEEP", 0)))
        yield Image.effect_noise((20, 20), 40 + i).convert("RGB"), i % 3

common = dict(title="Birds", classes=("a", "b", "c"), splits={"train": 40, "test": 20},
              licence="CC0", citation="nobody")

@hookimpl
def harness_datasets():
    archive = Source(filename="birds.zip", urls=(), gives=("birds",))
    return [DatasetSpec(name="birds", read=here, **common), DatasetSpec(name="drawn", read=drawn, **common),
            DatasetSpec(name="birds_given", read=given, sources=(archive,), **common),
            DatasetSpec(name="birds_folder", read=given, **common)]
"""
NO_LOCKS = """
import errno, fcntl, os

def refuse(descriptor, operation):
    if number := int(os.environ["FLOCK_ERRNO"]):
        raise OSError(number, "no locks here")

if "FLOCK_ERRNO" in os.environ:
    fcntl.flock = refuse
"""


@pytest.fixture
def sets(bench: Bench) -> Bench:
    """The bench with four data sets of 60 images: one found by itself, one drawn, two that --from gives."""
    from PIL import Image

    bench.put("sets", SETS)
    folder = bench.folder / "files" / "birds"
    folder.mkdir(parents=True)
    for i in range(60):
        Image.effect_noise((20, 20), 40 + i).convert("RGB").save(folder / f"{i:02}.png")
    write_table(folder, [i % 3 for i in range(60)])
    return bench


def write_table(folder: Path, labels: list[int]) -> None:
    with (folder / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "label", "split"])
        rows.writerows([f"{i:02}.png", label, "train" if i < 40 else "test"] for i, label in enumerate(labels))


def labels_of(bench: Bench, dataset: str) -> list[int]:
    found = np.load(bench.folder / "data" / dataset / "native" / "test.labels.npy")
    return [int(label) for label in found]


def base(bench: Bench) -> str:
    return str(bench.folder / "files")


def test_removing_leaves_files_that_somebody_else_put_beside_the_store(sets: Bench) -> None:
    assert sets.harness("prepare", "drawn").code == 0
    home = sets.folder / "data" / "drawn"
    (home / "my_runs").mkdir()
    for file in (home / "notes.txt", home / "my_runs" / "model.pt", home / "native" / "remarks.txt"):
        file.write_text("two days of work")
    ran = sets.harness("prepare", "drawn", "--remove")
    assert ran.code == 0
    assert "since the harness did not write them: my_runs, native, notes.txt" in ran.err
    left = sorted(str(file.relative_to(home)) for file in home.rglob("*") if file.is_file())
    assert left == ["my_runs/model.pt", "native/remarks.txt", "notes.txt"]


def test_a_folder_that_was_never_prepared_is_not_touched(sets: Bench) -> None:
    own = sets.folder / "data" / "drawn" / "native"
    own.mkdir(parents=True)
    (own / "0001.jpg").write_text("a photograph")
    ran = sets.harness("prepare", "drawn", "--remove")
    assert ran.code == 0
    assert "0.0 MB freed" in ran.err
    ran = sets.harness("prepare", "drawn")
    assert ran.code == 3
    assert f"{own} holds files that the harness did not write: 0001.jpg." in ran.err
    assert [one.name for one in own.iterdir()] == ["0001.jpg"]


def test_corrected_labels_are_prepared_again(sets: Bench) -> None:
    assert sets.harness("prepare", "birds", SETS_BASE=base(sets)).code == 0
    write_table(sets.folder / "files" / "birds", [2] * 60)
    verified = sets.harness("prepare", "birds", "--verify", SETS_BASE=base(sets))
    assert verified.code == 1
    assert "labels.csv has changed since the preparation" in verified.err
    for labels, command in (([2] * 60, "prepare"), ([1] * 60, "audit")):
        write_table(sets.folder / "files" / "birds", labels)
        ran = sets.harness(command, "birds", SETS_BASE=base(sets))
        assert ran.code == 0
        assert "labels.csv has changed since the preparation. It is prepared again" in ran.err
        assert labels_of(sets, "birds") == labels[:20]


def test_other_files_by_from_are_prepared_and_equal_ones_are_not(sets: Bench) -> None:
    files, corrected, copy = (sets.folder / name for name in ("files", "corrected", "copy"))
    assert sets.harness("prepare", "birds_given", "--from", files).code == 0
    before = (sets.folder / "data" / "birds_given" / "native" / "manifest.json").stat()
    shutil.copytree(files, copy)
    ran = sets.harness("prepare", "birds_given", "--from", copy)
    assert f"birds_given is prepared already, from files equal to those in {copy}." in ran.err
    assert (sets.folder / "data" / "birds_given" / "native" / "manifest.json").stat().st_mtime_ns == before.st_mtime_ns
    shutil.copytree(files, corrected)
    write_table(corrected / "birds", [1] * 60)
    ran = sets.harness("prepare", "birds_given", "--from", corrected)
    assert ran.code == 0
    assert f"{corrected} has no equal birds/labels.csv" in ran.err
    assert labels_of(sets, "birds_given") == [1] * 20


def test_a_run_refuses_arrays_of_files_that_have_changed_and_names_the_file(sets: Bench) -> None:
    files = sets.folder / "files"
    assert sets.harness("prepare", "birds_given", "--from", files).code == 0
    shutil.copy(files / "birds" / "01.png", files / "birds" / "02.png")
    ran = sets.harness("audit", "birds_given")
    assert ran.code == 3
    assert f"{files / 'birds' / '02.png'} has changed since the preparation" in ran.err
    assert "Run: harness prepare birds_given" in ran.err
    assert sets.harness("prepare", "birds_given").code == 0  # the folder is known from before
    assert sets.harness("audit", "birds_given").code == 0


def test_a_set_without_sources_reads_the_folder_of_from(sets: Bench) -> None:
    ran = sets.harness("prepare", "birds_folder", "--from", sets.folder / "files")
    assert ran.code == 0
    assert labels_of(sets, "birds_folder") == [i % 3 for i in range(40, 60)]
    rules = {
        row["rule"]: row["verdict"] for row in sets.harness("plugin", "check", "birds_folder", "--format", "json").rows
    }
    assert (rules["dataset-reads"], rules["dataset-prepares"]) == ("ok", "ok")
    ran = sets.harness("prepare", "drawn", "--from", sets.folder / "files")
    assert ran.code == 2
    assert "The images of 'drawn' come with its plugin; it takes no files by --from." in ran.err
    ran = sets.harness("prepare", "birds_folder", "--data", sets.folder / "other")
    assert ran.code == 3
    assert "harness prepare birds_folder --from FOLDER" in ran.err


@pytest.mark.skipif(sys.platform != "linux", reason="replaces flock")
@pytest.mark.parametrize("number", ["37", "38", "95"])
def test_a_file_system_without_locks_is_no_lock_that_somebody_has(sets: Bench, number: str) -> None:
    (sets.site / "sitecustomize.py").write_text(NO_LOCKS)
    ran = sets.harness("prepare", "drawn", FLOCK_ERRNO=number)
    assert ran.code == 0
    assert "files can't be locked in" in ran.err
    assert "Warning" not in ran.err


@pytest.mark.skipif(sys.platform != "linux", reason="replaces flock")
@pytest.mark.parametrize("number", ["0", "38"], ids=["locks that exclude nobody", "no locks"])
def test_two_writers_without_locks_give_one_whole_store(sets: Bench, number: str) -> None:
    (sets.site / "sitecustomize.py").write_text(NO_LOCKS)
    slow = sets.start("prepare", "drawn", FLOCK_ERRNO=number, SETS_SLEEP="8")
    home = sets.folder / "data" / "drawn"
    deadline = time.monotonic() + 60
    while not list(home.glob(".work-*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert sets.harness("prepare", "drawn", FLOCK_ERRNO=number).code == 0
    before = {file.name: file.read_bytes() for file in (home / "native").iterdir()}
    _, err = slow.communicate(timeout=120)
    assert slow.returncode == 0, err
    assert {file.name: file.read_bytes() for file in (home / "native").iterdir()} == before
    assert sorted(one.name for one in home.iterdir()) == [".lock", "native"]


@pytest.mark.skipif(sys.platform != "linux", reason="replaces flock")
def test_the_folder_of_a_killed_writer_is_taken_over(sets: Bench) -> None:
    (sets.site / "sitecustomize.py").write_text(NO_LOCKS)
    slow = sets.start("prepare", "drawn", FLOCK_ERRNO="38", SETS_SLEEP="60")
    home = sets.folder / "data" / "drawn"
    deadline = time.monotonic() + 60
    while not list(home.glob(".work-*/native")) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(slow.pid, signal.SIGKILL)
    slow.communicate()
    assert sets.harness("prepare", "drawn", FLOCK_ERRNO="38").code == 0
    assert sorted(one.name for one in home.iterdir()) == [".lock", "native"]


def test_a_store_that_was_moved_and_linked_back_is_replaced_and_not_followed(sets: Bench) -> None:
    files = sets.folder / "files"
    assert sets.harness("prepare", "birds", SETS_BASE=base(sets)).code == 0
    form, big = sets.folder / "data" / "birds" / "native", sets.folder / "big"
    shutil.move(form, big)
    form.symlink_to(big)
    write_table(files / "birds", [0] * 60)
    ran = sets.harness("prepare", "birds", SETS_BASE=base(sets))
    assert ran.code == 0
    assert f"which was a link to {big}. The older arrays there stay" in ran.err
    assert labels_of(sets, "birds") == [0] * 20
    assert (big / "manifest.json").is_file()
    shutil.rmtree(form)
    form.symlink_to(big)
    ran = sets.harness("prepare", "birds", "--remove")
    assert f"{form} was a link; the arrays in {big} stay" in ran.err
    assert (big / "train.images.npy").is_file()


def test_a_link_to_a_disk_that_is_gone_and_a_file_in_the_place_are_named(sets: Bench) -> None:
    home = sets.folder / "data" / "drawn"
    home.mkdir(parents=True)
    (home / "native").symlink_to(sets.folder / "unmounted")
    ran = sets.harness("prepare", "drawn")
    assert ran.code == 3
    assert f"is a link to {sets.folder / 'unmounted'}, which is not there" in ran.err
    shutil.rmtree(home)
    home.touch()
    ran = sets.harness("prepare", "drawn")
    assert ran.code == 3
    assert f"{home} is a file, expected the folder of 'drawn'" in ran.err


def test_an_audit_is_shown_where_it_cannot_be_kept(sets: Bench) -> None:
    assert sets.harness("prepare", "drawn").code == 0
    (sets.folder / "data" / "drawn" / "native" / "audit.json").mkdir()  # as unwritable for root as for anybody
    ran = sets.harness("audit", "drawn", "--sheet", sets.folder / "sheets", "--format", "json")
    assert ran.code == 0
    assert json.loads(ran.out)[0]["train"] == 40
    assert "the audit is not kept beside the arrays" in ran.err
