"""Elements are found in what a module computes: the eleven as their papers say, small modules for every rule."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional

from harness.catalog import discover
from harness.errors import CannotContinueError
from harness.models import build_module
from harness.patterns.associate import associate, confound, pareto_front, warnings
from harness.patterns.describe import RULE_OF, detect
from tests.support import Command

# By hand, from the papers and the stage tables: what each architecture has beyond what its neighbours have.
TABLE = {
    "convmixer": "pointwise depthwise_separable residual patch_embedding large_kernel isotropic",
    "convnext": "pointwise depthwise_separable residual inverted_bottleneck patch_embedding large_kernel",
    "efficientnet": "pointwise depthwise_separable residual inverted_bottleneck squeeze_excite large_kernel",
    "fbnet": "pointwise depthwise_separable residual inverted_bottleneck large_kernel",
    "ghostnet": "pointwise depthwise_separable residual inverted_bottleneck squeeze_excite large_kernel ghost "
    "reparameterised",
    "mobilenet": "pointwise depthwise_separable residual inverted_bottleneck",
    "mobileone": "pointwise depthwise_separable reparameterised",
    "mobilevit": "pointwise depthwise_separable residual inverted_bottleneck attention",
    "shufflenet": "pointwise depthwise_separable channel_shuffle",
    "starnet": "pointwise depthwise_separable residual inverted_bottleneck large_kernel",
    "tinynet": "pointwise depthwise_separable residual inverted_bottleneck squeeze_excite large_kernel",
}
# Blocks that the stage tables give: (element, count).
COUNTS = {
    "convmixer": ("residual", 8),
    "efficientnet": ("squeeze_excite", 15),
    "mobilenet": ("residual", 10),
    "mobilevit": ("attention", 9),
    "shufflenet": ("channel_shuffle", 16),
    "ghostnet": ("ghost", 32),
    "starnet": ("large_kernel", 30),
}


@pytest.mark.parametrize("model", TABLE)
def test_the_eleven_have_what_their_papers_say(model: str) -> None:
    found = detect(build_module(discover().model(model), 10))
    assert {name for name, element in found.items() if element.present} == set(TABLE[model].split())
    element, count = COUNTS.get(model, ("pointwise", found["pointwise"].count))
    assert found[element].count == count


def elements(*layers: nn.Module, side: int = 32) -> set[str]:
    found = detect(nn.Sequential(*layers), side)
    return {name for name, element in found.items() if element.present}


class Wrap(nn.Module):
    """A function of a module's own children, so that no class name tells what it is."""

    def __init__(self, forward: Callable[..., torch.Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(parts)
        self.function = forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x, **self.parts)


def conv(i: int, o: int, k: int, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(i, o, k, padding=k // 2, **options)


STEM = (conv(3, 8, 3), nn.ReLU())
HEAD = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(4))


def model(*layers: nn.Module, stem: tuple[nn.Module, ...] = STEM) -> set[str]:
    whole = nn.Sequential(*stem, *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(4))
    whole.eval()(torch.zeros(2, 3, 32, 32))
    return elements(whole)


def test_a_plain_network_has_nothing() -> None:
    assert model(conv(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 16, 3, stride=2)) == set()


def test_pointwise_and_its_linear_twin() -> None:
    assert model(conv(8, 16, 1)) == {"pointwise"}
    last = Wrap(lambda x, f: f(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), f=nn.Linear(8, 16))
    assert model(last) == {"pointwise"}
    # One position is a linear layer, and so is the head.
    assert model(nn.AdaptiveAvgPool2d(1), conv(8, 16, 1)) == set()


def test_depthwise_separable_needs_both_in_this_order() -> None:
    assert model(conv(8, 8, 3, groups=8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 8, 1)) == {
        "pointwise",
        "depthwise_separable",
    }
    assert model(conv(8, 8, 3, groups=8), conv(8, 8, 3)) == set()
    assert "depthwise_separable" not in model(conv(8, 8, 1), conv(8, 8, 3, groups=8))


@pytest.mark.parametrize(("kernel", "there"), [(3, False), (5, True), (7, True), ((1, 5), True)])
def test_large_kernels_count_from_five(kernel: int | tuple[int, int], there: bool) -> None:
    assert ("large_kernel" in model(nn.Conv2d(8, 8, kernel, padding="same", groups=8))) is there
    assert "large_kernel" not in model(nn.Conv2d(8, 8, kernel, padding="same"))


def test_residual_needs_a_shortcut_and_a_bend() -> None:
    inner = nn.Sequential(conv(8, 8, 3), nn.ReLU(), conv(8, 8, 3))
    assert model(Wrap(lambda x, f: x + f(x), f=inner)) == {"residual"}
    assert model(Wrap(lambda x, f: torch.relu(f(x).add_(x)), f=inner)) == {"residual"}
    projected = Wrap(lambda x, f, p: f(x) + p(x), f=inner, p=nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)))
    assert "residual" in model(projected)
    assert model(Wrap(lambda x, f: torch.cat([x, f(x)], 1), f=inner)) == set()
    assert model(inner) == set()
    # The sum of two bent branches of one input is Inception's, not ResNet's.
    two = Wrap(lambda x, f, g: f(x) + g(x), f=nn.Sequential(conv(8, 8, 3), nn.ReLU()), g=nn.ReLU())
    assert "residual" not in model(two)


def inverted(width: int, ratio: float, *, shortcut: bool = True, out: int = 8) -> nn.Module:
    wide = int(width * ratio)
    body = nn.Sequential(
        conv(width, wide, 1), nn.BatchNorm2d(wide), nn.ReLU6(), conv(wide, wide, 3, groups=wide), nn.BatchNorm2d(wide),
        nn.ReLU6(), conv(wide, out, 1), nn.BatchNorm2d(out),
    )  # fmt: skip
    return Wrap(lambda x, f: x + f(x) if shortcut else f(x), f=body)


def test_inverted_bottleneck() -> None:
    assert "inverted_bottleneck" in model(inverted(8, 4))
    assert "inverted_bottleneck" in model(inverted(8, 4, shortcut=False, out=12))
    assert "inverted_bottleneck" not in model(inverted(8, 1))
    assert "inverted_bottleneck" not in model(inverted(8, 0.5))
    late = nn.Sequential(conv(8, 8, 7, groups=8), conv(8, 32, 1), nn.GELU(), conv(32, 8, 1))  # ConvNeXt's order
    assert "inverted_bottleneck" in model(Wrap(lambda x, f: x + f(x), f=late))


def test_squeeze_and_excite() -> None:
    gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 2, 1), nn.ReLU(), nn.Conv2d(2, 8, 1), nn.Sigmoid())
    assert model(Wrap(lambda x, g: x * g(x), g=gate)) == {"squeeze_excite"}
    dense = Wrap(lambda x, a, b: x * b(torch.relu(a(x.mean((2, 3))))).sigmoid()[:, :, None, None],
                 a=nn.Linear(8, 2), b=nn.Linear(2, 8))  # fmt: skip
    assert model(dense) == {"squeeze_excite"}
    spatial = Wrap(lambda x, g: x * g(x).sigmoid(), g=conv(8, 8, 3))
    assert model(spatial) == set()
    unlearned = Wrap(lambda x: x * x.mean((2, 3), keepdim=True).sigmoid())
    assert model(unlearned) == set()


def test_patch_embedding_is_at_the_image() -> None:
    patches = (nn.Conv2d(3, 8, 4, stride=4), nn.ReLU())
    assert model(conv(8, 8, 3), stem=patches) == {"patch_embedding"}
    assert model(nn.Conv2d(8, 8, 4, stride=4)) == set()
    assert model(conv(8, 8, 3), stem=(conv(3, 8, 3, stride=2), nn.ReLU())) == set()
    unshuffled = Wrap(
        lambda x, f: (
            f(functional.pixel_unshuffle(x, 4).flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, (8, 8))
        ),
        f=nn.Linear(48, 8),
    )
    assert "patch_embedding" in model(stem=(unshuffled, nn.ReLU()))


def heads(x: torch.Tensor, qkv: nn.Module, *, linear: bool = False) -> torch.Tensor:
    n, c, h, w = x.shape
    q, k, v = qkv(x.flatten(2).transpose(1, 2)).chunk(3, dim=-1)
    if linear:
        mixed = q.softmax(-1) @ (k.softmax(1).transpose(1, 2) @ v)
    else:
        mixed = (q @ k.transpose(1, 2) / math.sqrt(c)).softmax(-1) @ v
    return mixed.transpose(1, 2).reshape(n, c, h, w)


def test_attention_in_many_spellings() -> None:
    assert "attention" in model(Wrap(heads, qkv=nn.Linear(8, 24)))
    assert "attention" in model(Wrap(lambda x, qkv: heads(x, qkv, linear=True), qkv=nn.Linear(8, 24)))

    def fused(x: torch.Tensor, qkv: nn.Module) -> torch.Tensor:
        q, k, v = qkv(x.flatten(2).transpose(1, 2)).chunk(3, dim=-1)
        return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)

    assert "attention" in model(Wrap(fused, qkv=nn.Linear(8, 24)))
    tokens = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    assert "attention" in model(
        Wrap(lambda x, f: f(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape), f=tokens)
    )
    whole = nn.Sequential(*STEM, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4), nn.Softmax(dim=1))
    assert elements(whole) == set()


def shuffle(x: torch.Tensor, groups: int = 2) -> torch.Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


def test_channel_shuffle_with_groups_or_a_split() -> None:
    assert model(Wrap(lambda x, f: shuffle(f(x)), f=conv(8, 8, 3, groups=2))) == {"channel_shuffle"}
    split = Wrap(lambda x, f: shuffle(torch.cat([x.chunk(2, 1)[0], f(x.chunk(2, 1)[1])], 1)), f=conv(4, 4, 3))
    assert model(split) == {"channel_shuffle"}
    assert model(conv(8, 8, 3, groups=2)) == set()
    assert model(Wrap(lambda x, f: shuffle(f(x)), f=conv(8, 8, 3))) == set()


def test_ghost_features_are_cheap_copies() -> None:
    def ghost(x: torch.Tensor, a: nn.Module, b: nn.Module) -> torch.Tensor:
        first = torch.relu(a(x))
        return torch.cat([first, torch.relu(b(first))], 1)

    assert model(Wrap(ghost, a=conv(8, 8, 1), b=conv(8, 8, 3, groups=8))) == {"pointwise", "ghost"}
    assert "ghost" not in model(Wrap(ghost, a=conv(8, 8, 1), b=conv(8, 8, 3)))
    branches = Wrap(lambda x, a, b: torch.cat([a(x), b(x)], 1), a=conv(8, 8, 3), b=conv(8, 8, 3, groups=8))
    assert model(branches) == set()


def test_reparameterised_branches_are_linear_and_normalised() -> None:
    def branch(k: int) -> nn.Module:
        return nn.Sequential(conv(8, 8, k), nn.BatchNorm2d(8))

    repvgg = Wrap(lambda x, a, b, c: torch.relu(a(x) + b(x) + c(x)), a=branch(3), b=branch(1), c=nn.BatchNorm2d(8))
    assert model(repvgg) == {"reparameterised", "pointwise"}
    started = Wrap(lambda x, a, b: torch.relu(sum([a(x), b(x)])), a=branch(3), b=branch(3))  # 0 + a + b
    assert model(started) == {"reparameterised"}
    bent = Wrap(lambda x, a, b: torch.relu(a(x)) + b(x), a=branch(3), b=branch(3))
    assert "reparameterised" not in model(bent)
    unnormalised = Wrap(lambda x, a: x + a(x), a=conv(8, 8, 3, groups=8))
    assert "reparameterised" not in model(unnormalised)


def test_isotropic_keeps_its_positions() -> None:
    four = [layer for _ in range(4) for layer in (conv(8, 8, 3), nn.ReLU())]
    assert model(*four) == {"isotropic"}
    assert model(*four[:4]) == set()
    assert model(*four, conv(8, 8, 3, stride=2)) == set()


def test_detection_leaves_a_module_as_it_was() -> None:
    module = nn.Sequential(conv(3, 8, 3), nn.BatchNorm2d(8), *HEAD[:2], nn.Linear(8, 4)).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    detect(module, 32)
    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert set(detect(module, 32)) == set(RULE_OF)


# -------------------------------------------------------------------------------------------------------- association


def case(models: int = 9, seed: int = 0) -> tuple[dict[str, dict[str, bool]], dict[str, float], dict[str, float]]:
    rng = np.random.default_rng(seed)
    names = [f"m{i}" for i in range(models)]
    has = {name: {"a": i < 4, "all": True, "b": i < 4, "c": i == 0} for i, name in enumerate(names)}
    scores = {name: float(value) for name, value in zip(names, rng.normal(size=models), strict=True)}
    return has, scores, {name: float(10 ** rng.uniform(8, 9.5)) for name in names}


def test_effect_and_p_are_scipys_permutation_test() -> None:
    has, scores, macs = case()
    row = {r.element: r for r in associate(has, scores, macs)}["a"]
    y = np.array(list(scores.values()))
    expected = stats.permutation_test(
        (y[:4], y[4:]), lambda a, b, axis: a.mean(axis) - b.mean(axis), vectorized=True, n_resamples=math.inf
    )
    assert row.effect == pytest.approx(expected.statistic)
    # SciPy doubles the smaller tail; this test counts both tails of |difference|.
    every = [abs(y[list(s)].mean() - np.delete(y, list(s)).mean()) for s in itertools.combinations(range(9), 4)]
    assert row.p_value == pytest.approx(np.mean(np.array(every) >= abs(expected.statistic) - 1e-12))
    assert row.same_as == ("b",)
    assert row.p_smallest is not None
    assert row.p_smallest <= 2 / 126 + 1e-12


def test_the_interval_covers_a_true_shift() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        y = rng.normal(size=10)
        y[:5] += 0.7
        names = [f"m{i}" for i in range(10)]
        has = {name: {"a": i < 5} for i, name in enumerate(names)}
        row = associate(has, dict(zip(names, y.tolist(), strict=True)), {}, draws=10)[0]
        assert row.lower is not None
        assert row.upper is not None
        hits += row.lower <= 0.7 <= row.upper
    assert 0.93 <= hits / 400 <= 0.98


def test_what_cannot_be_tested_says_so() -> None:
    has, scores, macs = case()
    rows = {row.element: row for row in associate(has, scores, macs)}
    assert rows["all"].effect is rows["all"].p_value is None
    assert (rows["c"].lower, rows["c"].upper) == (None, None)
    assert rows["c"].p_smallest == pytest.approx(1 / 9)
    text = " ".join(warnings(9, list(rows.values())))
    for part in ("no experiment", "all or none of the models have: all", "would not reach p < 0.05", "a and b"):
        assert part in text
    with pytest.raises(CannotContinueError, match="at least 4"):
        associate(has, dict(list(scores.items())[:3]), macs)


def test_partial_correlation_removes_compute() -> None:
    names = [f"m{i}" for i in range(12)]
    rng = np.random.default_rng(3)
    logs = np.linspace(8, 10, 12)
    has = {name: {"e": bool(i >= 6)} for i, name in enumerate(names)}  # whatever is expensive has it
    scores = dict(zip(names, (logs + rng.normal(size=12) * 0.05).tolist(), strict=True))
    macs = dict(zip(names, (10**logs).tolist(), strict=True))
    row = associate(has, scores, macs)[0]
    assert row.p_value is not None
    assert row.p_value < 0.01
    assert row.partial is not None
    assert abs(row.partial) < 0.5
    found = confound(scores, macs)
    x, y = logs, np.array(list(scores.values()))
    assert found.pearson == pytest.approx(stats.pearsonr(x, y).statistic)
    assert found.spearman == pytest.approx(stats.spearmanr(x, y).statistic)
    assert found.pearson_p < 0.001


@pytest.mark.parametrize("models", [4, 5, 7])
def test_p_of_correlations_is_exact_with_ties(models: int) -> None:
    """Compare with every permutation, one by one, where scores and MACs have ties."""
    rng = np.random.default_rng(models)
    for _ in range(5):
        names = [f"m{i}" for i in range(models)]
        y, powers = rng.integers(0, 3, models).astype(float), rng.integers(8, 10, models)
        y[:2], powers[:2] = (0, 1), (8, 9)  # neither is constant
        found = confound(
            dict(zip(names, y.tolist(), strict=True)), dict(zip(names, (10.0**powers).tolist(), strict=True))
        )
        ways = [list(order) for order in itertools.permutations(range(models))]
        rhos = np.array([stats.spearmanr(powers, y[order]).statistic for order in ways])
        rs = np.array([stats.pearsonr(powers, y[order]).statistic for order in ways])
        assert found.spearman == pytest.approx(rhos[0])
        assert found.spearman_p == pytest.approx(np.mean(np.abs(rhos) >= abs(rhos[0]) - 1e-9))
        assert found.pearson_p == pytest.approx(np.mean(np.abs(rs) >= abs(rs[0]) - 1e-9))


def test_p_of_many_models_with_ties_is_near_the_exact_one() -> None:
    names = [f"m{i}" for i in range(8)]
    y, powers = np.array([1, 1, 2, 2, 3, 3, 3, 4.0]), np.array([8, 9, 8, 9, 9, 9, 8, 9.0])
    found = confound(dict(zip(names, y.tolist(), strict=True)), dict(zip(names, (10**powers).tolist(), strict=True)))
    low = [y[list(places)] for places in itertools.combinations(range(8), 3)]  # the models with few MACs
    rank = dict(zip(y.tolist(), stats.rankdata(y).tolist(), strict=True))
    sums = np.array([sum(rank[value] for value in chosen) for chosen in low])
    expected = np.mean(np.abs(sums - 13.5) >= abs(rank[1] + rank[2] + rank[3] - 13.5) - 1e-9)
    assert found.spearman == pytest.approx(stats.spearmanr(powers, y).statistic)
    assert found.spearman_p == pytest.approx(expected, abs=0.015)  # three standard errors of 10,000 draws


def test_order_of_models_does_not_change_the_correlation_of_ties() -> None:
    scores, macs = (
        {"a": 1.0, "b": 1.0, "c": 2.0, "d": 2.0, "e": 3.0},
        {"a": 1e8, "b": 1e9, "c": 1e8, "d": 1e9, "e": 1e9},
    )
    one = confound(scores, macs)
    other = confound(dict(reversed(scores.items())), dict(reversed(macs.items())))
    assert (one.spearman, one.spearman_p) == (pytest.approx(other.spearman), pytest.approx(other.spearman_p))


def test_pareto_front() -> None:
    scores = {"a": 1.0, "b": 2.0, "c": 1.5, "d": 2.0}
    assert pareto_front(scores, {"a": 1, "b": 2, "c": 3, "d": 2.5}) == ("a", "b")


def test_the_command_prints_the_table_and_the_warnings(pocket_harness: Command) -> None:
    ran = pocket_harness("patterns", "mobilenet", "shufflenet", "--format", "json")
    assert ran.code == 0, ran.err
    found = {row["model"]: row["elements"] for row in ran.rows}
    assert found["shufflenet"]["channel_shuffle"]
    assert not found["mobilenet"]["channel_shuffle"]
    ran = pocket_harness("patterns")
    assert ran.code == 0
    assert "inverted bottleneck" in ran.out
    assert "no experiment" in ran.err
    assert "11-fold" in ran.err
    ran = pocket_harness("patterns", "--association", "--format", "json")
    rows = {row["element"]: row for row in ran.rows}
    assert rows["attention"]["p_smallest"] == pytest.approx(1 / 11)
    assert pocket_harness("patterns", "mobilnet").code == 2
