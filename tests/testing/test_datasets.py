"""Every rule about data sets catches its offender, and no other rule complains."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harness.api import DatasetSpec, Source
from harness.catalog import Offer, Plugin
from harness.testing.datasets import RULES, DatasetCase
from harness.testing.fakes import SET, read_set
from tests.testing.offending import SIDE_EFFECTS, Offender, assert_exactly, complaints

OWNER = Plugin("mine", "mine", "mine", "1.0")


def samples(split: Any) -> list[Any]:
    return list(read_set(Path(), split))


def read_palette(folder: Path, split: Any) -> Iterator[Any]:
    yield from ((image.convert("P"), label) for image, label in samples(split))


def read_raising(folder: Path, split: Any) -> Iterator[Any]:
    yield from samples(split)[:5]
    raise OSError("the archive ends early")


def read_bare(folder: Path, split: Any) -> Iterator[Any]:
    yield from (image for image, _ in samples(split))


def read_text(folder: Path, split: Any) -> Iterator[Any]:
    yield from ((b"no image", label) for _, label in samples(split))


def read_short(folder: Path, split: Any) -> Iterator[Any]:
    yield from samples(split)[:-1]


def read_without_end(folder: Path, split: Any) -> Iterator[Any]:
    number = 0
    while True:
        yield Image.new("RGB", (10, 10), (number % 256, number // 256, int(split == "test"))), number % 3
        number += 1


def read_labels_from_one(folder: Path, split: Any) -> Iterator[Any]:
    yield from ((image, label + 1) for image, label in samples(split))


def read_text_labels(folder: Path, split: Any) -> Iterator[Any]:
    yield from ((image, str(label)) for image, label in samples(split))


def read_no_blue(folder: Path, split: Any) -> Iterator[Any]:
    yield from ((image, label % 2 if split == "test" else label) for image, label in samples(split))


def read_shuffled(folder: Path, split: Any) -> Iterator[Any]:
    them = samples(split)
    random.Random().shuffle(them)
    yield from them


def read_once(folder: Path, split: Any, _done: list[str] = []) -> Iterator[Any]:  # noqa: B006 - state is the point
    if _done.count(split) >= 2:
        raise RuntimeError("the file is at its end")
    _done.append(split)
    yield from samples(split)


def read_twins(folder: Path, split: Any) -> Iterator[Any]:
    them = samples(split)
    yield from them if split == "train" else [*samples("train")[:3], *them[3:]]


def read_groups(folder: Path, split: Any) -> Iterator[Any]:
    yield from ((image, label, f"patient {index // 3}") for index, (image, label) in enumerate(samples(split)))


def read_own_groups(folder: Path, split: Any) -> Iterator[Any]:
    yield from ((image, label, f"{split} {index // 3}") for index, (image, label) in enumerate(samples(split)))


def read_flat(folder: Path, split: Any) -> Iterator[Any]:
    yield from (
        (Image.merge("RGB", (*image.split()[:2], Image.new("L", image.size))), y) for image, y in samples(split)
    )


def read_files(root: Path, peek: bool, folder: Path, split: Any) -> Iterator[Any]:
    for file in sorted((root / "test").iterdir() if peek and split == "train" else ()):
        file.read_bytes()
    for file in sorted((root / split).iterdir()):
        yield file, int(file.stem.partition("-")[2])


def does(action: Callable[[], None], folder: Path, split: Any) -> Iterator[Any]:
    if split == "train":
        action()
    yield from samples(split)


def data(read: Callable[..., Any] = read_set, **changes: Any) -> DatasetSpec:
    return replace(SET, read=read, **changes)


SOURCE = Source(filename="leaves.zip", urls=("https://example.org/leaves.zip",), bytes=7, checksums={"md5": "0" * 32})

OFFENDERS = (
    Offender("dataset-reads", data(read_palette), says="mode P"),
    Offender("dataset-reads", data(read_raising), says="the archive ends early"),
    Offender("dataset-sizes", data(read_short), says="35 samples, it declares 36"),
    Offender("dataset-sizes", data(read_without_end), says="or more"),
    Offender("dataset-labels", data(read_text_labels), says="'0'"),
    Offender("dataset-labels", data(read_labels_from_one), says="the label 3, expected an int from 0 to 2"),
    Offender("dataset-classes", data(read_no_blue), says="blue"),
    Offender("dataset-rereads", data(read_shuffled), says="differs from sample"),
    Offender("dataset-leakage", data(read_twins), says="3 of 12 test images"),
    Offender("dataset-leakage", data(read_twins, leakage="three"), "warning", says="declared: three"),
    Offender("dataset-groups", data(read_groups), says="12 of 12"),
    Offender("dataset-prepares", data(read_flat), says="colour channel"),
    Offender("dataset-sources", data(sources=(replace(SOURCE, checksums={}),)), says="no checksum"),
    Offender("dataset-sources", data(sources=(replace(SOURCE, urls=()),)), says="no address"),
    Offender("dataset-sources", data(sources=(replace(SOURCE, bytes=None),)), "warning", says="size"),
    Offender("dataset-spec-pickles", data(lambda folder, split: read_set(folder, split))),
    Offender("dataset-described", data(licence="unknown"), says="licence = 'unknown'"),
    Offender("dataset-described", data(citation=""), says="citation"),
    Offender("dataset-described", data(domain=""), "warning", says="domain"),
    *(Offender(f"dataset-{end}", data(partial(does, action)), says=says) for end, action, says in SIDE_EFFECTS),
)


def case_of(spec: DatasetSpec, tmp_path: Path) -> DatasetCase:
    return DatasetCase(Offer(spec, OWNER), tmp_path / "data", (12, 20))


@pytest.mark.parametrize("number", range(len(OFFENDERS)), ids=lambda number: f"{number}-{OFFENDERS[number].rule}")
def test_exactly_the_intended_rule_complains(number: int, tmp_path: Path) -> None:
    offender = OFFENDERS[number]
    assert_exactly(offender, complaints(RULES, case_of(offender.what, tmp_path)))


@pytest.mark.parametrize("read", [read_bare, read_text])
def test_what_is_no_sample_is_named(read: Callable[..., Any], tmp_path: Path) -> None:
    found = complaints(RULES, case_of(data(read), tmp_path))
    assert found["dataset-reads"].detail.startswith("train sample 0 is ")


def test_a_reader_that_works_a_few_times_only(tmp_path: Path) -> None:
    found = complaints(RULES[:5], case_of(data(read_once), tmp_path))
    assert found["dataset-rereads"].detail.endswith("RuntimeError: the file is at its end.")


@pytest.mark.parametrize("peek", [False, True])
def test_reading_train_must_not_open_test_images(peek: bool, tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for index, (image, label) in enumerate(samples(split)):
            image.save(tmp_path / split / f"{index:03}-{label}.png")
    found = complaints(RULES, case_of(data(partial(read_files, tmp_path, peek)), tmp_path))
    assert set(found) == ({"dataset-train-blind"} if peek else set())
    if peek:
        assert "000-0.png" in found["dataset-train-blind"].detail


@pytest.mark.parametrize("read", [read_set, read_own_groups])
def test_healthy_set_keeps_every_rule(read: Callable[..., Any], tmp_path: Path) -> None:
    assert complaints(RULES, case_of(data(read), tmp_path)) == {}


def test_a_set_with_downloads_is_examined_as_it_was_prepared(tmp_path: Path) -> None:
    from harness.data.ingest import Ingestion, ingest

    case = case_of(data(read_twins, sources=(SOURCE,)), tmp_path)
    assert complaints(RULES, case) == {}  # nothing is prepared, so nothing can be told
    ingest(Ingestion(case.offer, case.data_root, 12))
    assert set(complaints(RULES, case_of(case.spec, tmp_path))) == {"dataset-leakage"}
