"""The rules as a whole: every one has an offender, a reason, and a line in the documentation."""

from __future__ import annotations

from harness.testing.find import RULES
from tests.support import ROOT, Command
from tests.testing import (
    test_augmentations,
    test_datasets,
    test_executors,
    test_metrics,
    test_models,
    test_observers,
    test_plugins,
    test_trackers,
)

PAGE = ROOT / "docs" / "plugins" / "conformance.md"
OFFENDERS = (
    *test_plugins.OFFENDERS,
    *test_models.OFFENDERS,
    *test_datasets.OFFENDERS,
    *test_augmentations.OFFENDERS,
    *test_metrics.OFFENDERS,
    *test_trackers.OFFENDERS,
    *test_observers.OFFENDERS,
    *test_executors.OFFENDERS,
)
ELSEWHERE = {"plugin-metadata", "dataset-train-blind"}  # their offenders need files, and have tests of their own


def test_every_rule_has_an_offender() -> None:
    assert {offender.rule for offender in OFFENDERS} | ELSEWHERE == {rule.id for rule in RULES}
    assert len(OFFENDERS) >= 40


def test_rules_have_names_of_their_own_and_reasons() -> None:
    assert len({rule.id for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule.id.startswith(f"{rule.kind}-")
        assert rule.why[0].isupper()
        assert rule.why.endswith(".")
        assert len(rule.why.split()) >= 6, rule.id


def test_the_page_lists_every_rule_with_its_reason() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    listed = [line for line in lines if line.startswith("| `")]
    assert listed == [f"| `{rule.id}` | {rule.why} |" for rule in RULES]


def test_the_command_lists_every_rule(harness: Command) -> None:
    ran = harness("plugin", "check", "--rules", "--format", "json")
    assert ran.code == 0
    assert [(row["rule"], row["why"]) for row in ran.rows] == [(rule.id, rule.why) for rule in RULES]
