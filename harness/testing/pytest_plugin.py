"""The pytest plugin: a test with the argument ``harness_rule`` becomes one test per rule that applies.

pytest imports this wherever the harness is installed, so the harness itself is imported once a test needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from harness.testing.rules import RuleCheck


class ConformanceWarning(UserWarning):
    """A plugin does not keep a rule, but the benchmark works all the same."""


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers",
        "harness_plugin(name): the subject of the conformance tests: a distribution, a plugin or a spec; "
        "without it, the distribution with the nearest pyproject.toml above the test.",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Repeat a test that has the argument ``harness_rule`` for every rule."""
    if "harness_rule" not in metafunc.fixturenames:
        return
    from harness.errors import HarnessError

    marker = metafunc.definition.get_closest_marker("harness_plugin")
    try:
        found = _checks(metafunc.config, metafunc.definition.path, str(marker.args[0]) if marker else None)
    except HarnessError as error:
        raise pytest.UsageError(str(error)) from error
    names = [f"{check.subject.rpartition(' ')[2]}:{check.rule.id}" for check in found]
    metafunc.parametrize("harness_rule", found, ids=names, indirect=True)


@pytest.fixture
def harness_rule(request: pytest.FixtureRequest) -> Callable[[], None]:
    """Return a function that examines one rule: it fails, warns or skips with the reason."""
    check: RuleCheck = request.param
    return lambda: _assert(check)


def _assert(check: RuleCheck) -> None:
    import warnings

    outcome = check()
    text = f"{outcome.subject} does not keep {outcome.rule.id}: {outcome.detail}\n{outcome.rule.why}"
    if outcome.verdict == "failed":
        pytest.fail(text, pytrace=False)
    if outcome.verdict == "skipped":
        pytest.skip(outcome.detail)
    if outcome.verdict == "warning":
        warnings.warn(text, ConformanceWarning, stacklevel=3)


def _checks(config: pytest.Config, file: Path, name: str | None) -> tuple[RuleCheck, ...]:
    """Find the rules. A distribution that is not installed is importable from its folder until pytest ends."""
    from harness.catalog import discover
    from harness.data.prepared import default_data_root
    from harness.errors import WrongUseError
    from harness.registry import load_benchmark
    from harness.testing.find import find_checks, importable, project_above, read_project
    from harness.testing.plugins import normal

    if name is None:
        folder = project_above(file)
        if folder is None:
            raise WrongUseError(
                f"No folder above {file} has a pyproject.toml, so the plugin under test is unknown. "
                'Mark the test with @pytest.mark.harness_plugin("the plugin\'s name").'
            )
        project = read_project(folder)
        name = project.name
        if all(normal(plugin.distribution) != normal(name) for plugin in discover().plugins):
            stack = ExitStack()
            stack.enter_context(importable(project))
            config.add_cleanup(stack.close)
    return find_checks(name, load_benchmark(), discover(), default_data_root())
