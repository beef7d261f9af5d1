"""What a check looks at and what it says; and the loop that no check can break."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from harness.catalog import Catalog
from harness.errors import HarnessError, one_line
from harness.registry import Benchmark, Protocol, Suite
from harness.results.store import RunsFolder

Verdict: TypeAlias = Literal["ok", "warning", "problem", "skipped"]


@dataclass(frozen=True)
class Place:
    """What is examined: the machine as one user sees it, for one suite."""

    benchmark: Benchmark
    catalog: Catalog
    suite: Suite
    protocol: Protocol
    runs: RunsFolder
    data_root: Path
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


Check: TypeAlias = Callable[[Place], Iterable[Finding]]


def examine(place: Place, checks: Sequence[tuple[str, Check]]) -> Iterator[Finding]:
    """Carry out checks and yield what they find; one that raises is itself a finding.

    Args:
        place: What is examined.
        checks: Each with the name that a crash of it is reported under.
    """
    for name, check in checks:
        try:
            yield from check(place)
        except HarnessError as error:
            yield Finding(name, "problem", str(error))
        except Exception as error:  # whatever is broken on this machine, the other checks still tell the user more
            yield Finding(
                name,
                "problem",
                f"the check ended with {one_line(error)}",
                "Something that it relies on is broken here; the message says what.",
            )
