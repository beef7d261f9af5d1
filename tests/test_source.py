"""The source of a plugin's function: what changes its stamp, and what changes the digest of its code."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from harness.api import ModelSpec
from harness.source import source_digest, source_stamp

LAYERS = "def layer(width):\n    return width\n"
NET = """
import os
from functools import partial, wraps
from pack.layers import layer

WIDTH = int(os.environ.get("WIDTH", 8))

def build(num_classes, *, width=WIDTH):
    return layer(width)

def inside(width):
    def build(num_classes):
        return layer(width)
    return build

class Family:
    def __init__(self, width):
        self.width = width
    def build(self, num_classes):
        return layer(self.width)
    def __call__(self, num_classes):
        return layer(self.width)

def decorated(width):
    @wraps(build)
    def wrapper(num_classes):
        return build(num_classes, width=width)
    return wrapper

def reads_global(num_classes):
    return layer(WIDTH)
"""


@pytest.fixture
def pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of three modules and a data file, of which ``pack.net`` imports ``pack.layers``."""
    folder = tmp_path / "site" / "pack"
    folder.mkdir(parents=True)
    for name, text in {"__init__": "", "layers": LAYERS, "net": NET, "other": "x = 1\n"}.items():
        (folder / f"{name}.py").write_text(text)
    (folder / "sizes.yaml").write_text("width: 8\n")
    monkeypatch.syspath_prepend(str(folder.parent))
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "pack"]:
        del sys.modules[name]


def net() -> Any:
    return importlib.import_module("pack.net")


def stamp(build: Callable[..., Any]) -> list[object]:
    return source_stamp(ModelSpec(name="net", build=build, paper="none"))


MAKERS: dict[str, Callable[[int], Callable[..., Any]]] = {
    "partial": lambda width: partial(net().build, width=width),
    "partial of a partial": lambda width: partial(partial(net().build), width=width),
    "closure": lambda width: net().inside(width),
    "method": lambda width: net().Family(width).build,
    "object": lambda width: net().Family(width),
    "decorated": lambda width: net().decorated(width),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_stamp_repeats_and_holds_what_the_function_carries(name: str, pack: Path) -> None:
    make = MAKERS[name]
    assert stamp(make(8)) == stamp(make(8))
    assert stamp(make(8)) != stamp(make(16))


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("file", ["net.py", "layers.py", "other.py", "sizes.yaml"])
def test_every_file_of_the_package_changes_a_stamp(name: str, file: str, pack: Path) -> None:
    build = MAKERS[name](8)
    before = stamp(build)
    times = (pack / file).stat()
    (pack / file).write_text((pack / file).read_text().replace("w", "v"), encoding="utf-8")
    if file == "other.py":
        (pack / file).write_text("x = 2\n")
    os.utime(
        pack / file, ns=(times.st_atime_ns, times.st_mtime_ns)
    )  # an archive keeps times, an edit may keep the size
    assert stamp(build) != before


def test_values_that_a_module_read_from_outside_change_a_stamp(pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = stamp(net().reads_global)
    monkeypatch.setattr(net(), "WIDTH", 16)
    assert stamp(net().reads_global) != before


@dataclass(frozen=True)
class Config:
    width: int


def test_a_dataclass_has_the_form_of_its_fields(pack: Path) -> None:
    assert stamp(partial(net().build, Config(8))) == stamp(partial(net().build, Config(8)))
    assert stamp(partial(net().build, Config(8))) != stamp(partial(net().build, Config(9)))


def test_what_has_no_form_equals_nothing(pack: Path) -> None:
    import torch

    build = partial(net().build, weights=torch.zeros(2))
    assert stamp(build) != stamp(build)


def test_functions_that_refer_to_each_other_have_a_form(pack: Path) -> None:
    family = net().Family(8)
    family.other = net().Family(8)
    family.other.other = family
    assert stamp(family) == stamp(family)


@pytest.mark.parametrize(
    ("file", "old", "new", "counts"),
    [
        ("net.py", "layer(width)", "layer(width + 0)", True),
        ("layers.py", "return width", "return width * 1", True),
        ("other.py", "1", "2", False),
        ("sizes.yaml", "8", "9", False),
        ("net.py", "import os\n", "import os  # a comment\n\n\n", False),
        ("layers.py", "    return", '    """Say it."""\n    return', False),
        ("__init__.py", "", "print", True),
    ],
)
def test_a_digest_is_that_of_the_code_in_use(file: str, old: str, new: str, counts: bool, pack: Path) -> None:
    build = partial(net().build, width=8)
    before = source_digest(build)
    (pack / file).write_text((pack / file).read_text().replace(old, new, 1))
    assert (source_digest(build) != before) is counts


def test_a_module_beside_a_single_one_is_of_the_same_plugin(pack: Path) -> None:
    site = pack.parent
    (site / "lone.py").write_text("from lone_layers import layer\n\ndef build(num_classes):\n    return layer(1)\n")
    (site / "lone_layers.py").write_text(LAYERS)
    lone = importlib.import_module("lone")
    before, stamped = source_digest(lone.build), stamp(lone.build)
    (site / "lone_layers.py").write_text(LAYERS.replace("return width", "return -width"))
    assert source_digest(lone.build) != before
    assert stamp(lone.build) != stamped
