"""Twenty-four broken plugins installed at once, by real .dist-info folders: everything healthy goes on working.

Each command runs in a process of its own, as users run it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.support import TINY_PLUGIN, TINY_REGISTRY

MODEL = """
from harness.api import ModelSpec, hookimpl

def build(num_classes):
    {build}

@hookimpl
def harness_models():
    return [ModelSpec(name={name}, build=build, paper={paper})]
"""
SOUND = """import tiny_plugin
    return tiny_plugin.build(num_classes)"""


def model(name: str = "'mynet'", build: str = SOUND, paper: str = "'none'") -> str:
    return MODEL.format(name=name, build=build, paper=paper)


HOOK = "from harness.api import hookimpl, ModelSpec, MetricSpec\n@hookimpl\ndef {name}({arguments}):\n    {body}\n"

# What is wrong, and what 'harness plugin list' must say about it.
BROKEN = {
    "b_import_error": ("import a_module_that_is_not_there", "No module named 'a_module_that_is_not_there'"),
    "b_from_import": ("from harness.api import NoSuchSpec", "cannot import name 'NoSuchSpec'"),
    "b_syntax_error": ("def broken(:", "SyntaxError: invalid syntax"),
    "b_not_utf8": ("é = 1", "SyntaxError"),
    "b_exits": ("import sys; sys.exit('please buy a licence')", "SystemExit: please buy a licence"),
    "b_base_exception": ("class Stop(BaseException): pass\nraise Stop('enough')", "Stop: enough"),
    "b_prints_and_raises": ("import sys; print('chatter'); print('more', file=sys.stderr); 1 / 0", "ZeroDivisionError"),
    "b_warns_and_raises": ("import warnings; warnings.warn('old'); raise UserWarning('and done')", "and done"),
    "b_recursion": ("def again(): again()\nagain()", "RecursionError"),
    "b_no_hook": ("def harness_models(): return []", "implements no hook"),
    "b_misspelt": (HOOK.format(name="harness_model", arguments="", body="return []"), "did you mean 'harness_models'"),
    "b_arguments": (HOOK.format(name="harness_models", arguments="colour", body="return []"), "colour"),
    "b_raises": (HOOK.format(name="harness_models", arguments="", body="raise ValueError('oh no')"), "oh no"),
    "b_exits_in_hook": (HOOK.format(name="harness_models", arguments="", body="raise SystemExit(3)"), "SystemExit: 3"),
    "b_returns_none": (HOOK.format(name="harness_models", arguments="", body="return None"), "returned NoneType"),
    "b_returns_text": (HOOK.format(name="harness_models", arguments="", body="return ['net']"), "expected ModelSpec"),
    "b_endless": (
        HOOK.format(
            name="harness_models",
            arguments="",
            body="import itertools\n"
            "    return (ModelSpec(name=f'n{i}', build=print, paper='') for i in itertools.count())",
        ),
        "more than 1,000 items",
    ),
    "b_stops_halfway": (
        HOOK.format(
            name="harness_models",
            arguments="",
            body="yield ModelSpec(name='first', build=print, paper='')\n    raise OSError('no second')",
        ),
        "no second",
    ),
    "b_bad_name": (model(name="'My Net'"), "'My Net' is not usable"),
    "b_bad_field": (model(paper="None"), "paper is NoneType, expected a text"),
    "b_takes_a_name": (model(name="'starnet'"), "belongs to plugin 'starnet'"),
    "b_contests_a": (model(name="'contested'"), "claimed by"),
    "b_contests_b": (model(name="'contested'"), "claimed by"),
    "b_future": ("HARNESS_API = 99\n" + model(), "hook API version 99"),
}
# Plugins that load, and whose work fails when it is asked for.
FAILING = {
    "f_build_raises": model(name="'raising'", build="raise RuntimeError('no weights')"),
    "f_build_exits": model(name="'exiting'", build="raise SystemExit(3)"),
    "f_build_text": model(name="'text'", build="return 'a network'"),
    "f_metric": HOOK.format(
        name="harness_metrics",
        arguments="",
        body="import sys\n    return [MetricSpec(name='exits', unit='', higher_is_better=True, "
        "compute=lambda logits, labels: sys.exit(3))]",
    ),
    "f_observer": HOOK.format(name="harness_epoch_finished", arguments="record", body="raise SystemExit(3)"),
}
HEALTHY = model()


def put(site: Path, module: str, source: str) -> None:
    encoding = "latin-1" if "not_utf8" in module else "utf-8"
    (site / f"{module}.py").write_text(textwrap.dedent(source), encoding=encoding)
    info = site / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module.replace('_', '-')}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[harness]\n{module} = {module}\n")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many broken plugins")
    (folder / "site").mkdir()
    for module, (source, _) in BROKEN.items():
        put(folder / "site", module, source)
    for module, source in FAILING.items():
        put(folder / "site", module, source)
    put(folder / "site", "healthy", HEALTHY)
    return folder


def harness(place: Path, *arguments: str, code: int = 0) -> tuple[Any, str]:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(place / "site"), str(TINY_PLUGIN), *sys.path]),
        "HARNESS_DATA": str(place / "data"),
        "XDG_CACHE_HOME": str(place / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "harness", *arguments, "--format", "json"],
        cwd=place, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout), done.stderr


def test_list_shows_all_that_is_healthy(place: Path) -> None:
    rows, err = harness(place, "list")
    names = {row["name"] for row in rows}
    assert {"starnet", "mynet", "tiny"} <= names
    assert not {"contested", "first", "n0"} & names
    assert f"{len(BROKEN)} plugins have a problem" in err


def test_plugin_list_explains_each_in_a_line(place: Path) -> None:
    rows, err = harness(place, "plugin", "list")
    found = {row["plugin"]: row for row in rows}
    for name, (_, says) in BROKEN.items():
        row = found[name]
        assert row["state"] == "failed", name
        assert says in row["reason"], name
        assert "\n" not in row["reason"]
        assert len(row["reason"]) < 300, name
        assert (row["distribution"], row["version"], row["gives"]) == (name.replace("_", "-"), "1.0", [])
    assert found["b_future"]["hook_api"] == 99
    assert found["healthy"]["gives"] == ["model mynet"]
    assert found["f_observer"]["gives"] == ["harness_epoch_finished"]
    assert (found["starnet"]["hook_api"], found["starnet"]["state"]) == (1, "ok")
    assert f"{len(BROKEN)} failed" in err


@pytest.mark.slow
def test_check_budget_of_all(place: Path) -> None:
    registry = str(TINY_REGISTRY)
    rows, err = harness(place, "check-budget", "--all", "--registry", registry, code=1)
    verdicts = {row["model"]: row["verdict"] for row in rows}
    assert verdicts["mynet"] == verdicts["tiny"] == "within"
    assert {"starnet", "big", "gentle"} <= set(verdicts)
    assert "Model 'exiting' does not build for 4 classes: SystemExit: 3" in err
    assert "Model 'raising' does not build for 4 classes: RuntimeError: no weights" in err
    assert "Model 'text' builds a str" in err


@pytest.mark.slow
def test_run_of_all(place: Path) -> None:
    registry = place / "quick.toml"
    text = (TINY_REGISTRY).read_text(encoding="utf-8").replace("epochs = 3", "epochs = 2")
    registry.write_text(text, encoding="utf-8")
    arguments = ("--all", "--suite", "tiny", "--dataset", "dots", "--registry", str(registry))
    rows, err = harness(place, "run", *arguments, code=1)
    states = {row["model"]: row["state"] for row in rows}
    done = {name for name, state in states.items() if state == "done"}
    assert done == {"mynet", "tiny", "tiny2", "gentle"}  # 'diverging' and 'misshapen' fail on their own account
    details = {row["model"]: row["detail"] for row in rows}
    assert "SystemExit: 3" in details["exiting"]
    assert "no weights" in details["raising"]
    assert "the limit is 390" in details["starnet"]
    assert "f_observer" in err
    (result,) = place.glob("runs/tiny-1.0/mynet/dots/seed-0/result.json")
    assert any("could not compute exits" in note for note in json.loads(result.read_text())["notes"])
