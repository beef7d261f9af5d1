"""``.ci/structure.py`` finds a planted offender for each of its figures, and leaves out what its docstring names."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "structure.py"
CIRCLES, TYPING, WIDE, FILES, FUNCTIONS, MODULES = range(6)
SIX = "one, two, three, four, five, six"

Measure = Callable[..., list[Any]]


@pytest.fixture
def structure(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    yield importlib.import_module("structure")
    sys.modules.pop("structure", None)


@pytest.fixture
def tree(tmp_path: Path) -> Callable[[dict[str, str]], Path]:
    """Write files below a root that has both packages."""

    def write(files: dict[str, str]) -> Path:
        empty = {"harness/__init__.py": "", "plugins/xscore_plugins/__init__.py": ""}
        for name, text in (empty | files).items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return tmp_path

    return write


@pytest.fixture
def measure(structure: ModuleType, tree: Callable[[dict[str, str]], Path]) -> Measure:
    """Measure a tree of the given files under the given limits."""

    def measured(files: dict[str, str], **limits: int) -> list[Any]:
        return structure.measure(tree(files), structure.Limits(**limits))

    return measured


def _offenders(figure: Any) -> list[str]:
    return [str(offender) for offender in figure.offenders]


def _lines(count: int) -> str:
    return "x = 1\n" * count


def _function(lines: int) -> str:
    return "def long():\n" + "    x = 1\n" * (lines - 1)


def test_a_tree_within_the_limits_passes(measure: Measure) -> None:
    figures = measure({"harness/one.py": "import harness.two\n", "harness/two.py": "import json\n"})
    assert [figure.value for figure in figures] == [0, 0, 0, 1, 0, 3]
    assert all(figure.ok for figure in figures)


def test_a_circle_through_an_import_in_a_function_is_found(measure: Measure) -> None:
    files = {
        "harness/one.py": "from harness import two\n",
        "harness/two.py": "import json\nfrom harness.deep.three import name\n",
        "harness/deep/__init__.py": "",
        "harness/deep/three.py": "def work():\n    if work:\n        from ..one import name\n",
    }
    figures = measure(files)
    assert _offenders(figures[CIRCLES]) == [
        "harness/deep/three.py:3 harness.deep.three -> harness.one -> harness.two -> harness.deep.three 3"
    ]
    assert not figures[CIRCLES].ok
    assert figures[TYPING].value == 0


def test_each_import_on_a_circle_is_listed_with_its_shortest_circle(measure: Measure) -> None:
    files = {
        "harness/one.py": "import harness.two, harness.three\n",
        "harness/two.py": "import harness.one\n",
        "harness/three.py": "import harness.two\n",
    }
    assert [offender.name for offender in measure(files)[CIRCLES].offenders] == [
        "harness.one -> harness.two -> harness.one",
        "harness.one -> harness.three -> harness.two -> harness.one",
    ]


def test_a_file_that_imports_its_package_by_a_name_of_it_is_on_a_circle(measure: Measure) -> None:
    files = {"harness/deep/__init__.py": "from .one import work\n", "harness/deep/one.py": "from . import work\n"}
    assert measure(files)[CIRCLES].value == 1
    files["harness/deep/one.py"] = "import harness.deep.two\n"
    files["harness/deep/two.py"] = "from harness.deep import three\n"
    files["harness/deep/three.py"] = ""
    assert measure(files)[CIRCLES].value == 0


@pytest.mark.parametrize("name", ['"harness.command"', 'f"harness.{name}"'])
def test_import_module_of_a_written_name_is_an_import(measure: Measure, name: str) -> None:
    files = {
        "harness/start.py": f"import importlib\ndef work(name):\n    return importlib.import_module({name})\n",
        "harness/command.py": "import harness.start\n",
    }
    assert _offenders(measure(files)[CIRCLES]) == [
        "harness/command.py:1 harness.command -> harness.start -> harness.command 2"
    ]


@pytest.mark.parametrize("test", ["TYPE_CHECKING", "typing.TYPE_CHECKING"])
def test_a_circle_that_needs_type_checking_has_its_own_figure(measure: Measure, test: str) -> None:
    typed = f"if {test}:\n    import harness.two\nelse:\n    import json\n"
    figures = measure({"harness/one.py": typed, "harness/two.py": "import harness.one\n"})
    assert figures[CIRCLES].value == 0
    assert _offenders(figures[TYPING]) == ["harness/one.py:2 harness.one -> harness.two -> harness.one 2"]
    assert not figures[TYPING].ok


def test_the_else_branch_of_type_checking_runs(measure: Measure) -> None:
    running = "if TYPE_CHECKING:\n    import json\nelse:\n    import harness.two\n"
    figures = measure({"harness/one.py": running, "harness/two.py": "import harness.one\n"})
    assert (figures[CIRCLES].value, figures[TYPING].value) == (1, 0)


@pytest.mark.parametrize(
    "parameters",
    [SIX, "one, two, /, three, *, four, five, six", "one, two, three, four, *rest, **named", "one=1, *, a, b, c, d, e"],
)
def test_a_function_of_six_parameters_is_found(measure: Measure, parameters: str) -> None:
    text = f"class Work:\n    async def do(self, {parameters}):\n        def inner({parameters}): ...\n"
    figure = measure({"plugins/xscore_plugins/one.py": text}, functions_beyond=1)[WIDE]
    assert _offenders(figure) == [
        "plugins/xscore_plugins/one.py:2 Work.do 6",
        "plugins/xscore_plugins/one.py:3 Work.do.inner 6",
    ]
    assert (figure.limit, figure.ok) == (1, False)


def test_as_many_functions_of_six_parameters_as_the_limit_are_allowed(measure: Measure) -> None:
    files = {"harness/one.py": f"def work({SIX}): ...\n"}
    assert measure(files, functions_beyond=1)[WIDE].ok
    assert not measure(files, functions_beyond=0)[WIDE].ok


@pytest.mark.parametrize(
    "text",
    [
        "def work(one, two, three, four, five): ...\n",
        "class Work:\n    def do(self, one, two, three, four, five): ...\n",
        "class Work:\n    @classmethod\n    def do(cls, one, two, three, four, five): ...\n",
        "@dataclass\nclass Work:\n" + "".join(f"    {name}: int\n" for name in SIX.split(", ")),
        f"@click.command()\ndef work({SIX}): ...\n",
        f"@cli.group('name')\ndef work({SIX}): ...\n",
        f"@format_option\ndef work({SIX}): ...\n",
        f"@options.place_options\ndef work({SIX}): ...\n",
        f"def run_options(command):\n    @wraps(command)\n    def wrapper({SIX}): ...\n    return wrapper\n",
    ],
)
def test_functions_within_the_limit_and_click_commands_do_not_count(measure: Measure, text: str) -> None:
    assert measure({"harness/one.py": text})[WIDE].value == 0


def test_a_function_beside_a_click_command_counts(measure: Measure) -> None:
    text = f"@click.command()\ndef work({SIX}):\n    def inner({SIX}): ...\n@command\ndef other({SIX}): ...\n"
    assert [offender.name for offender in measure({"harness/one.py": text})[WIDE].offenders] == ["work.inner", "other"]


def test_a_file_of_400_lines_is_found(measure: Measure) -> None:
    figure = measure({"harness/one.py": _lines(400), "harness/two.py": _lines(399)})[FILES]
    assert (figure.value, figure.ok) == (400, False)
    assert _offenders(figure) == ["harness/one.py:1 harness.one 400"]
    assert measure({"harness/one.py": _lines(399)})[FILES].ok


def test_a_function_of_60_lines_is_found(measure: Measure) -> None:
    figure = measure({"harness/one.py": "@decorated\n" + _function(60), "harness/two.py": _function(59)})[FUNCTIONS]
    assert (figure.value, figure.ok) == (60, False)
    assert _offenders(figure) == ["harness/one.py:2 long 60"]
    assert measure({"harness/one.py": _function(59)})[FUNCTIONS].ok


ROWS = '        Row(\n            "name", -1, {"a": (1, 2.5)}, read=partial(module.read, 8)\n        ),\n' * 25


@pytest.mark.parametrize(
    "body",
    [f"[\n{ROWS}    ]", f"Table(\n{ROWS}    )", f"{{\n        'rows': [{ROWS}],\n        name: None,\n    }}"],
)
def test_a_long_table_is_allowed(measure: Measure, body: str) -> None:
    text = f'def table(chosen):\n    """Return the rows."""\n    return {body}\n'
    assert len(text.splitlines()) >= 75
    assert measure({"harness/one.py": text})[FUNCTIONS].value == 0


@pytest.mark.parametrize(
    "entry",
    ["chosen", "1 if True else 2", "1 + 1", "not x", "[x for x in y]", "*rest", "f(**named)", "{**named}", "x[0]",
     "f(1)(2)", "f(1).two", "lambda: 1", "f'{x}'"],
)  # fmt: skip
def test_a_long_return_with_logic_is_no_table(measure: Measure, entry: str) -> None:
    text = f"def table(chosen):\n    return [\n{ROWS}        {entry},\n    ]\n"
    assert _offenders(measure({"harness/one.py": text})[FUNCTIONS]) == ["harness/one.py:1 table 79"]


def test_a_statement_beside_the_return_makes_no_table(measure: Measure) -> None:
    text = f"def table():\n    x = 1\n    return [\n{ROWS}    ]\n"
    assert not measure({"harness/one.py": text})[FUNCTIONS].ok


def test_too_many_modules_are_counted_by_folder(measure: Measure) -> None:
    files = dict.fromkeys(["harness/one.py", "harness/deep/two.py", "plugins/xscore_plugins/three.py"], "")
    assert measure(files, modules=3)[MODULES].ok
    figure = measure(files, modules=2)[MODULES]
    assert (figure.value, figure.limit, figure.ok) == (3, 2, False)
    assert _offenders(figure) == ["harness:1 modules 2", "harness/deep:1 modules 1"]


def test_command_prints_the_table_and_the_offenders_beyond_a_limit(
    structure: ModuleType, tree: Callable[[dict[str, str]], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = tree({"harness/one.py": _lines(400), "harness/two.py": f"def work({SIX}): ...\n"})
    assert structure.main(["--root", str(root)]) == 1
    printed = capsys.readouterr().out
    assert "functions with more than 5 parameters     12      1  yes\n" in printed
    assert "lines of the longest file                399    400  no\n" in printed
    assert "\nharness/one.py:1 harness.one 400\n" in printed
    assert "two.py" not in printed
    assert structure.main(["--root", str(root), "--list"]) == 1
    assert "\nharness/two.py:1 work 6\n" in capsys.readouterr().out
    assert structure.main(["--root", str(root)], limits=structure.Limits(file_lines=400)) == 0


def test_script_runs_alone_and_asks_for_a_checkout(tmp_path: Path, tree: Callable[[dict[str, str]], Path]) -> None:
    def run(root: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-I", SCRIPT, "--root", root], capture_output=True, text=True)

    missing = run(tmp_path / "none")
    assert missing.returncode == 1
    assert missing.stderr.endswith("harness is missing. Give the root of a checkout: --root FOLDER.\n")
    assert run(tree({})).returncode == 0
