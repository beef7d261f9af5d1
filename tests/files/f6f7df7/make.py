"""Make the files beside this one with a checkout of commit f6f7df7, as README.md describes: ``make.py CHECKOUT``."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import pytest

from harness.cli import _run
from harness.cli.progress import RunReporter

HERE = Path(__file__).parent
SHORT = 'name = "short"\nbased_on = "tiny-1.0"\nepochs = 2\n'


def harness(*arguments: str, code: int = 0) -> None:
    assert _run([*arguments, "--registry", str(HERE / "tiny.toml")]) == code, arguments


def run(*arguments: str, code: int = 0) -> None:
    harness("run", *arguments, "--in-process", "--threads", "1", code=code)


def interrupt(self: RunReporter, job: object, epoch: int, step: int, steps: int, loss: object) -> None:
    """Press Ctrl-C in the fifth step of the second epoch."""
    if (epoch, step) == (1, 4):
        os.kill(os.getpid(), signal.SIGINT)


def main(checkout: Path) -> None:
    shutil.copy(checkout / "registry.toml", HERE)
    shutil.copy(checkout / "tests" / "data" / "tiny.toml", HERE)
    os.environ["HARNESS_DATA"] = tempfile.mkdtemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tempfile.mkdtemp())
        patch.setattr("harness.train.loop.CHECKPOINT_PAUSE", 0.0)  # else epochs that are so short are not saved
        Path("short.toml").write_text(SHORT, encoding="utf-8")
        run("tiny", "--runs", "finished")
        run("tiny2", "--dataset", "dots", "--profile", "--runs", "finished")
        run("diverging", "--dataset", "dots", "--runs", "finished", code=1)
        run("gentle", "--runs", "gentle")
        run("gentle", "--dataset", "dots", "--protocol", "short.toml", "--runs", "gentle")
        harness("bundle", "--all", "--runs", "gentle", "-o", "bundle.zip")
        patch.setattr(RunReporter, "step_finished", interrupt)
        run("tiny", "--dataset", "dots", "--runs", "half-way", code=130)
        for name in ("finished", "half-way"):
            shutil.rmtree(HERE / name, ignore_errors=True)
            shutil.copytree(name, HERE / name, ignore=shutil.ignore_patterns(".*.lock"))
        shutil.copy("bundle.zip", HERE)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
