"""Odd image files: the documented decision for each kind, and a sentence for each that can't be read."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.api import ReadError, open_image
from harness.pillow import MAX_PIXELS

pytestmark = pytest.mark.portable


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixel(content: bytes) -> tuple[int, ...]:
    image = open_image(content)
    assert image.mode == "RGB"
    found = image.getpixel((0, 0))
    assert isinstance(found, tuple)
    return tuple(int(value) for value in found)


def png_header(width: int, height: int) -> bytes:
    data = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [b"IHDR" + data, b"IDAT" + zlib.compress(b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


RED = Image.new("RGB", (4, 3), (200, 10, 20))


def test_the_content_decides_the_format_and_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "really_a_png.jpg"
    path.write_bytes(encode(RED, "PNG"))
    assert open_image(path).getpixel((0, 0)) == (200, 10, 20)


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    for kind in ("GIF", "PNG", "TIFF", "WEBP"):
        content = encode(
            frames[0], kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
        )
        assert pixel(content) == (255, 0, 0), kind


def test_grey_becomes_three_equal_channels() -> None:
    assert pixel(encode(Image.new("L", (2, 2), 77), "PNG")) == (77, 77, 77)
    assert pixel(encode(Image.new("1", (2, 2), 1), "PNG")) == (255, 255, 255)
    assert pixel(encode(Image.new("LA", (2, 2), (77, 0)), "PNG")) == (77, 77, 77)


def test_sixteen_bits_keep_their_upper_eight() -> None:
    deep = Image.fromarray(np.full((2, 2), 0x8040, dtype=np.uint16))
    assert pixel(encode(deep, "PNG")) == (0x80, 0x80, 0x80)


def test_a_palette_is_looked_up() -> None:
    assert pixel(encode(RED.quantize(4), "PNG")) == (200, 10, 20)


def test_cmyk_is_converted_without_a_profile() -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert max(abs(a - b) for a, b in zip(pixel(encode(image, "JPEG", quality=100)), (255, 0, 0), strict=True)) < 4


def test_alpha_is_dropped_and_not_blended() -> None:
    assert pixel(encode(Image.new("RGBA", (2, 2), (200, 10, 20, 0)), "PNG")) == (200, 10, 20)


def test_exif_orientation_is_not_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert open_image(encode(RED, "JPEG", exif=exif)).size == (4, 3)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"<html>404</html>", "no image that can be read: it begins with b'<html>40'"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image"),
        (encode(RED.resize((64, 64)), "JPEG")[:300], "damaged"),
        (encode(RED.resize((64, 64)), "PNG")[:-40], "damaged"),
        (encode(RED, "GIF")[:20], "GIF"),
        (png_header(16_000, 16_000), "16000 x 16000 pixels"),
        (png_header(30_000, 30_000), "a decompression bomb"),
        (png_header(5, 5), "damaged"),
        (encode(Image.new("F", (2, 2)), "TIFF"), "floating-point"),
    ],
    ids=["empty", "web page", "PostScript", "cut JPEG", "cut PNG", "cut GIF", "large", "bomb", "no pixels", "float"],
)
def test_unreadable_images_are_named(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    with pytest.raises(ReadError) as caught:
        open_image(path)
    assert reason in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_bomb_that_a_reader_meets_by_itself_is_refused() -> None:
    frame = b"," + struct.pack("<HHHH", 0, 0, 65_535, 65_535) + b"\0\x02\x02D\x01\0;"
    for content in (
        b"GIF89a" + struct.pack("<HH", 1, 1) + b"\x80\0\0" + b"\0\0\0\xff\xff\xff" + frame,
        b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8X" + struct.pack("<I", 10) + b"\0" * 4 + b"\xff" * 6,
    ):
        with pytest.raises(ReadError):
            open_image(content)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jpg", tmp_path):
        with pytest.raises(ReadError, match="can't be read"):
            open_image(path)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def tiff(values: Sequence[float], code: str, bits: int, form: int = 1, photometric: int = 1, order: str = "<") -> bytes:
    """A grey TIFF of one row."""
    data = struct.pack(order + code * len(values), *values)
    return packed_tiff(data, len(values), bits, form, photometric, order)


def packed_tiff(data: bytes, width: int, bits: int, form: int = 1, photometric: int = 1, order: str = "<") -> bytes:
    tags = [
        (256, 3, width), (257, 3, 1), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 8), (277, 3, 1),
        (278, 3, 1), (279, 4, len(data)), (339, 3, form),
    ]  # fmt: skip
    directory = struct.pack(order + "H", len(tags))
    for tag, kind, value in tags:
        held = struct.pack(order + "HH", value, 0) if kind == 3 else struct.pack(order + "I", value)
        directory += struct.pack(order + "HHI", tag, kind, 1) + held
    head = b"II*\0" if order == "<" else b"MM\0*"
    return head + struct.pack(order + "I", 8 + len(data)) + data + directory + b"\0\0\0\0"


def greys(content: bytes) -> list[int]:
    pixels = np.asarray(open_image(content))
    assert (pixels[..., 0] == pixels[..., 2]).all()
    return [int(value) for value in pixels[0, :, 0]]


DEEP = [0x0000, 0x1234, 0x80FF, 0xFFFF]


@pytest.mark.parametrize(
    "content",
    [
        tiff(DEEP, "H", 16),
        tiff(DEEP, "H", 16, order=">"),
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 1, 16, 0, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"\0" + struct.pack(">4H", *DEEP)))
        + chunk(b"IEND", b""),
        b"P5 4 1 65535 " + struct.pack(">4H", *DEEP),
        packed_tiff(bytes([0x00, 0x01, 0x23, 0x80, 0xFF, 0xFF]), 4, 12),
    ],
    ids=["TIFF", "big-endian TIFF", "PNG", "PGM", "12-bit TIFF"],
)
def test_the_upper_eight_of_the_bits_that_the_file_states_are_kept(content: bytes) -> None:
    assert greys(content) == [0x00, 0x12, 0x80, 0xFF]


def test_a_tiff_of_which_zero_is_white_is_inverted_at_any_depth() -> None:
    assert greys(tiff([0, 0x12, 0xFF], "B", 8, photometric=0)) == [0xFF, 0xED, 0x00]
    assert greys(tiff([0, 0x1234, 0xFFFF], "H", 16, photometric=0)) == [0xFF, 0xED, 0x00]


@pytest.mark.parametrize(
    ("content", "kind", "lowest", "highest"),
    [
        (tiff([0, 254], "I", 32), "32-bit integers", "0", "254"),
        (tiff([7, 4294967295], "I", 32), "32-bit integers", "7", "4294967295"),
        (tiff([-1024, 3071], "i", 32, form=2), "32-bit integers with a sign", "-1024", "3071"),
        (tiff([-1024, 3071], "h", 16, form=2), "16-bit integers with a sign", "-1024", "3071"),
        (tiff([-1024, 3071], "h", 16, form=2, order=">"), "16-bit integers with a sign", "-1024", "3071"),
        (tiff([-100, 100], "b", 8, form=2), "8-bit integers with a sign", "-100", "100"),
        (
            encode(Image.fromarray(np.array([[-0.5, 2.5]], dtype=np.float32)), "TIFF"),
            "floating-point numbers",
            "-0.5",
            "2.5",
        ),
        (b"Pf 2 1 -1.0 " + struct.pack("<2f", -0.5, 2.5), "floating-point numbers", "-0.5", "2.5"),
    ],
)
def test_numbers_without_a_stated_range_are_refused(content: bytes, kind: str, lowest: str, highest: str) -> None:
    with pytest.raises(ReadError) as caught:
        open_image(content)
    assert f"holds {kind} from {lowest} to {highest}," in str(caught.value)
    assert "yield an RGB image" in str(caught.value)


def test_a_deep_image_does_not_become_black_silently() -> None:
    with pytest.raises(ReadError, match="16 bits per pixel, but holds values from 3 to 255 only"):
        open_image(tiff([3, 255], "H", 16))
    assert greys(tiff([0, 0], "H", 16)) == [0, 0]
    assert greys(tiff([0, 256], "H", 16)) == [0, 1]


def test_colours_of_sixteen_bits_keep_their_upper_eight() -> None:
    row = struct.pack(">6H", 0x12FF, 0x8001, 0xFFFF, 0, 0xFF, 0x100)
    content = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"\0" + row))
        + chunk(b"IEND", b"")
    )
    assert np.asarray(open_image(content))[0].tolist() == [[0x12, 0x80, 0xFF], [0, 0, 1]]


def test_large_texts_in_a_png_are_not_read() -> None:
    plain = encode(RED, "PNG")
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * 3_000_000))
    profile = chunk(b"iCCP", b"name\0\0" + zlib.compress(b"x" * 3_000_000))
    for name in (b"IDAT", b"IEND"):
        start = plain.index(name) - 4
        for note in (text, profile, chunk(b"iTXt", b"k\0\0\0\0\0" + b"prompt " * 400_000)):
            assert pixel(plain[:start] + note + plain[start:]) == (200, 10, 20)


def test_images_without_pixels_are_refused() -> None:
    for content in (b"P6\n0 3\n255\n", b"P5 5 0 255 ", png_header(0, 5), png_header(5, 0)):
        with pytest.raises(ReadError, match="no pixels"):
            open_image(content)


def test_the_limit_lets_photographs_of_telephones_through(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_PIXELS >= 200_000_000
    monkeypatch.setattr("harness.images._LARGE", 5)  # one at a time
    assert pixel(encode(RED, "PNG")) == (200, 10, 20)
