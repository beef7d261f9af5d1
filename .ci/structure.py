"""Hold the figures of the tree's structure: ``python .ci/structure.py [--list] [--root FOLDER]``.

The script reads each Python file of ``harness/`` and ``plugins/xscore_plugins/`` and imports none. It prints a table of
the figures and their limits, then the offenders of each figure that is beyond its limit, and exits with 1 if one is.

- Import circles: for each import on a circle of files, the shortest circle; equal circles count once. An import inside
  a function counts, and so does ``import_module`` of a string (an f-string: each module that starts like it). Type
  checkers alone follow an import under ``if TYPE_CHECKING:``; the circles that need one have a figure of their own.
  ``import harness.data.prepared`` imports that file and not the ``__init__`` of its packages, so that a package may
  gather names of its own files.
- Functions with many parameters: ``*args`` and ``**kwargs`` count one each; ``self``, ``cls`` and the fields of a
  dataclass do not count. Click commands are left out, because click passes each option as a parameter: functions
  decorated by ``click.command``, ``.group``, ``.option``, ``.argument`` or by a name that ends with ``_option`` or
  ``_options``, and the wrapper functions inside a function of such a name.
- Longest file, and longest function from ``def`` to its last line. Tables are left out. A table is a function whose
  body, apart from its docstring, is one ``return`` of an entry. An entry is a constant, a signed number, a name that is
  no parameter of the function, a tuple, list, set or dictionary of entries, or a call of a name with entries as
  arguments. So a table has no operator, no condition, no loop and no unpacking.
- Modules: the Python files of ``harness/``.

No rule of ruff or import-linter holds these. PLR0913 cannot allow 12 functions, nor leave out the commands; PLR0915
counts statements; the contract acyclic_siblings compares packages with their neighbours, and leaves out ``__init__``.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

FOLDERS = ("harness", "plugins/xscore_plugins")
"""The measured packages; the first is the one whose modules are counted."""

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
Imports: TypeAlias = Mapping[str, Mapping[str, int]]
"""The lines of the imports, by importing and imported module."""
_ENTRIES = (ast.Constant, ast.Tuple, ast.List, ast.Set, ast.UnaryOp, ast.USub, ast.UAdd, ast.Load)


@dataclass(frozen=True)
class Limits:
    """The largest value of each figure that is still good."""

    circles: int = 0
    typing_circles: int = 0
    parameters: int = 5
    functions_beyond: int = 12  # this many may have more parameters
    file_lines: int = 399
    function_lines: int = 59
    modules: int = 170


LIMITS = Limits()


@dataclass(frozen=True)
class File:
    """A Python file: its path below the root, its module's name, and its content."""

    path: str
    module: str
    lines: int
    tree: ast.Module

    @property
    def package(self) -> str:
        """The package that a relative import starts from."""
        return self.module if self.path.endswith("__init__.py") else self.module.rpartition(".")[0]


@dataclass(frozen=True)
class Offender:
    """A place that adds to a figure."""

    path: str
    line: int
    name: str
    value: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line} {self.name} {self.value}"


@dataclass(frozen=True)
class Figure:
    """A measured figure and the largest value that is still good."""

    name: str
    limit: int
    value: int
    offenders: tuple[Offender, ...]

    @property
    def ok(self) -> bool:
        """True if the figure keeps its limit."""
        return self.value <= self.limit


def measure(root: Path, limits: Limits = LIMITS) -> list[Figure]:
    """Measure the tree below ``root``. Raises SystemExit where a package is missing."""
    files = read_files(root)
    return [
        *circle_figures(files, limits),
        parameter_figure(files, limits),
        *length_figures(files, limits),
        module_figure(files, limits),
    ]


def read_files(root: Path) -> list[File]:
    """Read the packages' files, sorted by path."""
    files = []
    for folder in map(root.joinpath, FOLDERS):
        if not folder.is_dir():
            raise SystemExit(f"{folder} is missing. Give the root of a checkout: --root FOLDER.")
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder.parent).with_suffix("").parts
            module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            text = path.read_text(encoding="utf-8")
            tree = ast.parse(text, str(path))
            files.append(File(path.relative_to(root).as_posix(), module, len(text.splitlines()), tree))
    return files


def circle_figures(files: Sequence[File], limits: Limits) -> list[Figure]:
    """Find the circles at run time, and those that exist only together with imports for typing."""
    running, every = read_imports(files, typing=False), read_imports(files, typing=True)
    at_run_time = find_circles(running)
    with_typing = [circle for circle in find_circles(every) if not _exists(circle, running)]
    paths = {file.module: file.path for file in files}
    return [
        _circle_figure("import circles", limits.circles, at_run_time, running, paths),
        _circle_figure("import circles through TYPE_CHECKING", limits.typing_circles, with_typing, every, paths),
    ]


def _circle_figure(
    name: str, limit: int, circles: Sequence[tuple[str, ...]], imports: Imports, paths: Mapping[str, str]
) -> Figure:
    offenders = (
        Offender(paths[circle[0]], imports[circle[0]][circle[1]], " -> ".join(circle), len(circle) - 1)
        for circle in circles
    )
    return Figure(name, limit, len(circles), tuple(offenders))


def _exists(circle: Sequence[str], imports: Imports) -> bool:
    return all(imported in imports[module] for module, imported in pairwise(circle))


def read_imports(files: Sequence[File], *, typing: bool) -> Imports:
    """Read the imports between the files; those under TYPE_CHECKING only if ``typing``."""
    known = {file.module for file in files}
    imports: dict[str, dict[str, int]] = {file.module: {} for file in files}
    for file in files:
        skipped = set() if typing else _type_checking_nodes(file.tree)
        for node in ast.walk(file.tree):
            if isinstance(node, ast.Import | ast.ImportFrom | ast.Call) and node not in skipped:
                for imported in _imported_modules(node, file, known):
                    imports[file.module].setdefault(imported, node.lineno)
    return imports


def _type_checking_nodes(tree: ast.Module) -> set[ast.AST]:
    return {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }


def _imported_modules(node: ast.Import | ast.ImportFrom | ast.Call, file: File, known: set[str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in known)
    elif isinstance(node, ast.ImportFrom):
        source = node.module or ""
        if node.level:
            package = file.package.split(".")
            source = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
        for alias in node.names:
            name = f"{source}.{alias.name}"
            if name in known or source in known:
                yield name if name in known else source
    elif node.args and ast.unparse(node.func).endswith("import_module"):
        match node.args[0]:
            case ast.Constant(value=str(name)) if name in known:
                yield name
            case ast.JoinedStr(values=[ast.Constant(value=str(start)), *_]):  # it may import any module that begins so
                yield from (name for name in sorted(known - {file.module}) if name.startswith(start))


def find_circles(imports: Imports) -> list[tuple[str, ...]]:
    """Find the shortest circle of each import that lies on one: module, imported, ..., module; each circle once."""
    found = set()
    for module, imported in imports.items():
        for first in imported:
            if way := _shortest_way(first, module, imports):
                smallest = way.index(min(way))
                turned = (*way[smallest:], *way[:smallest])
                found.add((*turned, turned[0]))
    return sorted(found, key=lambda circle: (len(circle), circle))


def _shortest_way(start: str, end: str, imports: Imports) -> tuple[str, ...] | None:
    ways: list[tuple[str, ...]] = [(start,)]
    seen = {start}
    for way in ways:  # grows while it is read: breadth first
        if way[-1] == end:
            return way
        for imported in sorted(imports[way[-1]]):
            if imported not in seen:
                seen.add(imported)
                ways.append((*way, imported))
    return None


def functions_of(node: ast.AST, prefix: str = "", *, command: bool = False) -> Iterator[tuple[str, Function, bool]]:
    """Yield each function with its dotted name, and whether click calls it with the options of a command."""
    for child in ast.iter_child_nodes(node):
        name, called = prefix, command
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            name, called = f"{prefix}{child.name}.", _is_option(child.name)
            yield name[:-1], child, command or any(map(_is_click, child.decorator_list))
        elif isinstance(child, ast.ClassDef):
            name = f"{prefix}{child.name}."
        yield from functions_of(child, name, command=called)


def _is_click(decorator: ast.expr) -> bool:
    function = decorator.func if isinstance(decorator, ast.Call) else decorator
    name = ast.unparse(function).rpartition(".")[2]
    return _is_option(name) or (
        isinstance(function, ast.Attribute) and name in ("command", "group", "option", "argument")
    )


def _is_option(name: str) -> bool:
    return name.endswith(("_option", "_options"))


def count_parameters(function: Function) -> int:
    """Count the parameters, without self or cls."""
    given = function.args
    positional = [*given.posonlyargs, *given.args]
    if positional and positional[0].arg in ("self", "cls"):
        del positional[0]
    return len(positional) + len(given.kwonlyargs) + sum(extra is not None for extra in (given.vararg, given.kwarg))


def is_table(function: Function) -> bool:
    """Tell whether the function only returns an entry, as defined at the top of this file."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    match body:
        case [ast.Return(value=ast.expr() as value)]:
            parameters = {node.arg for node in ast.walk(function.args) if isinstance(node, ast.arg)}
            return all(_is_part_of_entry(node, parameters) for node in ast.walk(value))
    return False


def _is_part_of_entry(node: ast.AST, parameters: set[str]) -> bool:
    match node:
        case ast.Name(id=name):
            return name not in parameters
        case ast.Call(func=called) | ast.Attribute(value=called):
            return isinstance(called, ast.Name | ast.Attribute)
        case ast.Dict(keys=keys):
            return None not in keys  # the key of ``**mapping``
        case ast.keyword(arg=name):
            return name is not None
    return isinstance(node, _ENTRIES)


def parameter_figure(files: Sequence[File], limits: Limits) -> Figure:
    """Count the functions with more parameters than the limit, click commands aside."""
    offenders = [
        Offender(file.path, function.lineno, name, count_parameters(function))
        for file in files
        for name, function, command in functions_of(file.tree)
        if not command and count_parameters(function) > limits.parameters
    ]
    name = f"functions with more than {limits.parameters} parameters"
    return Figure(name, limits.functions_beyond, len(offenders), _largest_first(offenders))


def length_figures(files: Sequence[File], limits: Limits) -> list[Figure]:
    """Measure the longest file, and the longest function that is no table."""
    lengths = [Offender(file.path, 1, file.module, file.lines) for file in files]
    functions = [
        Offender(file.path, function.lineno, name, (function.end_lineno or function.lineno) - function.lineno + 1)
        for file in files
        for name, function, _ in functions_of(file.tree)
        if not is_table(function)
    ]
    return [
        _longest("lines of the longest file", limits.file_lines, lengths),
        _longest("lines of the longest function", limits.function_lines, functions),
    ]


def _longest(name: str, limit: int, found: Iterable[Offender]) -> Figure:
    ordered = _largest_first(found)
    beyond = tuple(offender for offender in ordered if offender.value > limit)
    return Figure(name, limit, ordered[0].value if ordered else 0, beyond)


def module_figure(files: Sequence[File], limits: Limits) -> Figure:
    """Count the Python files of the first package; its folders are the offenders, each with its own files."""
    counted: dict[str, int] = {}
    for file in files:
        if file.path.startswith(f"{FOLDERS[0]}/"):
            folder = file.path.rpartition("/")[0]
            counted[folder] = counted.get(folder, 0) + 1
    offenders = [Offender(folder, 1, "modules", count) for folder, count in counted.items()]
    return Figure(f"modules in {FOLDERS[0]}", limits.modules, sum(counted.values()), _largest_first(offenders))


def _largest_first(offenders: Iterable[Offender]) -> tuple[Offender, ...]:
    return tuple(sorted(offenders, key=lambda offender: (-offender.value, offender.path, offender.line)))


def main(arguments: Sequence[str] | None = None, *, limits: Limits = LIMITS) -> int:
    """Print the figures and return 1 if one is beyond its limit."""
    parser = argparse.ArgumentParser(description="Hold the figures of the tree's structure.")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], help="of the checkout  [default: this]")
    parser.add_argument("--list", action="store_true", help="list the offenders within the limits, too")
    options = parser.parse_args(arguments)
    figures = measure(options.root, limits)
    width = max(len(figure.name) for figure in figures)
    print(f"{'figure':<{width}}  limit  value  ok")
    for figure in figures:
        print(f"{figure.name:<{width}}  {figure.limit:>5}  {figure.value:>5}  {'yes' if figure.ok else 'no'}")
    for figure in figures:
        if figure.offenders and (options.list or not figure.ok):
            print(f"\n{figure.name}: {figure.value}, limit {figure.limit}")
            print(*figure.offenders, sep="\n")
    return int(not all(figure.ok for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
