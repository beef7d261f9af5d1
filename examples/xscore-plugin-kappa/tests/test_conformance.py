"""One test per rule that the harness relies on. pytest -v lists the rules and the reason for each failure."""


def test_conformance(harness_rule):
    harness_rule()
