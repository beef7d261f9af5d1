"""Faults around results: what metrics return, what is written and read again."""

from __future__ import annotations

from tests.reported.conftest import Bench

NAN_METRIC = """
from harness.api import MetricSpec, hookimpl

@hookimpl
def harness_metrics():  # an AUROC of a class that the test split lacks is undefined
    return [MetricSpec(name="auroc", unit="", higher_is_better=True, compute=lambda logits, labels: float("nan"))]
"""


def test_an_undefined_metric_leaves_a_readable_result(bench: Bench) -> None:
    bench.put("auroc", NAN_METRIC)
    ran = bench.harness("run", "okay", *bench.quick)
    assert ran.code == 0, ran.err
    assert bench.state("okay") == "done"
