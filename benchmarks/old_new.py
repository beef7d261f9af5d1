"""Images per second of two checkouts in one run: an old one against this one, training and the data path.

    git worktree add ../old f6f7df7
    python benchmarks/old_new.py ../old [--models NAME...] [--sizes 64] [--shapes NAME...] [--rounds 7]
                                        [--processor-time] [--quick]

Each checkout reads its own loop by its own ``training.py`` and ``data_path.py``, in a process of its own that waits
while the other one reads. Exits with 1 if the new checkout is below 0.97 times the old one on the geometric mean of the
models or of the data path's shapes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import measure
from data_path import SHAPES
from training import geometric_mean

from harness.machine import usable_cores

NEW = Path(__file__).resolve().parent.parent
AIM = 0.97
MODELS = ("mobilenet", "shufflenet", "starnet")
HOW = (
    "Images per second of each checkout's own loop, in batches of 32, {threads} threads for training and one for the "
    "data path, by {clock}; medians of {rounds} readings of about {seconds:g} s, taken in turns. A ratio is the median "
    "of the rounds' ratios."
)
READER = """
import json, os, sys, tempfile, time
from pathlib import Path

given = json.loads(sys.argv[1])
answers, sys.stdout = sys.stdout, sys.stderr  # so that nothing else is read as an answer
if given["processor_time"]:
    time.perf_counter = time.process_time

import harness, measure, torch
from rivals import frozen_protocol, invent

def answer(value):
    print(json.dumps(value), file=answers, flush=True)

torch.set_num_threads(given["threads"])
device, protocol = torch.device("cpu"), frozen_protocol(given["size"])
with tempfile.TemporaryDirectory(prefix="harness old new ") as folder:
    dataset = invent(Path(folder) / "data", side=given["stored"], images=given["images"])
    if given["model"] is None:
        from data_path import Bench, HarnessPath
        path = HarnessPath(Bench(dataset, protocol, given["stored"], device, given["seconds"], given["epoch"]))
        read = path.read
    else:
        from training import RealLoop
        loop = RealLoop(given["model"], dataset, protocol, device, given["seconds"])
        read = lambda: loop.read()[0]
    answer({"harness": harness.__file__, "commit": measure.machine()["commit"]})
    for _ in sys.stdin:
        answer(read())
os._exit(0)  # the settings of a run are never undone, and an ending interpreter would complain of that
"""


@dataclass(frozen=True)
class Case:
    """One row of a table: what a process of either checkout reads.

    Attributes:
        model: The model that trains; None for the data path alone.
        stored: Side of the stored images, in pixels.
        size: Side of the input.
        images: Images that are invented.
        epoch: Steps of a real epoch.
    """

    model: str | None
    stored: int
    size: int
    images: int
    epoch: int
    threads: int
    seconds: float
    processor_time: bool


class Reader:
    """A checkout's process, which takes a reading when it is asked for one."""

    def __init__(self, tree: Path, case: Case) -> None:
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join((str(tree), str(tree / "plugins"))),
            "OMP_NUM_THREADS": str(case.threads),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-c", READER, json.dumps(asdict(case))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=tree / "benchmarks",
        )  # fmt: skip
        found = self._answer()
        if not Path(found["harness"]).is_relative_to(tree):
            raise RuntimeError(f"Python imports {found['harness']}, expected the harness of {tree}.")
        self.commit: str = found["commit"]

    def read(self) -> float:
        """Images per second."""
        assert self._process.stdin is not None
        print("read", file=self._process.stdin, flush=True)
        return float(self._answer())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"The reading process ended with exit code {self._process.wait()}; see its error above.")
        return json.loads(line)


def compare(old: Path, case: Case, rounds: int) -> dict[str, Any]:
    """Read a case in both checkouts, in turns; return images per second and commits, by ``old`` and ``new``."""
    readers: dict[str, Reader] = {}
    try:
        for name, tree in (("old", old), ("new", NEW)):
            readers[name] = Reader(tree, case)
        speeds = measure.take_turns({name: reader.read for name, reader in readers.items()}, rounds=rounds)
    finally:
        for reader in readers.values():
            reader.close()
    return {"images_per_second": speeds, "commits": {name: reader.commit for name, reader in readers.items()}}


def page(readings: Mapping[str, Mapping[str, Any]]) -> tuple[str, list[str]]:
    """Return the tables of training and the data path, and the groups whose aim is missed."""
    texts, missed = [], []
    for group, cases in readings.items():
        ratios, rows = [], []
        for name, found in cases.items():
            old, new = found["images_per_second"]["old"], found["images_per_second"]["new"]
            ratios.append(measure.ratio(new, old))
            rows.append([name, f"{measure.median(old):.1f}", f"{measure.median(new):.1f}", f"{ratios[-1]:.3f}"])
        mean = geometric_mean(ratios)
        verdict = "reached" if mean >= AIM else "MISSED"
        missed += [group] if mean < AIM else []
        texts.append(f"## {group}\n\n{measure.table(('case', 'old, images/s', 'new, images/s', 'new / old'), rows)}")
        texts.append(f"Geometric mean {mean:.3f}, least {min(ratios):.3f}. Aim: at least {AIM}: {verdict}.")
    found = [cases["commits"] for group in readings.values() for cases in group.values()]
    sides = (f"{side.capitalize()}: commit {found[0][side]}." for side in ("old", "new"))
    return "\n\n".join((" ".join(sides), *texts)), missed


def chosen_cases(given: argparse.Namespace) -> dict[str, dict[str, Case]]:
    """Return the cases by group and name."""
    seconds = 0.1 if given.quick else given.seconds
    training = {
        f"{model} at {size} px": Case(model, size, size, 1280, 0, given.threads, seconds, given.processor_time)
        for size in given.sizes
        for model in given.models
    }
    data_path = {name: Case(None, *SHAPES[name], 1, seconds, given.processor_time) for name in given.shapes}
    groups = {"training": training, "data path": data_path}
    return {name: cases for name, cases in groups.items() if cases}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=re.split(r"\n\n", __doc__ or "")[0])
    parser.add_argument("old", type=Path, help="a checkout")
    parser.add_argument("--models", nargs="*", default=list(MODELS), help="that train; none: the data path alone")
    parser.add_argument("--sizes", nargs="+", type=int, default=[64])
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, default=list(SHAPES), help="none: training alone")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="of training (default: all cores)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a reading, about")
    parser.add_argument(
        "--processor-time", action="store_true",
        help="divide by the process's processor time: for a machine that is not quiet, with --threads 1",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="one round of short readings: proves that it works")
    given = parser.parse_args(arguments)
    old = given.old.resolve()
    if not (old / "benchmarks" / "real_run.py").is_file():
        parser.error(f"{given.old} has no benchmarks/real_run.py, expected a checkout of xscore-harness.")
    rounds = 1 if given.quick else given.rounds
    readings: dict[str, dict[str, Any]] = {}
    for group, cases in chosen_cases(given).items():
        for name, case in cases.items():
            print(f"{group}, {name} ...", file=sys.stderr)
            readings.setdefault(group, {})[name] = compare(old, case, rounds)
    if not readings:
        parser.error("Nothing is chosen: name a model or a shape.")
    text, missed = page(readings)
    clock = "processor time" if given.processor_time else "the clock"
    how = HOW.format(threads=given.threads, clock=clock, rounds=rounds, seconds=0.1 if given.quick else given.seconds)
    measure.write(
        "old_new-quick" if given.quick else "old_new",
        title="An old checkout against this one",
        command=" ".join(["python benchmarks/old_new.py", *(sys.argv[1:] if arguments is None else arguments)]),
        text=f"{how}\n\n{text}",
        readings={"rounds": rounds, "threads": given.threads, "processor_time": given.processor_time} | readings,
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
