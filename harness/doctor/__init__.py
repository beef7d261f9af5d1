"""Checks this machine for one suite, and gives findings with advice; a failing check stops no other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from harness.errors import HarnessError, PluginError
from harness.guard import guarded
from harness.registry import Protocol, Suite
from harness.workspace import Workspace

Verdict: TypeAlias = Literal["ok", "warning", "problem", "skipped"]


@dataclass(frozen=True)
class Examination:
    """The input of the checks: a user's workspace and device, for one suite.

    Attributes:
        workspace: Registry, plugins and folders.
        suite, protocol: The suite and the protocol that it trains under.
        device: The name that the user gave.
    """

    workspace: Workspace
    suite: Suite
    protocol: Protocol
    device: str


@dataclass(frozen=True)
class Finding:
    """The output of a check.

    Attributes:
        name: The subject.
        verdict: ``"ok"``; ``"warning"``, it works but not well; ``"problem"``, something will fail; ``"skipped"``, it
            does not apply or is not installed.
        found: The facts.
        advice: The next step; empty if there is none.
    """

    name: str
    verdict: Verdict
    found: str
    advice: str = ""

    def as_row(self) -> dict[str, Any]:
        """Return the row that ``harness doctor`` prints."""
        return {"name": self.name, "verdict": self.verdict, "found": self.found, "advice": self.advice}


Check: TypeAlias = Callable[[Examination], Iterable[Finding]]


def examine(examination: Examination, checks: Sequence[tuple[str, Check]]) -> Iterator[Finding]:
    """Carry out checks and yield their findings; an exception becomes a finding, too.

    Args:
        examination: The input of the checks.
        checks: Each with the name under which an exception is reported.
    """
    for name, check in checks:
        findings: list[Finding] = []
        try:
            with guarded():
                findings.extend(check(examination))
        except PluginError as error:  # the other checks still help the user
            advice = "Something that it relies on is broken here; see the message."
            findings.append(Finding(name, "problem", f"the check ended with {error}", advice))
        except HarnessError as error:
            findings.append(Finding(name, "problem", str(error)))
        yield from findings
