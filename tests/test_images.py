"""Odd image files: the documented decision for each kind, and a sentence for each that can't be read."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.api import ReadError, open_image
from harness.images import MAX_PIXELS

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
        (png_header(9_200, 9_200), "9200 x 9200 pixels"),
        (png_header(30_000, 30_000), "900000000 pixels"),
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


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jpg", tmp_path):
        with pytest.raises(ReadError, match="can't be read"):
            open_image(path)


def test_the_limit_is_below_pillows_own() -> None:
    assert Image.MAX_IMAGE_PIXELS is not None
    assert MAX_PIXELS < Image.MAX_IMAGE_PIXELS
