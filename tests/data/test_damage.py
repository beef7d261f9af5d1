"""A damaged store is found by the commands that look for damage, and named by those that train on it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.api import Split
from harness.data.audit import audit
from harness.data.prepare import verify_prepared
from harness.data.prepared import PreparedDataset, find_prepared, read_groups, read_manifest
from harness.errors import DatasetError
from tests.data.folder import SIZE, files, make

LABELS, IMAGES = "train.labels.npy", "test.images.npy"


@pytest.fixture
def prepared(images: Path, tmp_path: Path) -> PreparedDataset:
    return make(images, tmp_path / "data")


def change(name: str, of: Callable[[Any], Any]) -> Callable[[Path], object]:
    return lambda folder: np.save(folder / name, of(np.load(folder / name)), allow_pickle=True)


def overwrite(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def into_folder(name: str) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


def cut(name: str, length: int) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:length])


def with_label(value: int) -> Callable[[Any], Any]:
    return lambda labels: np.concatenate([labels[:-1], [value]])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (change(LABELS, lambda labels: labels[:, None]), "labels of shape (40, 1)"),
        (change(LABELS, lambda labels: labels[0]), "no labels of shape ()"),
        (change(LABELS, with_label(-1)), "labels from -1 to 1, expected 0 to 1"),
        (change(LABELS, with_label(300)), "labels from 0 to 300, expected 0 to 1"),
        (change(LABELS, lambda labels: labels + 1), "labels from 1 to 2, expected 0 to 1"),
        (change(LABELS, lambda labels: labels.astype(np.float32)), "of type float32, expected int64"),
        (change(LABELS, lambda labels: labels.astype("U2")), "of type <U2, expected int64"),
        (change(LABELS, lambda labels: labels.astype(object)), "is damaged"),
        (change(LABELS, lambda labels: labels[::-1]), "its labels have changed"),
        (change(IMAGES, lambda images: images[:, :10, :10]), "10 x 10 pixels, the manifest says"),
        (change(IMAGES, lambda images: images[:5]), "is damaged"),
        (overwrite(LABELS, b""), "is damaged"),
        (overwrite(IMAGES, b""), "is damaged"),
        (overwrite(IMAGES, b"PK\x03\x04" + bytes(99)), "is damaged"),
        (overwrite(IMAGES, b"\x93NUMPY\x01\x00\x10\x00{'descr': '|u1',"), "is damaged"),
        (cut(IMAGES, 7), "is damaged"),
        (cut(IMAGES, 500), "is damaged"),
        (cut(LABELS, 200), "is damaged"),
        (into_folder(LABELS), "is damaged"),
        (into_folder(IMAGES), "is damaged"),
        (into_folder("train.groups.txt"), "its groups can't be read"),
    ],
)
def test_damage_is_a_sentence(prepared: PreparedDataset, damage: Callable[[Path], object], reason: str) -> None:
    damage(prepared.folder)
    problems = verify_prepared(prepared)
    assert any(reason in problem for problem in problems), problems
    with pytest.raises(DatasetError, match="is damaged"):
        audit(prepared)


def test_training_does_not_begin_on_changed_pixels(prepared: PreparedDataset) -> None:
    with pytest.raises(DatasetError, match="its pixels have changed"):
        prepared.require_pixels("train", "another")
    prepared.require_pixels("train", prepared.manifest.pixels_sha256["train"])


def test_damage_of_the_test_split_is_found_before_the_training(prepared: PreparedDataset) -> None:
    prepared.require_sound()
    change(IMAGES.replace("images", "labels"), lambda labels: labels[::-1])(prepared.folder)
    with pytest.raises(DatasetError, match=r"test split .* its labels have changed"):
        prepared.require_sound()


def test_the_labels_of_both_splits_are_verified(prepared: PreparedDataset) -> None:
    for split in ("train", "test"):
        change(f"{split}.labels.npy", lambda labels: labels[::-1])(prepared.folder)
    assert len(verify_prepared(prepared)) == 2


def test_a_store_of_an_older_version_is_read_as_it_is(prepared: PreparedDataset) -> None:
    path = prepared.folder / "manifest.json"
    content = json.loads(path.read_text())
    for key in ("labels_sha256", "pixels_sha256", "groups_sha256"):
        del content[key]
    path.write_text(json.dumps(content))
    older = PreparedDataset(prepared.folder, read_manifest(prepared.folder))
    assert verify_prepared(older) == []
    older.require_pixels("train", "anything")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"counts": {"train": 40}}, "counts does not hold train and test"),
        ({"counts": {"train": 40, "test": -1}}, "negative"),
        ({"class_counts": {}}, "class_counts does not hold"),
        ({"class_counts": {"train": [40], "test": [5, 5]}}, "does not fit 2 classes"),
        ({"size": [0, 33]}, "size is 0 x 33"),
        ({"mean": [0.5, 0.5, 7]}, "not between 0 and 1"),
        ({"mean": [0.5, 0.5, None]}, "Expected `float`"),
        ({"schema": 0}, "schema is 0"),
        ({"schema": 2}, "a newer version of the harness"),
        ({"classes": "ab"}, "Expected `array`"),
        ({"fingerprint": []}, "Expected `str`"),
    ],
)
def test_a_manifest_that_nobody_wrote_is_refused(prepared: PreparedDataset, changes: Any, reason: str) -> None:
    path = prepared.folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(DatasetError, match=reason):
        find_prepared(prepared.folder.parents[1], "folder", prepared.manifest.definition, SIZE)


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"\xff\xfe", b'{"schema": 1, "dataset": "\\udcfc"}', b"null"])
def test_a_manifest_of_any_bytes_is_a_sentence(prepared: PreparedDataset, content: bytes) -> None:
    overwrite("manifest.json", content)(prepared.folder)
    with pytest.raises(DatasetError, match="is damaged"):
        read_manifest(prepared.folder)


def test_a_manifest_that_is_a_folder_is_damage_and_one_that_is_absent_is_none(prepared: PreparedDataset) -> None:
    root, definition = prepared.folder.parents[1], prepared.manifest.definition
    into_folder("manifest.json")(prepared.folder)
    with pytest.raises(DatasetError, match="it is a folder"):
        find_prepared(root, "folder", definition, SIZE)
    shutil.rmtree(prepared.folder)
    assert find_prepared(root, "folder", definition, SIZE) is None


def some(folder: Path, split: Split) -> Iterator[Any]:
    for index, (path, label, group) in enumerate(files(folder, split)):
        yield (path, label, group) if index % 3 else (path, label)


def test_images_without_a_group_keep_their_place(images: Path, tmp_path: Path) -> None:
    prepared = make(images, tmp_path / "data", some)
    groups = read_groups(prepared.folder, "train")
    assert groups[:4] == ("", "g0", "g1", "")
    assert len(groups) == 40
    assert verify_prepared(prepared) == []
    found = audit(prepared)
    assert (found.groups, found.shared_groups, found.group_leaks) == (True, 5, 6)


def test_a_name_that_is_not_utf_8_is_prepared(images: Path, tmp_path: Path) -> None:
    plain = make(images, tmp_path / "plain")
    first = min(images.iterdir())
    first.rename(images / "00gr\udcfcn.png")

    def grouped(folder: Path, split: Split) -> Iterator[Any]:
        for path, label, _ in files(folder, split):
            yield path, label, path.name

    odd = make(images, tmp_path / "odd", grouped)
    assert odd.manifest.fingerprint == plain.manifest.fingerprint
    assert read_groups(odd.folder, "train")[0] == "00gr\\udcfcn.png"


def test_a_damaged_image_of_such_a_name_is_named(images: Path, tmp_path: Path) -> None:
    (images / "00gr\udcfcn.png").write_bytes(b"")
    with pytest.raises(DatasetError, match="is empty") as caught:
        make(images, tmp_path / "data")
    assert "00gr\\udcfcn.png" in str(caught.value)
    str(caught.value).encode()


def test_a_reader_that_exits_is_the_plugins_mistake(images: Path, tmp_path: Path) -> None:
    def leaving(folder: Path, split: Split) -> Iterator[Any]:
        yield from files(folder, split)
        raise SystemExit(0)

    with pytest.raises(DatasetError, match="SystemExit"):
        make(images, tmp_path / "data", leaving)


def test_a_reader_at_the_end_of_a_file_is_no_ctrl_c(images: Path, tmp_path: Path) -> None:
    def short(folder: Path, split: Split) -> Iterator[Any]:
        yield from files(folder, split)
        raise EOFError("No data left in file")

    with pytest.raises(DatasetError, match="EOFError: No data left in file"):
        make(images, tmp_path / "data", short)
