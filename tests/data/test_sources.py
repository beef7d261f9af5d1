"""The user's files: each place that may be meant is tried, the right one is taken, and no file of the user changes."""

from __future__ import annotations

import errno
import hashlib
import os
import tarfile
import unicodedata
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harness.api import DatasetSpec, Source, Split
from harness.data.fetch import FetchPolicy
from harness.data.given import is_leftover, search
from harness.data.sources import Folders, Gathered, gather
from harness.errors import SourceError, WrongUseError
from tests.loopback import serving
from tests.published_layouts import picture

POLICY = FetchPolicy(mirror="", offline=True)
CLASSES = ("apple", "crème brûlée")
LEAVES = Source(filename="leaves.zip", urls=(), gives=("leaves",))


def read(folder: Path, split: Split) -> Iterator[tuple[Path, int]]:
    for label, name in enumerate(CLASSES):
        for path in sorted((folder / "leaves" / split / name).iterdir()):
            yield path, label


def spec(*sources: Source, **changes: Any) -> DatasetSpec:
    whole = DatasetSpec(
        name="leaves", title="Leaves", classes=CLASSES, splits={"train": 4, "test": 2}, read=read, licence="CC0",
        citation="nobody", sources=sources or (LEAVES,),
    )  # fmt: skip
    return replace(whole, **changes)


def leaves(folder: Path, seed: str = "") -> Path:
    """Make a folder ``leaves`` with six images in a folder."""
    for split, count in (("train", 2), ("test", 1)):
        for name in CLASSES:
            for index in range(count):
                path = folder / "leaves" / split / name / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(picture(f"{seed}{split}{name}{index}", (20, 20), "PNG"))
    return folder / "leaves"


def got(given: Path, root: Path, *sources: Source, **changes: Any) -> Gathered:
    return gather(spec(*sources, **changes), Folders(root, root / ".work"), given, POLICY)


def state(folder: Path) -> list[tuple[str, int, int, int]]:
    """Whatever a change of the user's files would change."""
    status = [(path, path.lstat()) for path in sorted(folder.rglob("*"))]
    return [(str(path), one.st_ctime_ns, one.st_mtime_ns, one.st_nlink) for path, one in status]


def origin(gathered: Gathered) -> str:
    return gathered.records[0].origin.removeprefix("given: ")


@pytest.mark.parametrize("wrong", ["before", "nested", "outer"])
def test_of_several_folders_the_one_that_fits_is_taken_wherever_it_is(tmp_path: Path, wrong: str) -> None:
    given = tmp_path / "given"
    other = {"before": given / "a" / "leaves", "nested": given / "m" / "leaves" / "leaves", "outer": given / "leaves"}
    right = leaves(given / "m" if wrong != "outer" else given / "leaves")
    other[wrong].mkdir(parents=True, exist_ok=True)
    (other[wrong] / "notes.txt").write_text("other files of the same name")
    gathered = got(given, tmp_path / "data")
    assert origin(gathered) == str(right)
    assert str(other[wrong]) in "".join(gathered.notes)


def test_a_folder_given_by_its_own_path_is_preferred_to_one_within(tmp_path: Path) -> None:
    outer = leaves(tmp_path / "given")
    leaves(outer, "other")
    assert origin(got(outer, tmp_path / "data")) == str(outer)
    with pytest.raises(SourceError, match=rf"is at {outer} and at {outer}/leaves. Give the right one"):
        got(tmp_path / "given", tmp_path / "data")


def test_a_folder_and_a_link_to_it_are_one(tmp_path: Path) -> None:
    folder = leaves(tmp_path / "given" / "a")
    (tmp_path / "given" / "b").symlink_to(folder.parent)
    (folder / "up").symlink_to(tmp_path / "given")  # a circle
    assert origin(got(tmp_path / "given", tmp_path / "data")) == str(folder)


def test_too_many_folders_are_named_and_not_tried(tmp_path: Path) -> None:
    for index in range(20):
        leaves(tmp_path / "given" / str(index))
    with pytest.raises(SourceError, match=r"given/0/leaves and at .*Give the right one"):
        got(tmp_path / "given", tmp_path / "data")


def test_if_no_folder_fits_each_is_named_with_its_reason(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / "given" / name / "leaves" / "train").mkdir(parents=True)
    with pytest.raises(SourceError) as caught:
        got(tmp_path / "given", tmp_path / "data")
    assert "'leaves' is not in" in str(caught.value)
    assert all(f"{tmp_path}/given/{name}/leaves: Data set 'leaves': reading its" in str(caught.value) for name in "ab")


def test_other_names_are_tried_too(tmp_path: Path) -> None:
    leaves(tmp_path / "disk").rename(tmp_path / "disk" / "leaves-2024")
    (tmp_path / "LEAVES").symlink_to(tmp_path / "disk" / "leaves-2024")
    for given in (tmp_path / "disk" / "leaves-2024", tmp_path / "LEAVES"):
        assert origin(got(given, tmp_path / "data")) == str(given)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"is not in .*empty\. Expected: leaves.zip or, unpacked, leaves\. Tried:"):
        got(tmp_path / "empty", tmp_path / "data")


def test_a_link_is_found_by_the_name_of_its_target(tmp_path: Path) -> None:
    folder = leaves(tmp_path / "disk")
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "link").symlink_to(folder)
    assert origin(got(tmp_path / "given", tmp_path / "data")) == str(tmp_path / "given" / "link")


def test_files_are_told_apart_by_checksum_and_not_by_place_or_name(tmp_path: Path) -> None:
    (tmp_path / "given" / "other").mkdir(parents=True)
    (tmp_path / "given" / "list.txt").write_text("of another set")
    (tmp_path / "given" / "other" / "list (1).txt").write_text("the right one")
    listed = Source(
        filename="list.txt", urls=(), bytes=13, checksums={"sha256": hashlib.sha256(b"the right one").hexdigest()}
    )
    leaves(tmp_path / "given")
    with pytest.raises(SourceError, match="is not the expected file"):
        got(tmp_path / "given", tmp_path / "data", LEAVES, listed)
    (tmp_path / "given" / "list.txt").unlink()
    gathered = got(tmp_path / "given", tmp_path / "data", LEAVES, listed)
    assert (gathered.folder / "list.txt").read_text() == "the right one"
    (tmp_path / "given" / "list.txt").write_text("of another set")
    (tmp_path / "given" / "other" / "list (1).txt").rename(tmp_path / "given" / "other" / "list.txt")
    gathered = got(tmp_path / "given", tmp_path / "data", LEAVES, listed)
    assert (gathered.folder / "list.txt").read_text() == "the right one"


def test_a_damaged_archive_beside_the_unpacked_folder_is_said(tmp_path: Path) -> None:
    folder = leaves(tmp_path)
    (tmp_path / "leaves.zip").write_bytes(b"half a download")
    gathered = got(tmp_path, tmp_path / "data")
    assert origin(gathered) == str(folder)
    assert any("leaves.zip is not the expected file" in note for note in gathered.notes)


def test_a_folder_beyond_a_thousand_files_is_searched_to_its_end(tmp_path: Path) -> None:
    folder = leaves(tmp_path)
    for index in range(1500):
        (tmp_path / f"a{index:04}.png").touch()
    assert search(spec(), tmp_path).places == ((folder,),)


def test_closed_folders_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "locked").mkdir()
    real = os.scandir

    def closed(path: str) -> Any:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(SourceError, match=r"Missing: leaves.zip .*Folders that can't be listed: .*locked"):
        got(tmp_path, tmp_path / "data", LEAVES, replace(LEAVES, filename="more.zip", gives=("more",)))


def test_links_that_lead_nowhere_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    folder = leaves(tmp_path)
    assert origin(got(tmp_path, tmp_path / "data")) == str(folder)
    with pytest.raises(WrongUseError, match="there is no file or folder"):
        got(tmp_path / "gone", tmp_path / "data")


def test_the_readers_folder_has_real_folders_and_the_users_files_stay_as_they_are(tmp_path: Path) -> None:
    folder = leaves(tmp_path / "given")
    (folder / "train" / "more").symlink_to(folder / "test")
    before = state(tmp_path / "given")
    view = got(tmp_path / "given", tmp_path / "data").folder
    assert len(list(view.rglob("*.png"))) == 8
    assert sum(name.endswith(".png") for _, _, names in os.walk(view) for name in names) == 8
    got(tmp_path / "given", tmp_path / "data")  # made anew
    assert state(tmp_path / "given") == before


def test_where_the_disk_takes_no_more_files_the_users_folder_is_one_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = leaves(tmp_path / "given")
    real = Path.symlink_to

    def full(self: Path, target: Any, target_is_directory: bool = False) -> None:
        if self.name == "0.png" and self.parent.name == CLASSES[1]:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, target, target_is_directory)

    monkeypatch.setattr(Path, "symlink_to", full)
    gathered = got(tmp_path / "given", tmp_path / "data")
    assert (gathered.folder / "leaves").is_symlink()
    assert len(list(read(gathered.folder, "train"))) == 4
    assert any(f"takes no more files, so {folder} is one link" in note for note in gathered.notes)
    assert len(list(folder.rglob("*.png"))) == 6


def test_two_archives_may_share_a_folder_but_no_file(tmp_path: Path) -> None:
    folder = leaves(tmp_path / "all")
    sources = [Source(filename=f"{part}.tar", urls=(), gives=(f"leaves/{part}",)) for part in ("train", "test")]
    for part in ("train", "test"):
        with tarfile.open(tmp_path / f"{part}.tar", "w") as tar:
            tar.add(folder / part, f"leaves/{part}")
    files = [tmp_path / f"{part}.tar" for part in ("train", "test")]
    accept = frozenset(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    folders = Folders(tmp_path, tmp_path / ".work")
    view = gather(spec(*sources), folders, tmp_path, replace(POLICY, accepted=accept)).folder
    assert len(list(view.rglob("*.png"))) == 6
    (tmp_path / "test.tar").write_bytes((tmp_path / "train.tar").read_bytes())
    with pytest.raises(SourceError, match=r"Two sources provide 'leaves/train/apple/0\.png'"):
        gather(spec(*sources), folders, tmp_path, replace(POLICY, accepted=accept))


@pytest.mark.parametrize("kind", ["folder", "tar", "zip"])
@pytest.mark.parametrize("wanted", ["NFC", "NFD"])
def test_accents_stored_apart_are_composed_only_if_the_reader_wants_it(tmp_path: Path, kind: str, wanted: str) -> None:
    folder = leaves(tmp_path / "made")
    for split in ("train", "test"):
        (folder / split / CLASSES[1]).rename(folder / split / unicodedata.normalize("NFD", CLASSES[1]))
    given = tmp_path / "made"
    if kind == "tar":
        given = tmp_path / "leaves.tar"
        with tarfile.open(given, "w") as tar:
            tar.add(folder, "leaves")
    elif kind == "zip":
        given = tmp_path / "leaves.zip"
        with zipfile.ZipFile(given, "w") as packed:
            for path in sorted(folder.rglob("*.png")):
                packed.write(path, path.relative_to(folder.parent))
    accepted = frozenset({hashlib.sha256(given.read_bytes()).hexdigest()}) if kind != "folder" else frozenset()

    def reads(folder: Path, split: Split) -> Iterator[tuple[Path, int]]:
        for label, name in enumerate(CLASSES):
            for path in sorted((folder / "leaves" / split / unicodedata.normalize(wanted, name)).iterdir()):  # type: ignore[arg-type]
                yield path, label

    one = spec(read=reads)
    gathered = gather(one, Folders(tmp_path, tmp_path / ".work"), given, replace(POLICY, accepted=accepted))
    assert len(list(reads(gathered.folder, "train"))) == 4
    assert any("decomposed" in note for note in gathered.notes) is (wanted == "NFC")


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_an_accent_in_the_name_of_the_folder_itself_is_composed(tmp_path: Path, kind: str) -> None:
    folder = leaves(tmp_path / "given").rename(tmp_path / "given" / unicodedata.normalize("NFD", "Blätter"))
    given = folder.parent
    if kind == "zip":
        given = tmp_path / "leaves.zip"
        with zipfile.ZipFile(given, "w") as packed:
            for path in sorted(folder.rglob("*.png")):
                packed.write(path, path.relative_to(folder.parent))
    accepted = frozenset({hashlib.sha256(given.read_bytes()).hexdigest()}) if kind == "zip" else frozenset()

    def reads(folder: Path, split: Split) -> Iterator[tuple[Path, int]]:
        for label, name in enumerate(CLASSES):
            for path in sorted((folder / "Blätter" / split / name).iterdir()):
                yield path, label

    one = spec(replace(LEAVES, gives=("Blätter",)), read=reads)
    gathered = gather(one, Folders(tmp_path, tmp_path / ".work"), given, replace(POLICY, accepted=accepted))
    assert len(list(reads(gathered.folder, "train"))) == 4


@pytest.mark.parametrize(
    ("name", "content", "left"),
    [
        ("._0.png", b"anything", True),  # beside 0.png
        ("._lone.png", b"\0\5\26\7rest", True),
        ("._lone.png", b"\x89PNG", False),
        ("Thumbs.db", b"", True),
        ("THUMBS.DB", b"", True),
        (".DS_Store", b"", True),
        ("0.png:Zone.Identifier", b"", True),
        ("thumbs.png", b"", False),
        (".hidden.png", b"", False),
    ],
)
def test_leftovers_are_known_by_name_and_content(tmp_path: Path, name: str, content: bytes, left: bool) -> None:
    (tmp_path / name).write_bytes(content)
    assert is_leftover(name, {"0.png", name}, tmp_path / name) is left


def test_a_folder_of_a_similar_name_does_not_keep_a_source_from_being_downloaded(tmp_path: Path) -> None:
    leaves(tmp_path / "served")
    with zipfile.ZipFile(tmp_path / "leaves.zip", "w") as packed:
        for path in sorted((tmp_path / "served").rglob("*.png")):
            packed.write(path, path.relative_to(tmp_path / "served"))
    content = (tmp_path / "leaves.zip").read_bytes()
    (tmp_path / "given" / "Leaves").mkdir(parents=True)
    (tmp_path / "given" / "list.txt").write_text("a list")
    sums = {"sha256": hashlib.sha256(b"a list").hexdigest()}
    with serving({"leaves.zip": content}) as server:
        whole = replace(
            LEAVES, urls=(server.url("leaves.zip"),), checksums={"sha256": hashlib.sha256(content).hexdigest()}
        )
        one = spec(whole, Source(filename="list.txt", urls=(), checksums=sums))
        folders = Folders(tmp_path / "data", tmp_path / "data" / ".work")
        gathered = gather(one, folders, tmp_path / "given", replace(POLICY, offline=False))
    assert gathered.records[0].origin == "downloaded"
    assert any("'leaves' is not in" in note and "given/Leaves" in note for note in gathered.notes)


def test_leftovers_in_an_archive_are_left_out_and_said(tmp_path: Path) -> None:
    folder = leaves(tmp_path / "made")
    with zipfile.ZipFile(tmp_path / "leaves.zip", "w") as packed:
        for path in sorted(folder.rglob("*.png")):
            inside = path.relative_to(folder.parent)
            packed.write(path, inside)
            packed.writestr(f"__MACOSX/{inside.parent}/._{inside.name}", b"\0\5\26\7")
            packed.writestr(f"{inside.parent}/._{inside.name}", b"\0\5\26\7")
    digest = hashlib.sha256((tmp_path / "leaves.zip").read_bytes()).hexdigest()
    policy = replace(POLICY, accepted=frozenset({digest}))
    gathered = gather(spec(), Folders(tmp_path, tmp_path / ".work"), tmp_path / "leaves.zip", policy)
    assert sum(path.is_file() for path in gathered.folder.rglob("*")) == 6
    assert any(note.startswith("7 leftovers of other programs are left out, such as") for note in gathered.notes)


def test_a_reader_that_opens_its_images_is_asked_too(tmp_path: Path) -> None:
    def opens(folder: Path, split: Split) -> Iterator[tuple[Any, int]]:
        for path, label in read(folder, split):
            yield Image.open(path), label

    leaves(tmp_path / "given" / "right")
    (tmp_path / "given" / "left" / "leaves").mkdir(parents=True)
    assert origin(got(tmp_path / "given", tmp_path / "data", read=opens)).endswith("right/leaves")
