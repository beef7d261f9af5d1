"""TensorBoard's files, read back with its own tools after real runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support import Command, read_result
from tests.xscore_plugins.tracked import CELL, RUN, spec_of, stop_and_go_on, tracked_run

# Of the tools' own making, on import or use.
pytestmark = [
    pytest.mark.usefixtures("own_settings"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*noload.*"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning"),
]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_holds_the_curves_and_the_metrics(tiny_harness: Command) -> None:
    tiny_harness(*RUN, "--track", "tensorboard")
    (folder,) = Path("runs/tracking/tensorboard/tiny-1.0/tiny/dots").iterdir()
    assert folder.name.startswith("seed-0-")
    found = scalars(folder)
    history = [json.loads(line) for line in (CELL / "history.jsonl").read_text().splitlines()]
    for name in ("loss", "lr", "images_per_second"):
        assert [step for step, _ in found[f"train/{name}"]] == [0, 1, 2]
        assert [value for _, value in found[f"train/{name}"]] == pytest.approx([line[name] for line in history])
    ((step, top1),) = found["test/top1"]
    assert step == 2
    assert top1 == pytest.approx(read_result(CELL)["metrics"]["top1"])


@pytest.mark.parametrize("closed", [True, False])
def test_tensorboard_resumes_without_repeating_an_epoch(closed: bool, place: Path) -> None:
    run = tracked_run(place)
    stop_and_go_on(spec_of("tensorboard"), run, closed=closed)
    (folder,) = place.glob("*/*/*/*")
    found = scalars(folder)
    assert [step for step, _ in found["train/loss"]] == [0, 1, 2, 3]
    assert [value for _, value in found["train/loss"]] == pytest.approx([2.0, 1.0, 2 / 3, 0.5])
    assert found["test/nll"] == [(3, 1.25)]


def test_tensorboard_keeps_the_settings_and_the_reason_of_a_failure(place: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = spec_of("tensorboard").open(tracked_run(place))
    tracker.run_failed("TrainingError: the loss became nan")
    tracker.close()
    (folder,) = place.glob("*/*/*/*")
    events = EventAccumulator(str(folder)).Reload()
    (settings,) = events.Tensors("run/text_summary")
    assert b"| lr_max | 0.01 |" in settings.tensor_proto.string_val[0]
    assert b"tiny-plugin 1.0" in settings.tensor_proto.string_val[0]
    (failed,) = events.Tensors("failed/text_summary")
    assert failed.tensor_proto.string_val[0] == b"TrainingError: the loss became nan"
