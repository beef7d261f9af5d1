"""Fixtures of the tests of data sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.published_layouts import picture


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(50):
        (folder / f"{index:02}.png").write_bytes(picture(index, (40 + index % 3, 33), "PNG"))
    return folder
