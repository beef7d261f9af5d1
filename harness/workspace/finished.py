"""Collect the finished, current results of a suite, for scores, tables and figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from harness.api import Cell, Job, MetricSpec, RunResult
from harness.api.jobs import STANDARD_BUDGET
from harness.errors import CannotContinueError
from harness.plan import Selection, build_plan
from harness.registry import Budget, Protocol, Suite
from harness.results.predictions import metric_value
from harness.results.store import RunsFolder
from harness.workspace import Workspace
from harness.workspace.survey import left_out, survey_plan


@dataclass(frozen=True)
class Collected:
    """The results of a suite in a runs folder.

    Attributes:
        suite, protocol, budget: The suite, its protocol and its budget.
        runs: The folder of the results.
        cells: The state of every job that has a folder, of installed models.
        results: The results that are done and current.
        metric: The metric of ``values``.
        values: The metric's value by result, in the order of ``results``.
        notes: Sentences about results that are not counted.
        option: The options that ``harness run`` needs for more results: `` --protocol FILE`` for an ablation, and
            `` --budget NAME`` where that is not the standard one.
    """

    suite: Suite
    protocol: Protocol
    budget: Budget
    runs: RunsFolder
    cells: tuple[Cell, ...]
    results: tuple[RunResult, ...]
    metric: MetricSpec
    values: tuple[float, ...]
    notes: tuple[str, ...]
    option: str = ""

    def require_results(self) -> None:
        """Raise CannotContinueError if nothing is finished."""
        if not self.results:
            raise CannotContinueError(
                f"There are no finished, current results of the suite '{self.suite.name}' under {self.runs.root}. "
                + "".join(f"{note} " for note in self.notes)
                + f"Run: harness run --all --suite {self.suite.name}{self.option}"
            )


def collect(
    workspace: Workspace, *, suite: str | None = None, metric: str | None = None, brief: bool = False
) -> Collected:
    """Read the finished results of a suite, and a metric of each.

    A metric that a result lacks is computed from its stored predictions.

    Args:
        workspace: Registry, plugins and folders.
        suite: The suite's name; None for the registry's default.
        metric: The metric's name; None for the protocol's own.
        brief: Whether results may lack most of their environment and facts, which is quicker to read.

    Raises:
        WrongUseError: an unknown suite or metric.
        CannotContinueError: the predictions for a metric are missing or damaged.
    """
    benchmark, catalog, runs = workspace.benchmark, workspace.catalog, workspace.runs
    chosen = benchmark.suite(suite)
    protocol = benchmark.protocol(chosen.protocol)
    offer = catalog.metric(metric or protocol.metric)
    jobs = [job for job in runs.jobs(protocol.name, chosen.budget) if job.dataset in chosen.datasets]
    foreign = sorted({job.model for job in jobs} - set(catalog.models))
    cells = _cells(workspace, chosen, [job for job in jobs if job.model in catalog.models], brief=brief)
    done = [(cell, cell.result) for cell in cells if cell.state == "done" and cell.result]
    ablation = benchmark.ablations.get(protocol.name)
    return Collected(
        suite=chosen,
        protocol=protocol,
        budget=benchmark.budget(chosen.budget),
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
        notes=(*_notes(cells, foreign), *left_out(workspace, chosen)),
        option=(f" --protocol {ablation.file}" if ablation else "")
        + ("" if chosen.budget == STANDARD_BUDGET else f" --budget {chosen.budget}"),
    )


def _cells(workspace: Workspace, suite: Suite, jobs: Sequence[Job], *, brief: bool) -> tuple[Cell, ...]:
    if not jobs:
        return ()
    models = tuple(dict.fromkeys(job.model for job in jobs))
    plan = build_plan(workspace.benchmark, workspace.catalog, Selection(models, suite=suite.name))
    return survey_plan(workspace, replace(plan, jobs=tuple(jobs)), brief=brief).cells


def _notes(cells: Sequence[Cell], foreign: Sequence[str]) -> Iterator[str]:
    if stale := sum(cell.state == "stale" for cell in cells):
        yield f"{stale} stale result{'s are' if stale > 1 else ' is'} not counted; 'harness status' shows why."
    if foreign:
        yield f"Results of models that are not installed are not counted: {', '.join(foreign)}."
