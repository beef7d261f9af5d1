"""Feed damaged files and odd return values to the commands, and report every traceback and every file that was lost.

    python tests/reported/fuzz.py BOUNDARY... [--minutes 10] [--seed 0] [--rounds N]

A boundary is a key of ``BOUNDARIES`` in ``boundaries.py``, or ``all``. A round takes a fresh copy of a small runs
folder, damages one thing, and runs some commands in this process. Every round has a seed of its own, which is printed
with a finding, and ``--seed SEED --rounds 1`` repeats it. Exits with 1 if there was a finding.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.cli import run_command

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # as a script it is no part of the package of the tests

from tests.reported.boundaries import BOUNDARIES, TESTS, TINY, Place


@dataclass
class Finding:
    """A command that did not end with a sentence, or a file that is gone."""

    command: tuple[str, ...]
    what: str
    seed: int
    times: int = field(default=1, compare=False)


# ------------------------------------------------------------------------------------------------------ the rounds


@contextlib.contextmanager
def surroundings(folder: Path) -> Iterator[None]:
    """Give the tiny plugin, and caches and data of its own, to the commands of this process."""
    path, environment, here = list(sys.path), dict(os.environ), Path.cwd()
    sys.path.insert(0, str(TESTS / "plugins" / "tiny"))
    os.environ |= {"XDG_CACHE_HOME": str(folder / "cache"), "HARNESS_DATA": str(folder / "data")}
    try:
        yield
    finally:
        os.chdir(here)
        sys.path[:] = path
        os.environ.clear()
        os.environ |= environment


def train_all(folder: Path) -> None:
    """Train the runs that the rounds copy, and pack them."""
    os.chdir(folder)
    for selection in (("tiny",), ("tiny2", "--dataset", "dots")):
        code, error, _ = run_quietly(("run", *selection, "--in-process", *TINY))
        assert code == 0, error
    assert run_quietly(("bundle", "--all", "-o", "all.zip", *TINY))[0] == 0


def run_quietly(command: Sequence[str]) -> tuple[int | None, str, str]:
    """Run a command; return its exit code, the traceback of an exception that left it, and its messages."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    trace, code = "", None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            code = run_command(list(command))
        except BaseException:
            trace = traceback.format_exc()
    err.flush()
    return code, trace, err.buffer.getvalue().decode("utf-8", "replace")


def play(boundary: str, seed: int, base: Path) -> list[Finding]:
    """Play a round and return its findings."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory(dir=base.parent, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        shutil.copytree(base / "runs", folder / "runs")
        os.link(base / "all.zip", folder / "all.zip")
        os.chdir(folder)
        place = Place(folder, draw)
        commands = BOUNDARIES[boundary](place)
        sys.path.insert(0, str(folder / "site"))
        before = contents(place.runs)
        findings = []
        try:
            for command in draw.sample(commands, min(3, len(commands))):
                findings += examine(command, seed)
                if lost := sorted(file for digest, file in before.items() if digest not in contents(folder)):
                    findings.append(Finding(command, f"lost: {lost[0]}", seed))
                    break
            if not (place.spared / "result.json").exists():
                findings.append(Finding(("all",), "the run that nobody damaged is gone", seed))
        finally:
            sys.path.remove(str(folder / "site"))
            for module in ("oddplugin", "odd_values"):
                sys.modules.pop(module, None)
            os.chdir(base)
        return findings


def examine(command: tuple[str, ...], seed: int) -> list[Finding]:
    """Run a command and return the finding, if it does not end with a sentence and a known exit code."""
    code, trace, messages = run_quietly(command)
    if trace:
        lines = trace.strip().splitlines()
        where = [line.strip() for line in lines if line.strip().startswith("File") and "/harness/" in line]
        return [Finding(command, f"{lines[-1][:200]} | {' < '.join(reversed(where[-2:]))}", seed)]
    if code not in (0, 1, 2, 3):
        return [Finding(command, f"exit code {code}: {messages[-300:]}", seed)]
    if "Traceback" in messages:
        return [Finding(command, f"a traceback in the messages: {messages[-600:]}", seed)]
    if code and not messages.strip():
        return [Finding(command, f"exit code {code} without a word", seed)]
    return []


def contents(folder: Path) -> dict[str, str]:
    """Return the names of a folder's files by hash; files that a command may remove or renew are left out."""
    kept = ("result.json", "predictions.npz", "protocol.toml")
    files = [file for file in folder.rglob("*") if file.name.startswith(kept) or ".json-" in file.name]
    return {hashlib.sha256(file.read_bytes()).hexdigest(): str(file) for file in files if file.is_file()}


def fuzz(boundaries: Sequence[str], *, seed: int, rounds: int | None, seconds: float) -> list[Finding]:
    """Play rounds of some boundaries until the rounds or the seconds, of each, are over; print and return findings."""
    findings: dict[tuple[str, str], Finding] = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, surroundings(Path(name)):
        base = Path(name) / "base"
        base.mkdir()
        train_all(base)
        for boundary in boundaries:
            end, played = time.monotonic() + seconds, 0
            while time.monotonic() < end and (rounds is None or played < rounds):
                for one in play(boundary, seed + played, base):
                    key = (one.command[0], one.what)
                    if key in findings:
                        findings[key].times += 1
                    else:
                        findings[key] = one
                        print(
                            f"{boundary}, seed {one.seed}: harness {' '.join(one.command)}\n    {one.what}", flush=True
                        )
                played += 1
            print(f"{boundary}: seeds {seed} to {seed + played - 1}", flush=True)
    return list(findings.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("boundaries", nargs="+", choices=[*BOUNDARIES, "all"])
    parser.add_argument("--minutes", type=float, default=10.0, help="of each boundary")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int)
    given = parser.parse_args()
    chosen = list(BOUNDARIES) if "all" in given.boundaries else given.boundaries
    findings = fuzz(chosen, seed=given.seed, rounds=given.rounds, seconds=60 * given.minutes)
    print(f"{len(findings)} findings, {sum(one.times for one in findings)} times")
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main())
