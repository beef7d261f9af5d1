"""A prepared data set: verified, and removed without harm to others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.data.prepare import PrepareRequest, prepare_dataset, verify_prepared
from harness.data.prepared import PreparedDataset, read_manifest
from harness.data.remove import remove
from harness.errors import DatasetError
from harness.machine import disk_use
from tests.data.folder import make
from tests.published_layouts import build


def test_an_intact_store_verifies(images: Path, tmp_path: Path) -> None:
    assert verify_prepared(make(images, tmp_path / "data")) == []


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def edit_manifest(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda f: flip(f / "train.images.npy", -1), "fingerprint"),
        (lambda f: flip(f / "test.images.npy", 500), "fingerprint"),
        (lambda f: flip(f / "test.labels.npy", 128), "numbers of images by class"),
        (lambda f: (f / "train.groups.txt").write_text("x\n"), "groups"),
        (lambda f: edit_manifest(f, mean=[0.5, 0.5, 0.5]), "mean and standard deviation"),
        (lambda f: edit_manifest(f, counts={"train": 41, "test": 10}), "40 images, the manifest says 41"),
        (lambda f: (f / "test.images.npy").unlink(), "is damaged"),
        (lambda f: (f / "train.images.npy").write_bytes(b"x" * 999), "is damaged"),
        (lambda f: np.save(f / "train.images.npy", np.zeros((40, 9, 9, 3), dtype=np.float32)), "expected uint8"),
        (lambda f: np.save(f / "test.labels.npy", np.zeros(3, dtype=np.int64)), "3 labels"),
    ],
)
def test_a_damaged_store_is_detected(
    images: Path, tmp_path: Path, damage: Callable[[Path], object], reason: str
) -> None:
    prepared = make(images, tmp_path / "data")
    damage(prepared.folder)
    problems = verify_prepared(PreparedDataset(prepared.folder, read_manifest(prepared.folder)))
    assert any(reason in problem for problem in problems), problems


def test_pickles_are_not_read(images: Path, tmp_path: Path) -> None:
    prepared = make(images, tmp_path / "data")
    np.save(prepared.folder / "train.images.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DatasetError, match="damaged"):
        prepared.open_train()


def test_removing_frees_what_no_other_set_uses(tmp_path: Path) -> None:
    one, other = build("ham10000"), build("ham10000_lesion")
    packed = one.pack()
    from tests.loopback import serving

    with serving(packed) as server:
        offers = [mini.offer(server.base, packed) for mini in (one, other)]
        for each in offers:
            prepare_dataset(PrepareRequest(each, tmp_path, (224,), accept_licence=True), say=lambda _: None)
    downloads = disk_use(tmp_path / "downloads")
    assert remove(offers[0], tmp_path, offers) > 0
    assert disk_use(tmp_path / "downloads") == downloads
    assert not (tmp_path / "ham10000").exists()
    assert remove(offers[1], tmp_path, offers) >= downloads
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "licences.json"]
    assert remove(offers[1], tmp_path, offers) == 0


def test_removing_leaves_the_users_own_files(tmp_path: Path) -> None:
    miniature = build("cifar10")
    given = tmp_path / "given"
    for name, content in miniature.sources["cifar-10-binary.tar.gz"].items():
        (given / name).parent.mkdir(parents=True, exist_ok=True)
        (given / name).write_bytes(content)
    before = sorted(given.rglob("*"))
    prepare_dataset(PrepareRequest(miniature.offer(), tmp_path / "data", (224,), given), say=lambda _: None)
    remove(miniature.offer(), tmp_path / "data", [])
    assert sorted(given.rglob("*")) == before
