"""Options that several commands share, and what they lead to."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from harness.catalog import Catalog, discover
from harness.cli import completion
from harness.data.store import default_data_root
from harness.plan import Selection
from harness.protocol_file import describe_ablation, under_protocol
from harness.registry import Benchmark, load_benchmark
from harness.results.protocols import find_protocol, other_contents
from harness.results.store import RunsFolder

FORMATS = ("table", "json", "csv", "markdown", "latex")

format_option = click.option(
    "--format",
    "format_",
    type=click.Choice(FORMATS),
    default="table",
    show_default=True,
    help="How to print the data.",
)
registry_option = click.option(
    "--registry",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Another registry file than the shipped one.",
)
suite_option = click.option(
    "--suite",
    metavar="SUITE",
    shell_complete=completion.suites,
    help="A suite of data sets; 'harness list suites' shows them.",
)
runs_option = click.option(
    "--runs",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    default=Path("runs"),
    show_default=True,
    help="Folder of the results.",
)
data_option = click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    default=None,
    help="Folder of the prepared data sets.  [default: $HARNESS_DATA or the user's cache folder]",
)
protocol_option = click.option(
    "--protocol",
    metavar="NAME|FILE.toml",
    shell_complete=completion.protocols,
    help="Another protocol than the suite's: the registry's, or a file of your own.",
)
track_option = click.option(
    "--track",
    metavar="TRACKER",
    multiple=True,
    shell_complete=completion.trackers,
    envvar="HARNESS_TRACK",
    show_envvar=True,
    help="Follow the runs in this tool; repeatable. 'harness list trackers' shows them.",
)


@dataclass(frozen=True)
class Request:
    """Which jobs a user means, and where their files are."""

    selection: Selection
    runs: RunsFolder
    data_root: Path
    registry: Path | None

    def load(self) -> tuple[Benchmark, Catalog]:
        """Read the registry, the user's protocol if there is one, and look at the installed plugins."""
        return load(self.registry, self.selection.protocol, self.runs)


def selection_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that choose jobs, and hand them to the command as one Request."""

    @functools.wraps(command)
    def with_request(
        models: tuple[str, ...],
        all_models: bool,
        suite: str | None,
        datasets: tuple[str, ...],
        seeds: int,
        protocol: str | None,
        runs: Path,
        data: Path | None,
        registry: Path | None,
        **others: Any,
    ) -> Any:
        selection = Selection(models, all_models, suite, datasets, seeds, protocol)
        return command(Request(selection, RunsFolder(runs), data_root(data), registry), **others)

    decorated: Callable[..., Any] = with_request
    for decorate in reversed(
        (
            click.argument("models", metavar="[MODEL]...", nargs=-1, shell_complete=completion.models),
            click.option("--all", "all_models", is_flag=True, help="Every installed model."),
            suite_option,
            click.option(
                "--dataset",
                "datasets",
                metavar="DATASET",
                multiple=True,
                shell_complete=completion.datasets,
                help="Only this data set; repeatable.",
            ),
            click.option(
                "--seeds",
                type=click.IntRange(min=1),
                metavar="N",
                default=1,
                show_default=True,
                help="Seeds 0 to N-1.",
            ),
            protocol_option,
            runs_option,
            data_option,
            registry_option,
        )
    ):
        decorated = decorate(decorated)
    return decorated


def load(
    registry: Path | None, protocol: str | None = None, runs: RunsFolder | None = None
) -> tuple[Benchmark, Catalog]:
    """Read the registry and look at the installed plugins.

    With a protocol, the benchmark knows it by what the user gave, and stderr says so where it is an ablation.
    """
    benchmark, catalog = load_benchmark(registry), discover()
    if protocol is None or runs is None:
        return benchmark, catalog
    benchmark = find_protocol(benchmark, catalog, runs, protocol)
    found = benchmark.protocol(protocol)
    for sentence in describe_ablation(benchmark, found):
        click.echo(sentence, err=True)
    if others := other_contents(benchmark, runs, found):
        click.echo(
            f"There are also results of other contents of this name, which are not looked at: {', '.join(others)}.",
            err=True,
        )
    return benchmark, catalog


def load_under(registry: Path | None, suite: str | None, protocol: str | None, runs: Path) -> tuple[Benchmark, Catalog]:
    """Read like ``load``, and put the suite under the protocol, where one is given."""
    benchmark, catalog = load(registry, protocol, RunsFolder(runs))
    if protocol is None:
        return benchmark, catalog
    own, used = benchmark.suite(suite).protocol, benchmark.protocol(protocol).name
    if used != own and used not in benchmark.ablations:
        click.echo(
            f"The suite '{benchmark.suite(suite).name}' is made for {own}; these results are of {used}.", err=True
        )
    return under_protocol(benchmark, suite, protocol), catalog


def data_root(given: Path | None) -> Path:
    """Return the data folder."""
    return given or default_data_root()
