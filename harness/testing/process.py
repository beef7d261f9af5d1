"""Code in a fresh interpreter that sees the same modules as this one, as a spawned worker does."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_SECONDS = 300


@dataclass(frozen=True)
class Done:
    """What a process did: its exit code and all that it printed."""

    code: int
    out: str
    err: str

    @property
    def last_error(self) -> str:
        """The last line on stderr, which names the exception."""
        return (self.err.strip().splitlines() or ["it ended without a word"])[-1]


def run_python(
    code: str, *arguments: str, stdin: bytes = b"", threads: int = 0, folder: Path | None = None
) -> Done:  # fmt: skip
    """Run code in a fresh interpreter.

    Args:
        code: The program.
        arguments: ``sys.argv[1:]``.
        stdin: What it reads.
        threads: ``OMP_NUM_THREADS``; as it is for 0.
        folder: Its working folder.
    """
    environment = os.environ | {
        # Folders that were put on sys.path for this check reach the child by the environment.
        "PYTHONPATH": os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path if entry),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        input=stdin, capture_output=True, env=environment, timeout=_SECONDS, check=False, cwd=folder,
    )  # fmt: skip
    return Done(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
