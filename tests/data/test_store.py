"""The folders of the store: writers of their own, publication by one rename, and nobody else's files touched."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.api import Split
from harness.catalog import Offer, Plugin
from harness.data import decode, ingest, store
from harness.data.prepare import PrepareRequest, prepare_dataset
from harness.data.prepared import PreparedDataset
from harness.data.remove import left_behind, remove
from harness.data.sources import download_folder
from harness.data.store import foreign_files, open_workshop, publish, require_place
from harness.errors import DatasetError, StoreError
from tests.data.folder import SIZE, files, make, offer
from tests.loopback import serving
from tests.published_layouts import build

HERE = re.compile(r"\.work-[0-9a-f]{8}-\d+-\d+-[0-9a-f]{8}")


def names(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


def newer(prepared: PreparedDataset, images: Path) -> ingest.Ingestion:
    """The same data set by a newer version of its plugin."""
    return ingest.Ingestion(
        Offer(offer(files).spec, Plugin("folder", "tests", "tests", "2")), prepared.folder.parents[1], SIZE, images
    )


def skips(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that receives the images that each further decoding of a split leaves out at its start."""
    skipped: list[int] = []
    real = decode.decode_samples

    def counting(*arguments: Any, skip: int, **options: Any) -> Any:
        skipped.append(skip)
        return real(*arguments, skip=skip, **options)

    monkeypatch.setattr(ingest, "decode_samples", counting)
    return skipped


@pytest.mark.parametrize("own", ["notes.txt", "train.images.npy.bak", "0001.jpg", ".hidden", "audit-other.png", "sub"])
def test_a_form_with_anything_else_in_it_is_not_replaced(images: Path, tmp_path: Path, own: str) -> None:
    prepared = make(images, tmp_path / "data")
    (prepared.folder / own).mkdir() if own == "sub" else (prepared.folder / own).write_text("mine")
    before = names(prepared.folder)
    with pytest.raises(DatasetError, match=re.escape(f"holds files that the harness did not write: {own}.")):
        ingest.ingest(newer(prepared, images))
    assert names(prepared.folder) == before


@pytest.mark.parametrize("content", ["", "[]", '{"name": "my experiment"}', "\xff"])
def test_a_manifest_of_somebody_else_makes_no_folder_ours(tmp_path: Path, content: str) -> None:
    form = tmp_path / "folder" / "32"
    form.mkdir(parents=True)
    (form / "manifest.json").write_text(content, encoding="latin-1")
    (form / "train.images.npy").write_text("mine")
    assert foreign_files(form, "folder") == ["manifest.json", "train.images.npy"]
    assert remove(offer(files), tmp_path, []) == 0
    assert names(form) == ["manifest.json", "train.images.npy"]


def test_a_form_with_a_damaged_manifest_can_be_removed(images: Path, tmp_path: Path) -> None:
    prepared = make(images, tmp_path)
    (prepared.folder / "manifest.json").write_text("{")
    assert remove(offer(files), tmp_path, []) > 0
    assert names(tmp_path) == ["images"]


def test_litter_of_file_managers_is_in_nobodys_way(images: Path, tmp_path: Path) -> None:
    prepared = make(images, tmp_path / "data")
    (prepared.folder / ".DS_Store").write_text("litter")
    ingest.ingest(newer(prepared, images))
    remove(offer(files), tmp_path / "data", [])
    assert names(tmp_path / "data") == []


def test_removing_keeps_files_beside_and_in_the_forms_and_names_them(images: Path, tmp_path: Path) -> None:
    prepared = make(images, tmp_path / "data")
    home = prepared.folder.parent
    (prepared.folder / "remarks.txt").write_text("mine")
    (home / "raw").mkdir()
    (home / ".sources").mkdir()
    (home / ".sources" / "list.txt").write_text("mine, in a folder that older versions used")
    (home / ".work-of-mine").mkdir()
    remove(offer(files), tmp_path / "data", [])
    assert left_behind(offer(files), tmp_path / "data") == [".sources", ".work-of-mine", "32", "raw"]
    assert names(prepared.folder) == ["remarks.txt"]
    assert names(home / ".sources") == ["list.txt"]


def test_nothing_is_removed_under_a_writer_at_work(images: Path, tmp_path: Path) -> None:
    form = make(images, tmp_path / "data").folder
    before = names(form)
    with open_workshop(tmp_path / "data", "folder", sole=False) as workshop:
        with pytest.raises(DatasetError, match="Another process may be preparing 'folder'"):
            remove(offer(files), tmp_path / "data", [])
        assert workshop.path.is_dir()
    assert names(form) == before


def test_folders_of_older_versions_are_removed(images: Path, tmp_path: Path) -> None:
    home = make(images, tmp_path / "data").folder.parent
    for folder in (".preparing-32", ".sources/parts/a.tar", ".sources/view"):
        (home / folder).mkdir(parents=True)
    (home / ".preparing-32" / "journal.json").write_text("{}")
    (home / ".preparing-32" / "train.images.npy").write_text("")
    remove(offer(files), tmp_path / "data", [])
    assert not home.exists()


def test_a_link_in_the_place_of_a_folder_is_not_followed(images: Path, tmp_path: Path) -> None:
    prepared = make(images, tmp_path / "data")
    big = tmp_path / "big"
    shutil.move(prepared.folder, big)
    prepared.folder.symlink_to(big)
    before = names(big)
    said: list[str] = []
    assert remove(offer(files), tmp_path / "data", [], said.append) == 0
    assert names(big) == before
    assert said == [
        f"folder: removing what the harness wrote in {tmp_path / 'data'}: folder/32.",
        f"folder: {prepared.folder} was a link; the arrays in {big} stay until you remove them.",
    ]


@pytest.mark.parametrize("damage", ["file", "dangling"])
def test_a_file_or_a_dangling_link_in_the_place_is_named(tmp_path: Path, damage: str) -> None:
    place = tmp_path / "32"
    if damage == "file":
        place.write_text("mine")
    else:
        place.symlink_to(tmp_path / "gone")
    with pytest.raises(DatasetError, match="is a file, expected" if damage == "file" else "which is not there"):
        require_place(place, "folder")


def test_the_old_form_stays_until_the_new_one_is_complete(images: Path, tmp_path: Path) -> None:
    prepared = make(images, tmp_path / "data")
    before = {name: (prepared.folder / name).stat().st_ino for name in names(prepared.folder)}

    def fails(folder: Path, split: Split) -> Iterator[Any]:
        yield from files(folder, "train")
        if split == "test":
            raise OSError("the disk was pulled out")

    broken = Offer(offer(fails).spec, Plugin("folder", "tests", "tests", "2"))
    with pytest.raises(DatasetError):
        ingest.ingest(ingest.Ingestion(broken, tmp_path / "data", SIZE, images))
    assert {name: (prepared.folder / name).stat().st_ino for name in names(prepared.folder)} == before


def test_a_published_array_is_never_opened_for_writing(images: Path, tmp_path: Path) -> None:
    prepared = make(images, tmp_path / "data")
    mapped = prepared.open_train().images
    before = np.array(mapped)
    ingest.ingest(newer(prepared, images))
    assert np.array_equal(mapped, before)
    assert names(prepared.folder.parent) == [".lock", "32"]


def test_the_loser_of_a_race_uses_the_winners_arrays(images: Path, tmp_path: Path) -> None:
    said: list[str] = []

    def overtaken(folder: Path, split: Split) -> Iterator[Any]:
        yield from files(folder, split)
        if split == "test" and not (tmp_path / "data" / "folder" / "32").exists():
            with open_workshop(tmp_path / "data", "folder", sole=False) as workshop:
                ingest.ingest_in(workshop, ingest.Ingestion(offer(files), tmp_path / "data", SIZE, images))

    made = ingest.ingest(
        ingest.Ingestion(offer(overtaken), tmp_path / "data", SIZE, images, workers=1, say=said.append)
    )
    assert said == []
    assert names(made.folder.parent) == [".lock", "32"]
    assert made.manifest.fingerprint == make(images, tmp_path / "other").manifest.fingerprint


def test_publishing_survives_another_writer_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two writers replace the same form in turn; one whole form is there in the end."""

    def form(path: Path, mark: str) -> Path:
        path.mkdir(parents=True)
        for split in ("train", "test"):
            (path / f"{split}.images.npy").write_text(mark)
        return path

    final = form(tmp_path / "folder" / "32", "old")
    mine, theirs = form(tmp_path / "folder" / "a" / "32", "mine"), form(tmp_path / "folder" / "b" / "32", "theirs")
    real = store._rename

    def overtaken(old: Path, new: Path) -> bool:
        done = real(old, new)
        if theirs.exists():
            theirs.rename(final)
        return done

    monkeypatch.setattr(store, "_rename", overtaken)
    publish(mine, final, "folder")
    assert {file.read_text() for file in final.iterdir()} == {"mine"}


@pytest.mark.skipif(os.name == "nt", reason="asks for a process by its number")
@pytest.mark.parametrize("sole", [True, False])  # two hosts, or two mounts, may hold one lock
def test_a_living_writer_keeps_its_folder_and_a_dead_one_loses_it(tmp_path: Path, sole: bool) -> None:
    home = tmp_path / "folder"
    home.mkdir()
    with open_workshop(tmp_path, "folder", sole=sole) as living:
        assert HERE.fullmatch(living.path.name)
        dead = home / re.sub(r"-\d+(-[0-9a-f]+)$", r"-99999999\1", living.path.name)  # no process has such a number
        (dead / "parts").mkdir(parents=True)
        with open_workshop(tmp_path, "folder", sole=sole) as mine:
            assert names(mine.path) == ["parts"]
            assert mine.strangers == (living.path,)
        assert names(home) == [living.path.name]
    assert names(home) == []


def test_a_writer_on_another_machine_is_left_alone_and_its_finished_pieces_are_copied(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "_SYNC_EVERY", 4)

    def stops(folder: Path, split: Split) -> Iterator[Any]:
        for index, sample in enumerate(files(folder, split)):
            if index == 30:
                raise KeyboardInterrupt
            yield sample

    with pytest.raises(KeyboardInterrupt):
        make(images, tmp_path / "data", stops, workers=1)
    (free,) = (tmp_path / "data" / "folder").glob(".work-free-*")
    elsewhere = free.rename(free.with_name(".work-00000000-1-1-00000000"))
    before = (elsewhere / "32" / "train.images.npy").read_bytes()
    skipped = skips(monkeypatch)
    made = make(images, tmp_path / "data", workers=1)
    assert max(skipped) >= 24
    assert (elsewhere / "32" / "train.images.npy").read_bytes() == before
    assert made.manifest.fingerprint == make(images, tmp_path / "fresh").manifest.fingerprint


def test_an_unpacked_archive_is_recognised_in_another_writers_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "_SYNC_EVERY", 4)
    monkeypatch.setattr(ingest, "bound_cores", lambda: 1)
    miniature = build("imagenette")
    (tmp_path / "given").mkdir()
    for name, content in miniature.pack().items():
        (tmp_path / "given" / name).write_bytes(content)
    whole = miniature.offer()
    request = PrepareRequest(whole, tmp_path / "data", (SIZE,), tmp_path / "given", accept_licence=True)

    def stops(folder: Path, split: Split) -> Iterator[Any]:
        for index, sample in enumerate(whole.spec.read(folder, split)):
            if index == 17:
                raise KeyboardInterrupt
            yield sample

    with pytest.raises(KeyboardInterrupt):
        prepare_dataset(replace(request, offer=Offer(replace(whole.spec, read=stops), whole.owner)), say=lambda _: None)
    (free,) = (tmp_path / "data" / "imagenette").glob(".work-free-*")
    free.rename(free.with_name(".work-00000000-1-1-00000000"))
    skipped = skips(monkeypatch)
    prepare_dataset(request, say=lambda _: None)
    assert skipped == [0, 12, 0]  # the native form is given up, the train split goes on, the test split begins


@pytest.mark.parametrize("stop", ["error", "kill"])
def test_a_form_that_was_moved_aside_and_not_replaced_is_put_back(images: Path, tmp_path: Path, stop: str) -> None:
    form = make(images, tmp_path).folder
    before = names(form)
    if stop == "kill":
        aside = form.parent / ".work-free-00000000" / "replaced-32-00000000"
        aside.parent.mkdir()
        form.rename(aside)

    def replace_form() -> None:
        with open_workshop(tmp_path, "folder", sole=True) as workshop:
            if stop == "error":
                form.rename(workshop.path / "replaced-32-00000000")
            raise StoreError("the disk is full")

    with pytest.raises(StoreError):
        replace_form()
    assert names(form) == before


def test_a_download_without_locks_is_written_in_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    miniature = build("imagenette")
    packed = miniature.pack()
    with serving(packed) as server:
        whole = miniature.offer(server.base, packed)
        request = PrepareRequest(whole, tmp_path, (SIZE,), accept_licence=True)
        (other,) = (download_folder(tmp_path, source) for source in whole.spec.sources)
        other.mkdir(parents=True)
        (other / "imagenette2-160.tgz.part").write_bytes(b"written by another process")
        prepare_dataset(request, say=lambda _: None)
    assert (other / "imagenette2-160.tgz").read_bytes() == packed["imagenette2-160.tgz"]
    assert (other / "imagenette2-160.tgz.part").read_bytes() == b"written by another process"
    assert names(tmp_path / "imagenette") == [".lock", "32"]


def test_a_full_disk_leaves_a_free_folder_and_bad_content_leaves_none(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for error, left in ((StoreError("full"), 1), (DatasetError("bad"), 0)):
        with pytest.raises(type(error)), open_workshop(tmp_path, "folder", sole=False):
            raise error
        assert len(list((tmp_path / "folder").glob(".work-free-*"))) == left
