"""Everything that the report page shows, as plain typed values: page and figures are made from nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.api import RunResult
from harness.errors import CannotContinueError, HarnessError
from harness.patterns.associate import Association, Confound, associate, confound, warnings
from harness.patterns.survey import Described
from harness.registry import Benchmark, Protocol, Suite
from harness.report.leaderboard import MODEL_KIND, Leaderboard
from harness.results.grid import is_comparable
from harness.results.store import RunsFolder
from harness.results.values import confusion, read_predictions
from harness.score import SubsetSearch

MOST_CLASSES = 20
"""Confusion matrices of more classes cannot be read, and are listed by their most frequent confusions instead."""

_MOST_CONFUSIONS = 25


@dataclass(frozen=True)
class Patterns:
    """Elements of models and what they have to do with a score."""

    described: tuple[Described, ...]
    associations: tuple[Association, ...]
    cost: Confound | None
    scores: Mapping[str, float]
    macs: Mapping[str, float]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Confusions:
    """Wrong and right answers on one data set, summed over seeds.

    ``matrices`` (true class, answer) by model where there are few classes; ``worst`` (true, answer, images) by model
    where there are many.
    """

    classes: tuple[str, ...]
    matrices: Mapping[str, list[list[int]]]
    worst: Mapping[str, list[tuple[str, str, int]]]


@dataclass(frozen=True)
class Facts:
    """The content of the page.

    Attributes:
        title, lead: Heading and first sentence.
        titles: Titles of data sets by name.
        board: The suite's leaderboard, or the published one where nothing is measured.
        measured: Which of the two it is.
        published: The published leaderboard with measured models in their place.
        proxy: The data set that stands for ImageNet, in Figure 1; empty for none.
        predicted: Name of the column with the predicted full score.
        search: Subset search on the published table.
        patterns: Of installed models.
        histories: One row an epoch: model, dataset, seed, epoch, loss.
        confusions: By data set.
        methods: Names and values, in order.
        deviations: Sentences about whatever departs from the protocol.
        notes: Sentences that belong under the leaderboard.
    """

    title: str
    lead: str
    titles: Mapping[str, str]
    board: Leaderboard
    measured: bool
    published: Leaderboard | None
    proxy: str
    predicted: str
    search: SubsetSearch | None
    patterns: Patterns | None
    histories: Sequence[Mapping[str, Any]] = ()
    confusions: Mapping[str, Confusions] = field(default_factory=dict)
    methods: Sequence[tuple[str, str]] = ()
    deviations: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def models(self) -> list[Mapping[str, Any]]:
        """The leaderboard's rows without the baseline."""
        return [row for row in self.board.rows if row["kind"] == MODEL_KIND]


def gather_patterns(described: Sequence[Described], scores: Mapping[str, float], macs: Mapping[str, float]) -> Patterns:
    """Compare elements with scores; with too few models there are elements and no comparison."""
    found: list[Association] = []
    cost = None
    try:
        found = associate({one.model: one.present for one in described}, scores, macs)
        cost = confound(scores, macs)
    except CannotContinueError as error:
        return Patterns(tuple(described), tuple(found), None, scores, macs, (str(error),))
    titles = {name: element.title for one in described for name, element in one.elements.items()}
    both = sum(one.model in scores for one in described)
    return Patterns(tuple(described), tuple(found), cost, scores, macs, tuple(warnings(both, found, titles)))


def gather_histories(runs: RunsFolder, results: Iterable[RunResult]) -> list[dict[str, Any]]:
    """Read the learning curves: one row an epoch."""
    return [
        {"model": r.job.model, "dataset": r.job.dataset, "seed": r.job.seed, "epoch": e.epoch + 1, "loss": e.loss}
        for r in results
        for e in runs.of(r.job).read_history()
    ]


def gather_confusions(
    runs: RunsFolder, results: Iterable[RunResult], classes: Mapping[str, Sequence[str]]
) -> tuple[dict[str, Confusions], list[str]]:
    """Sum the confusion matrices over seeds; return them and a sentence for each run whose predictions are unusable."""
    sums: dict[str, dict[str, Any]] = {}
    problems = []
    for result in results:
        try:
            counts = confusion(*read_predictions(runs.of(result.job)))
        except HarnessError as error:
            problems.append(str(error))
            continue
        models = sums.setdefault(result.job.dataset, {})
        models[result.job.model] = models.get(result.job.model, 0) + counts
    found = {}
    for dataset, models in sums.items():
        size = len(next(iter(models.values())))
        names = tuple(classes.get(dataset, ())) or tuple(str(c) for c in range(size))
        few = size <= MOST_CLASSES
        found[dataset] = Confusions(
            classes=names if few else (),
            matrices={model: counts.tolist() for model, counts in models.items()} if few else {},
            worst={} if few else {model: _worst(counts, names) for model, counts in models.items()},
        )
    return found, problems


def _worst(counts: Any, names: Sequence[str]) -> list[tuple[str, str, int]]:
    import numpy as np

    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_CONFUSIONS]
    pairs = [tuple(int(i) for i in np.unravel_index(at, wrong.shape)) for at in order]
    return [(names[a], names[b], int(wrong[a, b])) for a, b in pairs if wrong[a, b]]


def methods(
    benchmark: Benchmark, suite: Suite, protocol: Protocol, board: Leaderboard, results: Sequence[RunResult], lam: float
) -> tuple[list[tuple[str, str]], list[str]]:
    """Say how the numbers were made, and what departs from the protocol."""
    strengths = [
        f"{use.name} ({', '.join(f'{key} {value:g}' for key, value in use.strengths.items())})"
        for use in protocol.augmentations
    ]
    rows = [
        ("Suite", f"{suite.title} ({suite.name}): {', '.join(suite.datasets)}"),
        ("Protocol", f"{protocol.name}, digest {protocol.digest}"),
        ("Training", f"{protocol.epochs} epochs, batch {protocol.batch_size}, {protocol.optimizer}, learning rate "
                     f"{protocol.lr_max:g} to {protocol.lr_min:g} after {protocol.warmup_epochs} of warm-up, label "
                     f"smoothing {protocol.label_smoothing:g}, {protocol.precision}"),
        ("Input", f"{protocol.input_size} x {protocol.input_size} pixels; augmentation: {', '.join(strengths)}"),
        ("Score", f"mean of normalised accuracies minus {lam:g} times their variance; anchors {board.anchors.name} "
                  f"(digest {board.anchors.digest})"),
        ("Budget", f"{benchmark.budget.parameters:,} trainable parameters, give or take "
                   f"{benchmark.budget.tolerance:.0%}"),
    ]  # fmt: skip
    if not results:
        return rows, []
    seeds = sorted({result.job.seed for result in results})
    reads = sorted({result.test_reads for result in results})
    hours = sum(result.seconds for result in results) / 3600
    rows += [
        ("Runs", f"{len(results)} finished runs, seeds {', '.join(map(str, seeds))}, {hours:.1f} hours of training"),
        ("Test-set reads", "once a run, after the last epoch" if reads == [1] else f"{reads} times a run"),
        *(("Environment", text) for text in _environments(results)),
    ]
    return rows, _deviations(results)


def _environments(results: Sequence[RunResult]) -> list[str]:
    texts: dict[str, int] = {}
    for result in results:
        env = result.environment
        versions = env.get("versions", {})
        parts = [
            f"{env.get('device', '?')} ({env.get('device_name', 'unnamed')})",
            f"Python {env.get('python', '?')}",
            *(f"{name} {version}" for name, version in versions.items()),
            "deterministic" if env.get("deterministic") else "not deterministic",
        ]
        text = ", ".join(parts)
        texts[text] = texts.get(text, 0) + 1
    return [f"{text}: {count} runs" if len(texts) > 1 else text for text, count in texts.items()]


def _deviations(results: Sequence[RunResult]) -> list[str]:
    found: dict[str, None] = {}
    for result in results:
        job = result.job
        if result.lr_exception:
            found[
                f"{job.model} was trained with lr_max {result.lr_max:g} (exception of the {result.lr_exception})."
            ] = None
        if not is_comparable(result):
            device = result.environment.get("device", "another device")
            found[f"{job} was trained on {device}, whose arithmetic is not comparable with that of the others."] = None
        if result.interruptions:
            found[f"{job} went on {len(result.interruptions)} times after a stop."] = None
        if result.test_reads != 1:
            found[f"{job} read the test split {result.test_reads} times."] = None
        for note in result.notes:
            found[f"{job}: {note}"] = None
    return list(found)


def as_json(value: Any) -> str:
    """Return JSON that may stand inside a script element of a page."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False, default=list).replace("<", "\\u003c")
