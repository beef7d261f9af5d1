"""Decodes an encoded image, a path or bytes, to RGB. All rules for unusual files are here.

In general, the pixels are those of Pillow's ``Image.open(file).convert("RGB")``: torchvision's loader and nearly all
published results use it. In particular:

- the content decides the format, not the name: a PNG named ``.jpg`` is read as a PNG;
- an animation, or a file of several pages, gives its first frame;
- grey becomes three equal channels; a palette is looked up; CMYK and YCCK are converted without a colour profile;
- an alpha channel is dropped, since no background is defined to blend it with;
- neither an EXIF orientation nor a colour profile is applied: the pixels stay as they are stored;
- 16-bit grey keeps its upper 8 bits, where Pillow alone would clip everything above 255 to white.

Only formats that data sets use are tried. No file can thus reach a decoder that starts other programs.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
MAX_PIXELS = 80_000_000
"""A larger image is refused before it is decoded. Photographs of data sets are smaller; a decompression bomb is not."""


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
        ReadError: the file is missing, empty, no image, damaged or too large.
    """
    from PIL import Image as image_module
    from PIL import UnidentifiedImageError

    called = name or (str(source) if isinstance(source, Path) else "an image in memory")
    try:
        content = source.read_bytes() if isinstance(source, Path) else source
    except OSError as error:
        raise ReadError(f"{called} can't be read: {error.strerror or error}.") from error
    if not content:
        raise ReadError(f"{called} is empty (0 bytes), expected an image.")
    try:
        # Opening reads only the header, so the size is checked before anything is decoded.
        with image_module.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ReadError(
                    f"{called} has {width} x {height} pixels, expected at most {MAX_PIXELS:,} in all. "
                    "It is damaged, or a decompression bomb."
                )
            if image.mode.startswith("I;16") or image.mode == "I":
                return image.convert("I").point(lambda value: value / 256, "L").convert("RGB")
            if image.mode == "F":
                raise ReadError(f"{called} holds floating-point pixels, whose range is unknown; expected 8 or 16 bits.")
            return image.convert("RGB")
    except UnidentifiedImageError:
        raise ReadError(
            f"{called} is no image that can be read: it begins with {content[:8]!r}, "
            f"expected one of {', '.join(FORMATS)}."
        ) from None
    except (image_module.DecompressionBombError, image_module.DecompressionBombWarning) as error:
        raise ReadError(f"{called} is refused: {error}") from error
    # On damaged files, Pillow's decoders raise different errors for different formats.
    except (OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, struct.error, MemoryError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise ReadError(f"{called} is damaged: {text} ({len(content):,} bytes).") from error
