"""Finds the source of a plugin's function: a stamp of all that may change its answer, and a digest of the code it uses.

A function is what a plugin gave: often a plain one, but also a ``functools.partial``, a method, an object that can be
called, or a function inside another. Its source is then that of every part.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import inspect
import site
import sys
import sysconfig
import types
import uuid
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from harness.api import ModelSpec
from harness.fingerprint import hash_of

_LARGE = 1 << 20  # bytes: of larger files, such as weights, the time and the size stand for the content
_MADE_IN_PYTHON = 1 << 9  # a flag of types, Py_TPFLAGS_HEAPTYPE
_PLAIN = (str, int, float, list, tuple, set, frozenset, dict, functools.partial)
_LIBRARIES = ("torch", "torchvision", "timm")


def source_stamp(spec: ModelSpec) -> list[object]:
    """Return everything that may change what ``build`` makes, as JSON holds it.

    It covers every file of the packages that ``build`` and its parts come from, the values that it carries along (of a
    partial, a closure, defaults, an object), and the libraries. A value without a form that repeats in another process
    gives a stamp that no other equals.
    """
    carried = _Carried()
    try:
        form = carried.form(spec.build)
    except _FormlessError:
        form = uuid.uuid4().hex
    code = _code_of(carried.modules)
    files = sorted({path for module, file in code.items() for path in _package_files(module, file)})
    libraries = [_version(name) for name in _LIBRARIES]
    return [form, [[str(file), _content(file)] for file in files], libraries, sys.version]


def source_digest(function: Callable[..., Any]) -> str:
    """Return a hash of the code that a plugin's function uses, as far as its plugin's own files hold it.

    Those are the files of the function's parts, and the modules of the same plugin that they import. Comments,
    docstrings and the layout of the text do not count. Python's version comes first, as ``3.12:``, since another one
    reads the same text to another tree: only hashes of one version can be compared.
    """
    carried = _Carried()
    with contextlib.suppress(_FormlessError):
        carried.form(function)
    code = hash_of(sorted([name, _code_hash(file)] for name, file in _code_of(carried.modules).items()))
    return f"{sys.version_info.major}.{sys.version_info.minor}:{code}"


class _FormlessError(Exception):
    """A value has no form that repeats in another process."""


class _Carried:
    """The form of a function and of the values that it carries; ``modules`` collects the modules of its parts."""

    def __init__(self) -> None:
        self.modules: set[str] = set()
        self._seen: dict[int, object] = {}  # functions may refer to each other

    def form(self, value: Any) -> object:
        """Return a value as JSON holds it, so that equal values have equal forms. Raises _FormlessError."""
        if value is None or isinstance(value, str | int | float | complex | bytes | Path | Enum):
            return [type(value).__name__, str(value)]
        if id(value) in self._seen:
            return "seen before"
        self._seen[id(value)] = value  # keeps the value, so that no other gets its id
        if isinstance(value, list | tuple):
            return [self.form(one) for one in value]
        if isinstance(value, set | frozenset):
            return sorted(map(self.form, value), key=hash_of)
        if isinstance(value, Mapping):
            return [[self.form(key), self.form(one)] for key, one in value.items()]
        if isinstance(value, functools.partial):
            return ["partial", self.form(value.func), self.form(value.args), self.form(value.keywords)]
        if isinstance(value, types.MethodType):
            return ["method", self.form(value.__func__), self.form(value.__self__)]
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, type | types.BuiltinFunctionType):
            self.modules.add(str(value.__module__))
            return [value.__module__, value.__qualname__]
        return self._object(value)

    def _function(self, function: types.FunctionType) -> object:
        self.modules.add(function.__module__)
        cells = [self.form(cell.cell_contents) for cell in function.__closure__ or ()]
        more = [self.form(function.__defaults__), self.form(function.__kwdefaults__), self._globals(function)]
        inside = inspect.unwrap(function)
        inner = None if inside is function else self.form(inside)
        return [function.__module__, function.__qualname__, cells, more, inner]

    def _globals(self, function: types.FunctionType) -> object:
        """Return the plain values of the module that a function reads; they may come from outside of its source."""
        found = []
        for name in function.__code__.co_names:
            with contextlib.suppress(_FormlessError):
                if isinstance(value := function.__globals__.get(name), _PLAIN):
                    found.append([name, self.form(value)])
        return found

    def _object(self, value: Any) -> object:
        """Return the form of an object whose state is in Python's attributes; those of a compiled type hide theirs."""
        kind = type(value)
        if not all(one is object or one.__flags__ & _MADE_IN_PYTHON for one in kind.__mro__):
            raise _FormlessError
        names = getattr(kind, "__slots__", ())
        slots = {name: getattr(value, name, None) for name in ([names] if isinstance(names, str) else names)}
        return [self.form(kind), self.form({**slots, **getattr(value, "__dict__", {})})]


def _code_of(modules: set[str]) -> dict[str, Path]:
    """Return the files of modules, and of all that they import from their own plugin, by module."""
    own = {top: home for top in {name.partition(".")[0] for name in modules} if (home := _home(top)) is not None}
    found: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        file = None if name in found else _file_of(name, own)
        if file is not None:
            found[name] = file
            waiting += _imported(name, file)
    return found


def _home(top: str) -> Path | None:
    """Return the folder of a top-level package or module; None for a library, which its version tells, or no file."""
    if top in _LIBRARIES or top in sys.stdlib_module_names:
        return None
    module = sys.modules.get(top)
    place = next(iter(getattr(module, "__path__", ())), None) or getattr(module, "__file__", None)
    if module is None:
        with contextlib.suppress(ImportError, ValueError):
            spec = importlib.util.find_spec(top)
            place = (next(iter(spec.submodule_search_locations or ()), None) or spec.origin) if spec else None
    return Path(place).parent if place else None


def _file_of(module: str, own: Mapping[str, Path]) -> Path | None:
    """Return the file of a module that belongs to a plugin, whose top-level modules are ``own``; None for any other.

    A module beside the plugin's own is the plugin's too, unless it lies where all distributions install theirs.
    """
    top, *rest = module.split(".")
    homes = [own[top]] if top in own else sorted(set(own.values()) - _shared_folders())
    for home in homes:
        path = home.joinpath(top, *rest)
        for file in (path / "__init__.py", path.with_name(f"{path.name}.py")):
            if file.is_file():
                return file
    return None


def _imported(module: str, file: Path) -> Iterator[str]:
    """Yield the modules that a file may import, wherever in it, and the packages around it and them."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    names = [module]
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    for name in names:
        yield from (name.rsplit(".", cut)[0] for cut in range(name.count(".") + 1))


def _tree(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_bytes())
    except (OSError, ValueError, SyntaxError, RecursionError):
        return ast.Module([], [])


def _code_hash(file: Path) -> str:
    """Return a hash of a file's syntax tree without docstrings; of its bytes if it has none."""
    tree = _tree(file)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [one for one in body if not _is_text(one)]  # type: ignore[attr-defined]
    return hash_of(ast.dump(tree)) if tree.body else str(_content(file))


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _package_files(module: str, file: Path) -> Iterator[Path]:
    """Yield every file of a module's top-level package, or the module's own."""
    depth = module.count(".") + (file.name == "__init__.py")
    if depth == 0:
        yield file
        return
    for path in file.parents[depth - 1].rglob("*"):
        if path.suffix != ".pyc" and path.is_file():
            yield path


def _content(file: Path) -> object:
    """Return a hash of a file's bytes; of a large one its time and size, and nothing of one that can't be read."""
    with contextlib.suppress(OSError):
        stat = file.stat()
        if stat.st_size > _LARGE:
            return [stat.st_mtime_ns, stat.st_size]
        return hashlib.sha256(file.read_bytes()).hexdigest()
    return None


def _version(library: str) -> str | None:
    with contextlib.suppress(Exception):  # damaged metadata raises anything
        return importlib.metadata.version(library)
    return None


@functools.cache
def _shared_folders() -> frozenset[Path]:
    """The folders in which all distributions install their modules."""
    named = [*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages()]
    return frozenset(Path(folder) for folder in named)
