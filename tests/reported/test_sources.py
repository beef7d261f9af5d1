"""Faults around the sources of data sets: which folder is taken, which archives are read, how a download fails."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from tests.loopback import serving
from tests.reported.conftest import Bench
from tests.support import Ran

LEAVES = """
import os
from harness.api import DatasetSpec, Source, hookimpl

def by_name(folder, split):
    for label, name in enumerate("ab"):
        for path in sorted((folder / "leaves" / split / name).iterdir()):
            yield path, label

def by_rglob(folder, split):
    for path in sorted(folder.rglob("*.png")):
        if path.parts[-3] == split:
            yield path, "ab".index(path.parent.name)

def by_walk(folder, split):
    for base, _, names in sorted(os.walk(folder)):
        for name in sorted(names):
            if os.path.basename(os.path.dirname(base)) == split:
                yield folder / base / name, "ab".index(os.path.basename(base))

@hookimpl
def harness_datasets():
    url = os.environ.get("LEAVES", "https://127.0.0.1:9") + "/leaves.zip"
    source = Source(filename="leaves.zip", urls=(url,), bytes=99, checksums={"sha256": "0" * 64},
                    sole_origin="a download log", gives=("leaves",))
    return [DatasetSpec(name=name, title=name, classes=("a", "b"), splits={"train": 8, "test": 4}, read=read,
                        licence="CC0", citation="nobody", sources=(source,))
            for name, read in (("leaves", by_name), ("rglob", by_rglob), ("walk", by_walk))]
"""


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    noise = Image.new("L", (20, 20))
    noise.putdata([(number * 37 + index * index * 11) % 251 for index in range(400)])
    noise.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def leaves(folder: Path, first: int = 0) -> Path:
    """Put eight images for training and four for the test below a folder."""
    for split, count in (("train", 8), ("test", 4)):
        for index in range(count):
            path = folder / "leaves" / split / "ab"[index % 2] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(first + index + (100 if split == "test" else 0)))
    return folder


def zipped(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for path in sorted(folder.rglob("*.png")):
            packed.writestr(zipfile.ZipInfo(path.relative_to(folder).as_posix()), path.read_bytes())
    return buffer.getvalue()


@pytest.fixture
def garden(bench: Bench) -> Bench:
    """A bench with three data sets that differ in the way of their readers: ``leaves``, ``rglob`` and ``walk``."""
    bench.put("leaves", LEAVES)
    return bench


def fingerprint(ran: Ran) -> str:
    assert ran.code == 0, ran.err
    found = ran.rows[0]["fingerprint"]
    assert isinstance(found, str)
    return found


def prepare(bench: Bench, name: str, *options: str | Path, **variables: str) -> Ran:
    return bench.harness("prepare", name, *options, "--format", "json", cwd=None, **variables)


def test_a_folder_of_another_set_with_the_same_name_is_not_taken(garden: Bench, tmp_path: Path) -> None:
    leaves(tmp_path / "sets" / "z-mine")
    other = tmp_path / "sets" / "another-set" / "leaves" / "train"
    other.mkdir(parents=True)
    (other / "1.png").write_bytes(picture(1))
    ran = prepare(garden, "leaves", "--from", tmp_path / "sets")
    assert ran.code == 0, ran.err
    assert f"{tmp_path}/sets/z-mine/leaves is used; others do not fit" in ran.err


def test_two_folders_that_both_fit_are_named_and_none_is_guessed(garden: Bench, tmp_path: Path) -> None:
    leaves(tmp_path / "two" / "cropped", first=50)
    leaves(tmp_path / "two" / "original")
    ran = prepare(garden, "leaves", "--from", tmp_path / "two")
    assert ran.code == 3
    places = [f"{tmp_path}/two/{name}/leaves" for name in ("cropped", "original")]
    assert f"The folder leaves of 'leaves' is at {places[0]} and at {places[1]}. Give the right one" in ran.err
    right = fingerprint(prepare(garden, "leaves", "--from", places[1]))
    assert right == fingerprint(prepare(garden, "walk", "--from", places[1]))


def test_a_folder_that_was_moved_and_linked_back_is_found_by_its_old_name(garden: Bench, tmp_path: Path) -> None:
    disk = leaves(tmp_path / "disk") / "leaves"
    moved = disk.rename(disk.with_name("leaves-2024"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "leaves").symlink_to(moved)
    assert prepare(garden, "leaves", "--from", tmp_path / "home").code == 0
    assert prepare(garden, "rglob", "--from", tmp_path / "home" / "leaves").code == 0
    within = tmp_path / "home" / "leaves"
    ran = garden.harness("prepare", "walk", "--from", ".", cwd=within, PWD=str(within))
    assert ran.code == 0, ran.err


@pytest.mark.parametrize("reader", ["rglob", "walk"])
def test_readers_that_search_find_the_files(garden: Bench, tmp_path: Path, reader: str) -> None:
    given = leaves(tmp_path / "given")
    from_folder = fingerprint(prepare(garden, reader, "--from", given))
    (tmp_path / "leaves.zip").write_bytes(zipped(given))
    accept = ("--accept-file", hashlib.sha256(zipped(given)).hexdigest())
    again = {"HARNESS_DATA": str(tmp_path / "again")}
    assert fingerprint(prepare(garden, reader, "--from", tmp_path / "leaves.zip", *accept, **again)) == from_folder


def test_what_macs_and_windows_leave_behind_is_not_read(garden: Bench, tmp_path: Path) -> None:
    given = leaves(tmp_path / "given")
    clean = fingerprint(prepare(garden, "walk", "--from", given))
    for path in sorted(given.rglob("*.png")):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X        ")
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (given / "leaves" / "train" / "a" / name).write_bytes(b"x")
    (given / "leaves" / "train" / "@eaDir").mkdir()
    (given / "__MACOSX" / "leaves").mkdir(parents=True)
    ran = prepare(garden, "walk", "--from", given, HARNESS_DATA=str(tmp_path / "again"))
    assert fingerprint(ran) == clean
    assert "16 leftovers of other programs are left out, such as" in ran.err


def test_a_repacked_archive_of_another_size_can_be_accepted(garden: Bench, tmp_path: Path) -> None:
    packed = zipped(leaves(tmp_path / "given"))
    digest = hashlib.sha256(packed).hexdigest()
    with serving({"leaves.zip": packed}) as server:
        refused = prepare(garden, "leaves", LEAVES=server.base)
        assert refused.code == 3
        assert f"expected 99; its sha256 is {digest}" in refused.err
        assert f"--accept-file {digest}" in refused.err
        assert prepare(garden, "leaves", "--accept-file", digest, LEAVES=server.base).code == 0
        assert len(server.requests) == 1


def test_a_password_in_the_mirrors_address_is_never_printed(garden: Bench, tmp_path: Path) -> None:
    ran = prepare(garden, "leaves", HARNESS_MIRROR="http://curator:s3cret@127.0.0.1:9/sets")
    assert ran.code == 3
    assert "http://***@127.0.0.1:9/sets/leaves/leaves.zip: the connection failed" in ran.err
    assert "s3cret" not in ran.out + ran.err
    written = [path.read_bytes() for path in (garden.folder / "data").rglob("*") if path.is_file()]
    assert not any(b"s3cret" in content for content in written)


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_missing_file_of_certificates_is_named(garden: Bench, name: str) -> None:
    ran = prepare(garden, "leaves", **{"REQUESTS_CA_BUNDLE": ""} | {name: "/opt/gone/cacert.pem"})
    assert ran.code == 3
    assert "Traceback" not in ran.err
    assert (
        f"the file of trusted certificates is missing; {name} is /opt/gone/cacert.pem: correct or unset it" in ran.err
    )
