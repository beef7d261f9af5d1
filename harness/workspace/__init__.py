"""Joins benchmark, plugins, runs folder and data folder in one value, and gives the finished results there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from harness.api import Job
from harness.catalog import Catalog, discover
from harness.data.ingest import definition, require_prepared
from harness.data.prepared import PreparedDataset, check_root, find_prepared
from harness.errors import DatasetError, HarnessError
from harness.fingerprint import Identity, fingerprints
from harness.models import Architecture, Architectures
from harness.plan import dataset_facts
from harness.results.store import RunsFolder
from harness.train.schedule import learning_rate_peak

if TYPE_CHECKING:
    from harness.registry import Benchmark, DatasetFacts, Protocol


_T = TypeVar("_T")


@dataclass(frozen=True)
class Workspace:
    """The benchmark, the plugins and the folders of one command, with a cache of its look-ups.

    Each data set and each model is examined once. A workspace can be pickled; the process that receives it discovers
    the plugins of its own machine.

    Attributes:
        benchmark: The frozen benchmark.
        catalog: The installed plugins.
        runs: The folder of the results; it need not exist.
        data: The folder of the prepared data sets; it need not exist.
        architectures: The structures of models that this command or an earlier one has built.
    """

    benchmark: Benchmark
    catalog: Catalog
    runs: RunsFolder
    data: Path
    architectures: Architectures = field(
        default_factory=lambda: Architectures(remember=True), repr=False, compare=False, kw_only=True
    )
    _known: dict[tuple[object, ...], Any] = field(
        default_factory=dict, init=False, repr=False, compare=False, kw_only=True
    )

    def __reduce__(self) -> tuple[Callable[..., Workspace], tuple[Benchmark, RunsFolder, Path]]:
        # The catalog holds the plugins' own functions, and an executor's machine may have other plugins.
        return _reopen, (self.benchmark, self.runs, self.data)

    def with_fresh_models(self, *, apart: bool = True) -> Workspace:
        """Return the same workspace without cached models: every model is built anew, in a process of its own."""
        return replace(self, architectures=Architectures(remember=False, apart=apart))

    def absolute(self) -> Workspace:
        """Return the same workspace with absolute paths, for a process with another working folder."""
        return replace(self, runs=RunsFolder(self.runs.root.absolute()), data=self.data.absolute())

    def facts(self, dataset: str) -> DatasetFacts:
        """Return a data set's sizes. Raises like ``harness.plan.dataset_facts``."""
        return self._once(("facts", dataset), lambda: dataset_facts(self.benchmark, self.catalog, dataset))

    def prepared(self, dataset: str, protocol: Protocol) -> PreparedDataset:
        """Return a prepared data set; an embedded one is prepared on first use.

        Raises:
            DatasetError: it must be downloaded first; the message names the command.
            WrongUseError, PluginError: the data set is not known.
        """
        return self._once(("prepared", dataset, protocol.input_size), lambda: self._prepare(dataset, protocol))

    def find_prepared(self, dataset: str, protocol: Protocol) -> PreparedDataset | None:
        """Return a data set if it is prepared or embedded; None if it is neither, or is damaged."""
        offer = self.catalog.datasets.get(dataset)
        if offer is None:
            return None
        try:
            if not offer.spec.sources:
                return self.prepared(dataset, protocol)
            return find_prepared(self.data, dataset, definition(offer), protocol.input_size)
        except HarnessError:
            return None

    def architecture(self, model: str, classes: int) -> Architecture:
        """Return a model's structure and parameters at a class count.

        Raises:
            WrongUseError, PluginError: the model is not known, or does not build.
        """
        return self.architectures.get(self.catalog.model(model), classes)

    def fingerprint(self, job: Job) -> str:
        """Return the fingerprint that a job's result must have today.

        Raises:
            HarnessError: the model or the data set is not usable.
        """
        key = ("fingerprint", job.protocol, job.model, job.dataset, job.budget)
        of_seed: Callable[[int], str] = self._once(key, lambda: self._fingerprints(job))
        return of_seed(job.seed)

    def _fingerprints(self, job: Job) -> Callable[[int], str]:
        protocol = self.benchmark.protocol(job.protocol)
        model = self.catalog.model(job.model)
        data = self.prepared(job.dataset, protocol).manifest
        identity = Identity(
            protocol=protocol,
            model=model,
            architecture=self.architecture(job.model, len(data.classes)).digest,
            lr_max=learning_rate_peak(protocol, model.spec)[0],
            data=data.fingerprint,
        )
        return fingerprints(job, identity)

    def _prepare(self, dataset: str, protocol: Protocol) -> PreparedDataset:
        try:
            return require_prepared(self.catalog.dataset(dataset), check_root(self.data), protocol.input_size)
        except DatasetError as error:
            ablation = self.benchmark.ablations.get(protocol.name)
            if ablation is None or not str(error).endswith(f"harness prepare {dataset}"):
                raise
            raise DatasetError(f"{error} --protocol {ablation.file}") from error

    def _once(self, key: tuple[object, ...], look_up: Callable[[], _T]) -> _T:
        """Look something up at its first use and cache it, an error as well."""
        if key not in self._known:
            try:
                self._known[key] = look_up()
            except HarnessError as error:
                self._known[key] = error
        known = self._known[key]
        if isinstance(known, HarnessError):
            raise known.with_traceback(None)
        answer: _T = known
        return answer


def _reopen(benchmark: Benchmark, runs: RunsFolder, data: Path) -> Workspace:
    return Workspace(benchmark, discover(), runs, data)
