"""Changes of the training code, each with the setting that must be named as a deviation."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from harness.data.prepared import PreparedDataset, SealedTest, SplitArrays
from harness.train import in_progress, loop, pipeline, setup, task
from harness.train.loop import Training
from harness.train.pipeline import InputPipeline, Normalise, Resize

Patch = pytest.MonkeyPatch


def other_protocol(patch: Patch, **changes: Any) -> None:
    """The training gets another protocol than the job; the configuration still says the right one."""

    def training(**arguments: Any) -> Training:
        protocol = msgspec.structs.replace(arguments["protocol"], **changes)
        return Training(**(arguments | {"protocol": protocol}))

    patch.setattr(task, "Training", training)


def other_optimizer(patch: Patch, kind: type[torch.optim.Optimizer] = torch.optim.Adam, **settings: Any) -> None:
    def build(module: nn.Module, protocol: Any) -> torch.optim.Optimizer:
        return kind(module.parameters(), **({"lr": 1e-2} | settings))  # type: ignore[call-arg]

    patch.setattr(in_progress, "build_optimizer", build)


def other_stages(patch: Patch, change: Callable[[list[Any]], Sequence[Any]]) -> None:
    def build(*arguments: Any, **named: Any) -> InputPipeline:
        built = setup.build_pipeline(*arguments, **named)
        return replace(built, stages=change(list(built.stages)))

    patch.setattr(task, "build_pipeline", build)


def in_every_step(patch: Patch, around: Callable[[Any], contextlib.AbstractContextManager[Any]]) -> None:
    step = Training.step

    def wrapped(self: Training, state: Any, *rest: Any) -> torch.Tensor:
        with around(state):
            return step(self, state, *rest)

    patch.setattr(Training, "step", wrapped)


def batch_size(patch: Patch) -> None:
    other_protocol(patch, batch_size=4)


def batch_size_in_one_step(patch: Patch) -> None:
    train_batch = InputPipeline.train_batch

    def smaller(self: InputPipeline, *batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        inputs, targets = train_batch(self, *batch)
        position = batch[2]
        count = 6 if (position.epoch, position.step) == (1, 3) else 8
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
    build = setup._build
    patch.setattr(
        setup,
        "_build",
        lambda catalog, use: build(catalog, msgspec.structs.replace(use, strengths=weaker(use.strengths))),
    )


def weaker(strengths: dict[str, float]) -> dict[str, float]:
    return {name: 0.1 if name == "hue" else value for name, value in strengths.items()}


def augmentations_in_another_order(patch: Patch) -> None:
    other_stages(patch, lambda stages: [stages[1], stages[0], *stages[2:]])


def augmentation_dropped(patch: Patch) -> None:
    other_stages(patch, lambda stages: [stage for stage in stages if getattr(stage, "name", "") != "cutmix"])


def augmentation_moved(patch: Patch) -> None:
    other_stages(patch, lambda stages: [*stages[:2], stages[3], stages[2], stages[4]])


def input_size(patch: Patch) -> None:
    other_stages(patch, lambda stages: [*stages[:2], Resize(16), *stages[3:]])


def resizing_by_settings(patch: Patch) -> None:
    patch.setattr(pipeline, "RESIZING", {"mode": "bicubic", "align_corners": False})


def resizing_behind_its_settings(patch: Patch) -> None:
    patch.setattr(Resize, "__call__", lambda self, images: F.interpolate(images, (12, 12), mode="nearest"))


def normalisation_of_imagenet(patch: Patch) -> None:
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    other_stages(patch, lambda stages: [*stages[:4], Normalise(mean, std)])


def normalisation_forgotten(patch: Patch) -> None:
    patch.setattr(Normalise, "__call__", lambda self, images: images)


def evaluation_not_normalised(patch: Patch) -> None:
    test_batch = InputPipeline.test_batch
    patch.setattr(
        InputPipeline,
        "test_batch",
        lambda self, *batch: test_batch(replace(self, stages=self.stages[:-1]), *batch),
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
    patch.setattr(
        in_progress, "build_optimizer", lambda module, protocol: torch.optim.Adam(list(module.parameters())[-2:])
    )


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


def as_in_older_stores(patch: Patch) -> None:
    """Let training begin on other images: older stores hold no hash of a split that could be compared."""
    patch.setattr(PreparedDataset, "require_pixels", lambda *_: None)


def half_of_the_training_images(patch: Patch) -> None:
    as_in_older_stores(patch)
    open_train = PreparedDataset.open_train

    def half(self: PreparedDataset) -> SplitArrays:
        whole = open_train(self)
        return SplitArrays(whole.images[:32], whole.labels[:32])

    patch.setattr(PreparedDataset, "open_train", half)


def trained_on_test_images(patch: Patch) -> None:
    as_in_older_stores(patch)
    patch.setattr(PreparedDataset, "open_train", lambda self: SealedTest(self).open(epochs_done=1, epochs=1))


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
