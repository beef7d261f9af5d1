"""The files that commands remember values in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.cache import NOWHERE, Cache, cache_folder
from harness.data.prepared import check_root, default_data_root
from harness.errors import CannotContinueError


@dataclass(frozen=True)
class Part:
    name: str


@dataclass(frozen=True)
class Value:
    number: float
    parts: Mapping[str, Part]


VALUE = Value(1.5, {"a": Part("first")})


def test_values_are_found_by_another_command(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "values.json"
    cache = Cache(path)
    assert cache.get("key", Value) is None
    cache.put("key", VALUE)
    cache.put("count", 3)
    assert cache.get("key", Value) == VALUE
    assert not path.exists()
    cache.save()
    found = Cache(path)
    assert (found.get("key", Value), found.get("count", float)) == (VALUE, 3.0)


def test_values_that_another_command_wrote_meanwhile_stay(tmp_path: Path) -> None:
    one, other = Cache(tmp_path / "values.json"), Cache(tmp_path / "values.json")
    assert one.get("other", float) is None
    one.put("one", 1.0)
    other.put("other", 2.0)
    other.save()
    one.save()
    assert {key: Cache(tmp_path / "values.json").get(key, float) for key in ("one", "other")} == {"one": 1, "other": 2}


def test_value_of_another_kind_counts_as_none(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "values.json")
    cache.put("key", {"number": "many"})
    assert cache.get("key", Value) is None


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b""])
def test_damaged_file_counts_as_empty_and_is_replaced(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "values.json"
    path.write_bytes(content)
    cache = Cache(path)
    assert cache.get("key", float) is None
    cache.put("key", 2.0)
    cache.save()
    assert Cache(path).get("key", float) == 2.0


def test_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = Cache(tmp_path / "file" / "values.json")
    cache.put("key", 2.0)
    cache.save()
    assert cache.get("key", float) == 2.0


def test_cache_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(tmp_path / name))
    assert cache_folder() == tmp_path / "xscore-harness"


def test_a_user_without_a_home_has_no_cache_and_is_asked_for_a_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home(_: str) -> str:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr("platformdirs.user_cache_dir", no_home)
    assert cache_folder() == NOWHERE
    cache = Cache(cache_folder() / "x.json")
    cache.put("key", 1.0)
    cache.save()
    assert cache.get("key", float) == 1.0
    monkeypatch.delenv("HARNESS_DATA")
    with pytest.raises(CannotContinueError, match=r"Name a folder .* with HARNESS_DATA or --data"):
        check_root(default_data_root())


def test_a_cache_folder_with_a_tilde_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "~/mine")
    assert cache_folder() == Path.home() / "mine" / "xscore-harness"
