"""Multiply-adds of single operators, against counts by hand and against torch's own counter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from harness.macs import einsum_products, measure_macs
from harness.models import count_parameters

Compute = Callable[["Mix", torch.Tensor], torch.Tensor]


class Mix(nn.Module):
    """Computes with one image as a map x of 3 channels by 4 x 4 pixels, and weights of its own."""

    def __init__(self, compute: Compute) -> None:
        super().__init__()
        self.compute = compute
        self.square = nn.Parameter(torch.randn(3, 3))
        self.wide = nn.Parameter(torch.randn(3, 5))
        self.vector = nn.Parameter(torch.randn(3))
        self.phase = nn.Parameter(torch.randn(3, 5, dtype=torch.complex64))
        self.pairs = nn.Bilinear(3, 4, 5)
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2, groups=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.compute(self, x)


def matrix(x: torch.Tensor) -> torch.Tensor:
    return x[0].flatten(1).T  # (16, 3)


EXACT: dict[str, tuple[Compute, int]] = {
    "matmul": (lambda m, x: matrix(x) @ m.wide, 16 * 3 * 5),
    "einsum as matmul": (lambda m, x: torch.einsum("bchw,cd->bdhw", x, m.wide), 16 * 3 * 5),
    "einsum without an arrow": (lambda m, x: torch.einsum("ij,jk", matrix(x), m.wide), 16 * 3 * 5),
    "einsum with an ellipsis": (lambda m, x: torch.einsum("b...d,de->b...e", x.permute(0, 2, 3, 1), m.wide), 240),
    "einsum that sums first": (lambda m, x: torch.einsum("bchw,cd->bd", x, m.wide), 3 * 5),
    "einsum of one operand": (lambda m, x: torch.einsum("bchw->bc", x), 0),
    "einsum of three": (lambda m, x: torch.einsum("ij,jk,kl->il", matrix(x), m.square, m.wide), 16 * 9 + 16 * 15),
    "einsum of four": (
        lambda m, x: torch.einsum("ij,jk,kl,lm->im", matrix(x), m.square, m.square, m.wide),
        16 * 9 + 16 * 9 + 16 * 15,
    ),
    "attention by einsum": (lambda m, x: torch.einsum("bchw,bcij->bhwij", x, x), 16 * 16 * 3),
    "tensordot": (lambda m, x: torch.tensordot(x, m.wide, dims=([1], [0])), 16 * 3 * 5),
    "tensordot over two axes": (lambda m, x: torch.tensordot(x, x, dims=([2, 3], [2, 3])), 9 * 16),
    "inner": (lambda m, x: torch.inner(matrix(x), m.square), 16 * 3 * 3),
    "mv": (lambda m, x: matrix(x) @ m.vector, 16 * 3),
    "dot": (lambda m, x: torch.dot(m.vector, m.vector), 3),
    "addmv": (lambda m, x: torch.addmv(x.flatten()[:16], matrix(x), m.vector), 16 * 3),
    "baddbmm": (
        lambda m, x: torch.baddbmm(torch.zeros(2, 16, 5), matrix(x).expand(2, 16, 3), m.wide.expand(2, 3, 5)),
        2 * 16 * 3 * 5,
    ),
    "addbmm": (
        lambda m, x: torch.addbmm(torch.zeros(16, 5), matrix(x).expand(2, 16, 3), m.wide.expand(2, 3, 5)),
        2 * 16 * 3 * 5,
    ),
    "bilinear": (lambda m, x: m.pairs(matrix(x), x.flatten()[:16, None].expand(16, 4)), 16 * (5 * 3 * 4 + 5 * 4)),
    "transposed convolution in groups": (lambda m, x: m.up(torch.cat([x, x], 1)), 16 * 3 * 2 * 2 * 2 * 2),
    "attention of fewer keys": (
        lambda m, x: nn.functional.scaled_dot_product_attention(
            matrix(x).view(1, 1, 16, 3), matrix(x)[:7].view(1, 1, 7, 3), matrix(x)[:7].view(1, 1, 7, 3)
        ),
        16 * 7 * 6,
    ),
}


@pytest.mark.parametrize("name", EXACT)
def test_products_are_counted_exactly(name: str) -> None:
    compute, expected = EXACT[name]
    count = measure_macs(Mix(compute), 4)
    assert count.products == expected
    assert count.torch_flops == 2 * expected
    assert count.doubts() == ()


@pytest.mark.parametrize(
    ("compute", "products", "unseen"),
    [
        (lambda m, x: torch.einsum("bchw,c->bchw", x, m.vector), 48, "einsum (elementwise)"),
        (lambda m, x: torch.einsum("i,j->ij", m.vector, m.vector), 9, "einsum (elementwise)"),
        (lambda m, x: torch.einsum("bchw,bdhw->bcd", x, x[:, :, :1, :1]), 9, "einsum (elementwise)"),
        (lambda m, x: (matrix(x).to(torch.complex64) @ m.phase).real, 4 * 240, "matmul (complex)"),
    ],
    ids=["scale", "outer", "spread axis", "complex"],
)
def test_products_that_torch_does_not_count_are_named(compute: Compute, products: int, unseen: str) -> None:
    count = measure_macs(Mix(compute), 4)
    assert count.products == products
    assert unseen in count.operators
    assert count.doubts() == ()


@pytest.mark.parametrize(
    ("compute", "name"),
    [
        (lambda m, x: torch.fft.irfft2(torch.fft.rfft2(x)), "fft_rfft2"),
        (lambda m, x: torch.cdist(matrix(x), matrix(x)), "cdist"),
        (lambda m, x: torch.linalg.svdvals(m.square), "linalg_svd"),
    ],
    ids=["fft", "cdist", "svd"],
)
def test_work_that_is_not_counted_is_a_doubt(compute: Compute, name: str) -> None:
    (doubt,) = measure_macs(Mix(compute), 4).doubts()
    assert name in doubt
    assert "lower bound" in doubt


def test_an_einsum_of_four_follows_its_path() -> None:
    shapes = [(2, 3), (3, 4), (4, 5), (5, 6)]
    assert einsum_products("ab,bc,cd,de->ae", shapes) == (2 * 3 * 4 + 2 * 4 * 5 + 2 * 5 * 6, 0)
    assert einsum_products("ab,bc,cd,de->ae", shapes, [2, 3, 1, 2, 0, 1]) == (4 * 5 * 6 + 3 * 4 * 6 + 2 * 3 * 6, 0)


def test_a_complex_parameter_is_two_numbers() -> None:
    module: Any = nn.Module()
    module.filter = nn.Parameter(torch.zeros(4, 5, dtype=torch.complex64))
    module.kept = nn.Parameter(torch.zeros(2, dtype=torch.complex64), requires_grad=False)
    module.register_buffer("table", torch.zeros(3, dtype=torch.complex64))
    counts = count_parameters(module)
    assert (counts.trainable, counts.frozen, counts.buffers) == (40, 4, 6)
