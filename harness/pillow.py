"""Holds Pillow's process-wide settings at fixed values while an image is decoded, and names the decoders' versions.

Any plugin may change these settings for the whole process, as by ``ImageFile.LOAD_TRUNCATED_IMAGES = True``. The pixels
of a data set must not depend on the plugins that are installed beside it.
"""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from harness.errors import CannotContinueError

T = TypeVar("T")
MAX_PIXELS = 250_000_000
"""A larger image is refused before it is decoded. Telephones take photographs of 200 million pixels."""
_ATTEMPTS = 20
_PILLOW = re.compile(r"PIL\.")


def with_fixed_settings(work: Callable[[], T]) -> T:
    """Call a function under the fixed settings, in any thread, and return its value.

    A call during which another thread changed a setting does not count, and is repeated.

    Raises:
        CannotContinueError: a setting was changed during every call.
    """
    for _ in range(_ATTEMPTS):
        with _held:
            try:
                outcome: T | Exception = work()
            except Exception as error:
                outcome = error
            settled = not _held.changed()
        if settled and isinstance(outcome, Exception):
            raise outcome
        if settled and not isinstance(outcome, Exception):
            return outcome
    raise CannotContinueError(
        "Another thread of this process changes Pillow's settings all the time, so no image can be decoded reliably. "
        "Expected them to stay as they are. Find the plugin that changes PIL.ImageFile.LOAD_TRUNCATED_IMAGES or "
        "another setting of Pillow, and remove it."
    )


def versions() -> dict[str, str]:
    """Return the versions of the decoders: Pillow's codecs matter as much as Pillow itself."""
    import numpy as np
    import PIL
    from PIL import features

    codecs = {name: str(features.version(name)) for name in ("jpg", "libjpeg_turbo", "zlib", "webp")}
    return {"pillow": PIL.__version__, "numpy": np.__version__} | codecs


class _HeldSettings:
    """Sets the settings when a thread enters, and puts the others' values back when the last one leaves."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._theirs: dict[str, tuple[Any, str, Any]] = {}

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            for place, name, fixed in self._wrong():
                self._theirs[name] = place, name, getattr(place, name)
                setattr(place, name, fixed)
            if not _is_silent():
                warnings.filterwarnings("ignore", module=_PILLOW.pattern)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside:
                return
            for place, name, theirs in self._theirs.values():
                setattr(place, name, theirs)
            self._theirs.clear()
            if _is_silent():
                del warnings.filters[0]  # type: ignore[attr-defined]

    def changed(self) -> bool:
        """Another thread has changed a setting since the last thread entered."""
        with self._lock:
            return bool(self._wrong()) or not _is_silent()

    def _wrong(self) -> list[tuple[Any, str, Any]]:
        return [(place, name, fixed) for place, name, fixed in _settings() if getattr(place, name) != fixed]


_held = _HeldSettings()  # one for the process, like the settings


def _is_silent() -> bool:
    """Pillow's warnings are ignored: a filter may turn them into errors, and most concern metadata."""
    first = warnings.filters[0] if warnings.filters else None
    return first is not None and first[0] == "ignore" and first[3] == _PILLOW


def _settings() -> list[tuple[Any, str, Any]]:
    """Return every setting that decides about pixels: its module, its name, its fixed value."""
    from PIL import GifImagePlugin, Image, ImageFile, PngImagePlugin, TiffImagePlugin

    return [
        (ImageFile, "LOAD_TRUNCATED_IMAGES", False),
        (Image, "MAX_IMAGE_PIXELS", MAX_PIXELS),
        (Image, "DECODERS", _decoders(Image.DECODERS, vars(Image)["core"])),
        (PngImagePlugin, "MAX_TEXT_CHUNK", 1 << 20),
        (PngImagePlugin, "MAX_TEXT_MEMORY", 1 << 26),
        (TiffImagePlugin, "READ_LIBTIFF", False),
        (GifImagePlugin, "LOADING_STRATEGY", GifImagePlugin.LoadingStrategy.RGB_AFTER_FIRST),
    ]


def _decoders(registered: dict[str, Any], core: Any) -> dict[str, Any]:
    """Return the decoders in Python without those that replace one of Pillow's own."""
    from PIL.BmpImagePlugin import BmpRleDecoder
    from PIL.PpmImagePlugin import PpmDecoder, PpmPlainDecoder

    others = {name: decoder for name, decoder in registered.items() if not hasattr(core, f"{name}_decoder")}
    return others | {"bmp_rle": BmpRleDecoder, "ppm": PpmDecoder, "ppm_plain": PpmPlainDecoder}
