"""A folder of a great many finished results, as ``harness run`` would have left them, for what reads them.

One job is really trained; every other result is that one with another model, data set, seed, fingerprint, accuracy and
time, written by the code that writes results. What does not differ or is hardly read is one file a model and
data set, under as many names as there are seeds: history, predictions, and a few bytes that stand for a checkpoint.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from harness.api import Job, RunResult
from harness.catalog import discover
from harness.plan import Plan, Selection, build_plan
from harness.registry import load_benchmark
from harness.results.predictions import read_predictions
from harness.results.store import JobFolder, RunsFolder
from harness.workspace import Workspace

SUITE = "pocket"
_TRAINED = ("mobilenet", "pocket_digits")
_SEED, _TOP1, _SECONDS = -777, -888.0, -999.0
_FINGERPRINT, _WEIGHTS = "@fingerprint@", "@weights@"


def train_one(folder: Path, data: Path) -> JobFolder:
    """Train one job of the pocket suite by the command line and return its folder."""
    model, dataset = _TRAINED
    where = ["--suite", SUITE, "--dataset", dataset, "--runs", str(folder), "--data", str(data)]
    subprocess.run([sys.executable, "-m", "harness", "run", model, *where], check=True, capture_output=True)
    benchmark = load_benchmark()
    return RunsFolder(folder).of(Job(benchmark.suite(SUITE).protocol, model, dataset, 0))


def invent_results(runs: RunsFolder, data: Path, template: JobFolder, *, seeds: int) -> Plan:
    """Write as many seeds of every installed model on every pocket data set; return the plan whose jobs they are."""
    benchmark, catalog = load_benchmark(), discover()
    plan = build_plan(benchmark, catalog, Selection(all_models=True, suite=SUITE, seeds=seeds))
    workspace = Workspace(benchmark, catalog, runs, data)
    result = template.read_result()
    assert result is not None
    draw = random.Random(0)
    for model in plan.models:
        for dataset in plan.datasets:
            level = draw.uniform(20, 90)
            jobs = [Job(plan.protocol.name, model, dataset, seed) for seed in range(seeds)]
            _write_seeds(runs, jobs, [workspace.fingerprint(job) for job in jobs], template, result, level, draw)
    return plan


def _write_seeds(
    runs: RunsFolder, jobs: list[Job], fingerprints: list[str], template: JobFolder, result: RunResult, level: float,
    draw: random.Random,
) -> None:  # fmt: skip
    """Write the seeds of one model on one data set: the first by the store, the others as its copies.

    The store flushes every file to the disk, which for 100,000 results would take the better part of an hour.
    """
    first = _write_marked(runs, replace(jobs[0], seed=_SEED), template, result)
    texts = {path.name: path.read_text(encoding="utf-8") for path in (first.job_file, first.result)}
    links = [path for path in first.path.iterdir() if path.name not in texts]
    for job, fingerprint in zip(jobs, fingerprints, strict=True):
        values = {
            str(_SEED): str(job.seed),
            str(_TOP1): repr(round(min(100.0, max(0.0, draw.gauss(level, 1.5))) * 4) / 4),
            str(_SECONDS): repr(draw.uniform(5, 15)),
            _FINGERPRINT: fingerprint,
            _WEIGHTS: f"{draw.getrandbits(256):064x}",
        }
        folder = runs.of(job)
        folder.path.mkdir()
        for name, text in texts.items():
            for mark, value in values.items():
                text = text.replace(mark, value)
            (folder.path / name).write_text(text, encoding="utf-8")
        for path in links:
            os.link(path, folder.path / path.name)
    for path in first.path.iterdir():
        path.unlink()
    first.path.rmdir()


def _write_marked(runs: RunsFolder, job: Job, template: JobFolder, result: RunResult) -> JobFolder:
    """Write a finished job with marks where the seeds differ."""
    import torch

    folder = runs.of(job)
    folder.begin(_FINGERPRINT, protocol_digest=result.protocol_digest)
    folder.write_history(template.read_history())
    folder.checkpoint.write_bytes(b"stands for a checkpoint")
    logits, labels = read_predictions(template)
    marked = replace(
        result,
        job=job,
        fingerprint=_FINGERPRINT,
        metrics={**result.metrics, "top1": _TOP1},
        weights_sha256=_WEIGHTS,
        seconds=_SECONDS,
    )
    folder.finish(marked, torch.from_numpy(logits), torch.from_numpy(labels))
    return folder
