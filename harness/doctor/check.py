"""What a check looks at and what it says; and the loop that no check can break."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from harness.errors import HarnessError, one_line
from harness.registry import Protocol, Suite
from harness.workspace.workspace import Workspace

Verdict: TypeAlias = Literal["ok", "warning", "problem", "skipped"]


@dataclass(frozen=True)
class Examination:
    """The subject of the checks: the machine as one user sees it, for one suite.

    Attributes:
        workspace: The place of work.
        suite, protocol: The suite and the protocol that it trains under.
        device: The name that the user gave.
    """

    workspace: Workspace
    suite: Suite
    protocol: Protocol
    device: str


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        name: Of what was looked at.
        verdict: ``"ok"``; ``"warning"``, it works but not well; ``"problem"``, something will fail; ``"skipped"``, it
            does not apply or is not installed.
        found: What is there.
        advice: What to do; empty where nothing is to be done.
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
    """Carry out checks and yield what they find; one that raises is itself a finding.

    Args:
        examination: The subject of the checks.
        checks: Each with the name that a crash of it is reported under.
    """
    for name, check in checks:
        try:
            yield from check(examination)
        except HarnessError as error:
            yield Finding(name, "problem", str(error))
        except Exception as error:  # whatever is broken on this machine, the other checks still tell the user more
            yield Finding(
                name,
                "problem",
                f"the check ended with {one_line(error)}",
                "Something that it relies on is broken here; the message says what.",
            )
