"""What the tests of the rules share: examine a case and see which rules complain; side effects that offenders have."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.testing.rules import Outcome, Rule, checks


@dataclass(frozen=True)
class Offender:
    """A plugin made wrong in one way: the rule that must complain, and how."""

    rule: str
    what: Any
    verdict: str = "failed"
    says: str = ""


def complaints(rules: Iterable[Rule], case: object) -> dict[str, Outcome]:
    """Examine all rules and return the outcomes that are neither ok nor skipped."""
    found = [check() for check in checks("the subject", rules, case)]
    return {one.rule.id: one for one in found if one.verdict in ("failed", "warning")}


def assert_exactly(offender: Offender, found: dict[str, Outcome]) -> None:
    assert {name: one.verdict for name, one in found.items()} == {offender.rule: offender.verdict}, found
    outcome = found[offender.rule]
    assert offender.says in outcome.detail
    assert outcome.detail.strip()
    assert outcome.rule.why.strip().endswith(".")


def prints() -> None:
    print("hello")


def prints_below_python() -> None:
    os.write(2, b"hello")


def connects() -> None:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", 9), timeout=0.1)


def looks_up_a_name() -> None:
    with contextlib.suppress(OSError):
        socket.getaddrinfo("localhost", 80)


def writes() -> None:
    (Path(os.environ["HARNESS_DATA"]).parent / "litter.txt").write_text("litter")


def makes_a_folder() -> None:
    (Path(os.environ["HARNESS_DATA"]).parent / "litter").mkdir(exist_ok=True)


def sets_the_environment() -> None:
    os.environ["LITTER"] = str(int(os.environ.get("LITTER", "0")) + 1)


def sets_the_threads() -> None:
    import torch

    torch.set_num_threads(torch.get_num_threads() + 1)


SIDE_EFFECTS = (
    ("silent", prints, "hello"),
    ("silent", prints_below_python, "hello"),
    ("offline", connects, "127.0.0.1:9"),
    ("offline", looks_up_a_name, "localhost"),
    ("writes-nothing", writes, "litter.txt"),
    ("writes-nothing", makes_a_folder, "litter"),
    ("settings", sets_the_environment, "environment variables"),
    ("settings", sets_the_threads, "threads"),
)
"""The end of the rule's name, what is done, and what the rule must say."""
