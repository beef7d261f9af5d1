"""Every rule about distributions and imports catches its offender, and no other rule complains."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path

import pytest

from harness.catalog import discover
from harness.testing.plugins import RULES, PluginCase
from harness.testing.rules import Outcome
from tests.testing.offending import Offender, assert_exactly, complaints

HOOK = """
from harness.api import ModelSpec, hookimpl

@hookimpl
def harness_models():
    return [ModelSpec(name="mynet", build=print, paper="Ada et al., 2026")]
"""
METADATA = """Metadata-Version: 2.4
Name: mine
Version: 1.0
Summary: A network
License-Expression: MIT
Requires-Dist: xscore-harness>=0.1
"""

OFFENDERS = (
    Offender("plugin-imports", "import a_module_that_is_not_there\n", says="ModuleNotFoundError"),
    Offender("plugin-imports", "def broken(:\n", says="SyntaxError"),
    Offender("plugin-imports", "import sys; sys.exit('no licence key')\n", says="SystemExit: no licence key"),
    Offender("plugin-imports", "class Stop(BaseException): pass\nraise Stop('enough')\n", says="Stop: enough"),
    Offender("plugin-api", "HARNESS_API = 99\n" + HOOK, says="HARNESS_API is 99"),
    Offender("plugin-hooks", HOOK.replace("harness_models", "harness_modles"), says="did you mean 'harness_models'"),
    Offender("plugin-hooks", HOOK.replace("():", "(colour):"), says="colour"),
    Offender("plugin-hooks", HOOK.replace("[ModelSpec", "['mynet', ModelSpec"), says="expected ModelSpec"),
    Offender("plugin-hooks", "print\n", says="implements no hook"),
    Offender("plugin-names", HOOK.replace('"mynet"', '"starnet"'), says="belongs to plugin 'starnet'"),
    Offender("plugin-light", "import torch\n" + HOOK, says="torch"),
    Offender("plugin-light", "import PIL.Image\n" + HOOK, "warning", says="PIL"),
    Offender("plugin-quick", "import time; time.sleep(1.05)\n" + HOOK, says="1.1 s"),
    Offender("plugin-silent", "print('welcome')\n" + HOOK, says="welcome"),
    Offender("plugin-silent", "import warnings; warnings.warn('old')\n" + HOOK, says="old"),
    Offender(
        "plugin-offline",
        "import contextlib, socket\nwith contextlib.suppress(OSError):\n"
        "    socket.create_connection(('127.0.0.1', 9), timeout=0.1)\n" + HOOK,
        says="127.0.0.1:9",
    ),
    Offender(
        "plugin-writes-nothing",
        "import pathlib; pathlib.Path(__file__).with_name('litter.txt').write_text('')\n" + HOOK,
        says="litter.txt",
    ),
    Offender("plugin-settings", "import os; os.environ['LITTER'] = '1'\n" + HOOK, says="environment variables"),
    Offender("plugin-settings", "import logging; logging.basicConfig(level=10)\n" + HOOK, says="root logger"),
)
METADATA_OFFENDERS = {
    "Summary: A network\n": "a description",
    "License-Expression: MIT\n": "a licence",
    "Requires-Dist: xscore-harness>=0.1\n": "a dependency on xscore-harness",
}


def examine(install: Callable[..., Path], source: str, metadata: str = METADATA) -> dict[str, Outcome]:
    root = install("mine", textwrap.dedent(source))
    (root / "mine-1.0.dist-info" / "METADATA").write_text(metadata, encoding="utf-8")
    (plugin,) = (one for one in discover().plugins if one.name == "mine")
    return complaints(RULES, PluginCase(plugin, distribution("mine")))


@pytest.mark.filterwarnings("ignore:old")
@pytest.mark.parametrize("number", range(len(OFFENDERS)), ids=lambda number: f"{number}-{OFFENDERS[number].rule}")
def test_exactly_the_intended_rule_complains(
    number: int, install: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LITTER", "0")  # put back afterwards, for this process imports the plugin too
    offender = OFFENDERS[number]
    assert_exactly(offender, examine(install, offender.what))


@pytest.mark.parametrize("line", METADATA_OFFENDERS)
def test_what_the_metadata_lack_is_named(line: str, install: Callable[..., Path]) -> None:
    found = examine(install, HOOK, METADATA.replace(line, ""))
    assert_exactly(Offender("plugin-metadata", None, says=METADATA_OFFENDERS[line]), found)


def test_an_import_that_ends_the_interpreter_is_caught(install: Callable[..., Path]) -> None:
    install("mine", HOOK)
    (plugin,) = (one for one in discover().plugins if one.name == "mine")
    install("killer", "import os; os._exit(3)")  # after discovery, which nothing could survive
    from dataclasses import replace

    found = complaints(RULES, PluginCase(replace(plugin, module="killer"), None))
    assert_exactly(Offender("plugin-imports", None, says="ends the interpreter"), found)


def test_a_name_that_two_third_parties_claim(install: Callable[..., Path]) -> None:
    install("other", HOOK)
    found = examine(install, HOOK)
    assert_exactly(
        Offender("plugin-names", None, says="claimed by plugin 'mine' of mine 1.0 and plugin 'other'"), found
    )


def test_healthy_plugin_keeps_every_rule(install: Callable[..., Path]) -> None:
    assert examine(install, "HARNESS_API = 1\n" + HOOK) == {}
