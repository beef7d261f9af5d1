"""A job from its first step to its result: blindness to the test split, resume, failure and fingerprint."""

from __future__ import annotations

import os
import struct
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch

from harness.api import StoppedError
from harness.errors import DatasetError, WrongUseError
from harness.machine import resolve_device
from harness.train import in_progress
from harness.train.checkpoint import Checkpoint, Found, find_checkpoint, load_checkpoint, spare_of
from harness.train.job import run_task
from harness.train.task import Task, build_model, weights_hash
from tests.training import Watch, train

pytestmark = pytest.mark.portable


# ------------------------------------------------------------------------------------------------------- blindness


def test_test_files_stay_closed_until_training_has_ended(task_of: Callable[..., Task]) -> None:
    """Watched from outside: every file that the process opens, against the epochs that have ended."""
    opened: list[tuple[str, int]] = []
    watch = Watch()
    listening = True

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if listening and event == "open" and os.path.basename(str(arguments[0])).startswith("test."):  # noqa: PTH119
            opened.append((Path(str(arguments[0])).name, len(watch.records)))

    task = task_of()
    sys.addaudithook(hook)
    try:
        trained = train(task, watch)
    finally:
        listening = False
    assert {name for name, _ in opened} == {"test.images.npy", "test.labels.npy"}
    assert {epochs for _, epochs in opened} == {3}
    assert trained.result.test_reads == 1


def test_sealed_test_split_opens_once_and_only_after_training(task_of: Callable[..., Task]) -> None:
    sealed = task_of().dataset.sealed_test()
    with pytest.raises(DatasetError, match=r"stays sealed until the last epoch has ended: 2 of 3"):
        sealed.open(epochs_done=2, epochs=3)
    assert sealed.reads == 0
    assert len(sealed.open(epochs_done=3, epochs=3)) == 40
    with pytest.raises(DatasetError, match=r"already read in this run"):
        sealed.open(epochs_done=3, epochs=3)


def test_accuracy_is_of_the_stored_logits(task_of: Callable[..., Task]) -> None:
    trained = train(task_of())
    share = (trained.logits.argmax(dim=1) == trained.labels).double().mean().item()
    assert trained.result.metrics["top1"] == pytest.approx(100 * share)
    assert trained.logits.shape == (40, 4)
    assert trained.result.metrics["top1"] > 60  # the colours can be told apart; a guess gives 25


# ---------------------------------------------------------------------------------------------- resume and failure


@pytest.mark.parametrize("steps", [1, 7, 8, 13, 24])
def test_stopped_run_resumes_to_the_same_bits(steps: int, task_of: Callable[..., Task]) -> None:
    whole = train(task_of(name="whole"))
    task = task_of(name="halves")
    with pytest.raises(StoppedError):
        train(task, Watch(stop_after=steps))
    watch = Watch()
    went_on = train(task, watch)
    assert watch.steps == 24 - steps
    assert went_on.result.weights_sha256 == whole.result.weights_sha256
    assert torch.equal(went_on.logits, whole.logits)
    assert [r.loss for r in went_on.history] == [r.loss for r in whole.history]
    (interruption,) = went_on.result.interruptions
    assert 8 * interruption["epoch"] + interruption["step"] == steps
    assert went_on.result.test_reads == 1


@pytest.mark.parametrize("model", ["convnext", pytest.param("mobileone", marks=pytest.mark.slow)])
def test_real_model_is_resumed_to_the_same_bits_in_its_layout(model: str, task_of: Callable[..., Task]) -> None:
    """ConvNeXt trains in channels_last, MobileOne in the contiguous layout; Adam's averages have the same."""

    def task_at_32_pixels(name: str) -> Task:
        task = task_of(model, name=name)
        return replace(task, protocol=msgspec.structs.replace(task.protocol, input_size=32))

    whole = train(task_at_32_pixels("whole"))
    task = task_at_32_pixels("halves")
    with pytest.raises(StoppedError):
        train(task, Watch(stop_after=13))
    found = load_checkpoint(task.checkpoint, fingerprint=whole.result.fingerprint)
    assert found is not None
    assert found.optimizer is not None
    averages = [state["exp_avg"] for state in found.optimizer["state"].values() if state["exp_avg"].dim() == 4]
    layout = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
    expected = layout[task.model.spec.memory_format]
    assert averages
    assert all(average.is_contiguous(memory_format=expected) for average in averages)
    assert train(task).result.weights_sha256 == whole.result.weights_sha256


def test_stop_between_training_and_result_counts_both_reads(task_of: Callable[..., Task]) -> None:
    task = task_of()
    first = train(task)
    again = train(task)  # as if the process had died before it wrote the result
    assert again.result.test_reads == 2
    assert again.result.weights_sha256 == first.result.weights_sha256


def test_final_checkpoint_holds_the_weights_and_no_optimiser(task_of: Callable[..., Task]) -> None:
    task = task_of()
    built = build_model(task)
    result = run_task(task, built, Found(None), Watch()).result
    checkpoint = load_checkpoint(task.checkpoint, fingerprint=built.fingerprint)
    assert checkpoint is not None
    assert checkpoint.optimizer is None
    assert checkpoint.epoch == 3
    fresh = build_model(task).module
    fresh.load_state_dict(checkpoint.weights)
    assert weights_hash(fresh) == result.weights_sha256


@pytest.mark.parametrize(("pause", "epochs"), [(0.0, [1, 2, 3]), (1e9, [3])])
def test_short_epochs_are_not_saved_but_the_last_one_is(
    task_of: Callable[..., Task], monkeypatch: pytest.MonkeyPatch, pause: float, epochs: list[int]
) -> None:
    """It is saved before the test split is opened, and says that it is."""
    saved = []
    write = in_progress.save_checkpoint

    def noted(path: Path, checkpoint: Checkpoint, **how: bool) -> None:
        saved.append(checkpoint.epoch)
        write(path, checkpoint, **how)

    monkeypatch.setattr(in_progress, "save_checkpoint", noted)
    monkeypatch.setattr("harness.train.save_timer.EPOCH_PAUSE", pause)
    task = task_of()
    train(task)
    assert saved == epochs
    assert spare_of(task.checkpoint).exists() == (len(epochs) > 1)


def inside_the_largest_entry(archive: Path) -> int:
    """Return the place of a byte in the middle of an archive's largest entry."""
    with zipfile.ZipFile(archive) as entries:
        largest = max(entries.infolist(), key=lambda entry: entry.file_size)
    lengths = archive.read_bytes()[largest.header_offset + 26 : largest.header_offset + 30]  # of name and extra field
    return largest.header_offset + 30 + sum(struct.unpack("<HH", lengths)) + largest.file_size // 2


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "pickle", "one_bit", "other_job"])
def test_damaged_checkpoint_falls_back_to_the_spare(damage: str, task_of: Callable[..., Task]) -> None:
    whole = train(task_of(name="whole"))
    task = task_of()
    with pytest.raises(StoppedError):
        train(task, Watch(stop_after=6))
    with pytest.raises(StoppedError):
        train(task, Watch(stop_after=7))  # so there are checkpoints after 6 and 13 steps
    content = task.checkpoint.read_bytes()
    match damage:
        case "truncated":
            task.checkpoint.write_bytes(content[: len(content) // 2])
        case "garbage":
            task.checkpoint.write_bytes(os.urandom(1000))
        case "empty":
            task.checkpoint.write_bytes(b"")
        case "pickle":
            torch.save({"schema": 1, "run": Path}, task.checkpoint)
        case "one_bit":
            place = inside_the_largest_entry(task.checkpoint)  # elsewhere are gaps that hold nothing
            task.checkpoint.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        case "other_job":
            other = task_of(seed=1, name="other")
            train(other)
            task.checkpoint.write_bytes(other.checkpoint.read_bytes())
    found = find_checkpoint(task.checkpoint, fingerprint=build_model(task).fingerprint)
    assert found.checkpoint is not None
    assert (found.checkpoint.epoch, found.checkpoint.step) == (0, 6)
    ((path, sentence),) = found.damaged
    assert path == task.checkpoint
    assert "x.pt" in sentence
    path.unlink()
    watch = Watch()
    went_on = run_task(task, build_model(task), found, watch)
    assert watch.steps == 18
    assert went_on.result.weights_sha256 == whole.result.weights_sha256
    assert [r.loss for r in went_on.history] == [r.loss for r in whole.history]
    (entry,) = went_on.result.interruptions
    assert entry["reason"].startswith(
        "A checkpoint was damaged and set aside; training resumed from the spare at epoch 1, step 7."
    )
    assert entry["reason"] in went_on.result.notes


def test_both_checkpoints_damaged_start_again_and_say_so(task_of: Callable[..., Task]) -> None:
    task = task_of()
    with pytest.raises(StoppedError):
        train(task, Watch(stop_after=13))
    for path in (task.checkpoint, spare_of(task.checkpoint)):
        path.write_bytes(b"")
    found = find_checkpoint(task.checkpoint, fingerprint=build_model(task).fingerprint)
    assert found.checkpoint is None
    assert len(found.damaged) == 2
    assert "training started again" in found.reason


def test_checkpoint_of_schema_2_is_resumed(task_of: Callable[..., Task]) -> None:
    whole = train(task_of(name="whole"))
    task = task_of()
    with pytest.raises(StoppedError):
        train(task, Watch(stop_after=13))
    torch.save(torch.load(task.checkpoint, weights_only=True) | {"schema": 2}, task.checkpoint)
    watch = Watch()
    went_on = train(task, watch)
    assert watch.steps == 24 - 13
    assert went_on.result.weights_sha256 == whole.result.weights_sha256


def test_stop_between_the_two_renames_resumes_from_the_spare(task_of: Callable[..., Task]) -> None:
    whole = train(task_of(name="whole"))
    task = task_of()
    with pytest.raises(StoppedError):
        train(task, Watch(stop_after=13))
    task.checkpoint.replace(spare_of(task.checkpoint))
    watch = Watch()
    went_on = train(task, watch)
    assert watch.steps == 24 - 13
    assert went_on.result.weights_sha256 == whole.result.weights_sha256
    assert "reason" not in went_on.result.interruptions[0]


def test_spare_checkpoint_of_a_finished_run_can_be_replayed(
    task_of: Callable[..., Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.train.save_timer.EPOCH_PAUSE", 0.0)
    task = task_of()
    whole = train(task)
    spare = load_checkpoint(spare_of(task.checkpoint), fingerprint=whole.result.fingerprint)
    assert spare is not None
    assert (spare.epoch, spare.step) == (2, 0)
    assert spare.optimizer is not None


def test_fingerprint_depends_on_all_that_matters(task_of: Callable[..., Task]) -> None:
    base = task_of()
    prints = {
        "base": build_model(base).fingerprint,
        "model": build_model(task_of(model="big")).fingerprint,
        "name": build_model(task_of(model="tiny2")).fingerprint,
        "rate": build_model(task_of(model="gentle")).fingerprint,
        "seed": build_model(task_of(seed=1)).fingerprint,
        "data": build_model(task_of(dataset="grey")).fingerprint,
        "protocol": build_model(
            replace(base, protocol=msgspec.structs.replace(base.protocol, label_smoothing=0.1))
        ).fingerprint,
        "version": build_model(
            replace(base, model=replace(base.model, owner=replace(base.model.owner, version="1.1")))
        ).fingerprint,
    }
    assert len(set(prints.values())) == len(prints)
    assert build_model(task_of()).fingerprint == prints["base"]


def test_declared_learning_rate_is_used_and_recorded(task_of: Callable[..., Task]) -> None:
    watch = Watch()
    result = train(task_of(model="gentle"), watch).result
    assert (result.lr_max, result.lr_exception) == (5e-4, "model")
    assert watch.records[0].lr == 5e-4
    listed = task_of(name="listed")
    listed = replace(listed, protocol=msgspec.structs.replace(listed.protocol, lr_max_exceptions={"tiny": 2e-3}))
    result = train(listed).result
    assert (result.lr_max, result.lr_exception) == (2e-3, "protocol")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda0", ""])
def test_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(WrongUseError, match=r"no device"):
        resolve_device(name)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_run_is_deterministic_and_resumes(task_of: Callable[..., Task]) -> None:
    device = torch.device("cuda")
    whole = train(replace(task_of(name="whole"), device=device))
    again = train(replace(task_of(name="again"), device=device))
    task = replace(task_of(name="halves"), device=device)
    with pytest.raises(StoppedError):
        train(task, Watch(stop_after=13))
    went_on = train(task)
    assert whole.result.weights_sha256 == again.result.weights_sha256 == went_on.result.weights_sha256
