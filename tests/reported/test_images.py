"""Faults around images and prepared arrays: what is decoded, and damage that is to be found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.reported.conftest import Bench

FOLDER = """
import os
from pathlib import Path
from harness.api import DatasetSpec, hookimpl
{line}

def read(folder, split):
    paths = sorted(Path(os.environ["IMAGES"]).iterdir())
    for index, path in enumerate(paths[:8] if split == "train" else paths[8:12]):
        yield path, index % 2

@hookimpl
def harness_datasets():
    return [DatasetSpec(name="pictures", title="Pictures", classes=("a", "b"), splits={{"train": 8, "test": 4}},
                        read=read, licence="CC0", citation="nobody")]
"""
PREPARE = ("prepare", "pictures", "--protocol", "pocket-1.0")


@pytest.fixture
def pictures(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of twelve JPEGs, and a plugin that offers it as the data set ``pictures``."""
    folder = bench.folder / "pictures"
    folder.mkdir()
    monkeypatch.setenv("IMAGES", str(folder))
    noise = np.random.RandomState(0).randint(0, 256, (12, 24, 24, 3), dtype=np.uint8)
    for index, pixels in enumerate(noise):
        Image.fromarray(pixels).save(folder / f"{index:02}.jpg", quality=90)
    bench.put("pictures", FOLDER.format(line=""))
    return folder


def test_a_plugin_that_accepts_truncated_images_changes_no_pixel(bench: Bench, pictures: Path) -> None:
    bench.put("careless", "from PIL import ImageFile\nImageFile.LOAD_TRUNCATED_IMAGES = True\n")
    bench.put("pictures", FOLDER.format(line="import careless"))
    (pictures / "03.jpg").write_bytes((pictures / "03.jpg").read_bytes()[:700])
    ran = bench.harness(*PREPARE)
    assert ran.code == 3
    assert "train image 3" in ran.err
    assert "is damaged: image file is truncated" in ran.err


def test_images_of_32_bits_become_neither_black_nor_white(bench: Bench, pictures: Path) -> None:
    Image.fromarray(np.arange(576, dtype=np.int32).reshape(24, 24)).save(pictures / "03.jpg", "TIFF")
    ran = bench.harness(*PREPARE)
    assert ran.code == 3
    assert "holds 32-bit integers with a sign from 0 to 575" in ran.err
    assert "yield an RGB image" in ran.err


def test_a_name_that_is_not_utf_8_is_prepared(bench: Bench, pictures: Path) -> None:
    (pictures / "03.jpg").rename(pictures / "03gr\udcfcn.jpg")
    ran = bench.harness(*PREPARE, "--format", "json")
    assert ran.code == 0, ran.err
    assert ran.rows[0]["state"] == "ready"
    assert bench.harness(*PREPARE).code == 0, "a second time, the file is compared"


@pytest.mark.parametrize("name", ["train.images.npy", "test.labels.npy"])
def test_an_empty_array_is_damage_and_no_ctrl_c(bench: Bench, pictures: Path, name: str) -> None:
    assert bench.harness(*PREPARE).code == 0
    store = bench.folder / "data" / "pictures" / "native"
    (store / name).write_bytes(b"")
    ran = bench.harness(*PREPARE, "--verify", "--format", "json")
    assert (ran.code, ran.rows[0]["state"]) == (1, "damaged")
    ran = bench.harness("audit", "pictures")
    assert ran.code == 3
    assert "is damaged" in ran.err
    assert "Interrupted" not in ran.err


def test_a_manifest_that_is_no_file_is_damage(bench: Bench, pictures: Path) -> None:
    assert bench.harness(*PREPARE).code == 0
    manifest = bench.folder / "data" / "pictures" / "native" / "manifest.json"
    manifest.unlink()
    manifest.mkdir()
    ran = bench.harness(*PREPARE, "--verify", "--format", "json")
    assert (ran.code, ran.rows[0]["state"]) == (1, "damaged")
    assert "it is a folder" in ran.err


def test_training_does_not_begin_on_arrays_that_have_changed(bench: Bench) -> None:
    assert bench.harness("prepare", "pocket_digits", "--protocol", "pocket-1.0").code == 0
    store = bench.folder / "data" / "pocket_digits" / "native"
    images = np.load(store / "train.images.npy")
    images[len(images) // 2 :] = 0
    np.save(store / "train.images.npy", images)
    ran = bench.harness("run", "okay", *bench.quick, "--format", "json")
    assert (ran.code, ran.rows[0]["state"]) == (1, "failed")
    assert "its pixels have changed since it was prepared" in ran.out + ran.err


def test_a_damaged_test_split_costs_no_training(bench: Bench) -> None:
    assert bench.harness("prepare", "pocket_digits", "--protocol", "pocket-1.0").code == 0
    store = bench.folder / "data" / "pocket_digits" / "native"
    labels = np.load(store / "test.labels.npy")
    np.save(store / "test.labels.npy", np.roll(labels, 1))
    ran = bench.harness("run", "okay", *bench.quick)
    assert ran.code == 3
    assert "its labels have changed since it was prepared" in ran.err
    assert not bench.cell("okay").exists()


def test_names_and_classes_that_are_not_ascii_are_shown_on_any_terminal(bench: Bench, pictures: Path) -> None:
    source = FOLDER.format(line="").replace('("a", "b")', '("日", "月")').replace("CC0", "© Müller, CC BY")
    bench.put("pictures", source)
    for command in (PREPARE, ("list", "datasets", "--format", "csv")):
        ran = bench.harness(*command, PYTHONIOENCODING="ascii")
        assert ran.code == 0, ran.err
        ran = bench.harness(*command, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
        assert ran.code == 0, ran.err


def test_a_reader_may_name_a_group_for_some_images_only(bench: Bench, pictures: Path) -> None:
    bench.put(
        "pictures", FOLDER.format(line="").replace("index % 2", 'index % 2, f"patient {index}" if index % 3 else None')
    )
    assert bench.harness(*PREPARE).code == 0
    store = bench.folder / "data" / "pictures" / "native"
    assert len((store / "train.groups.txt").read_text(encoding="utf-8").splitlines()) == 8
    rows = bench.harness("audit", "pictures", "--format", "json").rows
    assert (rows[0]["groups"], rows[0]["shared_groups"], rows[0]["group_leaks"]) == (True, 2, 2)
    assert json.loads((store / "manifest.json").read_text())["groups_sha256"].keys() == {"train", "test"}
