"""``harness score``: accuracies, from runs or from a file, to xScores; and the anchors that make the scale."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.catalog import Catalog
from harness.cli.leaderboard import (
    ablation_of,
    anchors_option,
    lambda_option,
    measured_board,
    metric_option,
    print_board,
)
from harness.cli.options import (
    data_option,
    data_root,
    format_option,
    load_under,
    protocol_option,
    registry_option,
    runs_option,
    suite_option,
)
from harness.cli.output import print_rows
from harness.errors import CannotContinueError, WrongUseError
from harness.registry import Benchmark, Protocol

if TYPE_CHECKING:
    import pandas as pd

    from harness.api import MetricSpec
    from harness.report.rows import Leaderboard
    from harness.score import Anchors

accuracies_option = click.option(
    "--accuracies",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.csv",
    help="A table instead of runs: column 'model', one column a data set, in percent.",
)


@click.command()
@suite_option
@lambda_option
@anchors_option
@accuracies_option
@metric_option
@click.option("--make-anchors", metavar="NAME", help="Freeze the table's extrema as RUNS/anchors/NAME.toml.")
@click.option("--sensitivity", is_flag=True, help="Ranks at lambda 0 to 2, and where models change places.")
@protocol_option
@runs_option
@data_option
@registry_option
@format_option
def score(
    suite: str | None, lam: float, anchors_name: str | None, accuracies: Path | None, metric: str | None,
    make_anchors: str | None, sensitivity: bool, protocol: str | None, runs: Path,
    data: Path | None, registry: Path | None, format_: str,
) -> None:  # fmt: skip
    """Compute xScores from finished runs, or from a CSV file of accuracies in percent.

    A file is scored over its own columns, or over a suite's with --suite. Values above 1 and below 0 are kept: a model
    may be better or worse than all that the anchors were made from.

    \b
    harness score --accuracies mine.csv
    harness score --suite pocket --metric macro_f1
    harness score --suite pocket --make-anchors lab-2026
    harness score --suite pocket --anchors lab-2026 --sensitivity
    """
    if accuracies is not None and protocol:
        raise WrongUseError("A file given with --accuracies has no protocol that could be known; leave --protocol out.")
    benchmark, catalog = load_under(registry, suite, protocol, runs)
    root = data_root(data)
    if make_anchors:
        _make_anchors(benchmark, catalog, runs, root, suite, metric, accuracies, make_anchors)
        anchors_name = anchors_name or make_anchors
    notes: tuple[str, ...] = ()
    if accuracies is not None:
        spec = _metric_of_file(benchmark, catalog, suite, metric)
        board = _board_of_file(benchmark, accuracies, runs, suite, lam, anchors_name, spec, data_names(catalog))
        percent = True
        higher = True
    else:
        collected, board = measured_board(
            benchmark, catalog, runs, root, suite=suite, lam=lam, metric=metric, anchors_name=anchors_name
        )
        notes = collected.notes
        higher = collected.metric.higher_is_better
        percent = higher and collected.metric.name == collected.protocol.metric
    if sensitivity:
        _print_sensitivity(board, format_, higher=higher, percent=percent)
    else:
        print_board(board.models, format_, ablation=ablation_of(benchmark, suite))
    for note in (*notes, *board.notes):
        click.echo(note, err=True)


def data_names(catalog: Catalog) -> list[str]:
    """Names of the installed data sets."""
    return list(catalog.datasets)


def _metric_of_file(benchmark: Benchmark, catalog: Catalog, suite: str | None, metric: str | None) -> MetricSpec:
    own = benchmark.protocol(benchmark.suite(suite).protocol).metric
    if metric is not None and metric != own:
        raise WrongUseError(
            f"A file given with --accuracies holds {own} in percent; --metric {metric} needs stored predictions. "
            "Leave --accuracies out to use finished runs."
        )
    return catalog.metric(own).spec


def _make_anchors(
    benchmark: Benchmark, catalog: Catalog, runs: Path, data: Path, suite: str | None, metric: str | None,
    accuracies: Path | None, name: str,
) -> None:  # fmt: skip
    """Freeze the extrema of all complete models, and say where."""
    from harness.report.anchor_files import anchor_file, freeze
    from harness.score import read_accuracies
    from harness.score.frozen import write_anchors

    if name in benchmark.anchors:
        raise WrongUseError(f"The registry has anchors named '{name}' already, and they never change; choose another.")
    path = anchor_file(runs, name)
    protocol: Protocol | None = None
    if accuracies is not None:
        frame = read_accuracies(accuracies)
        frame = _suite_columns(frame, benchmark, suite, accuracies)
        spec = _metric_of_file(benchmark, catalog, suite, metric)
    else:
        collected, board = measured_board(
            benchmark, catalog, runs, data, suite=suite, lam=0.5, metric=metric, anchors_name="own"
        )
        frame, spec, protocol = board.accuracies.dropna(), collected.metric, collected.protocol
    if len(frame) < 2:
        raise CannotContinueError(f"Anchors need at least two complete models; there are {len(frame)}.")
    frozen = freeze(name, frame, spec, protocol)
    written = write_anchors(path, frozen)
    click.echo(
        f"{'Froze' if written else 'Found the same'} anchors '{name}' ({len(frame)} models, digest {frozen.digest}) "
        f"{'in' if written else 'already in'} {path}.",
        err=True,
    )


def _suite_columns(frame: pd.DataFrame, benchmark: Benchmark, suite: str | None, path: Path) -> pd.DataFrame:
    """Return the columns of the suite that was asked for, all for none."""
    if suite is None:
        return frame
    datasets = list(benchmark.suite(suite).datasets)
    absent = [name for name in datasets if name not in frame.columns]
    if absent:
        raise CannotContinueError(f"{path}: the suite '{suite}' needs a column for: {', '.join(absent)}.")
    return frame[datasets]


def table_and_anchors(
    benchmark: Benchmark, path: Path, runs: Path, suite: str | None, name: str | None, metric: MetricSpec,
    installed: list[str], *, fall_back: bool = False,
) -> tuple[pd.DataFrame, Anchors, str]:  # fmt: skip
    """Read a file of accuracies and find its anchors.

    Without a name these are the suite's fixed ones, and unknown data sets are refused; with ``fall_back`` a file about
    other data sets is normalised by its own extrema. Returns the table, the anchors, and a sentence about them.
    """
    from harness.report.anchor_files import OWN, find_anchors, own_anchors, registry_anchors
    from harness.score import read_accuracies

    default = benchmark.suite(suite).anchors
    # With anchors of one's own the names of the data sets are one's own matter too.
    check = None if name or default is None or fall_back else sorted({*benchmark.datasets, *installed})
    frame = _suite_columns(read_accuracies(path, known=check), benchmark, suite, path)
    if name is not None and name != OWN:
        found = find_anchors(name, benchmark, runs, metric=metric, protocol=None)
        return frame, found, ""
    if name is None and default is not None:
        fixed = registry_anchors(benchmark.anchor_table(default))
        if not fall_back or set(frame.columns) <= set(fixed.datasets):
            fixed.require(frame.columns)
            return frame, fixed, ""
    own = own_anchors(frame, str(path), "Add models to the file, or say --anchors NAME.")
    return frame, own, f"Normalised by the best and the worst of the file itself ({own.name})."


def _board_of_file(
    benchmark: Benchmark, path: Path, runs: Path, suite: str | None, lam: float, name: str | None, metric: MetricSpec,
    installed: list[str],
) -> Leaderboard:  # fmt: skip
    from dataclasses import replace

    from harness.report.ranking import ScoreSettings, leaderboard_of_table

    frame, anchors, note = table_and_anchors(benchmark, path, runs, suite, name, metric, installed)
    sizes = {dataset: facts.test for dataset, facts in benchmark.datasets.items()}
    board = leaderboard_of_table(frame, anchors, ScoreSettings(lam, metric.name), sizes)
    over = f"Scored over the {len(frame.columns)} data sets of {path}: {', '.join(frame.columns)}."
    return replace(board, notes=tuple(text for text in (over, note, *board.notes) if text))


def _print_sensitivity(board: Leaderboard, format_: str, *, higher: bool, percent: bool) -> None:
    """Print the ranks at several lambdas as further columns, and every change of places as a sentence."""
    from harness.score import lambda_sensitivity

    frame = board.accuracies if higher else -board.accuracies
    found = lambda_sensitivity(frame, board.anchors, percent=percent)
    ranks = {str(model): {f"{lam:g}": int(rank) for lam, rank in row.items()} for model, row in found.ranks.iterrows()}
    unranked = {f"{lam:g}": None for lam in found.ranks}
    full = [row.as_row() | {"rank_by_lambda": ranks.get(row.model, unranked)} for row in board.models]
    if format_ in ("json", "csv"):
        print_rows(full, format_)
    else:
        columns = {"model": "model", "xscore": "xScore", "mean": "mean", "variance": "variance"}
        columns |= {f"rank_by_lambda.{lam:g}": f"rank at {lam:g}" for lam in found.ranks}
        print_rows(full, format_, columns=columns, digits=dict.fromkeys(("xscore", "mean", "variance"), 3))
    for change in found.crossings.to_dict("records"):
        click.echo(f"At lambda {change['lambda']:.2f} {change['overtaking']} passes {change['overtaken']}.", err=True)
    if found.crossings.empty:
        click.echo("No two models change places between lambda 0 and 2.", err=True)
