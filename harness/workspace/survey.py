"""Find the models of a plan that are over the budget, and the state of every job."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from harness.api import Cell
from harness.errors import HarnessError, PluginError
from harness.plan import Plan
from harness.registry import Suite
from harness.results.grid import read_grid
from harness.workspace import Workspace


@dataclass(frozen=True)
class Survey:
    """The state of a plan.

    Attributes:
        cells: Every job's state, in the plan's order.
        over_budget: A sentence for each model that is over the budget at some class count of the suite.
        broken: A sentence for each model that does not build.
    """

    cells: tuple[Cell, ...]
    over_budget: Mapping[str, str]
    broken: Mapping[str, str]


def survey_plan(
    workspace: Workspace, plan: Plan, *, brief: bool = False, say: Callable[[str], object] | None = None
) -> Survey:
    """Examine a plan's models and results.

    Args:
        workspace: Registry, plugins and folders.
        plan: The jobs.
        brief: Whether results may lack most of their environment and facts, which is quicker to read.
        say: Told of each model before it is read, since building many takes a while.

    Raises:
        HarnessError: a name is unknown, or the sizes of a data set differ from the registry's.
    """
    for name in plan.datasets:
        workspace.facts(name)
    budget = workspace.benchmark.budget(plan.suite.budget)
    class_counts = sorted(class_counts_of(workspace, plan))
    over: dict[str, str] = {}
    broken: dict[str, str] = {}
    for number, name in enumerate(plan.models, 1):
        if say is not None:
            say(f"Reading {name} ({number} of {len(plan.models)})")
        try:
            found = workspace.architectures.get_all(workspace.catalog.model(name), class_counts)
        except PluginError as error:
            broken[name] = str(error)
        else:
            counts = {classes: one.parameters for classes, one in found.items()}
            if sentence := budget.excess(name, counts):
                over[name] = sentence
    cells = read_grid(workspace.runs, plan.jobs, workspace.fingerprint, brief=brief)
    workspace.architectures.save()
    return Survey(cells, over, broken)


def check_data(workspace: Workspace, plan: Plan) -> None:
    """Raise an error that names every data set of the plan that cannot be used."""
    problems = []
    for name in plan.datasets:
        try:
            workspace.prepared(name, plan.protocol).require_sound()
        except HarnessError as error:
            problems.append(error)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise type(problems[0])("\n".join(str(problem) for problem in problems))


def left_out(workspace: Workspace, suite: Suite) -> Iterator[str]:
    """Return a sentence about results of other budgets on a suite's data sets, if there are any."""
    others = [name for name in workspace.runs.budgets(suite.protocol) if name != suite.budget]
    held = [
        name
        for name in others
        if any(job.dataset in suite.datasets for job in workspace.runs.jobs(suite.protocol, name))
    ]
    if held:
        yield f"Results of other budgets are left out: {', '.join(held)}. --budget shows them."


def class_counts_of(workspace: Workspace, plan: Plan) -> tuple[int, ...]:
    """Return the class counts of the plan and of its whole suite, the plan's first: the budget holds at each."""
    counts = []
    for name in (*plan.datasets, *plan.suite.datasets):
        with contextlib.suppress(HarnessError):
            counts.append(workspace.facts(name).classes)
    return tuple(dict.fromkeys(counts))
