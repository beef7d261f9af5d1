"""The boundaries of the fuzz: each damages one thing of a round's folder, and gives the commands that meet it."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import random
import shutil
import sys
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from tests.reported.mutations import ODD, damage_json, damage_toml, mutated, mutated_bytes, odd_array

TESTS = Path(__file__).resolve().parents[1]
TINY_REGISTRY = TESTS / "files" / "tiny.toml"
Commands: TypeAlias = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Place:
    """The folder of a round: ``runs`` with three finished runs, all prepared data, and files of the round's own."""

    folder: Path
    draw: random.Random

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def cell(self) -> Path:
        """The run that is damaged."""
        return self.runs / "tiny-1.0" / "tiny" / "dots" / "seed-0"

    @property
    def spared(self) -> Path:
        """A run that is not."""
        return self.runs / "tiny-1.0" / "tiny2" / "dots" / "seed-0"


TINY = ("--registry", str(TINY_REGISTRY))
LOOKING: Commands = (
    ("status", "--all", *TINY),
    ("leaderboard", *TINY, "--format", "json"),
    ("score", *TINY),
    ("verify", "runs", *TINY),
    ("bundle", "--all", "-o", "out.zip", *TINY),
    ("merge", "runs", "--runs", "elsewhere"),
    ("run", "tiny", "tiny2", "--dry-run", *TINY),
    ("leaderboard", "--metric", "ece", *TINY),
    ("plan", "tiny", "--quick", *TINY),
)
TRAINING = ("run", "tiny", "--dataset", "dots", "--in-process", *TINY)
REPORT = ("report", "page.html", "--no-patterns", *TINY)


def result(place: Place) -> Commands:
    damage_json(place.cell / "result.json", place.draw)
    return LOOKING + ((REPORT, TRAINING) if place.draw.random() < 0.05 else ())


def job(place: Place) -> Commands:
    damage_json(place.cell / "job.json", place.draw)
    return LOOKING + ((TRAINING,) if place.draw.random() < 0.1 else ())


def history(place: Place) -> Commands:
    path, draw = place.cell / "history.jsonl", place.draw
    lines = path.read_text(encoding="utf-8").splitlines()
    if draw.random() < 0.3:
        path.write_bytes(mutated_bytes(path.read_bytes(), draw))
    else:
        at = draw.randrange(len(lines))
        lines[at] = json.dumps(mutated(json.loads(lines[at]), draw))
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if draw.random() < 0.3:
        (place.cell / "result.json").unlink()
    return LOOKING


def by_products(place: Place) -> Commands:
    """The small files beside a result that only commands of the harness write."""
    name = place.draw.choice(("trackers.json", "profile.json", "error.txt"))
    path = place.cell / name
    if not path.exists():
        path.write_text(json.dumps({"id": "x", "fingerprint": "y", "told": {"z": [0]}, "schema": 1, "phases": {}}))
    damage_json(path, place.draw)
    if place.draw.random() < 0.5:
        (place.cell / "result.json").unlink()
    return LOOKING


def predictions(place: Place) -> Commands:
    path, draw = place.cell / "predictions.npz", place.draw
    if draw.random() < 0.3:
        path.write_bytes(mutated_bytes(path.read_bytes(), draw))
        return LOOKING
    with np.load(path) as stored:
        arrays = dict(stored)
    arrays[draw.choice(("logits", "labels", "more"))] = odd_array(draw)
    if draw.random() < 0.1:
        del arrays[draw.choice(("logits", "labels"))]
    np.savez_compressed(path, **arrays)
    return (*LOOKING, REPORT) if draw.random() < 0.05 else LOOKING


def checkpoint(place: Place) -> Commands:
    path = place.draw.choice(sorted(place.cell.glob("checkpoint*.pt")))
    path.write_bytes(mutated_bytes(path.read_bytes(), place.draw))
    if place.draw.random() < 0.3:
        (place.cell / "result.json").unlink()
    return (*LOOKING, ("verify", "runs", "--replay", *TINY), TRAINING)


def bundle(place: Place) -> Commands:
    source, path, draw = place.folder / "all.zip", place.folder / "bad.zip", place.draw
    if draw.random() < 0.4:
        path.write_bytes(mutated_bytes(source.read_bytes(), draw))
    else:
        with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names that are there twice
            manifest = mutated(json.loads(old.read("bundle.json")), draw)
            for info in old.infolist():
                content = old.read(info)
                if info.filename.endswith("result.json") and draw.random() < 0.5:
                    content = json.dumps(mutated(json.loads(content), draw)).encode()
                    files = manifest["runs"].get(info.filename[5:].rpartition("/")[0]) if isinstance(
                        manifest, dict) and isinstance(manifest.get("runs"), dict) else None  # fmt: skip
                    if isinstance(files, dict):
                        files["result.json"] = {
                            "bytes": len(content),
                            "sha256": hashlib.sha256(content).hexdigest(),
                        }
                if info.filename != "bundle.json":
                    new.writestr(draw.choice((info.filename,) * 40 + ("/x", "../x", "x/")), content)
            new.writestr("bundle.json", json.dumps(manifest), zipfile.ZIP_DEFLATED if draw.random() < 0.2 else None)
    return (
        ("merge", "bad.zip", "--runs", draw.choice(("runs", "elsewhere"))),
        ("verify", "bad.zip", *TINY),
        LOOKING[0],
        LOOKING[1],
    )


def registry(place: Place) -> Commands:
    damage_toml(place.folder / "bad.toml", TINY_REGISTRY.read_text(encoding="utf-8"), place.draw)
    given = ("--registry", "bad.toml")
    return (
        ("list", "suites", *given),
        ("list", "protocols", *given),
        ("list", "budgets", *given),
        ("check-budget", "tiny", *given),
        ("status", "--all", *given),
        ("leaderboard", *given),
        ("leaderboard", "--published", *given),
        ("select", "--published", *given),
        ("score", *given),
        ("plan", "tiny", "--quick", *given),
        ("run", "tiny", "--dry-run", *given),
        ("verify", "runs", *given),
    )


def protocol(place: Place) -> Commands:
    text = place.draw.choice(
        (
            'name = "mine"\nbased_on = "tiny-1.0"\nlr_max = 2e-2\nbetas = [0.8, 0.9]\n'
            'augmentations = [{name = "cutmix", at = "input", strengths = {alpha = 0.5}}]\n',
            'name = "mine"\n' + TINY_REGISTRY.read_text("utf-8").partition('"tiny-1.0"]')[2].partition("[[")[0],
        )
    )
    damage_toml(place.folder / "mine.toml", text, place.draw)
    given = ("--protocol", "mine.toml", *TINY)
    commands: Commands = (("plan", "tiny", "--quick", *given), ("run", "tiny", "--dry-run", *given), ("status", *given))
    return commands + ((("run", "tiny", "--dataset", "dots", "--in-process", *given),) if _once(place, 0.1) else ())


def accuracies(place: Place) -> Commands:
    path, draw = place.folder / "table.csv", place.draw
    rows = [["model", "dots", "bars"], ["tiny", "50.5", "60"], ["tiny2", "40", "61.25"], ["mynet", "45", "59"]]
    for _ in range(draw.choice((1, 2, 5))):
        row = rows[draw.randrange(len(rows))]
        at = draw.randrange(len(row)) if row else 0
        kind = draw.random()
        if kind < 0.7 and row:
            row[at] = (
                str(draw.choice((*ODD, "50,5", "50 %", "=1+1", "1_0", "٣", "50", "100", "0", "1e2")))
                .encode("utf-8", "replace")
                .decode()
            )
        elif kind < 0.8:
            row.insert(at, "50")
        elif row:
            del row[at]
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=draw.choice((*(",",) * 8, ";", "\t"))).writerows(rows)
    content = buffer.getvalue().encode()
    path.write_bytes(mutated_bytes(content, draw) if draw.random() < 0.2 else content)
    return (
        ("score", "--accuracies", "table.csv", *TINY),
        ("score", "--accuracies", "table.csv", "--format", "csv", *TINY),
        ("score", "--accuracies", "table.csv", "--sensitivity", *TINY),
        ("select", "--accuracies", "table.csv", "--size", "1", *TINY),
        ("score", "--accuracies", "table.csv", "--make-anchors", "mine", *TINY),
    )


PLUGIN = """
import random
from harness.api import AugmentationSpec, MetricSpec, ModelSpec, TrackerSpec, hookimpl
import odd_values

def build(num_classes):
    from torch import nn
    if (value := odd_values.at("build")) is not odd_values.SOUND:
        return value
    class Net(nn.Sequential):
        def forward(self, x):
            value = odd_values.at("forward")
            return super().forward(x) if value is odd_values.SOUND else value
        def extra_repr(self):
            value = odd_values.at("extra_repr")
            return "" if value is odd_values.SOUND else value
    return Net(nn.Conv2d(3, 8, 3, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))

def compute(logits, labels):
    value = odd_values.at("metric")
    return 1.0 if value is odd_values.SOUND else value

class Tracker:
    def __init__(self, run): odd_values.at("tracker")
    def epoch_finished(self, record): return odd_values.at("tracker")
    def run_finished(self, result): return odd_values.at("tracker")
    def run_failed(self, reason): return odd_values.at("tracker")
    def close(self): return odd_values.at("tracker")

def answer(hook, sound):
    value = odd_values.at(hook)
    return sound if value is odd_values.SOUND else value

@hookimpl
def harness_models():
    return answer("models", [ModelSpec(name="oddnet", build=build, paper="none")])

@hookimpl
def harness_metrics():
    return answer("metrics", [MetricSpec(name="odd", unit="", higher_is_better=True, compute=compute)])

@hookimpl
def harness_trackers():
    return answer("trackers", [TrackerSpec(name="odd", title="", open=Tracker)])

@hookimpl
def harness_run_started(job):
    odd_values.at("observer")

@hookimpl
def harness_epoch_finished(job, record):
    odd_values.at("observer")

@hookimpl
def harness_run_finished(job, result):
    odd_values.at("observer")
"""
PLACES = ("build", "forward", "extra_repr", "metric", "tracker", "models", "metrics", "trackers", "observer")


class Unprintable(Exception):
    """An error of a plugin that can't say its text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class OddValues:
    """A module for the plugin: it gives a value, or raises, at one place."""

    SOUND = object()

    def __init__(self, place: str, value: Any) -> None:
        self._place, self._value = place, value

    def at(self, place: str) -> Any:
        """Return the odd value at the chosen place, and SOUND elsewhere."""
        if place != self._place:
            return self.SOUND
        if isinstance(self._value, BaseException):
            raise self._value
        return self._value


def plugin(place: Place) -> Commands:
    import torch

    draw = place.draw
    values = [*ODD, float("nan"), float("inf"), object(), type, torch.zeros(0), torch.tensor(float("nan")),
              torch.ones(2, 2), np.float32(1), np.array([1, 2]), 1j, b"x", iter(()), lambda *_: 0,
              ValueError("two\nlines"), ValueError("\udc80"), Unprintable(), SystemExit(7), MemoryError(),
              RecursionError(), StopIteration(), AssertionError(), OSError(28, "No space left on device")]  # fmt: skip
    sys.modules["odd_values"] = OddValues(draw.choice(PLACES), draw.choice(values))  # type: ignore[assignment]
    site = place.folder / "site"
    information = site / "oddplugin-1.0.dist-info"
    information.mkdir(parents=True)
    (site / "oddplugin.py").write_text(PLUGIN, encoding="utf-8")
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: oddplugin\nVersion: 1.0\n", encoding="utf-8")
    (information / "entry_points.txt").write_text("[harness]\noddplugin = oddplugin\n", encoding="utf-8")
    return (
        ("list", "models"),
        ("list", "plugins"),
        ("status", "--all", *TINY),
        ("leaderboard", *TINY),
        ("run", "oddnet", "--dataset", "dots", "--in-process", "--allow-over-budget", "--track", "odd", *TINY),
        ("run", "oddnet", "--dataset", "dots", "--in-process", "--allow-over-budget", *TINY),
        ("verify", "runs", *TINY),
    )


STORE = ("--data", "data", *TINY)
STORED: Commands = (
    ("prepare", "dots", "--verify", *STORE),
    ("prepare", "dots", "--verify", "--format", "csv", *STORE),
    ("audit", "dots", *STORE),
    ("prepare", "dots", *STORE),
    ("list", "datasets", *STORE),
    ("list", "datasets", "--format", "csv", *STORE),
    ("run", "tiny", "--dry-run", *STORE),
    ("status", "tiny", *STORE),
    ("leaderboard", *STORE),
)


def manifest(place: Place) -> Commands:
    """The manifest of a prepared data set, and the other JSON files beside it."""
    folder = _stored(place)
    known = {"leaks": "some", "fingerprint": json.loads((folder / "manifest.json").read_bytes())["fingerprint"]}
    (folder / "audit.json").write_text(json.dumps(known), encoding="utf-8")
    damage_json(folder / place.draw.choice(("manifest.json",) * 4 + ("inputs.json", "audit.json")), place.draw)
    return STORED


def arrays(place: Place) -> Commands:
    """The arrays and the groups of a prepared data set."""
    folder, draw = _stored(place), place.draw
    path = folder / f"{draw.choice(('train', 'test'))}.{draw.choice(('images', 'labels'))}.npy"
    kind = draw.random()
    if kind < 0.4:
        path.write_bytes(mutated_bytes(path.read_bytes(), draw))
    elif kind < 0.8:
        np.save(path, odd_array(draw))
    elif kind < 0.9:
        path.unlink()
        path.mkdir()
    else:
        (folder / "train.groups.txt").write_bytes(mutated_bytes(b"a\nb\n", draw))
    return (*STORED, (*TRAINING, "--data", "data")) if _once(place, 0.1) else STORED


def _stored(place: Place) -> Path:
    """Copy the prepared data into the round's folder, and return the form that may be damaged."""
    shutil.copytree(os.environ["HARNESS_DATA"], place.folder / "data")
    return place.folder / "data" / "dots" / "native"


BOUNDARIES: Mapping[str, Callable[[Place], Commands]] = {
    "result": result,
    "job": job,
    "history": history,
    "by-products": by_products,
    "predictions": predictions,
    "checkpoint": checkpoint,
    "bundle": bundle,
    "registry": registry,
    "protocol": protocol,
    "accuracies": accuracies,
    "plugin": plugin,
    "manifest": manifest,
    "arrays": arrays,
}


def _once(place: Place, share: float) -> bool:
    return place.draw.random() < share
