"""Archives that try to reach outside, fill the disk or are damaged: each is refused, and nothing is left behind."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.data import unpack as module
from harness.data.unpack import Limits, is_archive, unpack
from harness.errors import SourceError, StoreError

GOOD = {"a/one.txt": b"one", "a/b/two.txt": b"two" * 1000, "three.txt": b""}
SMALL = Limits(members=20, ratio=20, floor=50_000)


def member(name: str, content: bytes = b"x", **changes: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    for key, value in changes.items():
        setattr(info, key, value)
    info.size = len(content) if info.isreg() else 0
    return info, content if info.isreg() else b""


def tar_bytes(*members: tuple[tarfile.TarInfo, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zip_bytes(*members: tuple[str | zipfile.ZipInfo, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as opened:
        for name, content in members:
            opened.writestr(name, content)
    return buffer.getvalue()


def special_zip(kind: int) -> bytes:
    info = zipfile.ZipInfo("odd")
    info.create_system = 3
    info.external_attr = (kind | 0o777) << 16
    return zip_bytes((info, b"/etc/passwd"))


def encrypted_zip() -> bytes:
    content = bytearray(zip_bytes(("a", b"secret")))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    return bytes(content)


def lying_zip() -> bytes:
    """A member of 100,000 zeros that declares 10 bytes."""
    content = bytearray(zip_bytes(("a", bytes(100_000))))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", content, content.index(signature) + offset, 10)
    return bytes(content)


def overlapping_zip() -> bytes:
    """Two directory entries that point at one member's bytes."""
    whole = zip_bytes(("a", b"payload" * 50), ("b", b"payload" * 50))
    content = bytearray(whole)
    second = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 4)
    struct.pack_into("<I", content, second + 42, 0)
    return bytes(content)


def method_zip(method: int) -> bytes:
    """A zip whose member claims to be packed by a method of other programs."""
    content = bytearray(zip_bytes(("a", b"x" * 50)))
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        struct.pack_into("<H", content, content.index(signature) + offset, method)
    return bytes(content)


def spoilt_zip(compression: int) -> bytes:
    """A zip whose member is damaged in the middle of its packed bytes."""
    content = bytearray(zip_bytes(("a", os.urandom(5000)), compression=compression))
    content[60:100] = b"\xff" * 40
    return bytes(content)


def broken_crc_zip() -> bytes:
    content = bytearray(zip_bytes(("a", b"payload" * 100), compression=zipfile.ZIP_STORED))
    content[60] ^= 0xFF
    return bytes(content)


def damaged_tar() -> bytes:
    content = bytearray(tar_bytes(member("a", bytes(600)), member("b", bytes(600))))
    content[1536:2048] = b"\xab" * 512  # the second header
    return bytes(content)


LINK, HARD, FIFO, CHAR, BLOCK = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE

BAD: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "tar climbs": ("t.tar", lambda: tar_bytes(member("../evil")), "climbs out"),
    "tar climbs inside": ("t.tar", lambda: tar_bytes(member("a/../../evil")), "climbs out"),
    "tar absolute": ("t.tar", lambda: tar_bytes(member("/tmp/evil")), "absolute name"),
    "tar drive letter": ("t.tar", lambda: tar_bytes(member("C:evil")), "absolute name"),
    "tar backslash": ("t.tar", lambda: tar_bytes(member("..\\evil")), "backslash"),
    "tar control character": ("t.tar", lambda: tar_bytes(member("a\nb")), "control character"),
    "tar symbolic link": ("t.tar", lambda: tar_bytes(member("a", type=LINK, linkname="/etc")), "is a link"),
    "tar hard link": ("t.tar", lambda: tar_bytes(member("a"), member("b", type=HARD, linkname="a")), "is a link"),
    "tar link, then through it": (
        "t.tar",
        lambda: tar_bytes(member("a", type=LINK, linkname=".."), member("a/evil")),
        "is a link",
    ),
    "tar pipe": ("t.tar", lambda: tar_bytes(member("a", type=FIFO)), "device or a pipe"),
    "tar character device": ("t.tar", lambda: tar_bytes(member("a", type=CHAR)), "device or a pipe"),
    "tar block device": ("t.tar", lambda: tar_bytes(member("a", type=BLOCK)), "device or a pipe"),
    "tar same name twice": ("t.tar", lambda: tar_bytes(member("a"), member("a")), "twice"),
    "tar file and folder": ("t.tar", lambda: tar_bytes(member("a"), member("a/b")), "twice"),
    "tar too many members": ("t.tar", lambda: tar_bytes(*(member(str(i)) for i in range(21))), "more than 20 members"),
    "tar bomb": ("t.tar.gz", lambda: tar_bytes(member("a", bytes(2_000_000)), mode="w:gz"), "bomb"),
    "tar bomb of many": (
        "t.tgz",
        lambda: tar_bytes(*(member(str(i), bytes(9_000)) for i in range(10)), mode="w:gz"),
        "bomb",
    ),
    "tar name too long": ("t.tar", lambda: tar_bytes(member("n" * 300)), "longer than this disk allows"),
    "tar cut": ("t.tar", lambda: tar_bytes(member("a", bytes(5000)))[:2000], "damaged"),
    "tar damaged header": ("t.tar", damaged_tar, "no member"),
    "tar.gz cut": ("t.tar.gz", lambda: tar_bytes(member("a", os.urandom(9000)), mode="w:gz")[:-4000], "damaged"),
    "tar.gz damaged": (
        "t.tar.gz",
        lambda: gzip.compress(tar_bytes(member("a", os.urandom(900))))[:-8] + bytes(8),
        "can't be read",
    ),
    "tar is a web page": ("t.tar.gz", lambda: b"<html>Not found</html>", "damaged"),
    "tar is empty": ("t.tar", lambda: b"", "damaged"),
    "tar.bz2 damaged": ("t.tar.bz2", lambda: bz2.compress(tar_bytes(member("a")))[:60] + b"\xff" * 60, "t.tar.bz2"),
    "tar.xz damaged": ("t.tar.xz", lambda: lzma.compress(tar_bytes(member("a")))[:60] + b"\xff" * 60, "damaged"),
    "tar behind a tar climbs": (
        "t.tar",
        lambda: tar_bytes(member("a")) + tar_bytes(member("../evil")),
        "climbs out",
    ),
    "tar behind a tar has a name again": ("t.tar", lambda: tar_bytes(member("a")) * 2, "twice"),
    "tar is a RAR": ("t.tar", lambda: b"Rar!\x1a\x07\x01\x00" + bytes(600), "it is packed by RAR"),
    "tar is packed by Zstandard": ("t.tar.gz", lambda: b"\x28\xb5\x2f\xfd" + bytes(600), "packed by Zstandard"),
    "zip is a 7z": ("z.zip", lambda: b"7z\xbc\xaf\x27\x1c" + bytes(600), "is packed by 7z, expected tar or zip"),
    "zip by Deflate64": ("z.zip", lambda: method_zip(9), "packed by Deflate64, which can't be read here"),
    "zip by PPMd": ("z.zip", lambda: method_zip(98), "packed by PPMd"),
    "zip by an unknown method": ("z.zip", lambda: method_zip(77), "packed by method 77"),
    "zip by AES": ("z.zip", lambda: method_zip(99), "is encrypted"),
    "zip with damaged LZMA": ("z.zip", lambda: spoilt_zip(zipfile.ZIP_LZMA), "z.zip"),
    "zip with damaged bzip2": ("z.zip", lambda: spoilt_zip(zipfile.ZIP_BZIP2), "z.zip"),
    "zip with damaged Deflate": ("z.zip", lambda: spoilt_zip(zipfile.ZIP_DEFLATED), "z.zip"),
    "zip climbs": ("z.zip", lambda: zip_bytes(("../evil", b"x")), "climbs out"),
    "zip absolute": ("z.zip", lambda: zip_bytes(("/evil", b"x")), "absolute name"),
    "zip drive letter": ("z.zip", lambda: zip_bytes(("C:/evil", b"x")), "absolute name"),
    "zip backslash": ("z.zip", lambda: zip_bytes(("..\\evil", b"x")), "backslash"),
    "zip symbolic link": ("z.zip", lambda: special_zip(stat.S_IFLNK), "is a link"),
    "zip device": ("z.zip", lambda: special_zip(stat.S_IFCHR), "device or a pipe"),
    "zip encrypted": ("z.zip", encrypted_zip, "encrypted"),
    "zip file and folder": ("z.zip", lambda: zip_bytes(("a", b"x"), ("a/b", b"x")), "twice"),
    "zip too many members": ("z.zip", lambda: zip_bytes(*((str(i), b"") for i in range(21))), "more than 20 members"),
    "zip bomb": ("z.zip", lambda: zip_bytes(("a", bytes(2_000_000))), "bomb"),
    "zip lies about a size": ("z.zip", lying_zip, ""),
    "zip members overlap": ("z.zip", overlapping_zip, ""),
    "zip wrong CRC": ("z.zip", broken_crc_zip, "damaged"),
    "zip cut": ("z.zip", lambda: zip_bytes(("a", os.urandom(900)))[:-30], "damaged"),
    "zip is a web page": ("z.zip", lambda: b"<html>Not found</html>", "damaged"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_bad_archive_is_refused_and_leaves_nothing(tmp_path: Path, case: str) -> None:
    name, build, reason = BAD[case]
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / name).write_bytes(build())
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SourceError) as caught:
        unpack(inside / name, inside / "out", SMALL)
    assert reason in str(caught.value)
    assert "Nothing was unpacked" in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["t.tar", "t.tar.gz", "t.tgz", "t.zip"])
def test_a_good_archive_is_unpacked(tmp_path: Path, name: str) -> None:
    if name.endswith(".zip"):
        content = zip_bytes(("a/", b""), *GOOD.items())
    else:
        folder = member("./", type=tarfile.DIRTYPE)
        members = [folder, *(member(f"./{path}", data) for path, data in GOOD.items())]
        content = tar_bytes(*members, mode="w" if name == "t.tar" else "w:gz")
    (tmp_path / name).write_bytes(content)
    assert unpack(tmp_path / name, tmp_path / "out") == 3
    found = {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes() for path in (tmp_path / "out").rglob("*.txt")
    }
    assert found == GOOD


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("t.tar.bz2", bz2.compress),
        ("t.tbz2", bz2.compress),
        ("t.tar.xz", lzma.compress),
        ("T.TAR.GZ", gzip.compress),
        ("t.tar.gz", lzma.compress),  # named as the plugin expects it
        ("t.tgz", bytes),  # unpacked by the browser
        ("t.zip", gzip.compress),
        (
            "t.tar.gz",
            lambda content: b"".join(gzip.compress(content[i : i + 700]) for i in range(0, len(content), 700)),
        ),
        ("t.tar.gz", lambda content: gzip.compress(content) + bytes(700)),  # padded for a tape
    ],
)
def test_the_content_decides_the_kind_of_a_tar(tmp_path: Path, name: str, pack: Callable[[bytes], bytes]) -> None:
    assert is_archive(name)
    (tmp_path / name).write_bytes(pack(tar_bytes(*(member(path, data) for path, data in GOOD.items()))))
    assert unpack(tmp_path / name, tmp_path / "out") == 3


@pytest.mark.parametrize("name", ["Z.ZIP", "z.tar", "z.tgz"])
@pytest.mark.parametrize("program", [b"", b"MZ" + bytes(500)])
def test_the_content_decides_the_kind_of_a_zip(tmp_path: Path, name: str, program: bytes) -> None:
    if program and name != "Z.ZIP":
        return  # only the name tells that a program holds a zip
    (tmp_path / name).write_bytes(program + zip_bytes(*GOOD.items()))
    assert unpack(tmp_path / name, tmp_path / "out") == 3


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
def test_tars_behind_each_other_are_all_unpacked(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    parts = [tar_bytes(member("a/one"), member("b/one")), tar_bytes(member("a/two")), tar_bytes(member("c"))]
    (tmp_path / "t.tar").write_bytes(pack(b"".join(parts)))
    assert unpack(tmp_path / "t.tar", tmp_path / "out") == 4
    assert (tmp_path / "out" / "a" / "two").read_bytes() == b"x"


def test_what_follows_the_end_mark_and_is_no_tar_is_ignored_as_tar_does(tmp_path: Path) -> None:
    (tmp_path / "t.tar").write_bytes(tar_bytes(member("a")) + b"padding of a tape" * 100)
    assert unpack(tmp_path / "t.tar", tmp_path / "out") == 1


def test_labels_and_folder_lists_of_gnu_tar_are_no_files(tmp_path: Path) -> None:
    label, folder = tarfile.TarInfo("My volume"), tarfile.TarInfo("a/")
    label.type, folder.type, folder.size = b"V", b"D", 5
    (tmp_path / "t.tar").write_bytes(tar_bytes((label, b""), (folder, b"Yb\0\0\0"), member("a/b")))
    assert unpack(tmp_path / "t.tar", tmp_path / "out") == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]


def raw_zip(name: bytes, extra: bytes = b"") -> bytes:
    """A zip of one member, whose name is stored without the flag for UTF-8."""
    stand_in = "n" * len(name)
    info = zipfile.ZipInfo(stand_in)
    info.extra = extra
    return zip_bytes((info, b"x")).replace(stand_in.encode(), name)


ACCENT = "crème.jpg"


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (ACCENT.encode(), ACCENT),
        (unicodedata.normalize("NFD", ACCENT).encode(), unicodedata.normalize("NFD", ACCENT)),
        (ACCENT.encode("cp437"), ACCENT),
        ("Übung.jpg".encode("cp437"), "Übung.jpg"),
        ("葉.jpg".encode(), "葉.jpg"),
    ],
)
def test_a_name_without_the_flag_is_utf8_if_it_can_be(tmp_path: Path, stored: bytes, expected: str) -> None:
    (tmp_path / "z.zip").write_bytes(raw_zip(stored))
    unpack(tmp_path / "z.zip", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [expected]


@pytest.mark.parametrize("valid", [True, False])
def test_the_unicode_name_of_info_zip_counts_if_it_belongs_to_the_name(tmp_path: Path, valid: bool) -> None:
    stored = ACCENT.encode("cp1252")
    body = struct.pack("<BI", 1, zlib.crc32(stored) if valid else 0) + ACCENT.encode()
    extra = struct.pack("<HHI", 0x5455, 4, 0) + struct.pack("<HH", 0x7075, len(body)) + body
    (tmp_path / "z.zip").write_bytes(raw_zip(stored, extra))
    unpack(tmp_path / "z.zip", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [ACCENT if valid else stored.decode("cp437")]


@pytest.mark.parametrize("name", ["a\\b\\c.png", "..\\evil"])
def test_backslashes_of_windows_part_folders(tmp_path: Path, name: str) -> None:
    folder, file = zipfile.ZipInfo("a\\b\\"), zipfile.ZipInfo(name)
    folder.create_system = file.create_system = 0  # as of .NET, 7-Zip and Explorer
    (tmp_path / "z.zip").write_bytes(zip_bytes((folder, b""), (file, b"x")))
    if name.startswith(".."):
        with pytest.raises(SourceError, match="climbs out"):
            unpack(tmp_path / "z.zip", tmp_path / "out")
    else:
        unpack(tmp_path / "z.zip", tmp_path / "out")
        assert (tmp_path / "out" / "a" / "b" / "c.png").read_bytes() == b"x"


def test_a_unicode_name_cannot_climb_out(tmp_path: Path) -> None:
    body = struct.pack("<BI", 1, zlib.crc32(b"name")) + b"../evil"
    (tmp_path / "z.zip").write_bytes(raw_zip(b"name", struct.pack("<HH", 0x7075, len(body)) + body))
    with pytest.raises(SourceError, match="climbs out"):
        unpack(tmp_path / "z.zip", tmp_path / "out")


def test_a_tar_without_end_blocks_is_fine(tmp_path: Path) -> None:
    (tmp_path / "t.tar").write_bytes(tar_bytes(member("a", bytes(512)))[:1024])
    assert unpack(tmp_path / "t.tar", tmp_path / "out") == 1


def test_leftovers_of_an_interrupted_attempt_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".out.unpacking").mkdir()
    (tmp_path / ".out.unpacking" / "stale").write_bytes(b"")
    (tmp_path / "t.zip").write_bytes(zip_bytes(("a", b"x")))
    unpack(tmp_path / "t.zip", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "t.zip"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.zip").write_bytes(zip_bytes(("a", b"x"), ("b", b"y")))
    real = Path.open

    def full(self: Path, mode: str = "r", *rest: object) -> object:
        if mode == "xb" and self.name == "b":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, mode, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module.Path, "open", full)
    with pytest.raises(StoreError, match="the disk is full"):
        unpack(tmp_path / "t.zip", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.zip"]
