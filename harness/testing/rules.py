"""What a conformance rule is, and what comes of examining a plugin by it."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from harness.errors import one_line
from harness.testing.sandbox import Seen, changed, quiet, restored, settings, watching

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
        return "failed", f"it raised {one_line(error)}."


_VAGUE = {"", "-", "?", "n/a", "na", "none", "nobody", "tbd", "todo", "unknown"}


def shorten(texts: Sequence[str], most: int = 3) -> str:
    """Name the first few."""
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def is_vague(text: str) -> bool:
    """Whether a field that people rely on says nothing."""
    return text.strip().rstrip(".").lower() in _VAGUE


def side_effect_rules(kind: str, doing: str, act: Callable[[object], object]) -> tuple[Rule, ...]:
    """Rules about what happens while a plugin does its work.

    Args:
        kind: The kind of plugin.
        doing: What the work is called in messages, such as ``"building the model"``.
        act: Does the work, for a case; whatever it raises is another rule's concern.
    """

    def watched(case: object) -> Seen:
        with watching() as seen:
            try:
                act(case)
            except (KeyboardInterrupt, Untold):
                raise
            except BaseException as error:
                if not seen.connections:
                    raise Untold(f"{doing} raised {one_line(error)}.") from error
        return seen

    @rule(f"{kind}-silent")
    def silent(case: object) -> None:
        """Output of a plugin ends up in the middle of a table, a progress bar or a JSON document."""
        if printed := watched(case).printed.strip():
            raise Broken(f"{doing} prints {printed[:120]!r}, expected nothing; use the logging module.")

    @rule(f"{kind}-offline")
    def offline(case: object) -> None:
        """A download makes results depend on somebody's server, and compute nodes have no network."""
        if found := watched(case).connections:
            raise Broken(f"{doing} wants to connect to {shorten(found)}, expected no network.")

    @rule(f"{kind}-writes-nothing")
    def writes_nothing(case: object) -> None:
        """Files that nobody asked for fill disks and collide between parallel jobs."""
        if found := sorted(set(watched(case).written)):
            raise Broken(f"{doing} changes {shorten(found)}, expected no file to be written.")

    @rule(f"{kind}-settings")
    def leaves_settings(case: object) -> None:
        """A global setting changed by one plugin changes every other plugin's numbers."""
        with restored():
            watched(case)  # so that what a first import sets up is not blamed on it
        before = settings()
        watched(case)
        if found := changed(before, settings()):
            raise Broken(f"{doing} changes {shorten(found)}, expected global settings to be left alone.")

    return silent, offline, writes_nothing, leaves_settings


def pickling_rule(kind: str) -> Rule:
    """The rule that the case's ``spec`` reaches a worker process."""

    @rule(f"{kind}-spec-pickles")
    def pickles(case: object) -> None:
        """Executors may hand a spec to worker processes that are spawned."""
        spec = case.spec  # type: ignore[attr-defined]
        try:
            pickle.loads(pickle.dumps(spec))
        except Exception as error:
            raise Broken(
                f"the spec can't be pickled: {one_line(error)}. Expected functions at the top of a module, "
                "not lambdas or functions within functions."
            ) from error

    return pickles


def description_rule(kind: str, why: str, needed: Sequence[str], wanted: Sequence[str] = ()) -> Rule:
    """The rule that fields of the case's ``spec`` say something: ``needed`` ones must, ``wanted`` ones should."""

    @rule(f"{kind}-described", why)
    def described(case: object) -> None:
        spec = case.spec  # type: ignore[attr-defined]
        vague = [name for name in needed if is_vague(str(getattr(spec, name)))]
        if vague:
            found = shorten([f"{name} = {getattr(spec, name)!r}" for name in vague])
            raise Broken(f"{found}: expected words that people can use.")
        if missing := [name for name in wanted if is_vague(str(getattr(spec, name)))]:
            raise Doubtful(f"{shorten(missing)} is not filled in.")

    return described
