"""What was executed is seen on the objects that did the work: each knob is turned in the code and must be named."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from harness.api import StoppedError
from harness.catalog import Catalog
from harness.data.store import PreparedDataset, SealedTest, SplitArrays
from harness.train import loop, pipeline, run
from harness.train.checkpoint import find_checkpoint
from harness.train.deviations import (
    COVERAGE,
    accounted_reads,
    compare_facts,
    expected_facts,
    expected_order,
    facts_digest,
)
from harness.train.loop import Training
from harness.train.observe import Witness, applied_moments, applied_smoothing, read_strengths
from harness.train.pipeline import InputPipeline
from harness.train.run import Task, Trained, build_model, deviations_of, run_task
from tests.support import FILES, Command, cell_folder
from tests.training import Watch, train

Patch = pytest.MonkeyPatch
CPU = torch.device("cpu")


def knobs(task: Task, trained: Trained) -> dict[str, Any]:
    assert trained.result.executed is not None
    return {one.knob: one.found for one in deviations_of(task, trained.result.executed)}


# ----------------------------------------------------------------------------------------------------- the truth


def test_run_by_the_protocol_shows_exactly_what_is_expected(task: Task) -> None:
    result = train(task).result
    expected = expected_facts(task.protocol, task.model.spec, task.dataset.manifest, 0)
    assert result.deviations == []
    assert result.executed is not None
    assert set(result.executed) == set(expected)
    assert result.executed_digest == facts_digest(expected)
    # and what is expected is what the registry says, not what the code does
    assert expected["batch_size"] == 8
    assert expected["steps_per_epoch"] == 8
    assert expected["learning_rates"] == pytest.approx([1e-2, (1e-2 + 1e-5) / 2, 1e-5])
    assert [use["name"] for use in expected["augmentations"]] == ["horizontal_flip", "color_jitter", "cutmix"]


@pytest.mark.parametrize("steps", [1, 8, 13, 24])
def test_stopped_run_shows_the_same_facts(steps: int, task: Task, tmp_path: Path) -> None:
    whole = train(replace(task, checkpoint=tmp_path / "whole.pt")).result
    with pytest.raises(StoppedError):
        train(task, Watch(stop_after=steps))
    went_on = train(task).result
    assert len(went_on.interruptions) == 1
    assert went_on.executed == whole.executed
    assert went_on.executed_digest == whole.executed_digest
    assert went_on.deviations == []


def test_facts_of_different_jobs_differ_where_they_should(task: Task) -> None:
    manifest, spec = task.dataset.manifest, task.model.spec
    first = expected_facts(task.protocol, spec, manifest, 0)
    second = expected_facts(task.protocol, spec, manifest, 1)
    assert {one.knob for one in compare_facts(first, second)} == {"order"}
    gentle = expected_facts(task.protocol, task.catalog.model("gentle").spec, manifest, 0)
    assert {one.knob for one in compare_facts(gentle, first)} == {"learning_rates"}


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_run_on_cuda_shows_the_same_facts(task: Task, tmp_path: Path) -> None:
    on_cpu = train(replace(task, checkpoint=tmp_path / "cpu.pt")).result
    on_cuda = train(replace(task, device=torch.device("cuda"))).result
    assert on_cuda.deviations == []
    assert on_cuda.executed_digest == on_cpu.executed_digest
    assert on_cuda.environment["driver"]


def test_hooks_are_gone_after_a_run(task: Task) -> None:
    built = build_model(task)
    run_task(task, built, find_checkpoint(task.checkpoint, fingerprint=built.fingerprint), Watch())
    assert not built.module._forward_hooks


# -------------------------------------------------------------------------------------- each knob, turned in the code


def other_protocol(patch: Patch, **changes: Any) -> None:
    """The training gets another protocol than the job; the configuration still says the right one."""

    def training(**arguments: Any) -> Training:
        protocol = msgspec.structs.replace(arguments["protocol"], **changes)
        return Training(**(arguments | {"protocol": protocol}))

    patch.setattr(run, "Training", training)


def other_optimizer(patch: Patch, kind: type[torch.optim.Optimizer] = torch.optim.Adam, **settings: Any) -> None:
    def build(module: nn.Module, protocol: Any) -> torch.optim.Optimizer:
        return kind(module.parameters(), **({"lr": 1e-2} | settings))  # type: ignore[call-arg]

    patch.setattr(run, "build_optimizer", build)


def other_pipeline(patch: Patch, **change: Callable[[InputPipeline], Any]) -> None:
    def build(*arguments: Any, **named: Any) -> InputPipeline:
        built = pipeline.build_pipeline(*arguments, **named)
        return replace(built, **{name: new(built) for name, new in change.items()})

    patch.setattr(run, "build_pipeline", build)


def in_every_step(patch: Patch, around: Callable[[Any], contextlib.AbstractContextManager[Any]]) -> None:
    step = Training._step

    def wrapped(self: Training, state: Any, order: Any) -> None:
        with around(state):
            step(self, state, order)

    patch.setattr(Training, "_step", wrapped)


def batch_size(patch: Patch) -> None:
    other_protocol(patch, batch_size=4)


def batch_size_in_one_step(patch: Patch) -> None:
    train_batch = InputPipeline.train_batch

    def smaller(self: InputPipeline, *batch: torch.Tensor, **where: Any) -> tuple[torch.Tensor, torch.Tensor]:
        inputs, targets = train_batch(self, *batch, **where)
        count = 6 if (where["epoch"], where["step"]) == (1, 3) else 8
        return inputs[:count], targets[:count]

    patch.setattr(InputPipeline, "train_batch", smaller)


def smoothing_of_another_value(patch: Patch) -> None:
    other_protocol(patch, label_smoothing=0.1)


def smoothing_forgotten(patch: Patch) -> None:
    patch.setattr(loop, "F", SimpleNamespace(cross_entropy=lambda a, b, label_smoothing: F.cross_entropy(a, b)))


def loss_summed(patch: Patch) -> None:
    summed = SimpleNamespace(cross_entropy=lambda a, b, **k: F.cross_entropy(a, b, reduction="sum", **k))
    patch.setattr(loop, "F", summed)


def schedule_constant(patch: Patch) -> None:
    patch.setattr(loop, "learning_rate", lambda epoch, protocol, peak: peak)


def schedule_without_warm_up(patch: Patch) -> None:
    other_protocol(patch, warmup_epochs=0)


def rate_changed_within_an_epoch(patch: Patch) -> None:
    @contextlib.contextmanager
    def around(state: Any) -> Iterator[None]:
        before = state.optimizer.param_groups[0]["lr"]
        state.optimizer.param_groups[0]["lr"] = 5e-3 if (state.epoch, state.step) == (1, 4) else before
        yield
        state.optimizer.param_groups[0]["lr"] = before

    in_every_step(patch, around)


def epochs(patch: Patch) -> None:
    other_protocol(patch, epochs=4)


def steps_left_out(patch: Patch) -> None:
    patch.setattr(Training, "steps", property(lambda self: 7))


def strength(patch: Patch) -> None:
    build = pipeline._build
    patch.setattr(
        pipeline, "_build", lambda spec, use: build(spec, msgspec.structs.replace(use, strengths=weaker(use.strengths)))
    )


def weaker(strengths: dict[str, float]) -> dict[str, float]:
    return {name: 0.1 if name == "hue" else value for name, value in strengths.items()}


def augmentations_in_another_order(patch: Patch) -> None:
    other_pipeline(patch, at_stored=lambda built: dict(reversed(built.at_stored.items())))


def augmentation_dropped(patch: Patch) -> None:
    other_pipeline(patch, at_input=lambda built: {})


def augmentation_moved(patch: Patch) -> None:
    other_pipeline(patch, at_input=lambda built: {}, at_stored=lambda built: {**built.at_stored, **built.at_input})


def input_size(patch: Patch) -> None:
    other_pipeline(patch, input_size=lambda built: 16)


def resizing_by_settings(patch: Patch) -> None:
    patch.setattr(pipeline, "RESIZING", {"mode": "bicubic", "align_corners": False})


def resizing_behind_its_settings(patch: Patch) -> None:
    patch.setattr(InputPipeline, "_upsample", lambda self, images: F.interpolate(images, (12, 12), mode="nearest"))


def normalisation_of_imagenet(patch: Patch) -> None:
    moments = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    other_pipeline(
        patch, **{name: lambda built, v=values: torch.tensor(v).view(1, 3, 1, 1) for name, values in moments.items()}
    )


def normalisation_forgotten(patch: Patch) -> None:
    patch.setattr(InputPipeline, "_normalise", lambda self, images: images)


def evaluation_not_normalised(patch: Patch) -> None:
    patch.setattr(
        InputPipeline, "test_batch", lambda self, images: self._upsample(images.permute(0, 3, 1, 2).float() / 255)
    )


def evaluation_in_train_mode(patch: Patch) -> None:
    predict = Training.predict

    def stubborn(self: Training, module: nn.Module, *rest: Any) -> torch.Tensor:
        module.eval = lambda: module  # type: ignore[method-assign]
        return predict(self, module, *rest)

    patch.setattr(Training, "predict", stubborn)


def training_in_eval_mode(patch: Patch) -> None:
    @contextlib.contextmanager
    def around(state: Any) -> Iterator[None]:
        state.module.eval()
        yield

    in_every_step(patch, around)


def adamw(patch: Patch) -> None:
    other_optimizer(patch, torch.optim.AdamW, weight_decay=0.0)


def sgd(patch: Patch) -> None:
    other_optimizer(patch, torch.optim.SGD)


def betas(patch: Patch) -> None:
    other_optimizer(patch, betas=(0.9, 0.99))


def epsilon(patch: Patch) -> None:
    other_optimizer(patch, eps=1e-6)


def weight_decay(patch: Patch) -> None:
    other_optimizer(patch, weight_decay=1e-4)


def head_alone(patch: Patch) -> None:
    patch.setattr(run, "build_optimizer", lambda module, protocol: torch.optim.Adam(list(module.parameters())[-2:]))


def gradients_added_up(patch: Patch) -> None:
    patch.setattr(torch.optim.Adam, "zero_grad", lambda self, set_to_none=True: None)


def tf32(patch: Patch) -> None:
    @contextlib.contextmanager
    def around(state: Any) -> Iterator[None]:
        torch.set_float32_matmul_precision("high")
        yield
        torch.set_float32_matmul_precision("highest")

    in_every_step(patch, around)


def not_deterministic(patch: Patch) -> None:
    @contextlib.contextmanager
    def around(state: Any) -> Iterator[None]:
        torch.use_deterministic_algorithms(False)
        yield

    in_every_step(patch, around)


def autocast(patch: Patch) -> None:
    in_every_step(patch, lambda state: torch.autocast("cpu", dtype=torch.bfloat16))


def half_of_the_training_images(patch: Patch) -> None:
    open_train = PreparedDataset.open_train

    def half(self: PreparedDataset) -> SplitArrays:
        whole = open_train(self)
        return SplitArrays(whole.images[:32], whole.labels[:32])

    patch.setattr(PreparedDataset, "open_train", half)


def trained_on_test_images(patch: Patch) -> None:
    patch.setattr(PreparedDataset, "open_train", lambda self: SealedTest(self.folder).open(epochs_done=1, epochs=1))


def labels_changed(patch: Patch) -> None:
    open_train = PreparedDataset.open_train

    def changed(self: PreparedDataset) -> SplitArrays:
        whole = open_train(self)
        return SplitArrays(whole.images, (whole.labels + 1) % 4)

    patch.setattr(PreparedDataset, "open_train", changed)


def part_of_the_test_images(patch: Patch) -> None:
    opened = SealedTest.open

    def part(self: SealedTest, **arguments: int) -> SplitArrays:
        whole = opened(self, **arguments)
        return SplitArrays(whole.images[:30], whole.labels[:30])

    patch.setattr(SealedTest, "open", part)


def read_twice(patch: Patch) -> None:
    opened = SealedTest.open

    def twice(self: SealedTest, **arguments: int) -> SplitArrays:
        opened(self, **arguments)
        self.reads = 0
        whole = opened(self, **arguments)
        self.reads = 2
        return whole

    patch.setattr(SealedTest, "open", twice)


def not_shuffled(patch: Patch) -> None:
    patch.setattr(loop, "torch", SimpleNamespace(**{**vars(torch), "randperm": lambda n, generator: torch.arange(n)}))


def same_order_every_epoch(patch: Patch) -> None:
    patch.setattr(loop, "generator", lambda seed, purpose, epoch: torch.Generator().manual_seed(seed))


SABOTAGE = [
    (batch_size, "batch_size"),
    (batch_size, "steps_per_epoch"),
    (batch_size_in_one_step, "batch_size"),
    (smoothing_of_another_value, "label_smoothing"),
    (smoothing_forgotten, "label_smoothing"),
    (loss_summed, "loss"),
    (schedule_constant, "learning_rates"),
    (schedule_without_warm_up, "learning_rates"),
    (rate_changed_within_an_epoch, "learning_rates"),
    (epochs, "epochs"),
    (steps_left_out, "steps_per_epoch"),
    (strength, "augmentations"),
    (augmentations_in_another_order, "augmentations"),
    (augmentation_dropped, "augmentations"),
    (augmentation_moved, "augmentations"),
    (input_size, "input_size"),
    (resizing_by_settings, "resizing"),
    (resizing_behind_its_settings, "resizing"),
    (normalisation_of_imagenet, "normalisation"),
    (normalisation_forgotten, "normalisation"),
    (evaluation_not_normalised, "evaluation"),
    (evaluation_in_train_mode, "evaluation"),
    (training_in_eval_mode, "mode"),
    (adamw, "optimizer"),
    (sgd, "optimizer"),
    (betas, "optimizer"),
    (epsilon, "optimizer"),
    (weight_decay, "optimizer"),
    (head_alone, "trained_parameters"),
    (gradients_added_up, "gradients"),
    (tf32, "numerics"),
    (not_deterministic, "numerics"),
    (autocast, "precision"),
    (half_of_the_training_images, "train_images"),
    (trained_on_test_images, "data"),
    (labels_changed, "data"),
    (part_of_the_test_images, "test_images"),
    (read_twice, "test_reads"),
    (not_shuffled, "order"),
    (same_order_every_epoch, "order"),
]


@pytest.mark.parametrize(("sabotage", "knob"), SABOTAGE, ids=[f"{s.__name__}-{k}" for s, k in SABOTAGE])
def test_turned_knob_is_named(sabotage: Callable[[Patch], None], knob: str, task: Task, monkeypatch: Patch) -> None:
    sabotage(monkeypatch)
    trained = train(task)
    found = knobs(task, trained)
    assert knob in found
    assert any(sentence.startswith(f"{knob} was ") for sentence in trained.result.deviations)
    # The configuration is untouched: nothing but the execution could give it away.
    assert trained.result.protocol_digest == task.protocol.digest
    assert trained.result.executed_digest != facts_digest(
        expected_facts(task.protocol, task.model.spec, task.dataset.manifest, 0)
    )


def test_knob_that_changed_on_the_way_shows_both_values(task: Task, monkeypatch: Patch) -> None:
    batch_size_in_one_step(monkeypatch)
    trained = train(task)
    assert knobs(task, trained) == {"batch_size": {"varied": [8, 6]}}
    assert trained.result.deviations == ["batch_size was 8 and 6 by turns, expected 8"]


def test_sabotage_before_a_stop_is_still_seen_after_it(task: Task, monkeypatch: Patch) -> None:
    with monkeypatch.context() as patch:
        smoothing_forgotten(patch)
        with pytest.raises(StoppedError):
            train(task, Watch(stop_after=3))
    found = knobs(task, train(task))
    assert found == {"label_smoothing": {"varied": [0.0, 0.05]}}


def test_data_that_changed_between_two_processes_is_seen(task: Task) -> None:
    with pytest.raises(StoppedError):
        train(task, Watch(stop_after=3))
    images = np.load(task.dataset.folder / "train.images.npy")
    images[0, 0, 0, 0] += 1
    np.save(task.dataset.folder / "train.images.npy", images)
    assert set(knobs(task, train(task))) == {"data"}


# ------------------------------------------------------------------------------------------- the parts, on their own


@pytest.mark.parametrize("smoothing", [0.0, 0.05, 0.1, 0.37])
def test_smoothing_is_solved_for_from_the_numbers(smoothing: float) -> None:
    logits = torch.randn(32, 10, generator=torch.Generator().manual_seed(0))
    targets = F.one_hot(torch.arange(32) % 10, 10).float()
    loss = F.cross_entropy(logits, targets, label_smoothing=smoothing).item()
    assert applied_smoothing(logits, targets, loss, smoothing) == (smoothing, True)
    found, sure = applied_smoothing(logits, targets, loss, 0.9)
    assert found == pytest.approx(smoothing, abs=6e-4)
    assert sure
    assert applied_smoothing(logits, targets, loss * 3 + 5, 0.05) == (None, True)


def test_smoothing_counts_as_declared_where_the_numbers_cannot_tell() -> None:
    """Equal logits give the same loss with any smoothing."""
    logits, targets = torch.zeros(4, 3), F.one_hot(torch.arange(4) % 3, 3).float()
    loss = F.cross_entropy(logits, targets, label_smoothing=0.05).item()
    assert applied_smoothing(logits, targets, loss, 0.05) == (0.05, False)
    assert applied_smoothing(logits, targets, loss + 1, 0.05) == (None, True)


def test_moments_are_solved_for_from_the_numbers() -> None:
    before = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1), torch.tensor([0.2, 0.25, 0.3]).view(1, 3, 1, 1)
    after = (before - mean) / std
    assert applied_moments(before, after, mean, std) == {"mean": mean.flatten().tolist(), "std": std.flatten().tolist()}
    found = applied_moments(before, after, torch.zeros_like(mean), torch.ones_like(std))
    assert found["mean"] == pytest.approx([0.4, 0.5, 0.6], abs=1e-4)
    assert found["std"] == pytest.approx([0.2, 0.25, 0.3], abs=1e-4)


def test_strengths_are_read_from_the_transform_where_it_says_them(tiny_catalog: Catalog) -> None:
    built = tiny_catalog.augmentation("horizontal_flip").spec.build(p=0.9)
    assert read_strengths(built, {"p": 0.5}) == {"p": 0.9}
    assert read_strengths(lambda images, targets, random: (images, targets), {"p": 0.5}) == {"p": 0.5}


def test_order_is_a_fresh_permutation_every_epoch_and_drops_the_rest() -> None:
    assert expected_order(0, 23, 8, 2) != expected_order(0, 24, 8, 2)
    assert len({expected_order(seed, 23, 8, 2) for seed in range(4)}) == 4
    assert expected_order(0, 23, 8, 1) != expected_order(0, 23, 8, 2)


@pytest.mark.parametrize(
    ("reads", "at", "counted"),
    [(1, [], 1), (0, [], 0), (2, [], 2), (2, [1], 2), (2, [3], 1), (1, [3], 1), (3, [3], 3), (3, [3, 3], 1)],
)
def test_second_read_of_the_test_split_counts_unless_a_stop_explains_it(
    reads: int, at: list[int], counted: int
) -> None:
    assert accounted_reads(reads, [{"epoch": epoch, "step": 0} for epoch in at], epochs=3) == counted


def test_state_goes_through_a_checkpoint(task: Task) -> None:
    train(task)
    fingerprint = build_model(task).fingerprint
    checkpoint = find_checkpoint(task.checkpoint, fingerprint=fingerprint).checkpoint
    assert checkpoint is not None
    again = Witness(json.loads(json.dumps(checkpoint.witnessed)))
    assert again.state() == checkpoint.witnessed


# ------------------------------------------------------------------------------------------------- what users see

CELL = cell_folder()


def test_deviating_run_is_kept_and_marked_but_does_not_count(tiny_harness: Command, monkeypatch: Patch) -> None:
    with monkeypatch.context() as patch:
        smoothing_forgotten(patch)
        ran = tiny_harness("run", "tiny", "--format", "json")
    alone = tiny_harness("leaderboard")
    assert alone.code == 3
    assert "Left out, not trained by the protocol: tiny on bars, seed 0: label_smoothing was 0.0" in alone.err
    tiny_harness("run", "gentle", "tiny2")
    assert ran.code == 0
    assert {row["state"] for row in ran.rows} == {"done"}
    assert all("not counted: label_smoothing was 0.0, expected 0.05" in row["detail"] for row in ran.rows)
    board = tiny_harness("leaderboard", "--format", "json")
    assert {row["model"] for row in board.rows} == {"gentle", "tiny2"}
    assert "Left out, not trained by the protocol: tiny on dots, seed 0: label_smoothing was 0.0" in board.err
    verified = tiny_harness("verify", str(CELL), "--format", "json")
    assert verified.code == 1
    failed = [row for row in verified.rows if row["verdict"] == "failed"]
    assert [(row["check"], row["found"], row["expected"]) for row in failed] == [
        ("executed: label_smoothing", 0.0, 0.05)
    ]


def test_half_way_run_of_an_earlier_harness_goes_on(tiny_harness: Command) -> None:
    """Its first steps were not watched; what can be compared is, and the rest says so."""
    old = FILES / "schema-1" / "tiny-1.0" / "tiny" / "dots" / "seed-1"
    shutil.copytree(old, "runs/tiny-1.0/tiny/dots/seed-1")
    ran = tiny_harness("run", "tiny", "--dataset", "dots", "--seeds", "2")
    assert ran.code == 0
    result = json.loads(Path("runs/tiny-1.0/tiny/dots/seed-1/result.json").read_text())
    assert [(entry["epoch"], entry["step"]) for entry in result["interruptions"]] == [(1, 5)]
    assert result["executed"][COVERAGE] == [1, 5]
    assert result["deviations"] == []
    verified = tiny_harness("verify", "runs", "--format", "json")
    assert verified.code == 0
    skipped = [row for row in verified.rows if row["verdict"] == "skipped"]
    assert [row["run"] for row in skipped] == ["runs/tiny-1.0/tiny/dots/seed-1"]
    assert "before epoch 2, step 6 was not watched" in skipped[0]["detail"]
    tiny_harness("run", "tiny", "--dataset", "dots", "--seeds", "2", "--runs", "fresh")
    fresh = json.loads(Path("fresh/tiny-1.0/tiny/dots/seed-1/result.json").read_text())
    assert fresh["weights_sha256"] == result["weights_sha256"]
