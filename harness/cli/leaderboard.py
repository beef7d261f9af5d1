"""``harness leaderboard``: who is good everywhere?"""

from __future__ import annotations

from pathlib import Path

import click

from harness.cli.options import (
    data_option,
    data_root,
    format_option,
    load,
    registry_option,
    runs_option,
    suite_option,
)
from harness.cli.output import print_rows
from harness.errors import CannotContinueError
from harness.plan import Selection, build_plan
from harness.results.store import RunsFolder
from harness.score import DEFAULT_LAMBDA


@click.command()
@suite_option
@click.option("--lambda", "lam", type=float, default=DEFAULT_LAMBDA, show_default=True, help="Weight of the variance.")
@runs_option
@data_option
@registry_option
@format_option
def leaderboard(
    suite: str | None, lam: float, runs: Path, data: Path | None, registry: Path | None, format_: str
) -> None:
    """Rank the installed models by xScore: the mean of normalised accuracies minus lambda times their variance.

    Only finished results that are still current count; 'harness status' shows the others.

    \b
    harness leaderboard --suite pocket
    harness leaderboard --lambda 1 --format latex
    """
    from harness.execute.survey import Surveyor
    from harness.report.leaderboard import build_leaderboard

    benchmark, catalog = load(registry)
    runs_folder = RunsFolder(runs)
    base = build_plan(benchmark, catalog, Selection(all_models=True, suite=suite))
    seeds = {job.seed for job in runs_folder.jobs(base.protocol.name)}
    plan = build_plan(benchmark, catalog, Selection(all_models=True, suite=suite, seeds=max(seeds, default=0) + 1))
    cells = Surveyor(benchmark, catalog, runs_folder, data_root(data), remember=True).survey(plan).cells
    results = [cell.result for cell in cells if cell.state == "done" and cell.result]
    stale = [cell for cell in cells if cell.state == "stale"]
    if stale:
        click.echo(f"Note: {len(stale)} stale results are not counted; 'harness status' shows why.", err=True)
    if not results and not (runs / base.protocol.name).is_dir():
        raise CannotContinueError(
            f"There are no results under {runs}. Run: harness run --all --suite {base.suite.name}"
        )
    board = build_leaderboard(benchmark, base.suite, results, lam=lam)
    columns = {"rank": "rank", "model": "model", "xscore": "xScore", "mean": "mean", "variance": "variance"}
    columns |= {f"accuracy.{name}": name.replace("_", " ") for name in base.suite.datasets}
    digits = dict.fromkeys(("xscore", "mean", "variance"), 3)
    print_rows(board.rows, format_, columns=columns, digits=digits)
    for note in board.notes:
        click.echo(note, err=True)
