"""Decodes an encoded image, a path or bytes, to RGB. All rules for unusual files are here.

In general, the pixels are those of Pillow's ``Image.open(file).convert("RGB")``: torchvision's loader and nearly all
published results use it. In particular:

- the content decides the format, not the name: a PNG named ``.jpg`` is read as a PNG;
- an animation, or a file of several pages, gives its first frame;
- grey becomes three equal channels; a palette is looked up; CMYK and YCCK are converted without a colour profile;
- an alpha channel is dropped, since no background is defined to blend it with;
- neither an EXIF orientation nor a colour profile is applied: the pixels stay as they are stored;
- of 9 to 16 bits, the upper 8 are kept, where Pillow alone would clip every grey above 255 to white. The file states
  the number of bits. An image that would become black by this, though it is not, is refused;
- other numbers (with a sign, of 32 bits, floating-point) have no stated black and white, and are refused;
- texts and other notes in a PNG are not read, however large they are.

Only formats that data sets use are tried, by Pillow's own readers: no file can reach a decoder that starts other
programs, and no plugin can put another reader in their place. ``harness.pillow`` holds Pillow's settings.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError, legible
from harness.pillow import MAX_PIXELS, with_fixed_settings

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

_TIFF = (b"MM\0*", b"II*\0", b"MM*\0", b"II\0*", b"MM\0+", b"II+\0")
_PPM = (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"P7", b"Pf", b"PF", b"Py")
_READERS: tuple[tuple[str, str, Callable[[bytes], bool]], ...] = (
    ("JPEG", "JpegImagePlugin.JpegImageFile", lambda head: head.startswith(b"\xff\xd8\xff")),
    ("PNG", "PngImagePlugin.PngImageFile", lambda head: head.startswith(b"\x89PNG\r\n\x1a\n")),
    ("GIF", "GifImagePlugin.GifImageFile", lambda head: head.startswith((b"GIF87a", b"GIF89a"))),
    ("BMP", "BmpImagePlugin.BmpImageFile", lambda head: head.startswith(b"BM")),
    ("WEBP", "WebPImagePlugin.WebPImageFile", lambda head: head.startswith(b"RIFF") and head[8:12] == b"WEBP"),
    ("TIFF", "TiffImagePlugin.TiffImageFile", lambda head: head.startswith(_TIFF)),
    ("PPM", "PpmImagePlugin.PpmImageFile", lambda head: head.startswith(_PPM)),
)
"""Format, Pillow's class, and the test of a file's first bytes."""
FORMATS = tuple(name for name, _, _ in _READERS)
_LARGE = 50_000_000  # pixels; larger images are decoded one at a time, since each takes up to 2 GB of memory
_one_large_image = threading.Lock()


class ReadError(Exception):
    """A data set's file differs from what its reader expects. The message is a sentence for the user."""


def open_image(source: Path | bytes, name: str = "") -> Image:
    """Decode an image file.

    Args:
        source: The file, or its content.
        name: The image's name in error messages; the path if left out.

    Returns:
        The decoded image in mode RGB; no file stays open.

    Raises:
        ReadError: the file is missing, empty, no image, damaged or too large, or its numbers have no stated range.
    """
    called = legible(name or (str(source) if isinstance(source, Path) else "an image in memory"))
    try:
        content = source.read_bytes() if isinstance(source, Path) else source
    except OSError as error:
        raise ReadError(f"{called} can't be read: {error.strerror or error}.") from error
    if not content:
        raise ReadError(f"{called} is empty (0 bytes), expected an image.")
    return with_fixed_settings(lambda: _decode(content, called))


def load_image(image: Image, name: str) -> Image:
    """Load an image that a plugin has opened, and return it in mode RGB. Raises ReadError if it is damaged."""
    try:
        return with_fixed_settings(lambda: image.convert("RGB"))
    except HarnessError:
        raise
    except Exception as error:  # the image may be of the plugin's own class
        raise ReadError(f"{name} is damaged: {_reason(error)}.") from error


def _decode(content: bytes, called: str) -> Image:
    kind, reader = _find_reader(content, called)
    pixels = _without_notes(content) if kind == "PNG" else content
    try:
        # Opening reads only the header, so the size is checked before anything is decoded.
        image: ImageFile = reader(io.BytesIO(pixels))
    except Exception as error:  # Pillow's readers raise errors of many kinds for damaged files
        raise ReadError(
            f"{called} is damaged, or a {kind} of a kind that can't be read: {_reason(error)} ({len(content):,} bytes)."
            " A plugin's reader can convert it, and yield an RGB image."
        ) from error
    with image:
        width, height = image.size
        if not 0 < width * height <= MAX_PIXELS:
            reason = "a decompression bomb" if width * height else "has no pixels"
            raise ReadError(
                f"{called} has {width} x {height} pixels, expected at least one and at most {MAX_PIXELS:,} in all. "
                f"It is damaged, or {reason}."
            )
        try:
            with _one_large_image if width * height > _LARGE else contextlib.nullcontext():
                return _to_rgb(image, called)
        except ReadError:
            raise
        except Exception as error:
            raise ReadError(f"{called} is damaged: {_reason(error)} ({len(content):,} bytes).") from error


def _find_reader(content: bytes, called: str) -> tuple[str, Callable[..., Any]]:
    for kind, path, fits in _READERS:
        if fits(content[:16]):
            module, _, name = path.partition(".")
            return kind, getattr(import_module(f"PIL.{module}"), name)
    raise ReadError(
        f"{called} is no image that can be read: it begins with {content[:8]!r}, expected one of {', '.join(FORMATS)}. "
        "A plugin's reader can convert other formats, and yield an RGB image."
    )


def _without_notes(content: bytes) -> bytes:
    """Return a PNG without its texts, profiles and times, which no pixel depends on and which may be huge."""
    kept, start = [content[:8]], 8
    while start + 12 <= len(content):
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        kind = content[start + 4 : start + 8]
        if end > len(content) or not kind.isalpha():  # cut off or damaged: the decoder says so
            break
        if kind[:1].isupper() or kind == b"tRNS":
            kept.append(content[start:end])
        start = end
    return b"".join([*kept, content[start:]])


def _to_rgb(image: ImageFile, called: str) -> Image:
    """Convert an opened image. Raises ReadError if its numbers have no stated range."""
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    form = max(tags.get(339, (1,)))  # SampleFormat: 1 unsigned, 2 with a sign, 3 floating-point
    bits = max(tags.get(258, (16,)))  # BitsPerSample; deep images of the other formats have 16
    if form != 1 or image.mode == "F" or (image.mode == "I" and bits > 16):
        raise ReadError(_without_range(image, called, form, bits))
    if image.mode.startswith("I"):
        return _upper_eight_bits(image, called, bits, inverted=bool(tags) and tags.get(262, 0) == 0)
    if image.mode == "La":  # grey, multiplied by its alpha channel
        return image.convert("LA").convert("RGB")
    return image.convert("RGB")


def _upper_eight_bits(image: ImageFile, called: str, bits: int, *, inverted: bool) -> Image:
    """Turn grey of 9 to 16 bits to RGB. A TIFF of PhotometricInterpretation 0 is inverted: its 0 is white."""
    import numpy as np
    from PIL import Image as image_module

    values = np.asarray(image).astype(np.int64)
    if 0 < values.max() < 1 << (bits - 8):
        raise ReadError(
            f"{called} has {bits} bits per pixel, but holds values from {values.min()} to {values.max()} only. "
            f"Expected a range up to {(1 << bits) - 1:,}: of these bits the upper 8 are kept, so this image would be "
            "black. The plugin's reader must scale it, and yield an RGB image."
        )
    upper = np.minimum(values >> (bits - 8), 255).astype(np.uint8)
    return image_module.fromarray(255 - upper if inverted else upper).convert("RGB")


def _without_range(image: ImageFile, called: str, form: int, bits: int) -> str:
    import numpy as np

    values = np.asarray(image)
    if image.mode == "I" and form == 1:
        values = values.view(np.uint32)  # Pillow reads them as numbers with a sign
    elif image.mode == "L" and form == 2:
        values = values.view(np.int8)
    whole = f"{bits}-bit integers" + (" with a sign" if form == 2 else "")
    kind = "floating-point numbers" if image.mode == "F" else whole
    return (
        f"{called} holds {kind} from {values.min()} to {values.max()}, and does not state which of them is black and "
        "which white. Expected whole numbers of up to 16 bits without a sign. The plugin's reader must scale them, and "
        "yield an RGB image."
    )


def _reason(error: BaseException) -> str:
    reason = " ".join(legible(error).split()).rstrip(".") or type(error).__name__
    unspecific = reason == "not identified by this driver"  # Pillow's words for a wrong header
    return "its header is wrong, or it has no pixels" if unspecific else reason
