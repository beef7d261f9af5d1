"""Records the inputs of a prepared data set, and tells whether they are still the same: files, reader, ``--from``.

A form's ``inputs.json`` lists each file that the reader opened or named, with size, time and hash. A file with the old
size and time counts as unchanged, as for ``make``; one with another time is hashed. Files that the reader made during
the preparation, and those of installed packages, are no inputs. Where nothing is recorded, nothing is claimed.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import hashlib
import inspect
import itertools
import json
import os
import site
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from harness.api import DatasetSpec, Sample, Split
from harness.data.prepared import PreparedDataset, SourceRecord
from harness.errors import StoreError
from harness.files import write_text_atomically

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_END = object()
_MANY = 20_000


class FileState(msgspec.Struct, frozen=True, array_like=True):
    """One file as it was read: its size in bytes, its time of change in nanoseconds, and its SHA-256."""

    size: int
    modified: int
    sha256: str


class Inputs(msgspec.Struct, frozen=True, kw_only=True):
    """The inputs of one prepared form.

    Attributes:
        given: The absolute path of ``--from``; None without it.
        reader: SHA-256 of the file with the reader's code; empty if there is none.
        files: The files by path: relative to ``given`` if they are below it, else absolute.
    """

    given: str | None
    reader: str
    files: dict[str, FileState]

    def path_of(self, name: str) -> Path:
        """The absolute path of a recorded file."""
        return Path(self.given or "", name)


class Watch:
    """Runs a reader and records the files that it opens or names."""

    def __init__(self, spec: DatasetSpec) -> None:
        self._spec = spec
        self._began = time.time()
        self._seen: set[Path] = set()

    def read(self, folder: Path, split: Split) -> Iterator[Sample]:
        """Run the reader. It is watched while it works on its next sample, and at no other time."""
        _listen()
        samples = iter(self._under_watch(lambda: iter(self._spec.read(folder, split))))
        while (sample := self._under_watch(lambda: next(samples, _END))) is not _END:
            if isinstance(sample, tuple) and sample and isinstance(sample[0], Path):
                self._seen.add(sample[0].absolute())  # the reader may change the working folder later
            yield sample

    def inputs(self, given: Path | None, known: Mapping[Path, str], ours: Iterable[Path]) -> Inputs:
        """Return the inputs.

        Args:
            given: The path of ``--from``.
            known: SHA-256 of files that were hashed already; they count as read.
            ours: Folders of the harness, such as that of unpacked archives, whose files are no inputs. A link in them
                stands for its target.
        """
        base = given.absolute() if given else None
        left_out = {*(path for one in ours for path in (one.absolute(), one.resolve())), *_installed()}
        hashed = {path.absolute(): digest for path, digest in known.items()}
        for seen in sorted(self._seen):
            linked = not left_out.isdisjoint(seen.parents) and seen.is_symlink()
            path = seen.readlink() if linked else seen  # other links stay: one that is turned elsewhere is a change
            if path not in hashed and left_out.isdisjoint(path.parents) and not self._made_since(path):
                hashed[path] = ""
        if base is not None and not self._spec.sources and not any(base in (one, *one.parents) for one in hashed):
            hashed |= dict.fromkeys(_below(base), "")  # the reader has opened them by compiled code
        files = {}
        for path, digest in sorted(hashed.items()):
            if (state := _state(path, digest)) is not None:
                inside = base is not None and base in path.parents
                files[str(path.relative_to(base) if inside and base else path)] = state
        return Inputs(given=str(base) if base else None, reader=reader_digest(self._spec.read), files=files)

    def _under_watch(self, step: Callable[[], Any]) -> Any:
        token = _WATCHED.set(self._seen)
        try:
            return step()
        finally:
            _WATCHED.reset(token)

    def _made_since(self, path: Path) -> bool:
        with contextlib.suppress(OSError):
            status = path.stat()
            return max(status.st_mtime, status.st_ctime) >= self._began
        return True


_WATCHED: ContextVar[set[Path] | None] = ContextVar("watched", default=None)


@cache
def _listen() -> None:
    """Install the audit hook. Python can't remove one, so outside of a reader's step the hook does nothing."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        seen = _WATCHED.get()
        if seen is None or event not in ("open", "sqlite3.connect"):
            return
        path, mode, flags = (*arguments, None, None)[:3]
        if not isinstance(path, str | bytes | os.PathLike):
            return  # a file descriptor
        writing = any(letter in mode for letter in "wax") if isinstance(mode, str) and mode else _is_writing(flags)
        if not writing:
            seen.add(Path(os.fsdecode(path)).absolute())

    sys.addaudithook(hook)


def _is_writing(flags: object) -> bool:
    return isinstance(flags, int) and bool(flags & _WRITES)


def _below(base: Path) -> list[Path]:
    """Return a file, or all files below a folder; none of more than can be hashed in a minute or two."""
    found = [base] if base.is_file() else list(itertools.islice(base.rglob("*"), _MANY + 1))
    return found if len(found) <= _MANY else []


@cache
def _installed() -> frozenset[Path]:
    """Folders of Python and its packages, whose versions stand for their content, and of devices."""
    user = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    found = {Path(one).resolve() for one in (sys.prefix, sys.base_prefix, *user, "/dev", "/proc", "/sys")}
    return frozenset(one for one in found if one != one.parent)


def _state(path: Path, sha256: str = "") -> FileState | None:
    """Return a file's state, hashed unless its hash is known; None if it is no plain file or can't be read."""
    try:
        if not path.is_file():
            return None
        status = path.stat()
        if not sha256:
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
    return FileState(status.st_size, status.st_mtime_ns, sha256)


def write_inputs(inputs: Inputs, folder: Path) -> None:
    """Write a form's inputs beside its arrays."""
    text = json.dumps(msgspec.to_builtins(inputs))  # unlike msgspec's, it holds names that are not UTF-8
    write_text_atomically(folder / "inputs.json", text + "\n")


def read_inputs(folder: Path) -> Inputs | None:
    """Return a form's inputs; None where none are recorded, as by older versions, or the file is damaged."""
    try:
        return msgspec.convert(json.loads((folder / "inputs.json").read_bytes()), Inputs)
    except (OSError, ValueError, RecursionError):
        return None


def given_before(root: Path, dataset: str) -> Path | None:
    """Return the ``--from`` of an earlier preparation of a data set, if that is recorded and still there."""
    for file in sorted((root / dataset).glob("*/inputs.json")):
        inputs = read_inputs(file.parent)
        if inputs is not None and inputs.given is not None and Path(inputs.given).exists():
            return Path(inputs.given)
    return None


def outdated(prepared: PreparedDataset, spec: DatasetSpec, given: Path | None = None) -> str:
    """Return why a form no longer has the content of its inputs, in words without a full stop; empty if it has.

    Args:
        prepared: The form.
        spec: The data set. The reader's code counts where no sources pin the content.
        given: The path of ``--from`` in this call.
    """
    inputs = read_inputs(prepared.folder)
    if given is not None and (reason := _other_origin(prepared, inputs, given)):
        return reason
    if inputs is None:
        return ""
    if not spec.sources and inputs.reader and inputs.reader != reader_digest(spec.read):
        return "the code of its reader has changed"
    return _changed_file(inputs, prepared.folder)


def why_kept(prepared: PreparedDataset, given: Path) -> str:
    """Return the sentence on why ``--from`` leaves a form as it is, where ``outdated`` finds nothing."""
    name = prepared.manifest.dataset
    if _is_pinned(prepared):
        return f"{name} is prepared already. Published checksums determine its content, so {given} is not read."
    if read_inputs(prepared.folder) is None:
        return (
            f"{name} is prepared already, by a version that recorded no files, so changes in {given} are not seen. To "
            f"prepare it again, run 'harness prepare {name} --remove' first."
        )
    return f"{name} is prepared already, from files equal to those in {given}."


def _other_origin(prepared: PreparedDataset, inputs: Inputs | None, given: Path) -> str:
    """Return why a form is not what ``--from`` would give; empty if it is."""
    records, path = prepared.manifest.sources, given.absolute()
    if _is_pinned(prepared):
        return ""
    if inputs is None:
        origins = [Path(record.origin.removeprefix("given: ")).resolve() for record in records if _is_given(record)]
        same = origins and all(path.resolve() in (one, *one.parents) for one in origins)
        return "" if same else f"it was not prepared from {given}"
    if inputs.given is None:
        return f"it was prepared without --from, not from {given}"
    if inputs.given == str(path):
        return ""
    for name, state in inputs.files.items():
        there = None if Path(name).is_absolute() else _state(path / name)
        if there is None or there.sha256 != state.sha256:
            return f"it was prepared from {inputs.given}, and {given} has no equal {name}"
    return ""


def _is_given(record: SourceRecord) -> bool:
    return record.origin.startswith("given: ")


def _is_pinned(prepared: PreparedDataset) -> bool:
    """Return whether published checksums of all sources determine the content."""
    records = prepared.manifest.sources
    return bool(records) and all(
        record.sha256 and not record.verified.endswith(("by checksum", "by the user")) for record in records
    )


def _changed_file(inputs: Inputs, folder: Path) -> str:
    """Return a file that has changed, in words. A file that is gone counts where its neighbours are still there."""
    gone: list[str] = []
    there: set[Path | None] = set()
    touched: dict[str, FileState] = {}
    for name, state in inputs.files.items():
        path = inputs.path_of(name)
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            gone.append(name)
            continue
        except OSError:
            continue  # out of reach, as for another user, so it can't be compared
        there.add(_neighbourhood(name))
        if (status.st_size, status.st_mtime_ns) == (state.size, state.modified):
            continue
        now = _state(path) if status.st_size == state.size else None
        if now is None or now.sha256 != state.sha256:
            return f"{path} has changed since the preparation"
        touched[name] = now
    for name in gone:
        if _neighbourhood(name) in there:
            return f"{inputs.path_of(name)} is gone since the preparation"
    if touched:  # saves the next command from hashing them again
        with contextlib.suppress(StoreError):
            write_inputs(msgspec.structs.replace(inputs, files=inputs.files | touched), folder)
    return ""


def _neighbourhood(name: str) -> Path | None:
    """Return the folder that a recorded file belongs to: None for the one of ``--from``."""
    return Path(name).parent if Path(name).is_absolute() else None


def reader_digest(read: Callable[..., object]) -> str:
    """Return the SHA-256 of the file with a reader's code; empty if there is none."""
    try:
        file = inspect.getsourcefile(_plain_function(read)[0])
        return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""
    except (OSError, TypeError):
        return ""


def takes_folder(read: Callable[..., object]) -> bool:
    """Return whether a reader may use its first argument, the folder; false only if its code never mentions it."""
    function, bound = _plain_function(read)
    code = getattr(function, "__code__", None)
    if code is None or code.co_argcount <= bound:
        return True
    name = code.co_varnames[bound]
    return any(
        one.opname.startswith("LOAD_")
        and (one.argval == name or (isinstance(one.argval, tuple) and name in one.argval))
        for one in dis.get_instructions(code)
    )


def _plain_function(read: Callable[..., object]) -> tuple[Any, int]:
    """Return the function behind partials, methods and callable objects, and the number of arguments bound before."""
    function: Any = read
    bound = 0
    while True:
        if isinstance(function, functools.partial):
            bound += len(function.args)
            function = function.func
        elif inspect.ismethod(function):
            bound += 1
            function = function.__func__
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        elif inspect.isfunction(function) or not inspect.isfunction(method := type(function).__call__):
            return function, bound
        else:
            function, bound = method, bound + 1
