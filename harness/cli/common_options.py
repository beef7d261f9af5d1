"""Options that several commands share, their completion in the shell, and the values made from them."""

from __future__ import annotations

import contextlib
import functools
import io
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click
from click.shell_completion import CompletionItem

from harness.catalog import Catalog, discover
from harness.cli.output import say
from harness.data.prepared import default_data_root
from harness.errors import HarnessError, WrongUseError
from harness.files import absolute_path, user_path
from harness.plan import Selection, under_budget
from harness.protocol_file import describe_ablation, under_protocol
from harness.registry import Benchmark, load_benchmark
from harness.results.protocols import find_protocol, other_contents
from harness.results.store import RunsFolder

if TYPE_CHECKING:
    from harness.workspace import Workspace

DEFAULT_RUNS = Path("runs")
FORMATS = ("table", "json", "csv", "markdown", "latex")


Completer: TypeAlias = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]

_Names: TypeAlias = Iterable[tuple[str, str]]


def _of_catalog(names: Callable[[Catalog], _Names]) -> Completer:
    return _completer(lambda _: names(discover()))


def _of_benchmark(names: Callable[[Benchmark], _Names]) -> Completer:
    return _completer(lambda context: names(load_benchmark(_registry(context))))


def _completer(names: Callable[[click.Context], _Names]) -> Completer:
    """Offer the names that begin with the typed text and are not on the line yet, with their titles.

    Runs at each press of the Tab key, so it imports nothing heavy. It hides every error: the command itself explains a
    broken plugin or registry.
    """

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        # A plugin may print while it is imported, which must not appear on the user's line.
        text = io.StringIO()
        with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text), contextlib.suppress(HarnessError):
            taken = context.params.get(parameter.name or "") if parameter.nargs == -1 else None
            return [
                CompletionItem(name, help=title)
                for name, title in names(context)
                if name.startswith(incomplete) and name not in (taken or ())
            ]
        return []

    return complete


def _registry(context: click.Context) -> Path | None:
    given = context.params.get("registry")
    return Path(given) if given else None


def _devices(_: click.Context) -> _Names:
    # Only torch knows which of them this machine has, and importing it takes seconds.
    return [("auto", "CUDA where there is one"), ("cpu", ""), ("cuda", ""), ("cuda:0", ""), ("mps", "not comparable")]


def _citation(paper: str) -> str:
    return re.sub(r"\s+", " ", paper)


complete_models = _of_catalog(
    lambda catalog: [(name, _citation(one.spec.paper)) for name, one in catalog.models.items()]
)
complete_datasets = _of_catalog(lambda catalog: [(name, one.spec.title) for name, one in catalog.datasets.items()])
complete_metrics = _of_catalog(lambda catalog: [(name, one.spec.title) for name, one in catalog.metrics.items()])
complete_trackers = _of_catalog(lambda catalog: [(name, one.spec.title) for name, one in catalog.trackers.items()])
complete_executors = _of_catalog(lambda catalog: [(name, one.spec.title) for name, one in catalog.executors.items()])
complete_suites = _of_benchmark(lambda benchmark: [(name, one.title) for name, one in benchmark.suites.items()])
complete_budgets = _of_benchmark(lambda benchmark: [(name, str(one)) for name, one in benchmark.budgets.items()])
complete_protocols = _of_benchmark(lambda benchmark: [(name, one.title) for name, one in benchmark.protocols.items()])
complete_anchors = _of_benchmark(
    lambda benchmark: [*((name, "") for name in benchmark.anchors), ("own", "the table's extrema")]
)
complete_devices = _completer(_devices)


class UserPath(click.Path):
    """A path in which ``~`` is the user's home, also where no shell has expanded it, as behind ``=``."""

    def __init__(self, **rules: Any) -> None:
        super().__init__(path_type=Path, **rules)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        return super().convert(user_path(value), param, ctx)


class NameOrFile(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A name, or a path like ``UserPath``, as a text."""

    name = "name or file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the name or the path."""
        return str(user_path(value)) if value.startswith("~") else value


format_option = click.option(
    "--format",
    "format_",
    type=click.Choice(FORMATS),
    default="table",
    show_default=True,
    help="Output format.",
)
registry_option = click.option(
    "--registry",
    type=UserPath(dir_okay=False),
    metavar="FILE",
    help="Registry file to use instead of the shipped one.",
)
suite_option = click.option(
    "--suite",
    metavar="SUITE",
    shell_complete=complete_suites,
    help="A suite of data sets; 'harness list suites' shows them.",
)
budget_option = click.option(
    "--budget",
    metavar="BUDGET",
    shell_complete=complete_budgets,
    help="Parameter budget to use instead of the suite's; 'harness list budgets' shows them.",
)
runs_option = click.option(
    "--runs",
    type=UserPath(file_okay=False),
    metavar="DIR",
    default=DEFAULT_RUNS,
    show_default=True,
    help="Folder of the results.",
)
data_option = click.option(
    "--data",
    type=UserPath(file_okay=False),
    metavar="DIR",
    default=None,
    help="Folder of the prepared data sets.  [default: $HARNESS_DATA or the user's cache folder]",
)
protocol_option = click.option(
    "--protocol",
    type=NameOrFile(),
    metavar="NAME|FILE.toml",
    shell_complete=complete_protocols,
    help="Protocol to use instead of the suite's: a name from the registry, or your own file.",
)
DEFAULT_LAMBDA = 0.5
lambda_option = click.option(
    "--lambda",
    "lam",
    type=float,
    metavar="L",
    default=DEFAULT_LAMBDA,
    show_default=True,
    help="Weight of the variance.",
)
metric_option = click.option(
    "--metric",
    metavar="METRIC",
    shell_complete=complete_metrics,
    help="Metric to use instead of the protocol's; 'harness list metrics' shows them.",
)
anchors_option = click.option(
    "--anchors",
    type=NameOrFile(),
    metavar="NAME|FILE.toml",
    shell_complete=complete_anchors,
    help="Anchors from the registry, your own frozen ones, or 'own' for the table's extrema.",
)


accuracies_option = click.option(
    "--accuracies",
    type=UserPath(dir_okay=False),
    metavar="FILE.csv",
    help="CSV file to use instead of runs: a column 'model' and a column per data set, in percent.",
)


@dataclass(frozen=True)
class Request:
    """The selected jobs and the folders of their files."""

    selection: Selection
    budget: str | None
    runs: Path
    data: Path | None
    registry: Path | None

    def open(self) -> Workspace:
        """Read the registry, discover the plugins, and put the suite under the user's budget if there is one."""
        workspace = open_workspace(self.runs, self.data, self.registry, protocol=self.selection.protocol)
        return _under_budget(workspace, self.selection.suite, self.budget)


@dataclass(frozen=True, kw_only=True)
class ResultRequest:
    """The selected finished results, and the settings of their score.

    Attributes:
        suite: The suite's name; None for the registry's default.
        lam: Weight of the variance in the score.
        metric: The metric's name; None for the protocol's own.
        anchors: Name or file of the anchors; None for the suite's.
        protocol: Another protocol than the suite's.
        budget: Another budget than the suite's, by name.
        accuracies: A CSV file of accuracies to use instead of runs.
        runs, data, registry: Folders and file.
    """

    suite: str | None = None
    lam: float = DEFAULT_LAMBDA
    metric: str | None = None
    anchors: str | None = None
    protocol: str | None = None
    budget: str | None = None
    accuracies: Path | None = None
    runs: Path = DEFAULT_RUNS
    data: Path | None = None
    registry: Path | None = None

    def open(self) -> Workspace:
        """Read the registry, discover the plugins, and put the suite under the user's protocol and budget, if any."""
        workspace = open_workspace(self.runs, self.data, self.registry, protocol=self.protocol)
        workspace = _under_budget(workspace, self.suite, self.budget)
        if self.protocol is None:
            return workspace
        benchmark = workspace.benchmark
        suite, used = benchmark.suite(self.suite), benchmark.protocol(self.protocol).name
        if used != suite.protocol and used not in benchmark.ablations:
            say(f"The suite '{suite.name}' is designed for {suite.protocol}; these results are of {used}.")
        return replace(workspace, benchmark=under_protocol(benchmark, self.suite, self.protocol))

    def refuse_others(self, reason: str) -> None:
        """Raise WrongUseError if the user named a protocol or a budget, which ``{}`` stands for in the reason."""
        for name in ("protocol", "budget"):
            if getattr(self, name) is not None:
                raise WrongUseError(f"{reason.format(name)}; leave --{name} out.")


def _under_budget(workspace: Workspace, suite: str | None, budget: str | None) -> Workspace:
    if budget is None:
        return workspace
    return replace(workspace, benchmark=under_budget(workspace.benchmark, suite, budget))


def grouped(
    argument: str, make: Callable[..., Any], *options: Callable[..., Any]
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds options to a command and hands their values to it as one argument.

    Args:
        argument: The command's name for the value.
        make: Makes the value from the options' values, by their names.
        options: ``click.option`` and ``click.argument`` decorators, in the order of the help.
    """

    def probe() -> None:
        """Collect the names of the options."""

    for option in options:
        option(probe)
    names = [parameter.name for parameter in probe.__click_params__]  # type: ignore[attr-defined]

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def with_value(*arguments: Any, **values: Any) -> Any:
            chosen = {name: values.pop(name) for name in names}
            return command(*arguments, **values, **{argument: make(**chosen)})

        decorated: Callable[..., Any] = with_value
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate


def result_options(*others: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the options that choose finished results, and hand them to the command as one ResultRequest.

    Args:
        others: Those of ``metric_option``, ``anchors_option``, ``accuracies_option`` and ``protocol_option`` that the
            command has.
    """
    return grouped(
        "request",
        ResultRequest,
        suite_option,
        budget_option,
        lambda_option,
        *others,
        runs_option,
        data_option,
        registry_option,
    )


def _make_request(
    budget: str | None, runs: Path, data: Path | None, registry: Path | None, **selection: Any
) -> Request:
    return Request(Selection(**selection), budget, runs, data, registry)


selection_options = grouped(
    "request",
    _make_request,
    click.argument("models", metavar="[MODEL]...", nargs=-1, shell_complete=complete_models),
    click.option("--all", "all_models", is_flag=True, help="Every installed model."),
    suite_option,
    budget_option,
    click.option(
        "--dataset",
        "datasets",
        metavar="DATASET",
        multiple=True,
        shell_complete=complete_datasets,
        help="Only this data set; repeatable.",
    ),
    click.option(
        "--seeds", type=click.IntRange(1, 10_000), metavar="N", default=1, show_default=True, help="Seeds 0 to N-1."
    ),
    protocol_option,
    runs_option,
    data_option,
    registry_option,
)
"""Adds the options that choose jobs, and hands them to the command as one Request."""


def load(registry: Path | None) -> tuple[Benchmark, Catalog]:
    """Read the registry and discover the plugins."""
    return load_benchmark(registry), discover()


def open_workspace(
    runs: Path = DEFAULT_RUNS, data: Path | None = None, registry: Path | None = None, *, protocol: str | None = None
) -> Workspace:
    """Read the registry, discover the plugins, and name the folders.

    With a protocol, the benchmark contains it under the given name. An ablation is described on stderr.
    """
    from harness.workspace import Workspace

    folder, root = RunsFolder(absolute_path(runs)), data_root(data)
    benchmark, catalog = load(registry)
    if protocol is not None:
        benchmark = find_protocol(benchmark, catalog, folder, protocol)
        found = benchmark.protocol(protocol)
        for sentence in describe_ablation(benchmark, found):
            say(sentence)
        if others := other_contents(benchmark, folder, found):
            say(f"Results of other protocols of this name are ignored: {', '.join(others)}.")
    return Workspace(benchmark, catalog, folder, root)


def data_root(given: Path | None) -> Path:
    """Return the data folder, as an absolute path; call it before plugins are loaded."""
    return absolute_path(given) if given else default_data_root()
