"""The clocks of a profiled run: time spent in a phase is found in that phase, to the last digit."""

from __future__ import annotations

import contextlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.api import Job
from harness.results.profile import Profile, read_profile
from harness.results.store import RunsFolder
from harness.train.clock import Phase, Piece
from harness.train.feeder import Batch, Feeder
from harness.train.pipeline import InputPipeline
from tests.support import Command
from tests.training import FakeTime

JOB = Job("tiny-1.0", "tiny", "dots", 0)
PROFILED = ("tiny", "--dataset", "dots", "--threads", "1", "--profile")
SPENT = 0.25


ALL_ZERO = {phase.value: 0.0 for phase in Phase}


def profile() -> Profile:
    found = read_profile(RunsFolder(Path("runs")).of(JOB))
    assert found is not None
    return found


def test_slow_augmentation_shows_as_augmentation(
    tiny_harness: Command, monkeypatch: pytest.MonkeyPatch, fake_time: FakeTime
) -> None:
    make = InputPipeline.train_batch

    def slow(self: InputPipeline, *given: Any, **named: Any) -> Any:
        fake_time.spend(SPENT)
        return make(self, *given, **named)

    monkeypatch.setattr(InputPipeline, "train_batch", slow)
    tiny_harness("run", *PROFILED)
    assert profile().phases == ALL_ZERO | {"start": SPENT, "augmentation": 24 * SPENT}  # start: the rehearsal
    assert profile().idle == 1  # the processor had nothing to do


def test_slow_store_shows_as_waiting(
    tiny_harness: Command, monkeypatch: pytest.MonkeyPatch, fake_time: FakeTime
) -> None:
    gather = Feeder.batches

    @contextlib.contextmanager
    def slow(self: Feeder, *given: Any, **named: Any) -> Iterator[Iterator[Batch]]:
        with gather(self, *given, **named) as batches:
            yield (fake_time.spend(SPENT) or batch for batch in batches)

    monkeypatch.setattr(Feeder, "batches", slow)
    tiny_harness("run", *PROFILED)
    # The rehearsal at the start gathers 5 batches; 32 test images are one.
    assert profile().phases == ALL_ZERO | {"start": 5 * SPENT, "waiting": 24 * SPENT, "evaluation": SPENT}


@pytest.mark.parametrize(
    ("place", "calls"),
    [
        ("harness.train.in_progress.save_checkpoint", {"checkpoint": 1}),
        ("torch.Tensor.backward", {"start": 1, "backward": 24}),
        ("torch.optim.Adam.step", {"start": 1, "optimizer": 24}),
        (
            "harness.train.loop.F.cross_entropy",
            {"start": 1, "forward": 24, "other": 1},
        ),  # other: once to read off the smoothing
        ("harness.train.loop.Training.predict", {"evaluation": 1}),
        ("harness.train.in_progress.pixel_digest", {"start": 1, "evaluation": 1}),
        ("harness.cli.progress.RunReporter.step_finished", {"other": 24}),
    ],
)
def test_time_is_found_in_its_phase(
    tiny_harness: Command, monkeypatch: pytest.MonkeyPatch, fake_time: FakeTime, place: str, calls: dict[str, int]
) -> None:
    real = pkgutil.resolve_name(place)

    def slow(*given: Any, **named: Any) -> Any:
        fake_time.spend(SPENT)
        return real(*given, **named)

    monkeypatch.setattr(place, slow)
    tiny_harness("run", *PROFILED)
    assert profile().phases == ALL_ZERO | {phase: number * SPENT for phase, number in calls.items()}


def test_idle_share_of_a_cpu_is_the_time_without_work() -> None:
    time = FakeTime()
    watch, of_two, unknown = time.watch(1), time.watch(2), time.watch(None)
    piece, piece_of_two, piece_unknown = Piece(0, 1), Piece(0, 1), Piece(0, 1)
    time.spend(0.25)
    watch.lap(Phase.WAITING, piece)
    assert piece.idle == 1
    time.spend(0.25, busy=0.25)
    watch.lap(Phase.FORWARD, piece)
    assert piece.idle == 0.5
    of_two.lap(Phase.FORWARD, piece_of_two)
    assert piece_of_two.idle == 0.75
    unknown.lap(Phase.FORWARD, piece_unknown)
    assert piece_unknown.idle is None
    time.spend(0.5, busy=0.5)
    watch.lap(Phase.CHECKPOINT, piece)  # no part of the training steps
    assert piece.idle == 0.5
