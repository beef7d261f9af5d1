"""Suite + runs folder -> Collected: the finished, current results that scores, tables and figures are made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.api import Cell, MetricSpec, RunResult
from harness.catalog import Catalog
from harness.errors import CannotContinueError
from harness.plan import Plan, Selection, build_plan
from harness.registry import Benchmark, Protocol, Suite
from harness.results.predictions import metric_value
from harness.results.store import RunsFolder
from harness.workspace.survey import Surveyor


@dataclass(frozen=True)
class Collected:
    """What a suite's runs folder holds.

    Attributes:
        suite, protocol: What was looked at.
        runs: Where the results are.
        cells: Every job that has a folder, of installed models, and how it stands.
        results: Of those that are done and current.
        metric: The metric that ``values`` holds.
        values: The metric's value by result, in the order of ``results``.
        notes: Sentences about what is not counted.
        option: What ``harness run`` needs for more of them: `` --protocol FILE`` for an ablation.
    """

    suite: Suite
    protocol: Protocol
    runs: RunsFolder
    cells: tuple[Cell, ...]
    results: tuple[RunResult, ...]
    metric: MetricSpec
    values: tuple[float, ...]
    notes: tuple[str, ...]
    option: str = ""

    def require_results(self) -> None:
        """Raise CannotContinueError where nothing is finished."""
        if not self.results:
            raise CannotContinueError(
                f"There are no finished, current results of the suite '{self.suite.name}' under {self.runs.root}. "
                + "".join(f"{note} " for note in self.notes)
                + f"Run: harness run --all --suite {self.suite.name}{self.option}"
            )


def collect(
    benchmark: Benchmark, catalog: Catalog, runs: RunsFolder, data_root: Path, *, suite: str | None,
    metric: str | None, brief: bool = False,
) -> Collected:  # fmt: skip
    """Read the finished results of a suite, and any metric from them.

    A metric that a result does not hold is computed from its stored predictions.

    Args:
        benchmark, catalog: The frozen benchmark and what is installed.
        runs: The results' folder, which need not exist.
        data_root: Where prepared data sets are.
        suite: The suite's name; None for the registry's default.
        metric: The metric's name; None for the protocol's own.
        brief: Whether the results may be without most of their environment and what was executed, which is quicker.

    Raises:
        WrongUseError: an unknown suite or metric.
        CannotContinueError: the predictions that a metric needs are missing or damaged.
    """
    chosen = benchmark.suite(suite)
    protocol = benchmark.protocol(chosen.protocol)
    offer = catalog.metric(metric or protocol.metric)
    jobs = [job for job in runs.jobs(protocol.name) if job.dataset in chosen.datasets]
    foreign = sorted({job.model for job in jobs} - set(catalog.models))
    jobs = [job for job in jobs if job.model in catalog.models]
    cells: tuple[Cell, ...] = ()
    if jobs:
        models = tuple(dict.fromkeys(job.model for job in jobs))
        base = build_plan(benchmark, catalog, Selection(models, suite=chosen.name))
        plan = Plan(base.suite, base.protocol, base.models, base.datasets, tuple(jobs))
        cells = Surveyor(benchmark, catalog, runs, data_root, remember=True).survey(plan, brief=brief).cells
    done = [(cell, cell.result) for cell in cells if cell.state == "done" and cell.result]
    notes = []
    ablation = benchmark.ablations.get(protocol.name)
    if stale := sum(cell.state == "stale" for cell in cells):
        plural = "s are" if stale > 1 else " is"
        notes.append(f"{stale} stale result{plural} not counted; 'harness status' shows why.")
    if foreign:
        notes.append(f"Results of models that are not installed are not counted: {', '.join(foreign)}.")
    return Collected(
        suite=chosen,
        protocol=protocol,
        runs=runs,
        cells=cells,
        results=tuple(result for _, result in done),
        metric=offer.spec,
        values=tuple(
            result.metrics[offer.spec.name]
            if offer.spec.name in result.metrics
            else metric_value(runs.of(cell.job), result, offer)
            for cell, result in done
        ),
        notes=tuple(notes),
        option=f" --protocol {ablation.file}" if ablation else "",
    )
