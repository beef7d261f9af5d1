"""Checkpoints on disk: plain state dicts that keep their layouts, and files of earlier schemas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from harness.train.checkpoint import SCHEMA, Checkpoint, find_checkpoint, load_checkpoint, save_checkpoint
from tests.support import FILES

HALF_WAY = FILES / "f6f7df7" / "half-way" / "tiny-1.0" / "tiny" / "dots" / "seed-0"
"""A run of commit f6f7df7 that was stopped after 13 steps; its checkpoint has schema 3. test_old_files resumes it."""
FINGERPRINT = json.loads((HALF_WAY / "job.json").read_text())["fingerprint"]


def stepped(memory_format: torch.memory_format) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A small network with batch norm, and its Adam after a step."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    module = net.to(memory_format=memory_format)
    optimizer = torch.optim.Adam(module.parameters(), fused=True)
    module(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    return module, optimizer


def checkpoint_of(module: nn.Module, optimizer: torch.optim.Optimizer) -> Checkpoint:
    return Checkpoint(
        fingerprint="f",
        epoch=0,
        step=1,
        weights=module.state_dict(),
        optimizer=optimizer.state_dict(),
        losses=torch.zeros(8),
        history=(),
        started="2026-11-25T00:00:00+00:00",
        seconds=1.0,
        epoch_seconds=1.0,
        test_reads=0,
        interruptions=(),
    )


def leaves(tree: Any) -> list[Any]:
    if isinstance(tree, dict):
        return [leaf for value in tree.values() for leaf in leaves(value)]
    if isinstance(tree, list | tuple):
        return [leaf for value in tree for leaf in leaves(value)]
    return [tree]


# ---------------------------------------------------------------------------------------------------------- schema 4


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_checkpoint_keeps_values_types_and_strides(memory_format: torch.memory_format, tmp_path: Path) -> None:
    module, optimizer = stepped(memory_format)
    before = checkpoint_of(module, optimizer)
    save_checkpoint(tmp_path / "x.pt", before)
    after = load_checkpoint(tmp_path / "x.pt", fingerprint="f")
    assert after is not None
    assert before.optimizer is not None
    assert after.optimizer is not None
    assert after.optimizer["param_groups"] == before.optimizer["param_groups"]
    pairs = zip(leaves([before.weights, before.optimizer]), leaves([after.weights, after.optimizer]), strict=True)
    tensors = [(one, other) for one, other in pairs if isinstance(one, torch.Tensor)]
    assert len(tensors) == 9 + 3 * 6
    for one, other in tensors:
        assert other.dtype == one.dtype
        assert other.stride() == one.stride()
        assert torch.equal(other, one)
    assert after.optimizer["state"][0]["exp_avg"].is_contiguous(memory_format=memory_format)


def test_checkpoint_of_a_run_in_progress_holds_state_dicts(tmp_path: Path) -> None:
    module, optimizer = stepped(torch.channels_last)
    save_checkpoint(tmp_path / "x.pt", checkpoint_of(module, optimizer))
    content = torch.load(tmp_path / "x.pt", weights_only=True)
    assert content["schema"] == SCHEMA == 4
    fresh, its_optimizer = stepped(torch.contiguous_format)
    fresh.load_state_dict(content["weights"])
    its_optimizer.load_state_dict(content["optimizer"])
    assert all(torch.equal(fresh.state_dict()[name], value) for name, value in module.state_dict().items())


# ---------------------------------------------------------------------------------------------------------- schema 3


def test_checkpoint_of_schema_3_is_read_with_its_layouts() -> None:
    assert torch.load(HALF_WAY / "checkpoint.pt", weights_only=True)["schema"] == 3
    found = load_checkpoint(HALF_WAY / "checkpoint.pt", fingerprint=FINGERPRINT)
    assert found is not None
    assert found.optimizer is not None
    assert (found.epoch, found.step) == (1, 5)
    assert list(found.weights) == [
        "0.weight", "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked",
        "6.weight", "6.bias",
    ]  # fmt: skip
    assert found.weights["1.num_batches_tracked"].item() == 13
    averages = found.optimizer["state"][0]
    assert averages["step"].item() == 13.0
    for tensor in (found.weights["0.weight"], averages["exp_avg"], averages["exp_avg_sq"]):
        assert tensor.shape == (8, 3, 3, 3)
        assert tensor.is_contiguous(memory_format=torch.channels_last)


def test_tensors_read_from_schema_3_share_no_memory() -> None:
    found = load_checkpoint(HALF_WAY / "checkpoint.pt", fingerprint=FINGERPRINT)
    assert found is not None
    storages = {
        leaf.untyped_storage().data_ptr()
        for leaf in leaves([found.weights, found.optimizer])
        if isinstance(leaf, torch.Tensor)
    }
    assert len(storages) == 8 + 3 * 5


@pytest.mark.parametrize("lost", ["numbers", "tensors", "tree"])
def test_checkpoint_of_schema_3_that_lacks_something_is_damaged(lost: str, tmp_path: Path) -> None:
    content = torch.load(HALF_WAY / "checkpoint.pt", weights_only=True)
    if lost == "numbers":
        content["optimizer"]["tensors"][0] = content["optimizer"]["tensors"][0][:5].clone()
    else:
        content["optimizer"].pop(lost)
    torch.save(content, tmp_path / "x.pt")
    (damaged,) = find_checkpoint(tmp_path / "x.pt", fingerprint=FINGERPRINT).damaged
    assert "lacks something" in damaged[1]
