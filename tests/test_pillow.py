"""Decoding does not depend on the settings that anybody made in Pillow, and leaves them as they were."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import GifImagePlugin, Image, ImageFile, PngImagePlugin

from harness.api import ReadError, open_image
from harness.errors import HarnessError
from harness.pillow import versions, with_fixed_settings
from tests.test_images import encode

pytestmark = pytest.mark.portable
NOISE = Image.fromarray(np.random.RandomState(0).randint(0, 256, (64, 64, 3), dtype=np.uint8))
ENCODED = {kind: encode(NOISE, kind) for kind in ("JPEG", "PNG", "BMP", "TIFF", "PPM")}
PALETTE = encode(NOISE.quantize(16), "PNG", transparency=bytes(range(16)))
JPEG = np.asarray(Image.open(io.BytesIO(ENCODED["JPEG"])))


class Fake(ImageFile.ImageFile):
    """A reader and a decoder of somebody else."""


@pytest.fixture(autouse=True)
def disorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every setting as a careless plugin may leave it."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9)
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_CHUNK", 1)
    monkeypatch.setattr(GifImagePlugin, "LOADING_STRATEGY", GifImagePlugin.LoadingStrategy.RGB_ALWAYS)
    monkeypatch.setitem(Image.OPEN, "JPEG", (Fake, None))
    monkeypatch.setitem(Image.DECODERS, "jpeg", Fake)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_a_cut_off_image_is_damaged_whatever_a_plugin_has_set() -> None:
    for content in ENCODED.values():
        with pytest.raises(ReadError, match="damaged"):
            open_image(content[: len(content) // 2])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True
    assert Image.MAX_IMAGE_PIXELS == 9
    assert "jpeg" in Image.DECODERS
    assert warnings.filters[0][0] == "error"


def test_the_readers_and_decoders_of_others_are_not_used() -> None:
    assert np.array_equal(np.asarray(open_image(ENCODED["JPEG"])), JPEG)


def test_warnings_are_no_errors() -> None:
    assert open_image(PALETTE).size == (64, 64)


def test_many_threads_decode_under_the_same_settings() -> None:
    content = ENCODED["JPEG"][:2000]

    def attempt(_: int) -> bool:
        try:
            open_image(content)
        except ReadError:
            return True
        return False

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(attempt, range(200)))
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_a_change_during_the_work_makes_it_repeated_and_is_kept() -> None:
    seen: list[bool] = []

    def work() -> int:
        seen.append(ImageFile.LOAD_TRUNCATED_IMAGES)
        if len(seen) < 3:
            ImageFile.LOAD_TRUNCATED_IMAGES = True
        return 7

    assert with_fixed_settings(work) == 7
    assert seen == [False] * 3
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_settings_that_never_rest_are_an_error() -> None:
    def work() -> None:
        ImageFile.LOAD_TRUNCATED_IMAGES = True

    with pytest.raises(HarnessError, match="Another thread"):
        with_fixed_settings(work)


def test_pillows_versions_are_named() -> None:
    assert {"pillow", "numpy", "jpg", "zlib"} <= versions().keys()
