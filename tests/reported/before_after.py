"""The reported faults before and after: the same tests against an older checkout and against this one, as a table.

    python tests/reported/before_after.py ../old [-k EXPRESSION]

``../old`` is a checkout of another commit. Prints a line per test, in Markdown, and exits with 1 if one fails now.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]


def outcomes(tree: Path, options: list[str]) -> dict[str, str]:
    """Test -> ``passed``, ``failed`` or ``skipped``, with the harness of a checkout."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "tests.xml"
        command = [sys.executable, "-m", "pytest", "tests/reported", "-q", "-p", "no:cacheprovider", "-n", "2"]
        environment = os.environ | {"REPORTED_TREE": str(tree)}
        subprocess.run([*command, f"--junitxml={record}", *options], cwd=ROOT, env=environment, check=False)
        cases = ElementTree.parse(record).iter("testcase")
        return {f"{case.get('classname', '').split('.')[-1]}: {case.get('name')}": outcome(case) for case in cases}


def outcome(case: ElementTree.Element) -> str:
    if case.find("skipped") is not None:
        return "skipped"
    return "passed" if case.find("failure") is None and case.find("error") is None else "failed"


def main() -> int:
    old, options = Path(sys.argv[1]).resolve(), sys.argv[2:]
    before, after = outcomes(old, options), outcomes(ROOT, options)
    print("\n| reported fault | before | after |\n|---|---|---|")
    for name in sorted(after):
        print(f"| {name} | {before.get(name, 'absent')} | {after[name]} |")
    return int("failed" in after.values())


if __name__ == "__main__":
    sys.exit(main())
