"""The store: decoded once, checked, atomic, with an exact fingerprint and exact statistics."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.api import DatasetSpec
from harness.catalog import Catalog, Offer
from harness.data import ingest as module
from harness.data.ingest import require_prepared
from harness.data.prepared import PreparedDataset
from harness.errors import DatasetError, StoreError

pytestmark = pytest.mark.portable


@pytest.fixture
def prepare(tiny_catalog: Catalog, tmp_path: Path) -> Callable[..., PreparedDataset]:
    def run(name: str | Offer[DatasetSpec], input_size: int = 12) -> PreparedDataset:
        offer = tiny_catalog.dataset(name) if isinstance(name, str) else name
        return require_prepared(offer, tmp_path / "data", input_size)

    return run


def test_small_images_of_one_size_are_stored_unchanged(
    prepare: Callable[..., PreparedDataset], tiny_catalog: Catalog
) -> None:
    prepared = prepare("dots")
    assert prepared.folder.name == "native"
    train = prepared.open_train()
    assert train.images.shape == (64, 10, 10, 3)
    assert train.images.dtype == np.uint8
    samples = list(tiny_catalog.dataset("dots").spec.read(Path(), "train"))
    np.testing.assert_array_equal(train.images, [np.asarray(image) for image, *_ in samples])
    assert train.labels.tolist() == [sample[1] for sample in samples]
    assert (prepared.folder / "train.groups.txt").read_text().split() == [sample[2] for sample in samples]


@pytest.mark.parametrize(("name", "size", "form"), [("bars", 12, "12"), ("dots", 8, "8"), ("bars", 32, "32")])
def test_other_images_are_resized_whole_with_antialias(
    name: str, size: int, form: str, prepare: Callable[..., PreparedDataset], tiny_catalog: Catalog
) -> None:
    prepared = prepare(name, size)
    assert prepared.folder.name == form
    image = next(iter(tiny_catalog.dataset(name).spec.read(Path(), "train")))[0]
    expected = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(prepared.open_train().images[0], expected)
    assert not prepared.manifest.native


def test_grey_images_get_three_equal_channels(prepare: Callable[..., PreparedDataset]) -> None:
    images = prepare("grey").open_train().images
    assert (images[..., 0] == images[..., 1]).all()
    assert (images[..., 0] == images[..., 2]).all()


def test_statistics_are_exact_and_of_the_train_split(prepare: Callable[..., PreparedDataset]) -> None:
    prepared = prepare("dots")
    pixels = prepared.open_train().images.astype(np.float64) / 255
    np.testing.assert_allclose(prepared.manifest.mean, pixels.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(prepared.manifest.std, pixels.std(axis=(0, 1, 2)), rtol=1e-9)
    assert prepared.manifest.class_counts == {"train": (16,) * 4, "test": (10,) * 4}


def test_fingerprint_covers_pixels_and_labels(
    prepare: Callable[..., PreparedDataset], tiny_catalog: Catalog, tmp_path: Path
) -> None:
    first = prepare("dots").manifest.fingerprint
    shutil.rmtree(tmp_path / "data")
    assert prepare("dots").manifest.fingerprint == first
    offer = tiny_catalog.dataset("dots")

    def one_pixel(folder: Path, split: str) -> object:
        for index, (image, label, group) in enumerate(offer.spec.read(folder, split)):  # type: ignore[arg-type, misc]
            if split == "test" and index == 39:
                red, green, blue = image.getpixel((9, 9))  # type: ignore[misc]
                image.putpixel((9, 9), (red ^ 1, green, blue))
            yield image, label, group

    def one_label(folder: Path, split: str) -> object:
        for index, (image, label, group) in enumerate(offer.spec.read(folder, split)):  # type: ignore[arg-type, misc]
            yield image, (label + (split == "train" and index == 0)) % 4, group

    for read in (one_pixel, one_label):
        shutil.rmtree(tmp_path / "data")
        other = prepare(Offer(replace(offer.spec, read=read), offer.owner))  # type: ignore[arg-type]
        assert other.manifest.fingerprint != first


def test_prepared_once(prepare: Callable[..., PreparedDataset]) -> None:
    def times(folder: Path) -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.is_file()}

    first = prepare("dots")
    before = times(first.folder)
    for again in (prepare("dots"), prepare("dots", 64)):
        assert again.folder == first.folder
        assert times(again.folder) == before


def test_another_definition_is_prepared_anew(prepare: Callable[..., PreparedDataset], tiny_catalog: Catalog) -> None:
    first = prepare("dots")
    offer = tiny_catalog.dataset("dots")
    newer = Offer(offer.spec, replace(offer.owner, version="2.0"))
    assert prepare(newer).manifest.definition != first.manifest.definition


BAD = {
    "palette": "train image 0 has mode P, expected RGB or L",
    "wrong_label": "train image 4 has the label 4, expected 0 to 3",
    "short": "yields 63 train images, expected 64",
    "long": "train image 64: expected 64 images and no more",
    "raising": "reading its train split failed: OSError: the archive ends early",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_data_set_is_refused_and_leaves_nothing(
    name: str, prepare: Callable[..., PreparedDataset], tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match=BAD[name]):
        prepare(name)
    assert [path.name for path in (tmp_path / "data" / name).iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([("not an image", 0)], "image 0 is a str, expected a PIL image"),
        ([(Image.new("RGB", (4, 4)), "cat")], "label 'cat' of type str, expected an int"),
        ([(Image.new("RGB", (4, 4)), True)], "label True of type bool"),
        ([(Image.new("RGB", (4, 4)), -1)], "label -1, expected 0 to 3"),
        ([7], "its reader yields int, expected"),
        ([(Image.new("RGB", (4, 4)), 0)] * 64, "colour channel is the same in every training pixel"),
        ([(Image.new("CMYK", (4, 4)), 0)], "has mode CMYK"),
    ],
)
def test_bad_sample_is_refused(
    samples: list[object], message: str, prepare: Callable[..., PreparedDataset], tiny_catalog: Catalog
) -> None:
    offer = tiny_catalog.dataset("dots")
    spec = replace(offer.spec, read=lambda folder, split: samples[: offer.spec.splits[split]])  # type: ignore[arg-type]
    with pytest.raises(DatasetError, match=message):
        prepare(Offer(spec, offer.owner))


def test_numpy_labels_are_refused_with_their_type(
    prepare: Callable[..., PreparedDataset], tiny_catalog: Catalog
) -> None:
    offer = tiny_catalog.dataset("dots")
    spec = replace(offer.spec, read=lambda folder, split: [(Image.new("RGB", (4, 4)), np.int64(1))])
    with pytest.raises(DatasetError, match=r"of type int64, expected an int"):
        prepare(Offer(spec, offer.owner))


def test_downloaded_data_set_names_the_command_to_prepare_it(
    prepare: Callable[..., PreparedDataset], tiny_catalog: Catalog
) -> None:
    from harness.api import Source

    offer = tiny_catalog.dataset("dots")
    spec = replace(offer.spec, sources=(Source(filename="a.zip", urls=("https://example.org/a.zip",)),))
    with pytest.raises(DatasetError, match=r"not prepared in .* Run: harness prepare dots"):
        prepare(Offer(spec, offer.owner))


def test_damaged_store_is_named(prepare: Callable[..., PreparedDataset]) -> None:
    prepared = prepare("dots")
    images = prepared.folder / "train.images.npy"
    images.write_bytes(images.read_bytes()[:100])
    with pytest.raises(DatasetError, match=r"train split in .*native is damaged"):
        prepared.open_train()
    (prepared.folder / "manifest.json").write_text("{")
    with pytest.raises(DatasetError, match=r"manifest\.json is damaged"):
        prepare("dots")


def test_half_prepared_set_is_never_visible(
    prepare: Callable[..., PreparedDataset], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "content_fingerprint", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prepare("dots")
    monkeypatch.undo()
    assert not (tmp_path / "data" / "dots" / "native").exists()
    manifest = json.loads((prepare("dots").folder / "manifest.json").read_text())
    assert manifest["counts"] == {"train": 64, "test": 40}


@pytest.mark.skipif(os.geteuid() != 0 if hasattr(os, "geteuid") else True, reason="needs a folder nobody can write")
def test_unwritable_data_folder_is_reported(tiny_catalog: Catalog) -> None:
    with pytest.raises(StoreError, match=r"Cannot write in /proc/nowhere: it is not writable"):
        require_prepared(tiny_catalog.dataset("dots"), Path("/proc/nowhere"), 12)


def test_full_disk_is_reported_before_writing(
    prepare: Callable[..., PreparedDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(DatasetError, match=r"has 0 MB free, but .* MB are needed.* --data"):
        prepare("dots")
