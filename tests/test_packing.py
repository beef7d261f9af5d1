"""Many small tensors in a few large ones, and back."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import nn

from harness.train.packing import pack, unpack


def stepped(memory_format: torch.memory_format) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A small network with batch norm, and its Adam after a step."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    module = net.to(memory_format=memory_format)
    optimizer = torch.optim.Adam(module.parameters(), fused=True)
    module(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    return module, optimizer


def leaves(tree: Any) -> list[Any]:
    if isinstance(tree, dict):
        return [leaf for value in tree.values() for leaf in leaves(value)]
    if isinstance(tree, list | tuple):
        return [leaf for value in tree for leaf in leaves(value)]
    return [tree]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_network_and_optimiser_come_back_as_they_were_layouts_included(memory_format: torch.memory_format) -> None:
    module, optimizer = stepped(memory_format)
    tree = {"weights": dict(module.state_dict()), "optimizer": optimizer.state_dict()}
    file = io.BytesIO()
    torch.save(pack(tree), file)
    file.seek(0)
    back = unpack(torch.load(file, weights_only=True))
    assert back.keys() == tree.keys()
    assert back["optimizer"]["param_groups"] == tree["optimizer"]["param_groups"]
    pairs = list(zip(leaves(tree), leaves(back), strict=True))
    tensors = [(before, after) for before, after in pairs if isinstance(before, torch.Tensor)]
    assert len(tensors) == 9 + 3 * 6
    for before, after in tensors:
        assert after.dtype == before.dtype
        assert after.stride() == before.stride()
        assert torch.equal(after, before)
    assert back["optimizer"]["state"][0]["exp_avg"].is_contiguous(memory_format=memory_format)


def test_one_tensor_for_each_type_and_none_shared_afterwards() -> None:
    tree: dict[str, Any] = {
        "a": torch.arange(3.0),
        "b": [torch.tensor(2.0), torch.tensor([True])],
        "c": (torch.zeros(0), "text", None),
    }
    packed = pack(tree)
    assert sorted(len(tensor) for tensor in packed["tensors"]) == [1, 4]
    back = unpack(packed)
    assert back["c"][1:] == ("text", None)
    assert (back["a"].tolist(), back["b"][0].item(), back["b"][1].tolist()) == ([0.0, 1.0, 2.0], 2.0, [True])
    assert back["c"][0].shape == (0,)
    back["a"].fill_(9.0)
    assert back["b"][0].item() == 2.0
    assert tree["a"].tolist() == [0.0, 1.0, 2.0], "what was packed is left as it is"


def test_views_with_gaps_and_overlaps_come_back_dense() -> None:
    whole = torch.arange(12.0).view(3, 4)
    views = {"column": whole[:, 1], "transposed": whole.t(), "repeated": torch.ones(1).expand(5), "part": whole[1:]}
    back = unpack(pack(views))
    for name, view in views.items():
        assert torch.equal(back[name], view), name


def test_nothing_to_pack() -> None:
    assert unpack(pack({})) == {}
