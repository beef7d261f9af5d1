"""The inputs of a prepared set decide whether it is current."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.api import Split
from harness.data.inputs import outdated, read_inputs, takes_folder
from harness.data.prepared import PreparedDataset
from tests.data.folder import make, offer
from tests.published_layouts import picture


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """A folder of images with one folder per split and class."""
    base = tmp_path / "classes"
    for index in range(50):
        folder = base / ("train" if index < 40 else "test") / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{index:02}.png").write_bytes(picture(index, (33, 33), "PNG"))
    (base / "names.txt").write_text("a\nb\n")
    return base


def read(folder: Path, split: Split) -> Iterator[Any]:
    names = (folder / "names.txt").read_text().split()
    for path in sorted((folder / split).glob("*/*.png"), key=lambda one: one.name):
        yield path, names.index(path.parent.name)


@pytest.fixture
def prepared(classes: Path, tmp_path: Path) -> PreparedDataset:
    return make(classes, tmp_path / "data", read, given=classes)


def why(prepared: PreparedDataset, given: Path | None = None) -> str:
    return outdated(prepared, offer(read).spec, given)


def test_every_file_that_the_reader_opened_or_named_is_an_input(prepared: PreparedDataset, classes: Path) -> None:
    inputs = read_inputs(prepared.folder)
    assert inputs is not None
    assert set(inputs.files) == {str(one.relative_to(classes)) for one in classes.rglob("*") if one.is_file()}
    assert why(prepared) == ""


def relabel(base: Path) -> None:
    (base / "test" / "a" / "40.png").rename(base / "test" / "b" / "40.png")


def repaint(base: Path) -> None:
    (base / "train" / "a" / "00.png").write_bytes(picture("another", (33, 33), "PNG"))


def rename_class(base: Path) -> None:
    (base / "train" / "a").rename(base / "train" / "c")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (relabel, "40.png is gone since the preparation"),
        (repaint, "00.png has changed since the preparation"),
        (rename_class, "00.png is gone since the preparation"),
        (lambda base: (base / "names.txt").write_text("b\na\n"), "names.txt has changed since the preparation"),
    ],
    ids=["moved to another class", "replaced", "class renamed", "table corrected"],
)
def test_a_changed_file_is_named(
    prepared: PreparedDataset, classes: Path, change: Callable[[Path], object], reason: str
) -> None:
    change(classes)
    assert why(prepared).endswith(reason)


def test_files_that_were_only_touched_or_copied_are_the_same(prepared: PreparedDataset, classes: Path) -> None:
    for file in classes.rglob("*.png"):
        os.utime(file)
    assert why(prepared) == ""
    inputs = read_inputs(prepared.folder)
    assert inputs is not None
    assert inputs.files["train/a/00.png"].modified == (classes / "train/a/00.png").stat().st_mtime_ns


def test_a_set_whose_files_are_gone_altogether_stays_current(prepared: PreparedDataset, classes: Path) -> None:
    shutil.rmtree(classes)
    assert why(prepared) == ""


def test_another_folder_is_compared_by_content(prepared: PreparedDataset, classes: Path, tmp_path: Path) -> None:
    assert why(prepared, classes) == ""
    (tmp_path / "link").symlink_to(classes)
    assert why(prepared, tmp_path / "link") == ""
    shutil.copytree(classes, tmp_path / "copy")
    assert why(prepared, tmp_path / "copy") == ""
    (tmp_path / "copy" / "names.txt").write_text("b\na\n")
    assert "has no equal names.txt" in why(prepared, tmp_path / "copy")


def test_a_store_of_an_older_version_is_not_called_outdated(prepared: PreparedDataset, classes: Path) -> None:
    (prepared.folder / "inputs.json").unlink()
    repaint(classes)
    assert why(prepared) == ""


@pytest.mark.parametrize("content", ["", "[]", '{"given": 1}', '{"given": null, "reader": "", "files": {"a": [1]}}'])
def test_damaged_inputs_claim_nothing(prepared: PreparedDataset, content: str) -> None:
    (prepared.folder / "inputs.json").write_text(content)
    assert why(prepared) == ""


def test_the_code_of_an_embedded_reader_is_an_input(prepared: PreparedDataset, tmp_path: Path) -> None:
    namespace: dict[str, Any] = {}
    source = "def read(folder, split):\n    return []\n"
    (tmp_path / "reader.py").write_text(source)
    exec(compile(source, tmp_path / "reader.py", "exec"), namespace)
    assert outdated(prepared, offer(namespace["read"]).spec) == "the code of its reader has changed"


def test_files_that_the_reader_makes_are_no_inputs(classes: Path, tmp_path: Path) -> None:
    def unpacks(folder: Path, split: Split) -> Iterator[Any]:
        scratch = tmp_path / "scratch" / split
        scratch.mkdir(parents=True, exist_ok=True)
        for path, label in read(folder, split):
            yield shutil.copyfile(path, scratch / path.name), label

    prepared = make(classes, tmp_path / "data", unpacks, given=classes)
    shutil.rmtree(tmp_path / "scratch")
    inputs = read_inputs(prepared.folder)
    assert inputs is not None
    assert not [name for name in inputs.files if "scratch" in name]
    assert "train/a/00.png" in inputs.files


def test_a_link_that_is_turned_to_another_version_is_a_change(classes: Path, tmp_path: Path) -> None:
    shutil.copytree(classes, tmp_path / "v2")
    (tmp_path / "v2" / "names.txt").write_text("b\na\n")
    (tmp_path / "latest").symlink_to(classes)
    prepared = make(tmp_path / "latest", tmp_path / "data", read)
    (tmp_path / "latest").unlink()
    (tmp_path / "latest").symlink_to(tmp_path / "v2")
    assert why(prepared).endswith("latest/names.txt has changed since the preparation")


@pytest.mark.skipif(os.name == "nt", reason="has no cat")
def test_files_that_compiled_code_opens_are_inputs_if_they_are_given(classes: Path, tmp_path: Path) -> None:
    def hidden(folder: Path, split: Split) -> Iterator[Any]:
        for path, label in read(classes, split):
            yield subprocess.run(["cat", folder / path.relative_to(classes)], capture_output=True).stdout, label

    shutil.copytree(classes, tmp_path / "copy")
    prepared = make(tmp_path / "copy", tmp_path / "data", hidden, given=tmp_path / "copy")
    repaint(tmp_path / "copy")
    assert why(prepared).endswith("00.png has changed since the preparation")


def test_a_link_to_an_input_is_followed(classes: Path, tmp_path: Path) -> None:
    (classes / "names.txt").rename(tmp_path / "names.txt")
    (classes / "names.txt").symlink_to(tmp_path / "names.txt")
    prepared = make(classes, tmp_path / "data", read, given=classes)
    (tmp_path / "names.txt").write_text("b\na\n")
    assert why(prepared).endswith("names.txt has changed since the preparation")


def test_an_outdated_native_form_makes_way_for_resized_images(tmp_path: Path) -> None:
    base = tmp_path / "small"
    base.mkdir()
    for index in range(50):
        (base / f"{index:02}.png").write_bytes(picture(index, (20, 20), "PNG"))
    assert make(base, tmp_path / "data", given=base).folder.name == "native"
    (base / "49.png").write_bytes(picture("larger", (40, 40), "PNG"))
    again = make(base, tmp_path / "data", given=base)
    assert again.folder.name == "32"
    assert make(base, tmp_path / "data", given=base).folder == again.folder
    assert sorted(one.name for one in again.folder.parent.iterdir()) == [".lock", "32"]


def ignores(folder: Path, split: Split) -> Iterator[Any]:
    yield split


def deletes(folder: Path, split: Split) -> Iterator[Any]:
    del folder
    yield split


def packaged(stem: str, folder: Path, split: Split) -> Iterator[Any]:
    yield stem, split


def nested(folder: Path, split: Split) -> list[Any]:
    return [folder / name for name in split]


class Reader:
    def __call__(self, folder: Path, split: Split) -> Iterator[Any]:
        yield folder

    def ignores(self, folder: Path, split: Split) -> Iterator[Any]:
        yield split


@pytest.mark.parametrize(
    ("reader", "expected"),
    [
        (read, True),
        (nested, True),
        (Reader(), True),
        (lambda folder, split: [lambda: folder], True),
        (functools.wraps(ignores)(lambda *values: None), False),
        (ignores, False),
        (deletes, False),
        (Reader().ignores, False),
        (functools.partial(packaged, "digits"), False),
        (functools.partial(read, split="train"), True),
        (print, True),
    ],
)
def test_a_reader_takes_a_folder_if_its_code_mentions_it(reader: Callable[..., Any], expected: bool) -> None:
    assert takes_folder(reader) is expected
