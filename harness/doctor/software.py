"""Checks of versions, extras, plugins and executors."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import metadata, requires, version

from harness.catalog import DISTRIBUTION
from harness.doctor import Examination, Finding
from harness.errors import one_line
from harness.machine import LIBRARIES, installed_version

_NOT_FOR_USERS = ("dev", "docs")
_ENGINES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "slurm": ("submitit", ("sinfo", "--noheader", "--format=%P %a %D nodes %t")),
    "ray": ("ray", ()),
}
"""Needs of the harness's own executors: a module, and a command that answers if the engine runs."""
_ANSWER_SECONDS = 5.0


def check_versions(_examination: Examination) -> Iterator[Finding]:
    """Compare the libraries that results depend on with this release's requirements."""
    needed = _requirements(extra=None)
    found, wrong = [f"python {sys.version.split()[0]}"], []
    for name in LIBRARIES:
        here = installed_version(name)
        if here is None:
            wrong.append(f"{name} is not installed")
            continue
        found.append(f"{name} {here}")
        if name in needed and not _fits(here, needed[name]):
            wrong.append(f"{name} is {here}, expected {needed[name]}")
    advice = "Install this release again in an environment of its own: pip install --upgrade xscore-harness"
    if wrong:
        yield Finding("versions", "problem", "; ".join(wrong), advice)
    else:
        yield Finding("versions", "ok", ", ".join(found))


def check_torch(_examination: Examination) -> Iterator[Finding]:
    """Check that torch can be imported and that torchvision was built for it."""
    advice = "Install torch and torchvision together, from one source: pip install --force-reinstall torch torchvision"
    try:
        import torch
        import torchvision

        kept = torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0]), 0.5)
    except Exception as error:  # a mismatch raises various errors of the loader or the dispatcher
        yield Finding("torch", "problem", f"torch and torchvision do not fit: {one_line(error)}", advice)
        return
    built_for = _requirements(extra=None, distribution="torchvision").get("torch", "")
    here = f"torch {version('torch')} with torchvision {version('torchvision')}"
    if kept.tolist() != [0] or (built_for and not _fits(version("torch"), built_for)):
        yield Finding("torch", "problem", f"{here}, which was built for torch {built_for}", advice)
        return
    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
    yield Finding("torch", "ok", f"{here} fit together; built with {cuda}")


def check_plugins(examination: Examination) -> Iterator[Finding]:
    """Yield one finding per plugin that is not wholly in use, and one for all the others."""
    good = [plugin for plugin in examination.workspace.catalog.plugins if plugin.state == "ok"]
    distributions = sorted({f"{plugin.distribution} {plugin.version}" for plugin in good})
    yield Finding("plugins", "ok", f"{len(good)} loaded, of {', '.join(distributions) or 'no distribution'}")
    for plugin in examination.workspace.catalog.plugins:
        if plugin.state != "ok":
            failed = plugin.state == "failed"
            yield Finding(
                f"plugin {plugin.name}",
                "problem" if failed else "warning",
                f"{plugin} {'failed' if failed else 'is partly out of use'}: {plugin.reason}",
                f"Upgrade it, or remove it: pip uninstall {plugin.distribution}",
            )


def check_extras(_examination: Examination) -> Iterator[Finding]:
    """Find the optional parts that are installed."""
    for extra in sorted(metadata(DISTRIBUTION).get_all("Provides-Extra") or []):
        if extra in _NOT_FOR_USERS:
            continue
        missing = [name for name in _requirements(extra=extra) if not installed_version(name)]
        if missing:
            advice = f"To install it: pip install '{DISTRIBUTION}[{extra}]'"
            yield Finding(f"extra {extra}", "skipped", f"not installed: {', '.join(missing)}", advice)
        else:
            yield Finding(f"extra {extra}", "ok", "installed")


def check_executors(examination: Examination) -> Iterator[Finding]:
    """Check which executors can run jobs from this machine."""
    if not examination.workspace.catalog.executors:
        yield Finding("executors", "problem", "no executor is installed", "Install this release again.")
    for name, offer in examination.workspace.catalog.executors.items():
        yield _executor(name, offer.spec.title, _ENGINES.get(name))


def _executor(name: str, title: str, engine: tuple[str, tuple[str, ...]] | None) -> Finding:
    called = f"executor {name}"
    if engine is None:
        return Finding(called, "ok", title)
    module, question = engine
    try:
        importlib.import_module(module)
    except ImportError as error:
        if getattr(error, "name", None) == module:
            advice = f"To install it: pip install '{DISTRIBUTION}[{name}]'"
            return Finding(called, "skipped", f"{module} is not installed", advice)
        return Finding(called, "problem", f"{module} can't be imported: {error}", f"pip install --upgrade {module}")
    if not question:
        return Finding(called, "ok", f"{module} {version(module)}")
    if shutil.which(question[0]) is None:
        return Finding(called, "skipped", f"{module} is installed, but there is no '{question[0]}' on this machine",
                       "Run it where the cluster's commands are, such as a login node.")  # fmt: skip
    try:
        ran = subprocess.run(question, capture_output=True, text=True, timeout=_ANSWER_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding(called, "problem", f"'{question[0]}' does not answer: {error}", "Ask the cluster's operators.")
    lines = [" ".join(line.split()) for line in (ran.stdout if ran.returncode == 0 else ran.stderr).splitlines()]
    if ran.returncode or not lines:
        answer = "; ".join(lines) or "nothing"
        return Finding(called, "problem", f"'{question[0]}' answers: {answer}", "Ask the cluster's operators.")
    more = "; ..." if len(lines) > 4 else ""
    return Finding(called, "ok", f"{module} {version(module)}; {question[0]} says: {'; '.join(lines[:4])}{more}")


def _requirements(*, extra: str | None, distribution: str = DISTRIBUTION) -> dict[str, str]:
    """Return version conditions by distribution name, of the plain requirements or of one extra's."""
    found = {}
    for line in requires(distribution) or []:
        text, _, marker = line.partition(";")
        asked = re.search(r"""extra\s*==\s*['"]([^'"]+)['"]""", marker)
        if (asked.group(1) if asked else None) != extra:
            continue
        match = re.match(r"\s*([A-Za-z0-9._-]+)\s*(?:\[[^]]*\])?\s*\(?([^)]*)\)?", text)
        if match:
            found[match[1].lower()] = match[2].strip()
    return found


def _fits(here: str, condition: str) -> bool:
    """Return whether a version meets a condition such as ``>=1.0,<1.1``; True if ``packaging`` is missing."""
    try:
        from packaging.specifiers import SpecifierSet
    except ImportError:
        return True
    return SpecifierSet(condition).contains(here.partition("+")[0], prereleases=True)
