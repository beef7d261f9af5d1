"""docs/architecture.md describes the tree as it is: every package and module by its own first sentence, every path."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.support import ROOT

pytestmark = pytest.mark.portable

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def _sentence(file: Path) -> str:
    """Return the first sentence of a module's docstring in one line of Markdown."""
    paragraph = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split("\n\n")[0]
    found = re.match(r".+?\.(?=\s|$)", " ".join(paragraph.split()))
    assert found, f"{file} has no sentence at its top"
    return found[0].replace("``", "`")


def _table(title: str) -> dict[str, str]:
    """Return the rows of the table whose first column has a title."""
    rows = re.search(rf"^\| {title} \|.*\|\n\|---\|---\|\n((?:\|.*\|\n)+)", PAGE, re.MULTILINE)
    assert rows, f"the page has no table with a column '{title}'"
    cells = [line.strip("|").split(" | ") for line in rows[1].splitlines()]
    return {first.strip(): second.strip() for first, second in cells}


def test_every_package_is_listed_with_the_first_sentence_of_its_docstring() -> None:
    packages = {f"`harness/{file.parent.name}/`": _sentence(file) for file in ROOT.glob("harness/*/__init__.py")}
    assert len(packages) >= 15
    assert _table("package") == packages


def test_every_module_beside_the_packages_is_listed_with_its_first_sentence() -> None:
    modules = [file for file in ROOT.glob("harness/*.py") if not file.name.startswith("__")]
    assert _table("module") == {f"`harness/{file.name}`": _sentence(file) for file in modules}


def test_every_path_on_the_page_exists() -> None:
    quoted = set(re.findall(r"`([^`\n]+)`", PAGE))
    paths = {one for one in quoted if "/" in one or one.endswith((".py", ".toml"))}
    assert len(paths) >= 50
    assert sorted(path for path in paths if not (ROOT / path).exists()) == []


def test_every_name_beside_a_path_is_defined_in_that_file() -> None:
    """A row that says "`NAME` in `PATH`" leads to that name."""
    named = re.findall(r"`([\w.]+)` in `(harness/[\w/]+\.py)`", PAGE)
    assert len(named) >= 10
    lost = []
    for name, path in named:
        text = (ROOT / path).read_text(encoding="utf-8")
        if not all(re.search(rf"\b(class|def) {part}\b|^{part}\b", text, re.MULTILINE) for part in name.split(".")):
            lost.append(f"{name} in {path}")
    assert lost == []


def test_at_least_twenty_changes_are_listed_and_each_names_a_file() -> None:
    changes = _table("to change")
    assert len(changes) >= 20
    assert [change for change, place in changes.items() if "`" not in place or "/" not in place] == []


def test_every_room_is_in_the_picture() -> None:
    picture = PAGE.split("```text\n")[1].split("```")[0]
    rooms = {file.parent.name for file in ROOT.glob("harness/*/__init__.py")} - {"api"}  # all of them import the api
    assert sorted(room for room in rooms if not re.search(rf"\b{room}\b", picture)) == []
