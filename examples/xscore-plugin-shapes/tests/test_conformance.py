"""Every rule that the harness relies on, each a test of its own: pytest -v shows them, and why one is broken."""


def test_conformance(harness_rule):
    harness_rule()
