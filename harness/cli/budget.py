"""``harness check-budget``: count a model's parameters and multiply-adds, and compare them with a budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from harness.catalog import Catalog
from harness.cli.common_options import (
    budget_option,
    complete_models,
    format_option,
    load,
    registry_option,
    suite_option,
)
from harness.cli.output import Command, print_rows
from harness.errors import BudgetError, PluginError
from harness.plan import dataset_facts, select_models
from harness.registry import Benchmark, Counting


@click.command("check-budget", cls=Command)
@click.argument("models", metavar="[MODEL]...", nargs=-1, shell_complete=complete_models)
@click.option("--all", "all_models", is_flag=True, help="Every installed model.")
@suite_option
@budget_option
@registry_option
@format_option
def check_budget(
    models: tuple[str, ...],
    all_models: bool,
    suite: str | None,
    budget: str | None,
    registry: Path | None,
    format_: str,
) -> int:
    """Count a model's trainable parameters and multiply-adds with fvcore, and judge them by a budget.

    Parameters are counted as trained, head included, at every class count of the benchmark, or of one suite with
    --suite. Multiply-adds are those of one image of 224 x 224 pixels. The budget is the suite's unless --budget names
    another; 'harness list budgets' shows them. Exits with 1 if a model is over the budget, does not build, or does not
    return logits.

    \b
    harness check-budget mynet
    harness check-budget mynet --budget 5M
    harness check-budget --all --format markdown
    """
    benchmark, catalog = load(registry)
    chosen = select_models(catalog, models, all_models=all_models)
    limits = benchmark.budget(budget or benchmark.suite(suite).budget)
    counting = benchmark.counting if suite is None else _counting_of(benchmark, catalog, suite)
    from harness.budget import check_offer
    from harness.models import call_with_model

    rows: list[dict[str, Any]] = []
    failures: list[str] = []
    for name in chosen:
        try:
            report = call_with_model(check_offer, catalog.model(name), limits, counting)
        except (BudgetError, PluginError) as error:
            failures.append(str(error))
            continue
        rows.append(report.as_row())
    print_rows(rows, format_, columns=_columns(counting.classes))
    for row in rows if format_ == "table" else ():
        _explain(row)
    for failure in failures:
        click.echo(failure, err=True)
    over = [row["model"] for row in rows if row["verdict"] == "over"]
    if over:
        click.echo(f"Over the budget {limits}: {', '.join(over)}.", err=True)
    return 1 if over or failures else 0


def _counting_of(benchmark: Benchmark, catalog: Catalog, suite: str) -> Counting:
    """Return the sizes for counting with the class counts of a suite's data sets."""
    classes = {dataset_facts(benchmark, catalog, name).classes for name in benchmark.suite(suite).datasets}
    return msgspec.structs.replace(benchmark.counting, classes=tuple(sorted(classes)))


def _columns(class_counts: Any) -> dict[str, str]:
    return {
        "model": "model",
        **{f"parameters.{count}": f"@{count}" for count in class_counts},
        "deployed": "deployed",
        "macs": "MACs",
        "budget": "budget",
        "limit": "limit",
        "verdict": "verdict",
    }


def _explain(row: dict[str, Any]) -> None:
    """Print the operators that fvcore did not count, and the notes."""
    uncounted = ", ".join(f"{name} x{calls}" for name, calls in row["uncounted_operators"].items())
    if uncounted:
        click.echo(f"{row['model']}: fvcore does not count {uncounted}.", err=True)
    for note in row["notes"]:
        click.echo(f"{row['model']}: {note}", err=True)
