"""Plan + disk -> Survey: what each model is, whether it fits the budget, and how every job stands."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.api import Cell, Job
from harness.catalog import Catalog
from harness.data.ingest import require_prepared
from harness.data.store import PreparedDataset
from harness.errors import DatasetError, HarnessError, PluginError
from harness.fingerprint import fingerprints
from harness.models import Architectures
from harness.plan import Plan, dataset_facts
from harness.registry import Benchmark
from harness.results.grid import read_grid
from harness.results.store import RunsFolder
from harness.train.schedule import learning_rate_peak


@dataclass(frozen=True)
class Survey:
    """How a plan stands.

    Attributes:
        cells: Every job's state, in the plan's order.
        over_budget: A sentence for each model that is over the budget at some class count of the suite.
        broken: A sentence for each model that does not build.
    """

    cells: tuple[Cell, ...]
    over_budget: Mapping[str, str]
    broken: Mapping[str, str]


class Surveyor:
    """Looks at models, data sets and results; remembers within one command what it has seen."""

    def __init__(
        self, benchmark: Benchmark, catalog: Catalog, runs: RunsFolder, data_root: Path, *, remember: bool
    ) -> None:
        self._benchmark = benchmark
        self._catalog = catalog
        self._runs = runs
        self._data_root = data_root
        self._architectures = Architectures(remember=remember)
        self._prepared: dict[tuple[str, int], PreparedDataset] = {}
        self._fingerprints: dict[tuple[str, str, str], Callable[[int], str] | HarnessError] = {}

    def survey(self, plan: Plan, *, brief: bool = False) -> Survey:
        """Tell how a plan stands; ``brief`` as in ``read_grid``. Raises what looking up names and sizes raises."""
        for name in plan.datasets:
            dataset_facts(self._benchmark, self._catalog, name)
        class_counts = sorted(class_counts_of(plan, self._benchmark, self._catalog))
        over: dict[str, str] = {}
        broken: dict[str, str] = {}
        for name in plan.models:
            try:
                sentence = self._budget_sentence(name, class_counts)
            except PluginError as error:
                broken[name] = str(error)
            else:
                if sentence:
                    over[name] = sentence
        cells = read_grid(self._runs, plan.jobs, lambda job: self.fingerprint(plan, job), brief=brief)
        self._architectures.save()
        return Survey(cells, over, broken)

    def fingerprint(self, plan: Plan, job: Job) -> str:
        """Return what a job's result must carry. Raises HarnessError where the model or the data set is not usable."""
        key = plan.protocol.name, job.model, job.dataset
        if key not in self._fingerprints:
            try:
                self._fingerprints[key] = self._of_seeds(plan, job)
            except HarnessError as error:
                self._fingerprints[key] = error
        known = self._fingerprints[key]
        if isinstance(known, HarnessError):
            raise known.with_traceback(None)
        return known(job.seed)

    def _of_seeds(self, plan: Plan, job: Job) -> Callable[[int], str]:
        model = self._catalog.model(job.model)
        data = self.prepared(plan, job.dataset)
        return fingerprints(
            job.model,
            job.dataset,
            protocol=plan.protocol,
            model=model,
            architecture=self._architectures.get(model, len(data.manifest.classes)).digest,
            lr_max=learning_rate_peak(plan.protocol, model.spec)[0],
            data=data.manifest.fingerprint,
        )

    def prepared(self, plan: Plan, dataset: str) -> PreparedDataset:
        """Return a data set, preparing an embedded one. Raises DatasetError where it has to be downloaded first."""
        key = dataset, plan.protocol.input_size
        if key not in self._prepared:
            self._prepared[key] = self._prepare(plan, dataset)
        return self._prepared[key]

    def _prepare(self, plan: Plan, dataset: str) -> PreparedDataset:
        try:
            return require_prepared(self._catalog.dataset(dataset), self._data_root, plan.protocol.input_size)
        except DatasetError as error:
            ablation = self._benchmark.ablations.get(plan.protocol.name)
            if ablation is None or not str(error).endswith(f"harness prepare {dataset}"):
                raise
            raise DatasetError(f"{error} --protocol {ablation.file}") from error

    def check_data(self, plan: Plan) -> None:
        """Raise the first reason why a data set of the plan cannot be used, with all that are missing in one go."""
        problems = []
        for name in plan.datasets:
            try:
                self.prepared(plan, name)
            except HarnessError as error:
                problems.append(error)
        if len(problems) == 1:
            raise problems[0]
        if problems:
            raise type(problems[0])("\n".join(str(problem) for problem in problems))

    def _budget_sentence(self, name: str, class_counts: list[int]) -> str:
        budget = self._benchmark.budget
        model = self._catalog.model(name)
        limit = round(budget.parameters * (1 + budget.tolerance))
        for classes in class_counts:
            count = self._architectures.get(model, classes).parameters
            if count > limit:
                return (
                    f"{name} has {count:,} trainable parameters at {classes} classes; "
                    f"the limit is {limit:,} ({budget.parameters:,} + {budget.tolerance:.0%})."
                )
        return ""


def class_counts_of(plan: Plan, benchmark: Benchmark, catalog: Catalog) -> tuple[int, ...]:
    """The class counts of the plan and of its whole suite, since the budget holds at every one; the plan's first."""
    counts = []
    for name in (*plan.datasets, *plan.suite.datasets):
        with contextlib.suppress(HarnessError):
            counts.append(dataset_facts(benchmark, catalog, name).classes)
    return tuple(dict.fromkeys(counts))
