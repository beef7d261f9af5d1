"""Examines plugins by conformance rules, each with its reason, and gives authors fakes to test against.

A test file of three lines makes every rule a test, by the pytest plugin that the harness installs:

    def test_conformance(harness_rule):
        harness_rule()

The fixture takes the distribution with the nearest ``pyproject.toml`` above the test; the marker
``@pytest.mark.harness_plugin("name")`` names another. ``harness plugin check`` runs the same rules on the command line.

Every start of pytest imports this package where the harness is installed, so this file imports nothing.
"""
