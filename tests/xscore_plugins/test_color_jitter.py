"""The colour jitter against torchvision on the same draws, and against cases worked out by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torchvision.transforms import ColorJitter as TorchvisionColorJitter
from torchvision.transforms.v2 import functional as reference

from tests.xscore_plugins.pictures import PROTOCOL, distributions, photographs, seeded
from xscore_plugins.augmentations import (
    color_jitter,
)
from xscore_plugins.augmentations.color_jitter import ColorJitterParameters

pytestmark = [pytest.mark.portable, pytest.mark.usefixtures("one_thread")]


EXTREME = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.5}


def by_torchvision(images: torch.Tensor, parameters: ColorJitterParameters) -> torch.Tensor:
    """Each image through torchvision's float operations in its own order."""
    results = []
    for i, image in enumerate(images):
        for operation in parameters.order[i].tolist():
            adjust, amount = (
                (reference.adjust_brightness, parameters.brightness),
                (reference.adjust_contrast, parameters.contrast),
                (reference.adjust_saturation, parameters.saturation),
                (reference.adjust_hue, parameters.hue),
            )[operation]
            image = adjust(image, amount[i].item())
        results.append(image)
    return torch.stack(results)


def one_operation(operation: int, amounts: torch.Tensor) -> ColorJitterParameters:
    """Parameters under which only one operation changes anything."""
    n = len(amounts)
    neutral = [torch.ones(n), torch.ones(n), torch.ones(n), torch.zeros(n)]
    neutral[operation] = amounts
    brightness, contrast, saturation, hue = neutral
    return ColorJitterParameters(brightness, contrast, saturation, hue, order=torch.arange(4).expand(n, 4))


@pytest.mark.parametrize(
    ("strengths", "n", "size", "tolerance"),
    [(PROTOCOL, 1024, 8, 4e-6), (EXTREME, 1536, 8, 1e-5), (PROTOCOL, 96, 40, 4e-6), (PROTOCOL, 4, 224, 4e-6)],
)
def test_jitter_is_torchvisions_on_the_same_draws(
    strengths: dict[str, float], n: int, size: int, tolerance: float
) -> None:
    images = photographs(n, size)
    jitter = color_jitter.build(**strengths)
    parameters = jitter.draw(n, *images.shape[-2:], seeded(11))
    difference = (jitter.apply(images, parameters) - by_torchvision(images, parameters)).abs().max().item()
    assert difference < tolerance < 1 / 255


def test_jitter_in_every_order_at_the_ends_of_every_range() -> None:
    ends = list(itertools.product((0.0, 2.0), (0.0, 2.0), (0.0, 2.0), (-0.5, 0.5)))
    cases = [(order, *end) for order in itertools.permutations(range(4)) for end in ends]
    brightness, contrast, saturation, hue = torch.tensor([case[1:] for case in cases]).unbind(dim=1)
    order = torch.tensor([case[0] for case in cases])
    parameters = ColorJitterParameters(brightness, contrast, saturation, hue, order)
    images = photographs(len(cases), 6)
    result = color_jitter.build(**EXTREME).apply(images, parameters)
    assert (result - by_torchvision(images, parameters)).abs().max() < 1e-5


@pytest.mark.parametrize("operation", range(4))
def test_each_operation_alone(operation: int) -> None:
    amounts = torch.linspace(0, 2, 61) if operation != color_jitter.HUE else torch.linspace(-0.5, 0.5, 61)
    images = photographs(61, 8)
    parameters = one_operation(operation, amounts)
    result = color_jitter.build().apply(images, parameters)
    assert (result - by_torchvision(images, parameters)).abs().max() < 4e-6


def test_hue_of_every_kind_of_colour_at_every_shift() -> None:
    levels = torch.tensor([0.0, 1e-6, 1 / 255, 0.2, 0.5, 0.5000001, 254 / 255, 1.0])
    colours = torch.cartesian_prod(levels, levels, levels).t().reshape(1, 3, 16, -1)
    shifts = torch.cat((torch.linspace(-0.5, 0.5, 121), torch.tensor([1 / 6, -1 / 6, 1 / 3, -1 / 3, 1e-7])))
    images = colours.repeat(len(shifts), 1, 1, 1)
    parameters = one_operation(color_jitter.HUE, shifts)
    result = color_jitter.build().apply(images, parameters)
    assert (result - by_torchvision(images, parameters)).abs().max() < 4e-6
    # Turning the hue keeps the largest and the smallest channel, bit for bit.
    assert torch.equal(result.amax(dim=1), images.amax(dim=1))
    assert torch.equal(result.amin(dim=1), images.amin(dim=1))


def test_a_third_of_a_turn_makes_red_green_and_a_sixth_makes_it_yellow() -> None:
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).repeat(4, 1, 2, 2)
    shifts = torch.tensor([1 / 3, -1 / 3, 1 / 6, 0.5])
    expected = torch.tensor([[0.0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1]]).view(4, 3, 1, 1).expand(4, 3, 2, 2)
    result = color_jitter.build().apply(red, one_operation(color_jitter.HUE, shifts))
    assert (result - expected).abs().max() < 1e-6


@pytest.mark.parametrize("grey", [0.0, 0.3, 1.0])
def test_grey_stays_grey(grey: float) -> None:
    images = torch.full((16, 3, 8, 8), grey)
    output, _ = color_jitter.build(**EXTREME)(images, distributions(16), seeded(2))
    assert (output.amax(dim=1) - output.amin(dim=1)).max() < 1e-6


def test_strengths_of_zero_change_nothing() -> None:
    images = photographs(32, 40)
    assert torch.equal(color_jitter.build()(images, distributions(32), seeded(0))[0], images)


def test_an_image_does_not_depend_on_its_neighbours() -> None:
    images = photographs(64, 40)
    jitter = color_jitter.build(**PROTOCOL)
    parameters = jitter.draw(64, *images.shape[-2:], seeded(4))
    together = jitter.apply(images, parameters)
    for i in range(0, 64, 7):
        fields = (parameters.brightness, parameters.contrast, parameters.saturation, parameters.hue, parameters.order)
        alone = jitter.apply(images[i : i + 1], ColorJitterParameters(*(field[i : i + 1] for field in fields)))
        assert (together[i] - alone[0]).abs().max() < 2e-6


@pytest.mark.parametrize("strengths", [PROTOCOL, EXTREME, {**PROTOCOL, "brightness": 3.0}])
def test_draws_are_uniform_over_torchvisions_ranges(strengths: dict[str, float]) -> None:
    n = 20_000
    parameters = color_jitter.build(**strengths).draw(n, 8, 8, seeded(0))
    theirs = TorchvisionColorJitter(**strengths)
    for name in ("brightness", "contrast", "saturation", "hue"):
        low, high = getattr(theirs, name)
        drawn = getattr(parameters, name).double()
        assert low - 1e-6 <= drawn.min()
        assert drawn.max() <= high + 1e-6
        # Kolmogorov-Smirnov distance from the uniform distribution; 1.95 / sqrt(n) is passed once in a thousand.
        ranks = (torch.arange(n) + 0.5) / n
        assert (((drawn.sort().values - low) / (high - low)) - ranks).abs().max() < 1.95 / math.sqrt(n)
    drawn = torch.stack((parameters.brightness, parameters.contrast, parameters.saturation, parameters.hue))
    assert (torch.corrcoef(drawn) - torch.eye(4)).abs().max() < 0.03


def test_every_order_is_equally_likely() -> None:
    n = 24_000
    order = color_jitter.build(**PROTOCOL).draw(n, 8, 8, seeded(0)).order
    assert torch.equal(order.sort(dim=1).values, torch.arange(4).expand(n, 4))
    counts = torch.unique(order, dim=0, return_counts=True)[1]
    assert len(counts) == 24
    # Chi-squared with 23 degrees of freedom exceeds 49.7 once in a thousand.
    assert ((counts - n / 24) ** 2 / (n / 24)).sum() < 49.7
