"""Conformance rules: a rule examines a case, which is a plugin of its kind, and comes to a verdict."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from harness.errors import one_line
from harness.testing.sandbox import Seen, changed, quiet, restored, settings, watching
from harness.torch_settings import kept_torch

Kind: TypeAlias = Literal["plugin", "model", "dataset", "augmentation", "metric", "tracker", "observer", "executor"]
Verdict: TypeAlias = Literal["ok", "failed", "warning", "skipped"]

RAISED = (Exception, SystemExit)
"""Exceptions that count against a plugin. KeyboardInterrupt is the user's."""
_VAGUE = {"", "-", "?", "n/a", "na", "none", "nobody", "tbd", "todo", "unknown"}


class Failed(Exception):
    """The plugin breaks the rule. The message names what was found and what was expected."""


class Warned(Exception):
    """The plugin does not keep the rule, but the benchmark works all the same. The message gives the consequence."""


class Skipped(Exception):
    """The rule can't be examined here. The message gives the reason."""


@dataclass(frozen=True)
class Rule:
    """One requirement on a plugin of a kind.

    Attributes:
        id: Its name, which begins with the kind.
        kind: The kind of plugin.
        why: The reason for it, in one sentence.
        examine: Called with a case of the kind. Returns a remark or None if the rule is kept; otherwise raises
            ``Failed``, ``Warned`` or ``Skipped``.
    """

    id: str
    kind: Kind
    why: str
    examine: Callable[[Any], str | None] = field(repr=False)


@dataclass(frozen=True)
class Outcome:
    """The verdict of one rule on one case.

    Attributes:
        subject: The plugin, such as ``"model mynet"``.
        rule: The rule.
        verdict: ``"ok"``, ``"failed"``, ``"warning"`` or ``"skipped"``.
        detail: What was found and expected; empty if there is nothing to add.
    """

    subject: str
    rule: Rule
    verdict: Verdict
    detail: str = ""


@dataclass(frozen=True)
class RuleCheck:
    """One rule and one case; call it for the outcome."""

    subject: str
    rule: Rule
    case: Any = field(repr=False)

    def __call__(self) -> Outcome:
        """Examine the rule. All that the plugin raises becomes an outcome, SystemExit included.

        Global settings and random states are restored, so that a plugin that breaks one rule can't spoil the next.
        """
        verdict, detail = _examine(self.rule, self.case)
        return Outcome(self.subject, self.rule, verdict, detail)


def rule(name: str, why: str = "") -> Callable[[Callable[[Any], str | None]], Rule]:
    """Make a rule of a function. The name's first part is the kind; the function's docstring is the reason."""
    kind: Any = name.partition("-")[0]
    return lambda examine: Rule(name, kind, why or " ".join((examine.__doc__ or "").split()), examine)


def checks(subject: str, rules: Iterable[Rule], case: object) -> Iterator[RuleCheck]:
    """Pair every rule with a case."""
    return (RuleCheck(subject, one, case) for one in rules)


def _examine(one: Rule, case: object) -> tuple[Verdict, str]:
    try:
        with restored(), quiet():
            return "ok", one.examine(case) or ""
    except Failed as error:
        return "failed", str(error)
    except Warned as error:
        return "warning", str(error)
    except Skipped as error:
        return "skipped", str(error)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may raise anything, and one plugin must not end the examination
        return "failed", f"it raised {one_line(error)}."


def shorten(texts: Sequence[str], most: int = 3) -> str:
    """List the first few texts and count the others."""
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def is_vague(text: str) -> bool:
    """Return True if a field that people rely on is empty or says nothing."""
    return text.strip().rstrip(".").lower() in _VAGUE


def side_effect_rules(kind: str, doing: str, act: Callable[[object], object]) -> tuple[Rule, ...]:
    """Make the rules about side effects of a plugin's work.

    Args:
        kind: The kind of plugin.
        doing: The name of the work in messages, such as ``"building the model"``.
        act: Does the work for a case. If it raises, these rules are skipped, for another rule reports that.
    """

    def watched(case: object) -> Seen:
        with watching() as seen:
            try:
                act(case)
            except (KeyboardInterrupt, Skipped):
                raise
            except BaseException as error:
                if not seen.connections:
                    raise Skipped(f"{doing} raised {one_line(error)}.") from error
        return seen

    @rule(f"{kind}-silent")
    def silent(case: object) -> None:
        """Output of a plugin lands in the middle of a table, a progress bar or a JSON document."""
        if printed := watched(case).printed.strip():
            raise Failed(f"{doing} prints {printed[:120]!r}, expected nothing; use the logging module.")

    @rule(f"{kind}-offline")
    def offline(case: object) -> None:
        """A download makes results depend on a server, and compute nodes have no network."""
        if found := watched(case).connections:
            raise Failed(f"{doing} wants to connect to {shorten(found)}, expected no network.")

    @rule(f"{kind}-writes-nothing")
    def writes_nothing(case: object) -> None:
        """Unexpected files fill disks and collide between parallel jobs."""
        if found := sorted(set(watched(case).written)):
            raise Failed(f"{doing} changes {shorten(found)}, expected no file to be written.")

    @rule(f"{kind}-settings")
    def leaves_settings(case: object) -> None:
        """A global setting changed by one plugin changes every other plugin's numbers."""
        with restored():
            watched(case)  # a first import may change settings, which is not this plugin's doing
        before = settings()
        with kept_torch() as inside:
            watched(case)
            found = changed(before, settings())
        if found := found or inside:
            raise Failed(f"{doing} changes {shorten(found)}, expected global settings to be left alone.")

    return silent, offline, writes_nothing, leaves_settings


def pickling_rule(kind: str) -> Rule:
    """Make the rule that the case's ``spec`` can be sent to a worker process."""

    @rule(f"{kind}-spec-pickles")
    def pickles(case: object) -> None:
        """Executors may send a spec to worker processes that are spawned."""
        spec = case.spec  # type: ignore[attr-defined]
        try:
            pickle.loads(pickle.dumps(spec))
        except Exception as error:
            raise Failed(
                f"the spec can't be pickled: {one_line(error)}. Expected functions at the top of a module, "
                "not lambdas or functions within functions."
            ) from error

    return pickles


def description_rule(kind: str, why: str, needed: Sequence[str], wanted: Sequence[str] = ()) -> Rule:
    """Make the rule that texts of the case's ``spec`` are filled in: the ``needed`` must be, the ``wanted`` should."""

    @rule(f"{kind}-described", why)
    def described(case: object) -> None:
        spec = case.spec  # type: ignore[attr-defined]
        vague = [name for name in needed if is_vague(str(getattr(spec, name)))]
        if vague:
            found = shorten([f"{name} = {getattr(spec, name)!r}" for name in vague])
            raise Failed(f"{found}: expected words that people can use.")
        if missing := [name for name in wanted if is_vague(str(getattr(spec, name)))]:
            raise Warned(f"{shorten(missing)} is not filled in.")

    return described
