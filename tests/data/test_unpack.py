"""Archives that try to reach outside, fill the disk or are damaged: each is refused, and nothing is left behind."""

from __future__ import annotations

import errno
import gzip
import io
import os
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.data import unpack as module
from harness.data.unpack import Limits, unpack
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
