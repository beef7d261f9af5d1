"""The reference augmentations against independent ones: torchvision sample by sample, and cases worked out by hand."""

from __future__ import annotations

import itertools
import math
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import torch
from torchvision.transforms import ColorJitter as TorchvisionColorJitter
from torchvision.transforms.v2 import functional as reference

from harness.api import BatchTransform
from xscore_plugins.augmentations import (
    augmix,
    color_jitter,
    cutmix,
    horizontal_flip,
    mixup,
    randaugment,
    random_erasing,
    random_resized_crop,
)
from xscore_plugins.augmentations.color_jitter import ColorJitterParameters

pytestmark = pytest.mark.portable

PROTOCOL = {"brightness": 0.2, "contrast": 0.3, "saturation": 0.3, "hue": 0.2}
EXTREME = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.5}
TRANSFORMS: dict[str, Callable[[], BatchTransform]] = {
    "horizontal_flip": lambda: horizontal_flip.build(p=0.5),
    "color_jitter": lambda: color_jitter.build(**PROTOCOL),
    "cutmix": lambda: cutmix.build(alpha=1.0),
    "randaugment": lambda: randaugment.build(num_ops=2, magnitude=15),
    "augmix": lambda: augmix.build(severity=5),
    "random_erasing": lambda: random_erasing.RandomErasing(p=0.7),
    "random_resized_crop": random_resized_crop.build,
    "mixup": lambda: mixup.build(alpha=0.4),
}
MODULES = [
    *(horizontal_flip, color_jitter, cutmix),
    *(randaugment, augmix, random_erasing, random_resized_crop, mixup),
]

every_transform = pytest.mark.parametrize("build", TRANSFORMS.values(), ids=TRANSFORMS.keys())


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photographs(n: int, size: int, seed: int = 0) -> torch.Tensor:
    """Random images, of which some are grey, of few colours, saturated primaries, or 8-bit; channels_last."""
    images = torch.rand(n, 3, size, size, generator=seeded(seed))
    images[1::6] = images[1::6].mean(dim=1, keepdim=True)
    images[2::6] = (images[2::6] * 4).round() / 4
    images[3::6] = images[3::6].round()
    images[4::6] = (images[4::6] * 255).round() / 255
    return images.contiguous(memory_format=torch.channels_last)


def distributions(n: int, classes: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, classes, generator=seeded(seed)).softmax(dim=1)


# --- what holds for all of them ---------------------------------------------------------------------------------------


@every_transform
@pytest.mark.parametrize("shape", [(32, 40), (32, 8), (1, 8), (1, 40), (3, 1), (2, 160)])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_a_transform_keeps_shape_layout_and_range_and_leaves_its_inputs_alone(
    build: Callable[[], BatchTransform], shape: tuple[int, int], layout: torch.memory_format
) -> None:
    images, targets = photographs(*shape).contiguous(memory_format=layout), distributions(shape[0])
    before = images.clone(), targets.clone()
    output, mixed = build()(images, targets, seeded(0))
    assert output.shape == images.shape
    assert output.dtype == images.dtype
    assert output.stride() == images.stride()
    assert mixed.shape == targets.shape
    assert mixed.dtype == targets.dtype
    assert output.min() >= 0
    assert output.max() <= 1
    assert torch.allclose(mixed.sum(dim=1), torch.ones(shape[0]))
    assert mixed.min() >= 0
    assert torch.equal(images, before[0])
    assert torch.equal(targets, before[1])
    assert output.data_ptr() != images.data_ptr()


@every_transform
def test_the_generator_is_the_only_randomness(build: Callable[[], BatchTransform]) -> None:
    images, targets = photographs(32, 16), distributions(32)
    state = torch.random.get_rng_state()
    first, again, other = (build()(images, targets, seeded(seed)) for seed in (7, 7, 8))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


@every_transform
def test_the_layout_changes_nothing_but_the_layout(build: Callable[[], BatchTransform]) -> None:
    images, targets = photographs(8, 40), distributions(8)
    interleaved, _ = build()(images, targets, seeded(3))
    planar, _ = build()(images.contiguous(), targets, seeded(3))
    assert torch.equal(interleaved, planar)


@every_transform
def test_a_transform_pickles_and_has_a_readable_repr(build: Callable[[], BatchTransform]) -> None:
    transform = build()
    assert pickle.loads(pickle.dumps(transform)) == transform
    assert "=" in repr(transform)


@every_transform
@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("size", [40, 224])
def test_every_device_gives_the_same_images(build: Callable[[], BatchTransform], size: int) -> None:
    images, targets = photographs(32, size), distributions(32)
    rounds = type(build()).__name__ in ("RandAugment", "AugMix")
    on_cpu = build()(images, targets, seeded(5))
    on_cuda = build()(images.cuda(), targets.cuda(), seeded(5))
    for there, here in zip(on_cuda, on_cpu, strict=True):
        assert there.is_cuda
        assert there.stride() == here.stride()
        difference = (there.cpu() - here).abs()
        # Operations that round may tip over by what the arithmetic before them differs in.
        assert difference.mean() < 1e-4 if rounds else difference.max() < 1e-4


@pytest.mark.parametrize("module", MODULES)
def test_a_spec_builds_by_name_and_refuses_unknown_strengths(module: object) -> None:
    (spec,) = module.harness_augmentations()  # type: ignore[attr-defined]
    assert spec.name in TRANSFORMS
    assert spec.paper
    with pytest.raises(TypeError, match="strenght"):
        spec.build(strenght=1)


def test_registering_imports_no_torch() -> None:
    code = (
        "import sys\n"
        "from importlib import import_module\n"
        "from xscore_plugins.metrics import top1\n"
        f"for name in {[module.__name__ for module in MODULES]}:\n"
        "    import_module(name).harness_augmentations()[0].build()\n"
        "top1.harness_metrics()\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("build", "strengths", "message"),
    [
        (horizontal_flip.build, {"p": -0.1}, r"p is -0\.1, expected a probability between 0 and 1"),
        (horizontal_flip.build, {"p": 1.5}, r"p is 1\.5, expected"),
        (horizontal_flip.build, {"p": math.nan}, r"p is nan, expected"),
        (color_jitter.build, {"brightness": -1}, r"brightness is -1, expected a finite number, 0 or above"),
        (color_jitter.build, {"contrast": math.inf}, r"contrast is inf, expected"),
        (color_jitter.build, {"saturation": math.nan}, r"saturation is nan, expected"),
        (color_jitter.build, {"hue": 0.6}, r"hue is 0\.6, expected a number between 0 and 0\.5"),
        (color_jitter.build, {"hue": -0.1}, r"hue is -0\.1, expected"),
        (cutmix.build, {"alpha": 0.0}, r"alpha is 0\.0, expected a finite number above 0"),
        (cutmix.build, {"alpha": math.inf}, r"alpha is inf, expected"),
        (cutmix.build, {"alpha": math.nan}, r"alpha is nan, expected"),
    ],
)
def test_a_strength_out_of_range_is_refused_with_the_expected_range(
    build: Callable[..., object], strengths: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build(**strengths)


# --- horizontal flip --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "size"), [(32, 8), (6, 160)])
def test_flip_mirrors_exactly_the_drawn_images(n: int, size: int) -> None:
    images = photographs(n, size)
    flip = horizontal_flip.build(p=0.5)
    flipped = flip.draw(n, *images.shape[-2:], seeded(1))
    assert 0 < flipped.sum() < n
    output, _ = flip(images, distributions(n), seeded(1))
    for image, result, was_flipped in zip(images, output, flipped, strict=True):
        assert torch.equal(result, torch.flip(image, dims=(2,)) if was_flipped else image)


@pytest.mark.parametrize("p", [0.5, 0.1])
def test_flip_happens_with_its_probability(p: float) -> None:
    n = 20_000
    share = horizontal_flip.build(p=p).draw(n, 8, 8, seeded(0)).float().mean().item()
    assert abs(share - p) < 4 * math.sqrt(p * (1 - p) / n)


def test_flip_never_and_always() -> None:
    images, targets = photographs(16, 8), distributions(16)
    for seed in range(20):
        assert torch.equal(horizontal_flip.build(p=0)(images, targets, seeded(seed))[0], images)
        assert torch.equal(horizontal_flip.build(p=1)(images, targets, seeded(seed))[0], images.flip(-1))


# --- colour jitter ----------------------------------------------------------------------------------------------------


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


# --- CutMix -----------------------------------------------------------------------------------------------------------


def test_cutmix_by_hand() -> None:
    images = torch.stack([torch.full((3, 4, 4), value) for value in (0.1, 0.2, 0.3)])
    targets = torch.eye(3)
    # lambda 3/4: a box of half the side, 2 x 2 pixels, around pixel (1, 2).
    parameters = cutmix.clipped_box(0.75, (1, 2), (4, 4), torch.tensor([2, 0, 1]))
    assert (parameters.top, parameters.bottom, parameters.left, parameters.right) == (0, 2, 1, 3)
    assert parameters.kept == 0.75
    transform = cutmix.build()
    mixed, weights = transform.apply(images, parameters), transform.mix_targets(targets, parameters)
    first = torch.tensor([[0.1, 0.3, 0.3, 0.1], [0.1, 0.3, 0.3, 0.1], [0.1, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.1]])
    assert torch.equal(mixed[0], first.expand(3, 4, 4))
    assert torch.equal(mixed[1, 0, 0], torch.tensor([0.2, 0.1, 0.1, 0.2]))
    assert torch.equal(mixed[2, 2, 3], torch.full((4,), 0.3))
    assert torch.equal(weights, torch.tensor([[0.75, 0, 0.25], [0.25, 0.75, 0], [0, 0.25, 0.75]]))


def test_a_box_cut_at_the_corner_gives_back_what_it_lost() -> None:
    # lambda 3/4 asks for 4 x 4 of 8 x 8 pixels; around the corner pixel only 2 x 2 of them are inside.
    corner = cutmix.clipped_box(0.75, (0, 0), (8, 8), torch.arange(2))
    assert (corner.top, corner.bottom, corner.left, corner.right) == (0, 2, 0, 2)
    assert corner.kept == 1 - 4 / 64
    other = cutmix.clipped_box(0.75, (7, 7), (8, 8), torch.arange(2))
    assert (other.top, other.bottom, other.left, other.right) == (5, 8, 5, 8)
    assert other.kept == 1 - 9 / 64


@pytest.mark.parametrize(("lam", "kept"), [(0.0, 0.0), (1.0, 1.0)])
def test_all_or_nothing(lam: float, kept: float) -> None:
    images, targets = photographs(4, 8), distributions(4)
    permutation = torch.tensor([1, 2, 3, 0])
    parameters = cutmix.clipped_box(lam, (4, 4), (8, 8), permutation)
    assert parameters.kept == kept
    transform = cutmix.build()
    mixed, weights = transform.apply(images, parameters), transform.mix_targets(targets, parameters)
    assert torch.equal(mixed, images if kept else images[permutation])
    assert torch.equal(weights, targets if kept else targets[permutation])


@pytest.mark.parametrize(("height", "width"), [(40, 40), (8, 8), (24, 33), (1, 1), (180, 200)])
def test_lambda_is_the_share_of_pixels_kept(height: int, width: int) -> None:
    n = 5
    images = torch.arange(1.0, n + 1).view(n, 1, 1, 1).expand(n, 3, height, width) / n
    targets = distributions(n)
    transform = cutmix.build(alpha=1.0)
    for seed in range(60):
        parameters = transform.draw(n, height, width, seeded(seed))
        mixed, weights = transform(images, targets, seeded(seed))
        partner = parameters.permutation
        assert torch.equal(partner.sort().values, torch.arange(n))
        own = (mixed == images)[:, 0].double().mean(dim=(1, 2))
        others = partner != torch.arange(n)
        assert torch.equal(own[others], torch.full_like(own[others], parameters.kept))
        assert torch.allclose(weights, parameters.kept * targets + (1 - parameters.kept) * targets[partner])
        assert torch.allclose(weights.sum(dim=1), torch.ones(n))
        # Every pixel is the image's own or its partner's.
        assert ((mixed == images) | (mixed == images[partner])).all()


@pytest.mark.parametrize("alpha", [0.01, 0.3, 1.0, 4.0, 1000.0])
def test_lambda_has_the_moments_of_a_symmetric_beta(alpha: float) -> None:
    n, generator = 8_000, seeded(0)
    drawn = torch.tensor([cutmix.symmetric_beta(alpha, generator) for _ in range(n)], dtype=torch.float64)
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(drawn.mean().item() - 0.5) < 4 * math.sqrt(variance / n)
    assert drawn.var().item() == pytest.approx(variance, rel=0.07)
    kurtosis = 3 * (2 * alpha + 1) / (2 * alpha + 3)
    assert ((drawn - 0.5) ** 4).mean().item() == pytest.approx(kurtosis * variance**2, rel=0.15)


def test_lambda_is_uniform_at_alpha_one() -> None:
    n, generator = 8_000, seeded(1)
    drawn = torch.tensor([cutmix.symmetric_beta(1.0, generator) for _ in range(n)], dtype=torch.float64)
    assert (drawn.sort().values - (torch.arange(n) + 0.5) / n).abs().max() < 1.95 / math.sqrt(n)


def test_boxes_are_centred_everywhere_and_cut_at_the_border() -> None:
    transform, generator = cutmix.build(alpha=1.0), seeded(0)
    drawn = [transform.draw(2, 40, 40, generator) for _ in range(4_000)]
    for box in drawn:
        assert 0 <= box.top <= box.bottom <= 40
        assert 0 <= box.left <= box.right <= 40
        assert box.kept == (1600 - (box.bottom - box.top) * (box.right - box.left)) / 1600
    cut = sum(box.top == 0 or box.left == 0 or box.bottom == 40 or box.right == 40 for box in drawn)
    assert 0.5 < cut / len(drawn) < 1
    # With side s and a uniform centre a side keeps s - s^2/4 on average; squared and averaged over a uniform lambda,
    # E[(s - s^2/4)^2] = 1/2 - 1/5 + 1/48 of the image is replaced. Whole, even pixels make it a little less.
    replaced = 1 - sum(box.kept for box in drawn) / len(drawn)
    assert replaced == pytest.approx(1 / 2 - 1 / 5 + 1 / 48, abs=0.025)
