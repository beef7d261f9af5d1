"""Compare the bits that two checkouts train: weights, predictions and accuracies of jobs of the pocket suite.

    python benchmarks/same_bits.py OLD NEW [--models NAME...] [--datasets NAME...] [--keep FOLDER] [--write]

OLD and NEW are each a checkout of the harness, or a runs folder that a checkout filled before. A checkout trains in
one process and one thread, in a folder of its own, with the Python that runs this script. Exits with 1 if a job has
other bits, or no result on one side.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import measure
import numpy as np

PROTOCOL = "pocket-1.0"
DATASETS = ("pocket_digits", "pocket_textures")
SHOWN = 16  # characters of a hash in the table; the JSON file has them all


class Key(NamedTuple):
    """A job, by the names that both sides give it. Its seed is 0."""

    model: str
    dataset: str


@dataclass(frozen=True)
class Bits:
    """The numbers of a finished job that must not change."""

    weights: str
    predictions: str
    top1: float

    def differences(self, other: Bits) -> list[str]:
        mine, theirs = asdict(self), asdict(other)
        return [name for name in mine if mine[name] != theirs[name]]


@dataclass(frozen=True)
class Side:
    """The results of one checkout.

    Attributes:
        models: All models that it began to train.
        jobs: The bits of every finished job.
        environment: The conditions of training, as the results state them, each with all its values.
        commits: The commits of the harness, as the results state them.
        failure: The sentence that explains a command without success; empty where none failed.
    """

    models: frozenset[str]
    jobs: Mapping[Key, Bits]
    environment: Mapping[str, frozenset[str]]
    commits: frozenset[str]
    failure: str = ""


@dataclass(frozen=True)
class Row:
    """One job on both sides; None where a side has no result."""

    key: Key
    old: Bits | None
    new: Bits | None

    @property
    def verdict(self) -> str:
        if self.old is None or self.new is None:
            sides = [name for name, bits in (("old", self.old), ("new", self.new)) if bits is None]
            return f"no: missing from {' and '.join(sides)}"
        different = self.old.differences(self.new)
        return f"no: {', '.join(different)}" if different else "yes"


# ---------------------------------------------------------------------------------------------------------- training


def is_checkout(path: Path) -> bool:
    return (path / "harness" / "__init__.py").is_file()


def train(tree: Path, folder: Path, models: Sequence[str], datasets: Sequence[str]) -> int:
    """Train the jobs with a checkout's own command; return its exit code. Results go to ``folder/runs``."""
    folder.mkdir(parents=True, exist_ok=True)
    tree = tree.resolve()
    # An option in the user's environment would change one side, or both.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HARNESS_")}
    environment |= {
        "PYTHONPATH": os.pathsep.join([str(tree), str(tree / "plugins")]),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "HARNESS_DATA": str(folder / "data"),
        "OMP_NUM_THREADS": "1",
    }
    selection = [*(models or ["--all"]), *(word for name in datasets for word in ("--dataset", name))]
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "harness", "run", *selection, "--suite", "pocket", "--runs", str(folder / "runs")),
            *("--device", "cpu", "--in-process", "--threads", "1"),
        ],
        # Python looks for modules in this folder first, so it must not be a checkout.
        cwd=folder, env=environment, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return ran.returncode


def side_of(path: Path, folder: Path, models: Sequence[str], datasets: Sequence[str]) -> Side:
    """Return the results of a runs folder, or of a checkout after it has trained in ``folder``."""
    if not is_checkout(path):
        return read_side(path, datasets)
    print(f"Training with {path}", file=sys.stderr)
    code = train(path, folder, models, datasets)
    failure = f"'harness run' of {path.resolve().name} ended with exit code {code}, expected 0." if code else ""
    return read_side(folder / "runs", datasets, failure)


# ----------------------------------------------------------------------------------------------------------- reading


def read_side(runs: Path, datasets: Sequence[str], failure: str = "") -> Side:
    """Read the jobs of a runs folder."""
    jobs: dict[Key, Bits] = {}
    environment: dict[str, set[str]] = {}
    commits: set[str] = set()
    for path in sorted((runs / PROTOCOL).glob("*/*/seed-0/result.json")):
        key = Key(path.parts[-4], path.parts[-3])
        if key.dataset not in datasets:
            continue
        result = json.loads(path.read_text(encoding="utf-8"))
        jobs[key] = Bits(
            weights=result["weights_sha256"],
            predictions=hash_of_arrays(path.with_name("predictions.npz")),
            top1=result["metrics"]["top1"],
        )
        commits.add(commit_of(result["environment"]))
        for name, value in conditions(result["environment"]).items():
            environment.setdefault(name, set()).add(value)
    return Side(
        models=frozenset(path.name for path in (runs / PROTOCOL).glob("*") if path.is_dir()),
        jobs=jobs,
        environment={name: frozenset(values) for name, values in environment.items()},
        commits=frozenset(commits),
        failure=failure,
    )


def hash_of_arrays(path: Path) -> str:
    """Return the SHA-256 of the names, types, shapes and bytes of the arrays in a .npz file, however compressed."""
    digest = hashlib.sha256()
    with np.load(path) as arrays:
        for name in sorted(arrays.files):
            array = np.ascontiguousarray(arrays[name])
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()


def conditions(environment: Mapping[str, Any]) -> dict[str, str]:
    """Return the parts of a result's environment that change bits by themselves."""
    found = {name: str(environment.get(name)) for name in ("python", "device", "device_name", "threads")}
    versions = environment.get("versions", {})
    return found | {name: str(value) for name, value in versions.items() if name != "xscore-harness"}


def commit_of(environment: Mapping[str, Any]) -> str:
    harness = environment.get("harness") or {}
    commit = str(harness.get("commit") or "unknown")[:7]
    return f"{commit}, with changes" if harness.get("dirty") else commit


# --------------------------------------------------------------------------------------------------------- comparing


def compare(old: Side, new: Side, models: Sequence[str], datasets: Sequence[str]) -> list[Row]:
    """Pair the jobs of both sides: of all models that either began, unless some are named."""
    names = models or sorted(old.models | new.models)
    keys = [Key(model, dataset) for model in names for dataset in datasets]
    return [Row(key, old.jobs.get(key), new.jobs.get(key)) for key in keys]


def page(old: Side, new: Side, rows: Sequence[Row]) -> tuple[str, bool]:
    """Return the page's text, and True if all bits are equal."""
    texts = [HOW.format(old=_names(old.commits), new=_names(new.commits))]
    if rows:
        columns = ["model", "data set", "old weights", "new weights", "equal"]
        lines = [[*row.key, _short(row.old), _short(row.new), row.verdict] for row in rows]
        texts.append(measure.table(columns, lines))
    texts += [side.failure for side in (old, new) if side.failure]
    texts += [
        f"The environments differ in {name}: {_names(old.environment.get(name))} and {_names(values)}."
        for name, values in new.environment.items()
        if old.environment and values != old.environment.get(name)
    ]
    equal = sum(row.verdict == "yes" for row in rows)
    texts.append(f"{equal} of {len(rows)} jobs have equal bits.")
    return "\n\n".join(texts), bool(rows) and equal == len(rows) and not (old.failure or new.failure)


def _short(bits: Bits | None) -> str:
    return f"`{bits.weights[:SHOWN]}`" if bits else "-"


def _names(values: frozenset[str] | None) -> str:
    return " or ".join(sorted(values or ())) or "none"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=re.split(r"\n\n", __doc__ or "")[0])
    parser.add_argument("old", type=Path, help="a checkout or a runs folder")
    parser.add_argument("new", type=Path, help="a checkout or a runs folder")
    parser.add_argument("--models", nargs="+", default=[], help="all, if left out")
    parser.add_argument("--datasets", nargs="+", default=DATASETS, help=" and ".join(DATASETS) + ", if left out")
    parser.add_argument("--keep", type=Path, help="keep what is trained here, in FOLDER/old/runs and FOLDER/new/runs")
    parser.add_argument("--write", action="store_true", help="write results/same_bits.json and .md")
    given = parser.parse_args(arguments)
    for path in (given.old, given.new):
        if not is_checkout(path) and not (path / PROTOCOL).is_dir():
            parser.error(
                f"{path} is neither a checkout, which has harness/__init__.py, nor a runs folder with results of "
                f"{PROTOCOL}. Name one of them."
            )
    if given.keep and given.keep.exists():
        parser.error(f"{given.keep} exists. Results in it would count as trained by this command. Name a new folder.")
    with tempfile.TemporaryDirectory(prefix="harness bits ") as name:
        folder = (given.keep or Path(name)).resolve()
        old = side_of(given.old, folder / "old", given.models, given.datasets)
        new = side_of(given.new, folder / "new", given.models, given.datasets)
    rows = compare(old, new, given.models, given.datasets)
    text, equal = page(old, new, rows)
    if given.write:
        measure.write(
            "same_bits",
            title="The same bits",
            command="python benchmarks/same_bits.py OLD NEW --write",
            text=text,
            readings={
                "commits": {"old": sorted(old.commits), "new": sorted(new.commits)},
                "jobs": [
                    row.key._asdict()
                    | {name: bits and asdict(bits) for name, bits in (("old", row.old), ("new", row.new))}
                    | {"equal": row.verdict}
                    for row in rows
                ],
            },
        )
    else:
        print(text)
    return 0 if equal else 1


HOW = (
    "Old: commit {old}. New: commit {new}. Each trains every job of the table with seed 0 under the suite's frozen "
    "protocol, on the CPU with one thread. Equal means: the same hash of the weights, the same hash of the test "
    "predictions and the same top-1 accuracy, to the last bit."
)


if __name__ == "__main__":
    sys.exit(main())
