"""Everything that the report page shows, as plain typed values, from which its tables and figures are made."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.api import RunResult
from harness.errors import CannotContinueError, HarnessError
from harness.patterns.associate import Association, Confound, associate, confound, warnings
from harness.patterns.describe import Described, element_titles
from harness.registry import Benchmark, Suite
from harness.report.rows import BoardRow, Leaderboard
from harness.results.grid import is_comparable
from harness.results.predictions import confusion, read_predictions
from harness.results.store import RunsFolder
from harness.score import SubsetSearch

MOST_CLASSES = 20
"""A confusion matrix of more classes is unreadable; its most frequent confusions are listed instead."""

_MOST_CONFUSIONS = 25


@dataclass(frozen=True)
class Patterns:
    """Architectural elements of models, compared with their scores.

    Attributes:
        described: The models and their elements.
        associations: Score by element; empty for too few models.
        cost: Score against multiply-adds; None for too few models.
        scores, macs: By model.
        warnings: Sentences on what these comparisons cannot show.
    """

    described: tuple[Described, ...]
    associations: tuple[Association, ...]
    cost: Confound | None
    scores: Mapping[str, float]
    macs: Mapping[str, float]
    warnings: tuple[str, ...]

    @property
    def titles(self) -> dict[str, str]:
        """Titles of the elements by name."""
        return element_titles(self.described)


@dataclass(frozen=True)
class Confusions:
    """Right and wrong answers on one data set, summed over seeds.

    ``matrices`` (true class, answer) by model where there are few classes; ``worst`` (true class, answer, images) by
    model where there are many.
    """

    classes: tuple[str, ...]
    matrices: Mapping[str, list[list[int]]]
    worst: Mapping[str, list[tuple[str, str, int]]]


@dataclass(frozen=True)
class PageContent:
    """The content of the page.

    Attributes:
        title, lead: Heading and first sentence.
        titles: Titles of data sets by name.
        board: The suite's leaderboard, or the published one where nothing is measured.
        measured: True for the suite's leaderboard.
        published: The published leaderboard with measured models ranked among them.
        proxy: The data set that represents ImageNet in Figure 1; empty for none.
        search: Subset search on the published table.
        patterns: Of installed models.
        histories: One row per epoch: model, dataset, seed, epoch, loss.
        confusions: By data set.
        methods: Names and values, in order.
        deviations: Sentences on deviations from the protocol.
        notes: Sentences under the leaderboard.
    """

    title: str
    lead: str
    titles: Mapping[str, str]
    board: Leaderboard
    measured: bool
    published: Leaderboard | None
    proxy: str
    search: SubsetSearch | None
    patterns: Patterns | None
    histories: Sequence[Mapping[str, Any]] = ()
    confusions: Mapping[str, Confusions] = field(default_factory=dict)
    methods: Sequence[tuple[str, str]] = ()
    deviations: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def models(self) -> list[BoardRow]:
        """The leaderboard's rows without the baseline."""
        return self.board.models

    @property
    def published_models(self) -> list[BoardRow]:
        """The published leaderboard's rows without the baseline; none without a published table."""
        return self.published.models if self.published else []


def gather_patterns(described: Sequence[Described], scores: Mapping[str, float], macs: Mapping[str, float]) -> Patterns:
    """Compare elements with scores. With too few models the result holds the elements and no comparison."""
    found: list[Association] = []
    cost = None
    try:
        found = associate({one.model: one.present for one in described}, scores, macs)
        cost = confound(scores, macs)
    except CannotContinueError as error:
        return Patterns(tuple(described), tuple(found), None, scores, macs, (str(error),))
    both = sum(one.model in scores for one in described)
    sentences = warnings(both, found, element_titles(described))
    return Patterns(tuple(described), tuple(found), cost, scores, macs, tuple(sentences))


def gather_histories(runs: RunsFolder, results: Iterable[RunResult]) -> list[dict[str, Any]]:
    """Read the learning curves, one row per epoch."""
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
    return {dataset: _confusions(models, classes.get(dataset, ())) for dataset, models in sums.items()}, problems


def _confusions(counts: Mapping[str, Any], classes: Sequence[str]) -> Confusions:
    """Keep the counts (C, C) of each model whole for few classes, and the most frequent confusions for many."""
    size = len(next(iter(counts.values())))
    names = tuple(classes) or tuple(str(c) for c in range(size))
    if size <= MOST_CLASSES:
        return Confusions(names, {model: matrix.tolist() for model, matrix in counts.items()}, {})
    return Confusions((), {}, {model: _worst(matrix, names) for model, matrix in counts.items()})


def _worst(counts: Any, names: Sequence[str]) -> list[tuple[str, str, int]]:
    import numpy as np

    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_CONFUSIONS]
    pairs = [tuple(int(i) for i in np.unravel_index(at, wrong.shape)) for at in order]
    return [(names[a], names[b], int(wrong[a, b])) for a, b in pairs if wrong[a, b]]


def describe_methods(
    benchmark: Benchmark, suite: Suite, board: Leaderboard, results: Sequence[RunResult]
) -> tuple[list[tuple[str, str]], list[str]]:
    """Return how the numbers were made, as names and values, and the deviations from the protocol as sentences."""
    protocol = benchmark.protocol(suite.protocol)
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
        ("Score", f"mean of normalised accuracies minus {board.rows[0].lam:g} times their variance; anchors "
                  f"{board.anchors.name} (digest {board.anchors.digest})"),
        ("Budget", str(benchmark.budget(suite.budget))),
    ]  # fmt: skip
    if not results:
        return rows, []
    seeds = sorted({result.job.seed for result in results})
    reads = sorted({result.test_reads for result in results})
    hours = sum(result.seconds for result in results) / 3600
    rows += [
        ("Runs", f"{len(results)} finished runs, seeds {', '.join(map(str, seeds))}, {hours:.1f} hours of training"),
        ("Test-set reads", "once per run, after the last epoch" if reads == [1] else f"{reads} times per run"),
        *(("Environment", text) for text in _environments(results)),
    ]
    return rows, _deviations(results)


def _environments(results: Sequence[RunResult]) -> list[str]:
    texts = Counter(_environment(result.environment) for result in results)
    return [f"{text}: {count} runs" if len(texts) > 1 else text for text, count in texts.items()]


def _environment(known: Mapping[str, Any]) -> str:
    parts = [
        f"{known.get('device', '?')} ({known.get('device_name', 'unnamed')})",
        f"Python {known.get('python', '?')}",
        *(f"{name} {version}" for name, version in known.get("versions", {}).items()),
        "deterministic" if known.get("deterministic") else "not deterministic",
    ]
    return ", ".join(parts)


def _deviations(results: Sequence[RunResult]) -> list[str]:
    # A dictionary keeps the order and drops repetitions.
    return list(dict.fromkeys(sentence for result in results for sentence in _deviations_of(result)))


def _deviations_of(result: RunResult) -> Iterable[str]:
    job = result.job
    if result.lr_exception:
        yield f"{job.model} was trained with lr_max {result.lr_max:g} (exception of the {result.lr_exception})."
    if not is_comparable(result):
        device = result.environment.get("device", "another device")
        yield f"{job} was trained on {device}, whose arithmetic is not comparable with that of the others."
    if result.interruptions:
        yield f"{job} was stopped and resumed {len(result.interruptions)} times."
    if result.test_reads != 1:
        yield f"{job} read the test split {result.test_reads} times."
    for note in result.notes:
        yield f"{job}: {note}"


def as_json(value: Any) -> str:
    """Return JSON that is safe inside a script element of a page."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False, default=list).replace("<", "\\u003c")
