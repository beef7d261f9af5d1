"""Reads a TOML file as typed values; an error names file, key, what was found and what was expected."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from harness.errors import RegistryError

_CHOICES = {"at": ("stored", "input"), "optimizer": ("adam",), "precision": ("fp32",)}
_T = TypeVar("_T")


def read_toml(path: Path, kind: str, advice: str) -> dict[str, Any]:
    """Read a TOML file. Raises RegistryError with what is wrong with it, and the advice where there is none."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RegistryError(f"There is no {kind} {path}. {advice}") from None
    except OSError as error:
        raise RegistryError(f"The {kind} {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise RegistryError(f"{path} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise RegistryError(f"{path} is not valid TOML: {error}.") from error


def convert(value: object, kind: type[_T], path: Path, key: str) -> _T:
    """Turn what was read into a typed value. Raises RegistryError with file, key, what was found and expected."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        problem, _, where = str(error).partition(" - at `$")
        location = (key + where.rstrip("`")).lstrip(".") or "the top level"
        found = _found(value, where.rstrip("`"))
        hint = f" (known: {', '.join(_known(kind))})" if "unknown field" in problem else ""
        last = location.rpartition(".")[2]
        if "enum" in problem and last in _CHOICES:
            problem = f"expected one of {', '.join(map(repr, _CHOICES[last]))}"
        raise RegistryError(f"{path}: {location}: {problem[0].lower()}{problem[1:]}{found}{hint}.") from error


def _known(kind: type) -> list[str]:
    return [field.name for field in msgspec.structs.fields(kind)] if issubclass(kind, msgspec.Struct) else []


def _found(value: object, where: str) -> str:
    """Say what stands at a place such as ``.betas[1]``; nothing where msgspec leaves the key of a table out."""
    for name, index in re.findall(r"\.(\w+)|\[(\d+|\.\.\.)\]", where):
        if index == "...":
            return f", found {value!r}"
        value = value[name] if isinstance(value, dict) else value[int(index)]  # type: ignore[index]
    return f", found {value!r}" if where else ""
