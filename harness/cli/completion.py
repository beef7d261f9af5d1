"""What the shell offers for names: installed models, data sets and metrics, suites, protocols, executors, devices.

Runs at each press of the Tab key, so it imports nothing heavy, and says nothing whatever goes wrong: a broken plugin or
registry is for the command itself to explain.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeAlias

import click
from click.shell_completion import CompletionItem

from harness.catalog import Catalog, discover
from harness.errors import HarnessError
from harness.registry import Benchmark, load_benchmark

Completer: TypeAlias = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]

_Names: TypeAlias = Iterable[tuple[str, str]]


def _of_catalog(names: Callable[[Catalog], _Names]) -> Completer:
    return _completer(lambda _: names(discover()))


def _of_benchmark(names: Callable[[Benchmark], _Names]) -> Completer:
    return _completer(lambda context: names(load_benchmark(_registry(context))))


def _completer(names: Callable[[click.Context], _Names]) -> Completer:
    """Offer names that begin with what was typed and are not on the line yet; shells that can show the titles too."""

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        # What a plugin prints while it is imported must be neither a suggestion nor in the middle of the user's line.
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), contextlib.suppress(HarnessError):
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
    # Which of them this machine has is torch's to say, and importing it takes seconds.
    return [("auto", "CUDA where there is one"), ("cpu", ""), ("cuda", ""), ("cuda:0", ""), ("mps", "not comparable")]


def _citation(paper: str) -> str:
    return re.sub(r"\s+", " ", paper)


models = _of_catalog(lambda catalog: [(name, _citation(one.spec.paper)) for name, one in catalog.models.items()])
datasets = _of_catalog(lambda catalog: [(name, one.spec.title) for name, one in catalog.datasets.items()])
metrics = _of_catalog(lambda catalog: [(name, one.spec.title) for name, one in catalog.metrics.items()])
trackers = _of_catalog(lambda catalog: [(name, one.spec.title) for name, one in catalog.trackers.items()])
executors = _of_catalog(lambda catalog: [(name, one.spec.title) for name, one in catalog.executors.items()])
suites = _of_benchmark(lambda benchmark: [(name, one.title) for name, one in benchmark.suites.items()])
budgets = _of_benchmark(lambda benchmark: [(name, str(one)) for name, one in benchmark.budgets.items()])
protocols = _of_benchmark(lambda benchmark: [(name, one.title) for name, one in benchmark.protocols.items()])
anchors = _of_benchmark(lambda benchmark: [*((name, "") for name in benchmark.anchors), ("own", "the table's extrema")])
devices = _completer(_devices)
