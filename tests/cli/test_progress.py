"""The live display of a run."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from harness.api import EpochRecord, Job, LogReporter, Shares, StopSignal
from harness.cli.progress import RunReporter
from harness.registry import Benchmark
from harness.train.clock import Piece, shares_of

JOB = Job("tiny-1.0", "tiny", "dots", 0)


def test_display_shows_the_shares(
    tiny_benchmark: Benchmark, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = shares_of(Piece(2, 8, {"waiting": 0.01, "augmentation": 0.06, "forward": 0.93}, idle=0.02))
    assert str(shares) == "data 1 %, augment 6 %, device idle 2 %"
    assert str(replace(shares, idle=None)) == "data 1 %, augment 6 %"
    record = EpochRecord(epoch=2, lr=1e-3, loss=1.23, images_per_second=812.0, seconds=1.0)
    monkeypatch.setattr("harness.cli.progress._LINE_SECONDS", 0.0)
    monkeypatch.setattr("harness.api.execution._LINE_SECONDS", 0.0)
    for reporter in (RunReporter(1, tiny_benchmark.protocol("tiny-1.0"), StopSignal()), LogReporter(StopSignal())):
        reporter.job_started(JOB)
        reporter.profiled(JOB, shares)
        reporter.epoch_finished(JOB, record)
        assert "loss 1.230, 812 images/s, data 1 %, augment 6 %, device idle 2 %\n" in capsys.readouterr().err


@pytest.mark.parametrize(("columns", "broken"), [(100, True), (160, False)])
def test_narrow_bar_shows_the_shares_on_a_line_of_their_own(
    tiny_benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch, columns: int, broken: bool
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    reporter = RunReporter(1, tiny_benchmark.protocol("tiny-1.0"), StopSignal())
    reporter.job_started(JOB)
    reporter.profiled(JOB, Shares(0, 0.01, 0.06, 0.02))
    reporter.step_finished(JOB, 0, 3, 8, 1.5)
    assert reporter._progress is not None
    detail = reporter._progress.tasks[-1].fields["detail"]
    assert detail.startswith("epoch 1 of 3, loss 1.500")
    assert detail.endswith(("\n" if broken else ", ") + "data 1 %, augment 6 %, device idle 2 %")
