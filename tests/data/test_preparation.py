"""Preparation of a data set: interrupted and resumed, locked, checked, in flat memory, and never visible half-way."""

from __future__ import annotations

import csv
import errno
import json
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.api import Split
from harness.catalog import Offer, Plugin
from harness.data import arrays, decode, ingest
from harness.data.fetch import FetchPolicy
from harness.data.ingest import definition
from harness.data.prepare import PrepareRequest, estimate, prepare_dataset
from harness.data.prepared import find_prepared, open_split
from harness.data.store import locked
from harness.errors import DatasetError, StoreError
from tests.data.folder import SIZE, files, make, offer
from tests.published_layouts import build, picture
from tests.support import ROOT


def test_paths_bytes_and_images_give_the_same(images: Path, tmp_path: Path) -> None:
    def as_bytes(folder: Path, split: Split) -> Iterator[Any]:
        for path, *rest in files(folder, split):
            yield (path.read_bytes(), *rest)

    def as_images(folder: Path, split: Split) -> Iterator[Any]:
        for path, *rest in files(folder, split):
            yield (Image.open(path), *rest)

    made = [make(images, tmp_path / name, read) for name, read in (("p", files), ("b", as_bytes), ("i", as_images))]
    assert len({one.manifest.fingerprint for one in made}) == 1
    assert made[0].manifest.mean == made[1].manifest.mean


def test_the_number_of_threads_changes_nothing(images: Path, tmp_path: Path) -> None:
    made = [make(images, tmp_path / str(count), workers=count) for count in (1, 3, 16)]
    contents = [(one.folder / "train.images.npy").read_bytes() for one in made]
    assert contents[0] == contents[1] == contents[2]
    assert len({one.manifest.fingerprint for one in made}) == 1


def test_pixels_and_statistics_are_those_of_a_plain_loop(images: Path, tmp_path: Path) -> None:
    prepared = make(images, tmp_path / "data")
    plain = np.stack(
        [
            np.asarray(Image.open(path).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR))
            for path, *_ in files(images, "train")
        ]
    )
    assert np.array_equal(open_split(prepared, "train").images, plain)
    scaled = plain.astype(np.float64) / 255
    assert prepared.manifest.mean == pytest.approx(scaled.mean((0, 1, 2)), abs=1e-12)
    assert prepared.manifest.std == pytest.approx(scaled.std((0, 1, 2)), abs=1e-12)


def test_one_pixel_or_one_label_changes_the_fingerprint(images: Path, tmp_path: Path) -> None:
    first = make(images, tmp_path / "one").manifest.fingerprint

    def relabelled(folder: Path, split: Split) -> Iterator[Any]:
        for index, (path, label, group) in enumerate(files(folder, split)):
            yield path, 1 - label if (split, index) == ("test", 9) else label, group

    def repainted(folder: Path, split: Split) -> Iterator[Any]:
        for index, (path, label, group) in enumerate(files(folder, split)):
            image = Image.open(path).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
            if (split, index) == ("train", 39):
                red, green, blue = (int(value) for value in image.getpixel((31, 31)))  # type: ignore[union-attr]
                image.putpixel((31, 31), (red, green, blue ^ 1))
            yield image, label, group

    assert make(images, tmp_path / "two", relabelled).manifest.fingerprint != first
    assert make(images, tmp_path / "three", repainted).manifest.fingerprint != first


class Stopping:
    """A reader that stops like a Ctrl-C after some images, once."""

    def __init__(self, split: Split, after: int, error: BaseException) -> None:
        self.split, self.after, self.error, self.stopped = split, after, error, False

    def __call__(self, folder: Path, split: Split) -> Iterator[Any]:
        for index, sample in enumerate(files(folder, split)):
            if not self.stopped and (split, index) == (self.split, self.after):
                self.stopped = True
                raise self.error
            yield sample


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images that were really decoded; the journal is written every four images."""
    names: list[str] = []
    real = decode.open_image

    def counting(source: Path, name: str = "") -> Image.Image:
        names.append(Path(source).name)
        return real(source, name)

    monkeypatch.setattr(decode, "open_image", counting)
    monkeypatch.setattr(ingest, "_SYNC_EVERY", 4)
    return names


@pytest.mark.parametrize(("split", "after"), [("train", 30), ("test", 9)])
def test_a_stop_loses_little_and_the_next_attempt_resumes(
    images: Path, tmp_path: Path, decoded: list[str], split: Split, after: int
) -> None:
    whole = make(images, tmp_path / "whole")
    decoded.clear()
    reader = Stopping(split, after, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        make(images, tmp_path / "data", reader, workers=1)
    assert find_prepared(tmp_path / "data", "folder", definition(offer(files)), SIZE) is None
    decoded.clear()
    again = make(images, tmp_path / "data", reader, workers=1)
    # A few more than the rest: the native form is tried first, and given up at the first image of another size.
    assert len(decoded) < (32 if split == "train" else 16)
    assert again.manifest.fingerprint == whole.manifest.fingerprint
    for name in ("train.images.npy", "test.images.npy", "train.labels.npy", "train.groups.txt"):
        assert (again.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    assert sorted(path.name for path in again.folder.parent.iterdir()) == [".lock", "32"]


def test_the_next_attempt_resumes_after_a_kill(images: Path, tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; sys.path.insert(0, '.')\n"
        "from tests.data import test_preparation as t; from harness.data import ingest; ingest._SYNC_EVERY = 4\n"
        "def read(folder, split):\n"
        "    for i, s in enumerate(t.files(folder, split)):\n"
        "        if i == 35: os._exit(9)\n"
        "        yield s\n"
        f"t.make(Path({str(images)!r}), Path({str(tmp_path / 'data')!r}), read, workers=1)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert run.returncode == 9
    (journal_file,) = (tmp_path / "data" / "folder").glob(".work-*/32.json")
    journal = json.loads(journal_file.read_bytes())
    assert journal["done"]["train"] >= 24
    assert make(images, tmp_path / "data").manifest.fingerprint == make(images, tmp_path / "x").manifest.fingerprint


def test_half_written_arrays_of_other_files_are_not_used(images: Path, tmp_path: Path, decoded: list[str]) -> None:
    reader = Stopping("train", 30, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        make(images, tmp_path / "data", reader, workers=1)
    (images / "03.png").write_bytes(picture("another", (40, 33), "PNG"))
    made = make(images, tmp_path / "data", reader, workers=1)
    assert made.manifest.fingerprint == make(images, tmp_path / "fresh").manifest.fingerprint


@pytest.mark.parametrize("damage", ["journal", "array", "shorter"])
def test_damaged_half_written_arrays_are_started_anew(
    images: Path, tmp_path: Path, decoded: list[str], damage: str
) -> None:
    reader = Stopping("train", 30, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        make(images, tmp_path / "data", reader, workers=1)
    (partial,) = (tmp_path / "data" / "folder").glob(".work-free-*/32")
    if damage == "journal":
        partial.with_name("32.json").write_text("{")
    elif damage == "array":
        (partial / "train.images.npy").write_bytes(b"nonsense" * 100)
    else:
        (partial / "train.images.npy").write_bytes((partial / "train.images.npy").read_bytes()[:5000])
    made = make(images, tmp_path / "data", reader)
    assert made.manifest.fingerprint == make(images, tmp_path / "fresh").manifest.fingerprint


def test_a_full_disk_is_reported_and_finished_images_are_kept(
    images: Path, tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = arrays.ArrayWriter.append
    written = 0

    def full(self: arrays.ArrayWriter, pixels: Any) -> None:
        nonlocal written
        written += 1
        if written == 20:
            with ingest.writing_to(tmp_path):
                raise OSError(errno.ENOSPC, "No space left on device")
        real(self, pixels)

    monkeypatch.setattr(arrays.ArrayWriter, "append", full)
    with pytest.raises(StoreError, match="the disk is full"):
        make(images, tmp_path / "data", workers=1)
    decoded.clear()
    made = make(images, tmp_path / "data", workers=1)
    assert made.manifest.counts == {"train": 40, "test": 10}
    assert len(decoded) < 40


def test_free_space_is_checked_before_anything_is_written(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 10**6 - 1000, 1000))
    with pytest.raises(DatasetError, match=r"has 0 MB free, but .* are needed"):
        make(images, tmp_path / "data")
    miniature = build("cifar10")
    request = PrepareRequest(miniature.offer(), tmp_path / "more", (224,), None, FetchPolicy(offline=True))
    with pytest.raises(DatasetError, match="Make room"):
        prepare_dataset(request, say=lambda _: None)
    assert not list((tmp_path / "data" / "folder").glob("*/*"))


def test_the_estimate_has_the_right_size() -> None:
    from tests.published_layouts import SPECS

    def of(name: str) -> float:
        request = PrepareRequest(Offer(SPECS[name], Plugin(name, "m", "d", "1")), Path("/nowhere"), (224,))
        return estimate(request).total / 1e9

    assert of("cifar10") == pytest.approx(0.17 + 0.187 + 0.184, abs=0.01)
    assert of("ham10000") == pytest.approx(2.77 + 3.05 + 1.28, abs=0.05)
    assert of("miniplaces") == pytest.approx(5.41, abs=0.05)


def test_two_processes_do_not_prepare_the_same_set(images: Path, tmp_path: Path) -> None:
    request = PrepareRequest(offer(files), tmp_path, (SIZE,))
    with locked(tmp_path, "folder"), pytest.raises(DatasetError, match="Another process is preparing 'folder'"):
        prepare_dataset(request, say=lambda _: None)


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        ((b"not an image", 0), "train image 1 is no image that can be read"),
        (("text", 0), "train image 1 is a str, expected a PIL image, a path or bytes"),
        ((Image.new("CMYK", (9, 9)), 0), "has mode CMYK, expected RGB or L"),
        ((Image.new("RGB", (9, 9)), 2), "has the label 2, expected 0 to 1"),
        ((Image.new("RGB", (9, 9)), -1), "has the label -1"),
        ((Image.new("RGB", (9, 9)), True), "of type bool, expected an int"),
        ((Image.new("RGB", (9, 9)), "1"), "of type str, expected an int"),
        ((Image.new("RGB", (9, 9)), 0, "two\nlines"), "expected a text of one line"),
        ((Image.new("RGB", (9, 9)), 0, ""), "expected a text of one line"),
        ((Image.new("RGB", (9, 9)),), "expected (image, label) or (image, label, group)"),
        (ZeroDivisionError("oops"), "reading its train split failed: ZeroDivisionError: oops"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_sample_is_refused_and_leaves_nothing(tmp_path: Path, sample: Any, reason: str) -> None:
    def read(folder: Path, split: Split) -> Iterator[Any]:
        yield Image.new("RGB", (9, 9)), 0
        if isinstance(sample, Exception):
            raise sample
        yield sample

    with pytest.raises(DatasetError) as caught:
        ingest.ingest(ingest.Ingestion(offer(read, 2, 2), tmp_path / "data", SIZE, tmp_path))
    assert reason in str(caught.value)
    assert [path.name for path in (tmp_path / "data" / "folder").iterdir()] == [".lock"]


def test_documented_unreadable_files_are_left_out_and_others_are_not(images: Path, tmp_path: Path) -> None:
    (images / "05.png").write_bytes(b"damaged where it is published")

    def more(folder: Path, split: Split) -> Iterator[Any]:
        paths = sorted(folder.iterdir())
        for index, path in enumerate(paths[:41] if split == "train" else paths[41:]):
            yield path, index % 2

    known = offer(more, 40, 9, unreadable=("05.png",))
    made = ingest.ingest(ingest.Ingestion(known, tmp_path / "data", SIZE, images))
    assert made.manifest.left_out == ("05.png",)
    (images / "06.png").write_bytes(b"damaged by accident")
    with pytest.raises(DatasetError, match=r"train image 5 \(06.png\) is no image"):
        ingest.ingest(ingest.Ingestion(known, tmp_path / "other", SIZE, images))


def test_unreadable_files_are_left_out_under_any_path_of_theirs(images: Path, tmp_path: Path) -> None:
    (images / "05.png").write_bytes(b"damaged where it is published")
    view = tmp_path / "view"
    view.mkdir()
    for path in images.iterdir():
        (view / path.name).symlink_to(path)

    def resolved(folder: Path, split: Split) -> Iterator[Any]:
        paths = sorted(path.resolve() for path in folder.iterdir())
        for index, path in enumerate(paths[:41] if split == "train" else paths[41:]):
            yield path, index % 2

    known = offer(resolved, 40, 9, unreadable=("05.png",))
    made = ingest.ingest(ingest.Ingestion(known, tmp_path / "data", SIZE, view))
    assert made.manifest.counts == {"train": 40, "test": 9}


@pytest.mark.parametrize(("encoding", "named"), [("utf-8-sig", "utf-8-sig"), ("utf-16", "utf-16")])
@pytest.mark.parametrize("names", [True, False])
def test_a_byte_order_mark_is_named(images: Path, tmp_path: Path, encoding: str, named: str, names: bool) -> None:
    table = "file,class\n" if names else ""
    table += "".join(f"{path.name},{index % 2}\n" for index, path in enumerate(sorted(images.iterdir())))
    (images / "table.csv").write_text(table, encoding=encoding)

    def read(folder: Path, split: Split) -> Iterator[Any]:
        with (folder / "table.csv").open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file, None if names else ["file", "class"])
            for index, row in enumerate(rows):
                if (index < 40) is (split == "train"):
                    yield folder / row["file"], int(row["class"])

    with pytest.raises(DatasetError, match=rf"byte-order mark.* as Excel writes it; .*encoding='{named}'"):
        make(images, tmp_path / "data", read)


def test_memory_does_not_grow_with_the_set(tmp_path: Path) -> None:
    """Four times the images, the same peak: only a window of them is in memory."""
    code = (
        "import io, resource, sys; from pathlib import Path; from PIL import Image; sys.path.insert(0, '.')\n"
        "from tests.data import test_preparation as t; from harness.data import ingest\n"
        "buffer = io.BytesIO(); Image.effect_noise((300, 300), 60).convert('RGB').save(buffer, 'JPEG', quality=60)\n"
        "n = int(sys.argv[1])\n"
        "def read(folder, split):\n"
        "    for i in range(n if split == 'train' else 10): yield buffer.getvalue(), i % 2\n"
        "offer = t.offer(read, n, 10)\n"
        "ingest.ingest(ingest.Ingestion(offer, Path(sys.argv[2]), 128, workers=2))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    peaks = [
        int(
            subprocess.run(
                [sys.executable, "-c", code, str(count), str(tmp_path / str(count))],
                cwd=ROOT, capture_output=True, text=True, check=True,
            ).stdout
        )
        for count in (300, 1500)
    ]  # fmt: skip
    growth = (peaks[1] - peaks[0]) * 1024
    assert growth < 0.25 * 1200 * 128 * 128 * 3, f"{growth / 1e6:.0f} MB more for 59 MB more of pixels"


def test_a_spec_can_be_replaced() -> None:
    """Tests and third parties make small versions of a set."""
    spec = replace(build("cifar10").offer().spec, splits={"train": 1, "test": 1})
    assert spec.splits == {"train": 1, "test": 1}
