"""How much faster several jobs at a time are: ``python benchmarks/jobs.py [--jobs 2] [MODEL]...``.

Trains the pocket suite (all models unless some are named) with ``--jobs 1``, which gives one job all cores, and with
``--jobs N``, which divides them, and prints the seconds of the whole commands and their ratio. Data is prepared before.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="harness-jobs-"))
    models = arguments.models or ["--all"]
    base = [
        sys.executable,
        "-m",
        "harness",
        "run",
        "--suite",
        "pocket",
        "--format",
        "json",
        "--data",
        str(folder / "d"),
    ]
    # Prepares the data sets, and has the files of torch in the system's cache.
    subprocess.run([*base, "shufflenet", "--runs", str(folder / "warm-up")], check=True, capture_output=True)
    seconds = {}
    for jobs in (1, arguments.jobs):
        began = time.monotonic()
        ran = subprocess.run(
            [*base, *models, "--jobs", str(jobs), "--runs", str(folder / f"jobs-{jobs}")],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        seconds[jobs] = time.monotonic() - began
        rows = json.loads(ran.stdout)
        assert {row["state"] for row in rows} == {"done"}
        print(f"--jobs {jobs}: {len(rows)} jobs in {seconds[jobs]:.0f} s", flush=True)
    print(f"{seconds[1] / seconds[arguments.jobs]:.2f} times as fast with --jobs {arguments.jobs}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
