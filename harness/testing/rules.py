"""What a conformance rule is, and what comes of examining a plugin by it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from harness.testing.watch import quiet, restored

Kind: TypeAlias = Literal["plugin", "model", "dataset", "augmentation", "metric", "tracker", "observer"]
Verdict: TypeAlias = Literal["ok", "failed", "warning", "skipped"]


RAISED = (Exception, SystemExit)
"""What a plugin's code may raise and be blamed for; Ctrl-C is the user's."""


class Broken(Exception):
    """The rule is broken; the message says what was found and what was expected."""


class Doubtful(Exception):
    """The rule is not met, but the benchmark can live with that; the message says why it matters."""


class Untold(Exception):
    """The rule can't be examined here; the message says why."""


@dataclass(frozen=True)
class Rule:
    """One thing that a plugin of a kind has to keep.

    Attributes:
        id: Its name, beginning with the kind.
        kind: What it is about.
        why: One sentence: the reason for it.
        examine: Called with a case of the kind. Returns a remark or None if all is well; otherwise raises ``Broken``,
            ``Doubtful`` or ``Untold``.
    """

    id: str
    kind: Kind
    why: str
    examine: Callable[[Any], str | None] = field(repr=False)


@dataclass(frozen=True)
class Outcome:
    """What came of one rule.

    Attributes:
        subject: What was examined, such as ``"model mynet"``.
        rule: The rule.
        verdict: ``"ok"``, ``"failed"``, ``"warning"`` or ``"skipped"``.
        detail: What was found and expected; empty where there is nothing to say.
    """

    subject: str
    rule: Rule
    verdict: Verdict
    detail: str = ""


@dataclass(frozen=True)
class Check:
    """One rule to be examined on one case; call it for the outcome."""

    subject: str
    rule: Rule
    case: Any = field(repr=False)

    def __call__(self) -> Outcome:
        """Examine the rule. Whatever the plugin raises, SystemExit included, is an outcome, and so is what it prints.

        torch's settings and the random states are put back, so that one rule's offender cannot spoil the next rule.
        """
        verdict, detail = _examine(self.rule, self.case)
        return Outcome(self.subject, self.rule, verdict, detail)


def rule(name: str, why: str = "") -> Callable[[Callable[[Any], str | None]], Rule]:
    """Make a rule of a function. The name's first part is the kind; the function's docstring is the reason."""
    kind: Any = name.partition("-")[0]
    return lambda examine: Rule(name, kind, why or " ".join((examine.__doc__ or "").split()), examine)


def checks(subject: str, rules: Iterable[Rule], case: object) -> Iterator[Check]:
    """Pair every rule with a case."""
    return (Check(subject, one, case) for one in rules)


def quote(error: BaseException) -> str:
    """Return an error in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _examine(one: Rule, case: object) -> tuple[Verdict, str]:
    try:
        with restored(), quiet():
            return "ok", one.examine(case) or ""
    except Broken as error:
        return "failed", str(error)
    except Doubtful as error:
        return "warning", str(error)
    except Untold as error:
        return "skipped", str(error)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may do anything, and that is what it is examined for
        return "failed", f"it raised {quote(error)}."
