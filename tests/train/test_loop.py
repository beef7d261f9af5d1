"""The frozen protocol, step by step, against independent references; and its randomness."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from harness.catalog import Catalog
from harness.data.prepared import SplitArrays
from harness.errors import DatasetError, TrainingError
from harness.registry import Benchmark, load_benchmark
from harness.train.environment import frozen_numerics
from harness.train.feeder import Feeder
from harness.train.loop import Training
from harness.train.observer import Observer
from harness.train.pipeline import Augment, InputPipeline, Normalise, Resize
from harness.train.schedule import learning_rate
from harness.train.seeds import Position, derive_seed, generator
from harness.train.setup import build_optimizer, build_pipeline
from harness.train.state import TrainingState
from harness.train.task import Task
from tests.support import TINY_PLUGIN, TINY_REGISTRY
from tests.training import Watch, train

pytestmark = pytest.mark.portable


CPU = torch.device("cpu")


# ---------------------------------------------------------------------------------------------------- the protocol


def test_schedule_is_the_closed_form() -> None:
    protocol = load_benchmark().protocol("xscore-1.0")
    rates = [learning_rate(epoch, protocol, 1e-3) for epoch in range(100)]
    assert rates[:5] == pytest.approx([2e-4, 4e-4, 6e-4, 8e-4, 1e-3], rel=1e-12)
    assert rates[99] == pytest.approx(1e-5, rel=1e-12)
    # 47.5 epochs into the cosine is its middle; by hand for a third of the way down.
    assert (rates[51] + rates[52]) / 2 == pytest.approx((1e-3 + 1e-5) / 2, rel=1e-3)
    assert rates[5 + 19 - 1] == pytest.approx(1e-5 + 0.99e-3 * (1 + math.cos(math.pi / 5)) / 2, rel=1e-12)
    assert all(a > b for a, b in itertools.pairwise(rates[4:]))
    assert learning_rate(4, protocol, 1e-4) == pytest.approx(1e-4)


def test_optimizer_uses_the_scheduled_rate_in_every_epoch(task_of: Callable[..., Task]) -> None:
    task = task_of()
    watch = Watch()
    train(task, watch)
    expected = [learning_rate(epoch, task.protocol, task.protocol.lr_max) for epoch in range(3)]
    assert [record.lr for record in watch.records] == expected
    assert [record.epoch for record in watch.records] == [0, 1, 2]


def small_training(benchmark: Benchmark, catalog: Catalog, count: int = 16) -> Training:
    protocol = benchmark.protocol("tiny-1.0")
    random = np.random.default_rng(0)
    split = SplitArrays(
        random.integers(0, 256, (count, 10, 10, 3), dtype=np.uint8), random.integers(0, 4, count).astype(np.int64)
    )
    pipeline = build_pipeline(protocol, catalog, num_classes=4, moments=((0.4, 0.5, 0.6), (0.2, 0.25, 0.3)), device=CPU)
    return Training(protocol, 1e-2, 3, split, pipeline, CPU, "channels_last")


def test_one_step_is_a_plain_pytorch_step(tiny_benchmark: Benchmark, tiny_catalog: Catalog) -> None:
    """Gather, augment, normalise, forward, loss, backward and Adam, written out without the library."""
    training = small_training(tiny_benchmark, tiny_catalog)
    protocol = training.protocol
    module = tiny_catalog.model("tiny").spec.build(4)
    reference = tiny_catalog.model("tiny").spec.build(4)
    reference.load_state_dict(module.state_dict())
    state = TrainingState(module, build_optimizer(module, protocol), torch.zeros(training.steps))
    for group in state.optimizer.param_groups:
        group["lr"] = 1e-2
    order = torch.randperm(16, generator=generator(3, "shuffle", 0)).numpy()
    module.train()
    chosen = order[:8]
    with Feeder(training.train, CPU).batches(order, size=8) as batches:
        loss = training.step(state, next(batches), Observer())
        state.losses[0] = loss

    x = torch.from_numpy(training.train.images[chosen]).permute(0, 3, 1, 2).float() / 255
    y = F.one_hot(torch.from_numpy(training.train.labels[chosen]), 4).float()
    for use in protocol.augmentations:
        if use.at == "input":
            x = F.interpolate(x, size=(12, 12), mode="bilinear", align_corners=False)
        transform = tiny_catalog.augmentation(use.name).spec.build(**use.strengths)
        x, y = transform(x, y, torch.Generator().manual_seed(derive_seed(3, "augment", use.name, 0, 0)))
    x = (x - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)) / torch.tensor([0.2, 0.25, 0.3]).view(3, 1, 1)
    torch.manual_seed(derive_seed(3, "forward", 0, 0))
    reference.train()
    logs = F.log_softmax(reference(x), dim=1)
    smoothed = y * 0.95 + 0.05 / 4
    loss = -(smoothed * logs).sum(dim=1).mean()
    loss.backward()
    # Adam by its definition: after one step every weight moves by lr * g / (|g| + eps).
    with torch.no_grad():
        for parameter in reference.parameters():
            assert parameter.grad is not None
            m, v = 0.1 * parameter.grad, 0.001 * parameter.grad**2
            parameter -= 1e-2 * (m / (1 - 0.9)) / ((v / (1 - 0.999)).sqrt() + 1e-8)
    assert state.losses[0].item() == pytest.approx(loss.item(), rel=1e-5)
    for (name, found), expected in zip(module.named_parameters(), reference.parameters(), strict=True):
        # Where a gradient is all rounding error its sign, and so the direction of Adam's first step, is arbitrary.
        sure = expected.grad.abs() > 1e-6  # type: ignore[union-attr]
        torch.testing.assert_close(found[sure], expected[sure], rtol=1e-3, atol=1e-5, msg=name)
        assert sure.float().mean() > 0.9


def test_mixed_targets_give_the_lambda_weighted_loss() -> None:
    """CutMix's loss is written for two label vectors; on mixed targets it is the same number."""
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    first, second, lam = torch.tensor([0, 1, 2, 3, 4, 0]), torch.tensor([1, 1, 0, 4, 2, 3]), 0.3
    two = lam * F.cross_entropy(logits, first, label_smoothing=0.05) + (1 - lam) * F.cross_entropy(
        logits, second, label_smoothing=0.05
    )
    mixed = lam * F.one_hot(first, 5) + (1 - lam) * F.one_hot(second, 5)
    assert F.cross_entropy(logits, mixed, label_smoothing=0.05).item() == pytest.approx(two.item(), rel=1e-6)


def test_augmentations_act_where_the_protocol_says(tiny_benchmark: Benchmark, tiny_catalog: Catalog) -> None:
    sizes: dict[str, tuple[int, ...]] = {}

    def spy(name: str) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
        def transform(
            images: torch.Tensor, targets: torch.Tensor, random: torch.Generator
        ) -> tuple[torch.Tensor, torch.Tensor]:
            sizes[name] = tuple(images.shape)
            assert images.min() >= 0
            assert images.max() <= 1
            return images, targets

        return transform

    zero, one = torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1)
    early, late = Augment("early", "stored", spy("early")), Augment("late", "input", spy("late"))
    pipeline = InputPipeline((early, Resize(12), late, Normalise(zero, one)), 4)
    images = torch.randint(0, 256, (8, 10, 10, 3), dtype=torch.uint8)
    inputs, targets = pipeline.train_batch(images, torch.arange(8) % 4, Position(0, 0, 0))
    assert sizes == {"early": (8, 3, 10, 10), "late": (8, 3, 12, 12)}
    assert inputs.shape == (8, 3, 12, 12)
    assert inputs.dtype == targets.dtype == torch.float32
    torch.testing.assert_close(inputs, pipeline.test_batch(images))


def test_partial_batch_is_dropped_and_every_epoch_reshuffled(tiny_benchmark: Benchmark, tiny_catalog: Catalog) -> None:
    training = small_training(tiny_benchmark, tiny_catalog, count=23)
    assert training.steps == 2
    orders = [torch.randperm(23, generator=generator(3, "shuffle", epoch)).tolist() for epoch in range(3)]
    assert len({tuple(order) for order in orders}) == 3


# ------------------------------------------------------------------------------------------------------ randomness


def test_same_seed_same_bits_in_two_processes(task_of: Callable[..., Task], tmp_path: Path) -> None:
    script = (
        "import sys; sys.argv = ['harness']; from harness.cli import main; "
        "main(['run', 'tiny', '--dataset', 'dots', '--registry', {registry!r}, '--runs', {runs!r}, '--format', 'json'])"
    )
    hashes = []
    for name in ("one", "two"):
        runs = tmp_path / name
        code = script.format(registry=str(TINY_REGISTRY), runs=str(runs))
        environment = os.environ | {"PYTHONPATH": str(TINY_PLUGIN)}
        subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True)
        result = msgspec.json.decode((runs / "tiny-1.0/tiny/dots/seed-0/result.json").read_bytes())
        hashes.append(result["weights_sha256"])
    here = train(task_of()).result.weights_sha256
    assert hashes == [here, here]


def test_seed_and_data_set_change_the_weights(task_of: Callable[..., Task]) -> None:
    first = train(task_of(name="a")).result
    assert train(task_of(name="b")).result.weights_sha256 == first.weights_sha256
    assert train(task_of(seed=1, name="c")).result.weights_sha256 != first.weights_sha256
    assert train(task_of(dataset="bars", name="d")).result.weights_sha256 != first.weights_sha256


def test_run_leaves_the_global_generator_alone(task_of: Callable[..., Task]) -> None:
    torch.manual_seed(7)
    expected = torch.get_rng_state()
    train(task_of())
    assert torch.equal(torch.get_rng_state(), expected)


def test_run_restores_numeric_flags_and_uses_frozen_ones() -> None:
    torch.set_float32_matmul_precision("high")
    try:
        with frozen_numerics():
            assert torch.get_float32_matmul_precision() == "highest"
            assert torch.are_deterministic_algorithms_enabled()
            assert not torch.backends.cudnn.allow_tf32
        assert torch.get_float32_matmul_precision() == "high"
        assert not torch.are_deterministic_algorithms_enabled()
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("workspace", [None, ":16:8"])
def test_frozen_numerics_put_every_setting_back(workspace: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "CUBLAS_WORKSPACE_CONFIG"
    monkeypatch.delenv(name, raising=False)
    if workspace is not None:
        monkeypatch.setenv(name, workspace)
    filling: Any = torch.utils.deterministic
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setattr(filling, "fill_uninitialized_memory", True)

    def settings() -> list[object]:
        return [
            torch.get_float32_matmul_precision(),
            torch.backends.cudnn.allow_tf32,
            torch.backends.cudnn.benchmark,
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            filling.fill_uninitialized_memory,
            os.environ.get(name),
        ]

    before = settings()
    with frozen_numerics():
        assert settings() == ["highest", False, False, True, True, False, workspace or ":4096:8"]
    assert settings() == before


# ---------------------------------------------------------------------------------------------- resume and failure


def test_undefined_loss_fails_with_epoch_and_step(task_of: Callable[..., Task]) -> None:
    with pytest.raises(TrainingError, match=r"became nan in epoch 2 of 3, step 4 of 8"):
        train(task_of(model="diverging"))


def test_wrong_output_shape_fails(task_of: Callable[..., Task]) -> None:
    with pytest.raises(TrainingError, match=r"logits of shape \(8, 5\), expected \(8, 4\)"):
        train(task_of(model="misshapen"))


def test_fewer_images_than_a_batch_fail(task_of: Callable[..., Task]) -> None:
    task = task_of()
    task = replace(task, protocol=msgspec.structs.replace(task.protocol, batch_size=65))
    with pytest.raises(DatasetError, match=r"64 training images, fewer than one batch of 65"):
        train(task)
