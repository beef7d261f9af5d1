"""The embedded suite holds what it declares, and nothing is in both splits of a set."""

from __future__ import annotations

import csv
import io
import re
import subprocess
import sys
from collections import Counter, defaultdict
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from typing import Literal

import pytest
from PIL import ImageStat
from PIL.Image import Image

from harness.api import DatasetSpec
from xscore_plugins.datasets import pocket

NATIVE = {
    "pocket_digits": ("L", (8, 8)),
    "pocket_fashion": ("L", (28, 28)),
    "pocket_textures": ("L", (32, 32)),
    "pocket_earth": ("RGB", (32, 32)),
}
DATA = files("xscore_plugins.datasets").joinpath("pocket_data")
SPECS = {spec.name: spec for spec in pocket.harness_datasets()}
every_set = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())


def read(spec: DatasetSpec, split: Literal["train", "test"]) -> list[tuple[Image, int, str]]:
    samples = []
    for sample in spec.read(Path("ignored"), split):
        assert len(sample) == 3
        samples.append(sample)
    return samples


def pixels(spec: DatasetSpec, split: Literal["train", "test"]) -> list[bytes]:
    return [image.tobytes() for image, _, _ in read(spec, split)]


def test_the_suite_has_four_domains() -> None:
    assert set(SPECS) == set(NATIVE)
    assert len({spec.domain for spec in SPECS.values()}) == 4
    for spec in SPECS.values():
        assert all((spec.licence, spec.citation, spec.homepage))
        assert not spec.sources


@every_set
def test_splits_are_as_declared_and_balanced(spec: DatasetSpec) -> None:
    for split, size in spec.splits.items():
        samples = read(spec, split)
        assert len(samples) == size
        counts = Counter(label for _, label, _ in samples)
        assert counts == dict.fromkeys(range(len(spec.classes)), size // len(spec.classes))


@every_set
def test_images_have_one_mode_and_size(spec: DatasetSpec) -> None:
    for split in spec.splits:
        assert {(image.mode, image.size) for image, _, _ in read(spec, split)} == {NATIVE[spec.name]}


@every_set
def test_no_image_is_repeated(spec: DatasetSpec) -> None:
    images = pixels(spec, "train") + pixels(spec, "test")
    assert len(set(images)) == len(images)
    assert all(len(set(image)) > 1 for image in images), "a tile of one colour is an empty place on the sheet"


@every_set
def test_no_group_is_in_both_splits(spec: DatasetSpec) -> None:
    train, test = ({group for _, _, group in read(spec, split)} for split in ("train", "test"))
    assert "" not in train | test
    assert not train & test


@every_set
def test_reading_twice_gives_the_same(spec: DatasetSpec) -> None:
    for split in spec.splits:
        first, second = read(spec, split), read(spec, split)
        assert [sample[1:] for sample in first] == [sample[1:] for sample in second]
        assert [sample[0].tobytes() for sample in first] == [sample[0].tobytes() for sample in second]


def test_texture_patches_come_from_disjoint_parts_of_a_photograph() -> None:
    corners: dict[str, dict[str, list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
    for row in csv.DictReader(io.StringIO(DATA.joinpath("textures.csv").read_text(encoding="utf-8"))):
        match = re.fullmatch(r"(.+) 32x32\+(\d+)\+(\d+)", row["origin"])
        assert match, row
        corners[match[1]][row["split"]].append((int(match[2]), int(match[3])))
    assert len(corners) == 5
    for photograph, splits in corners.items():
        gap = min(x for x, _ in splits["test"]) - max(x + 32 for x, _ in splits["train"])
        assert gap >= 32, f"{photograph}: {gap} columns between the parts"
        taken = splits["train"] + splits["test"]
        assert len(set(taken)) == len(taken)
        for part in splits.values():
            # All corners of a part lie on one grid of 32 pixels, so different ones cannot overlap.
            assert len({(x % 32, y % 32) for x, y in part}) == 1


def test_earth_patches_of_different_splits_or_classes_come_from_different_places() -> None:
    places = []
    for row in csv.DictReader(io.StringIO(DATA.joinpath("earth.csv").read_text(encoding="utf-8"))):
        match = re.fullmatch(r"bmng\.jpg 32x32\+(\d+)\+(\d+)", row["origin"])
        assert match, row
        places.append((row, int(match[1]), int(match[2])))
    assert len({(x, y) for _, x, y in places}) == len(places)
    for (first, x, y), (second, u, v) in combinations(places, 2):
        gap = max(abs(x - u), abs(y - v)) - 32
        if first["split"] != second["split"]:
            assert gap >= 32, (first, second)
        elif first["label"] != second["label"]:
            assert gap >= 0, (first, second)


def test_earth_patches_are_not_plain_and_each_class_has_several_regions() -> None:
    spec = SPECS["pocket_earth"]
    for split in spec.splits:
        regions: dict[int, set[str]] = defaultdict(set)
        for image, label, region in read(spec, split):
            assert sum(ImageStat.Stat(image).stddev) / 3 >= 1.5, f"{region} has a plain patch"
            regions[label].add(region)
        assert all(len(names) >= 2 for names in regions.values())


def test_digits_of_a_form_stay_together() -> None:
    forms = [{group for _, _, group in read(SPECS["pocket_digits"], split)} for split in ("train", "test")]
    assert [len(groups) for groups in forms] == [10, 4]


def test_all_files_are_small_and_their_terms_are_stated() -> None:
    assert sum(len(file.read_bytes()) for file in DATA.iterdir()) < 3_000_000
    terms = DATA.joinpath("LICENCES.md").read_text(encoding="utf-8")
    for name in NATIVE:
        assert f"## {name.removeprefix('pocket_')}\n" in terms


def test_listing_the_suite_imports_nothing_heavy() -> None:
    code = (
        "import sys; from xscore_plugins.datasets import pocket; pocket.harness_datasets(); "
        "print([m for m in ('torch', 'torchvision', 'numpy', 'PIL') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
