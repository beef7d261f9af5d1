"""Rules that are the same for several kinds: side effects, pickling, and what a spec says of itself."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence

from harness.testing.rules import Broken, Doubtful, Rule, Untold, quote, rule
from harness.testing.watch import Seen, changed, restored, settings, watching

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
                    raise Untold(f"{doing} raised {quote(error)}.") from error
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
                f"the spec can't be pickled: {quote(error)}. Expected functions at the top of a module, "
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
