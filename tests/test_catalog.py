"""Discovery survives any plugin, names it and its reason, and everything else goes on working."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TypeVar

import pytest

from harness.catalog import Catalog, Plugin, discover
from harness.errors import PluginError, WrongUseError

pytestmark = pytest.mark.portable

T = TypeVar("T")
MODEL = textwrap.dedent("""
    from harness.api import ModelSpec, hookimpl

    def build(num_classes):
        raise RuntimeError

    @hookimpl
    def harness_models():
        return [ModelSpec(name="{name}", build=build, paper="none")]
""")

BROKEN = {
    "import_fails": ("import a_module_that_is_not_there", r"ModuleNotFoundError: No module named 'a_module_that"),
    "syntax_error": ("def broken(:", "SyntaxError"),
    "exits": ("raise SystemExit(3)", "SystemExit: 3"),
    "misspelt": (
        "from harness.api import hookimpl\n@hookimpl\ndef harness_modles():\n    return []",
        "unknown hook 'harness_modles'",
    ),
    "wrong_arguments": (
        "from harness.api import hookimpl\n@hookimpl\ndef harness_models(colour):\n    return []",
        "argument",
    ),
    "unmarked": ("def harness_models():\n    return []", "implements no hook: nothing in it is marked with @hookimpl"),
    "returns_none": (
        "from harness.api import hookimpl\n@hookimpl\ndef harness_models():\n    return None",
        "returned NoneType, expected a list of ModelSpec",
    ),
    "returns_strings": (
        "from harness.api import hookimpl\n@hookimpl\ndef harness_models():\n    return ['mynet']",
        "'mynet', expected ModelSpec",
    ),
    "returns_other_spec": (
        "from harness.api import hookimpl, MetricSpec\n@hookimpl\ndef harness_models():\n"
        "    return [MetricSpec(name='m', unit='', higher_is_better=True, compute=print)]",
        "expected ModelSpec",
    ),
    "raises": (
        "from harness.api import hookimpl\n@hookimpl\ndef harness_models():\n    raise ValueError('oh no')",
        "ValueError: oh no",
    ),
    "bad_name": (MODEL.format(name="My Net"), "'My Net' is not usable"),
    "twice": (
        "from harness.api import hookimpl, ModelSpec\n@hookimpl\ndef harness_models():\n"
        "    return [ModelSpec(name='a', build=print, paper='')] * 2",
        "returned the name 'a' twice",
    ),
    "bad_rate": (
        "from harness.api import hookimpl, ModelSpec\n@hookimpl\ndef harness_models():\n"
        "    return [ModelSpec(name='a', build=print, paper='', lr_max=7)]",
        "lr_max is 7",
    ),
    "no_build": (
        "from harness.api import hookimpl, ModelSpec\n@hookimpl\ndef harness_models():\n"
        "    return [ModelSpec(name='a', build='x', paper='')]",
        "build is str, expected a callable",
    ),
    "other_version": ("HARNESS_API = 99\n" + MODEL.format(name="future"), "written for hook API version 99"),
    "wrapper": (
        "import pluggy\nhookimpl = pluggy.HookimplMarker('harness')\n@hookimpl(wrapper=True)\ndef harness_models():\n"
        "    return (yield)",
        "hook wrapper",
    ),
}


def plugin(catalog: Catalog, name: str) -> Plugin:
    return next(one for one in catalog.plugins if one.name == name)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_plugin_is_recorded_and_harms_nobody(name: str, install: Callable[..., Path]) -> None:
    source, reason = BROKEN[name]
    install(name, source)
    install("healthy", MODEL.format(name="mynet"))
    catalog = discover()
    broken = plugin(catalog, name)
    assert broken.state == "failed"
    assert re.search(reason, broken.reason)
    assert (broken.distribution, broken.version) == (name.replace("_", "-"), "1.0")
    assert broken.offers == ()
    assert plugin(catalog, "healthy").state == "ok"
    assert {"mynet", "starnet"} <= set(catalog.models)


def test_all_broken_plugins_at_once(install: Callable[..., Path]) -> None:
    for name, (source, _) in BROKEN.items():
        install(name, source)
    catalog = discover()
    assert {one.name for one in catalog.plugins if one.state == "failed"} == set(BROKEN)
    assert len(catalog.models) == 11


def test_what_a_plugin_prints_at_import_stays_out_of_the_data(
    install: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    install("chatty", "print('hello')\n" + MODEL.format(name="mynet"))
    discover()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "hello" in captured.err


def test_name_of_the_reference_stays_the_references(install: Callable[..., Path]) -> None:
    install("aaa_taker", MODEL.format(name="starnet"))
    catalog = discover()
    taker = plugin(catalog, "aaa_taker")
    assert catalog.model("starnet").owner.distribution == "xscore-harness"
    assert taker.state == "failed"
    assert "starnet" in taker.reason
    assert "xscore-harness" in taker.reason


def test_name_contested_between_third_parties_is_nobodys(install: Callable[..., Path]) -> None:
    both = MODEL.replace(
        'return [ModelSpec(name="{name}", build=build, paper="none")]',
        'return [ModelSpec(name=n, build=build, paper="none") for n in ("{name}", "{other}")]',
    )
    install("aaa", both.format(name="mynet", other="first"))
    install("zzz", both.format(name="mynet", other="second"))
    catalog = discover()
    assert plugin(catalog, "aaa").state == plugin(catalog, "zzz").state == "partly"
    assert {"first", "second"} <= set(catalog.models)
    with pytest.raises(PluginError, match=r"claimed by plugin 'aaa' of aaa 1\.0 and plugin 'zzz' of zzz 1\.0"):
        catalog.model("mynet")


def test_two_versions_in_one_folder_are_an_interrupted_upgrade(install: Callable[..., Path]) -> None:
    install("upgraded", MODEL.format(name="mynet"), version="1.0")
    install("upgraded", MODEL.format(name="mynet"), version="2.0")
    one = plugin(discover(), "upgraded")
    assert one.state == "failed"
    assert "upgraded-1.0.dist-info" in one.reason
    assert "upgraded-2.0.dist-info" in one.reason
    assert "pip install --force-reinstall upgraded" in one.reason


def test_a_remnant_of_pip_is_no_plugin(install: Callable[..., Path]) -> None:
    root = install("upgraded", MODEL.format(name="mynet"), version="1.0")
    (root / "upgraded-1.0.dist-info").rename(root / "~pgraded-1.0.dist-info")
    install("upgraded", MODEL.format(name="mynet"), version="2.0")
    assert [(one.version, one.state) for one in discover().plugins if one.name == "upgraded"] == [("2.0", "ok")]


def test_an_older_version_further_down_the_path_is_hidden(
    install: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = install("upgraded", MODEL.format(name="mynet"), version="1.0")
    shutil.copytree(root, tmp_path / "first")
    (tmp_path / "first" / "upgraded-1.0.dist-info").rename(tmp_path / "first" / "upgraded-2.0.dist-info")
    metadata = tmp_path / "first" / "upgraded-2.0.dist-info" / "METADATA"
    metadata.write_text("Metadata-Version: 2.1\nName: upgraded\nVersion: 2.0\n")
    monkeypatch.syspath_prepend(str(tmp_path / "first"))
    assert [(one.version, one.state) for one in discover().plugins if one.name == "upgraded"] == [("2.0", "ok")]


def test_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(WrongUseError, match=r"no model named 'starnt'. Did you mean 'starnet'"):
        discover().model("starnt")


def test_what_is_needed_from_a_broken_plugin_quotes_its_failure(install: Callable[..., Path]) -> None:
    install("xscore_plugin_mynet", "import nothing_of_the_kind", entry="mynet")
    with pytest.raises(PluginError, match=r"xscore-plugin-mynet 1\.0 failed to load: .*nothing_of_the_kind"):
        discover().model("mynet")
    with pytest.raises(WrongUseError, match=r"may belong to a plugin that failed to load.*nothing_of_the_kind"):
        discover().model("othernet")


def test_observer_that_raises_is_reported_and_others_called(install: Callable[..., Path]) -> None:
    source = """
        from harness.api import hookimpl
        seen = []

        @hookimpl
        def harness_run_started(job):
            seen.append(job)
            {action}
    """
    install("aa_fails", source.format(action="raise OSError('away')"))
    install("bb_works", source.format(action="pass"))
    catalog = discover()
    failures = catalog.notify("harness_run_started", job="the job")
    assert failures == [
        "plugin 'aa_fails' of aa-fails 1.0: harness_run_started raised OSError: away; the run continues without it."
    ]
    import bb_works  # type: ignore[import-not-found]

    assert bb_works.seen == ["the job"]


def test_observers_get_copies(install: Callable[..., Path]) -> None:
    source = """
        from harness.api import hookimpl
        seen = []

        @hookimpl
        def harness_run_started(job):
            seen.append(dict(job))
            job.clear()
    """
    install("aa_clears", source)
    install("bb_clears", source)
    job = {"model": "mynet"}
    assert discover().notify("harness_run_started", job=job) == []
    import bb_clears  # type: ignore[import-not-found]

    assert bb_clears.seen == [job] == [{"model": "mynet"}]


def test_reference_plugins_are_all_well() -> None:
    catalog = discover()
    ours = [one for one in catalog.plugins if one.distribution == "xscore-harness"]
    assert [str(one) for one in ours if one.state != "ok"] == []
    assert len(catalog.models) == 11
    assert {"horizontal_flip", "color_jitter", "cutmix"} <= set(catalog.augmentations)


def test_discovery_imports_nothing_heavy() -> None:
    script = (
        "import sys; from harness.catalog import discover; discover(); "
        "print(sorted({'torch', 'timm', 'torchvision', 'numpy', 'pandas', 'PIL'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "[]"


def test_work_of_discovery_grows_with_the_plugins(install: Callable[..., Path]) -> None:
    """Twice as many plugins take twice the work; benchmarks/startup.py measures the time."""
    work = []
    for first in (0, 100):
        for number in range(first, first + 100):
            install(f"plug{number:03}", MODEL.format(name=f"net{number}"))
        discover()  # writes the byte code, as pip does when it installs
        for name in [name for name in sys.modules if name.startswith("plug")]:
            del sys.modules[name]
        models, calls = calls_of(lambda: len(discover().models))
        assert models == 11 + first + 100
        work.append(calls)
    assert work[1] < 2.2 * work[0]


def calls_of(action: Callable[[], T]) -> tuple[T, int]:
    """The result of an action, and the number of Python functions that it called."""
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        result = action()
    finally:
        sys.setprofile(None)
    return result, calls
