"""RandAugment, AugMix, erasing, cropping and mixup against torchvision on the same parameters, and their draws."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms import autoaugment as reference_ranges
from torchvision.transforms.v2 import MixUp
from torchvision.transforms.v2 import functional as reference

from tests.xscore_plugins.pictures import distributions, photographs, seeded
from xscore_plugins.augmentations import augmix, cutmix, mixup, randaugment, random_erasing, random_resized_crop
from xscore_plugins.augmentations._operations import GEOMETRIC, SIGNED, Step, apply_steps

pytestmark = pytest.mark.usefixtures("one_thread")
BILINEAR = InterpolationMode.BILINEAR
LEVEL = 1 / 255


def torchvision_step(image: torch.Tensor, step: Step) -> torch.Tensor:
    """One image through torchvision's own operation, as its RandAugment and AugMix call it."""
    m = step.magnitude
    none: dict[str, Any] = {
        "angle": 0.0,
        "translate": [0, 0],
        "scale": 1.0,
        "shear": [0.0, 0.0],
        "interpolation": BILINEAR,
    }
    slope = math.degrees(math.atan(m))
    match step.operation:
        case "identity":
            return image
        case "shear_x":
            return reference.affine(image, **(none | {"shear": [slope, 0.0], "center": [0, 0]}))
        case "shear_y":
            return reference.affine(image, **(none | {"shear": [0.0, slope], "center": [0, 0]}))
        case "translate_x":
            return reference.affine(image, **(none | {"translate": [int(m), 0]}))
        case "translate_y":
            return reference.affine(image, **(none | {"translate": [0, int(m)]}))
        case "rotate":
            return reference.rotate(image, m, interpolation=BILINEAR)
        case "brightness":
            return reference.adjust_brightness(image, 1 + m)
        case "color":
            return reference.adjust_saturation(image, 1 + m)
        case "contrast":
            return reference.adjust_contrast(image, 1 + m)
        case "sharpness":
            return reference.adjust_sharpness(image, 1 + m)
        case "posterize":
            return reference.posterize(image, int(m))
        case "solarize":
            return reference.solarize(image, m)
        case "autocontrast":
            return reference.autocontrast(image)
        case "equalize":
            return reference.equalize(image)
    raise AssertionError(step)


# --- operations -------------------------------------------------------------------------------------------------------

RANGES = {
    **{"shear_x": 0.3, "shear_y": 0.3, "translate_x": 15, "translate_y": 15, "rotate": 30},
    **{"brightness": 0.9, "color": 0.9, "contrast": 0.9, "sharpness": 0.9},
}


@pytest.mark.parametrize("operation", randaugment.OPERATIONS)
@pytest.mark.parametrize("shape", [(33, 33), (24, 40), (2, 5)])
def test_an_operation_is_torchvisions(operation: str, shape: tuple[int, int]) -> None:
    images = photographs(48, max(shape))[..., : shape[0], : shape[1]].contiguous()
    random = seeded(1)
    if operation == "posterize":
        magnitudes = torch.randint(0, 9, (48,), generator=random).tolist()
    elif operation == "solarize":
        magnitudes = torch.rand(48, generator=random).tolist()
    else:
        magnitudes = ((2 * torch.rand(48, generator=random) - 1) * RANGES.get(operation, 0)).tolist()
    steps = [Step(operation, magnitude) for magnitude in magnitudes]
    before = images.clone()
    found = apply_steps(images, steps)
    assert torch.equal(images, before)
    expected = torch.stack([torchvision_step(image, step) for image, step in zip(images, steps, strict=True)])
    assert (found - expected).abs().max() <= (1e-4 if operation in GEOMETRIC else 1e-6)
    assert found.min() >= 0
    assert found.max() <= 1


def test_images_of_one_batch_go_through_different_operations() -> None:
    images = photographs(len(randaugment.OPERATIONS), 24).contiguous()
    steps = [Step(name, {"posterize": 3, "solarize": 0.5}.get(name, 0.2)) for name in randaugment.OPERATIONS]
    found = apply_steps(images, steps)
    for image, step, result in zip(images, steps, found, strict=True):
        assert (result - torchvision_step(image, step)).abs().max() <= 1e-4


# --- RandAugment ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("magnitude", [0, 9, 17, 30])
def test_randaugment_equals_torchvision_step_by_step(magnitude: int) -> None:
    transform = randaugment.build(num_ops=2, magnitude=magnitude)
    images = photographs(64, 32)
    rounds = transform.draw(64, 32, 32, seeded(3))
    found, _ = transform(images, distributions(64), seeded(3))
    ends = []
    for image, *steps in zip(images.contiguous(), *rounds, strict=True):
        for step in steps:
            image = torchvision_step(image, step)
        ends.append(image)
    difference = (found - torch.stack(ends)).abs().amax(dim=(1, 2, 3))
    # An operation that rounds (posterize, solarize, equalize) may tip over by what the one before it differs in.
    assert (difference <= LEVEL).double().mean() > 0.95
    assert difference.median() <= 1e-5


def test_randaugments_ranges_are_torchvisions() -> None:
    spaces = reference_ranges.RandAugment()._augmentation_space(31, (40, 50))
    names = {name.lower().replace("_", ""): name for name in randaugment.OPERATIONS}
    assert {name.lower() for name in spaces} == set(names)
    for theirs, (values, signed) in spaces.items():
        ours = names[theirs.lower()]
        assert signed == (ours in SIGNED)
        for magnitude in (0, 9, 15, 30):
            expected = float(values[magnitude]) if values.ndim else 0.0
            expected = int(expected) if "translate" in ours else expected / 255 if ours == "solarize" else expected
            assert randaugment.build(magnitude=magnitude)._magnitude(ours, 40, 50) == pytest.approx(expected, abs=1e-6)


def test_randaugment_draws_every_operation_and_sign_alike() -> None:
    rounds = randaugment.build(num_ops=3, magnitude=9).draw(9_000, 32, 32, seeded(0))
    assert len(rounds) == 3
    steps = [step for one in rounds for step in one]
    counts = Counter(step.operation for step in steps)
    expected = len(steps) / len(randaugment.OPERATIONS)
    # Chi-squared with 13 degrees of freedom exceeds 34.5 once in a thousand.
    assert sum((counts[name] - expected) ** 2 / expected for name in randaugment.OPERATIONS) < 34.5
    signed = [step.magnitude for step in steps if step.operation in SIGNED]
    assert abs(sum(m < 0 for m in signed) / len(signed) - 0.5) < 4 * 0.5 / math.sqrt(len(signed))
    assert all(step.magnitude >= 0 for step in steps if step.operation not in SIGNED)


# --- AugMix -----------------------------------------------------------------------------------------------------------


def test_augmix_is_the_weighted_sum_of_its_chains() -> None:
    transform = augmix.build(severity=4, width=3)
    images = photographs(48, 32)
    drawn = transform.draw(48, 32, 32, seeded(5))
    found, _ = transform(images, distributions(48), seeded(5))
    expected = []
    for index, image in enumerate(images.contiguous()):
        mixed = image * drawn.weights[index, 0]
        for number, rounds in enumerate(drawn.chains, start=1):
            end = image
            for steps in rounds:
                end = torchvision_step(end, steps[index])
            mixed = mixed + end * drawn.weights[index, number]
        expected.append(mixed)
    difference = (found - torch.stack(expected)).abs().amax(dim=(1, 2, 3))
    assert (difference <= LEVEL).double().mean() > 0.9
    assert difference.median() <= 1e-5


@pytest.mark.parametrize(("width", "alpha"), [(1, 1.0), (3, 1.0), (4, 0.3)])
def test_augmix_shares_are_beta_and_dirichlet(width: int, alpha: float) -> None:
    n = 20_000
    weights = augmix.build(width=width, alpha=alpha).draw(n, 8, 8, seeded(0)).weights.double()
    assert weights.shape == (n, width + 1)
    assert torch.allclose(weights.sum(dim=1), torch.ones(n, dtype=torch.float64), atol=1e-5)
    own, others = weights[:, 0], weights[:, 1:] / weights[:, 1:].sum(dim=1, keepdim=True).clamp(min=1e-12)
    variance = 1 / (4 * (2 * alpha + 1))
    assert own.mean().item() == pytest.approx(0.5, abs=4 * math.sqrt(variance / n))
    assert own.var().item() == pytest.approx(variance, rel=0.05)
    if width > 1:
        assert others.mean(dim=0).tolist() == pytest.approx([1 / width] * width, abs=0.02)
        spread = (width - 1) / (width**2 * (width * alpha + 1))
        assert others.var(dim=0).tolist() == pytest.approx([spread] * width, rel=0.08)


def test_augmix_chains_have_one_to_three_operations_up_to_the_severity() -> None:
    drawn = augmix.build(severity=3).draw(3_000, 32, 32, seeded(0))
    assert len(drawn.chains) == 3
    depths = Counter(
        sum(steps[image].operation != "identity" for steps in rounds)
        for rounds in drawn.chains
        for image in range(3_000)
    )
    assert set(depths) == {1, 2, 3}
    assert all(abs(count / 9_000 - 1 / 3) < 0.02 for count in depths.values())
    rotations = {
        round(abs(step.magnitude), 3) for rounds in drawn.chains for steps in rounds for step in steps
        if step.operation == "rotate"
    }  # fmt: skip
    assert rotations == {0.0, 3.333, 6.667}
    fixed = augmix.build(depth=2).draw(10, 32, 32, seeded(0))
    assert all(len(rounds) == 2 for rounds in fixed.chains)
    assert all(step.operation != "identity" for rounds in fixed.chains for steps in rounds for step in steps)


def test_augmixs_ranges_are_torchvisions() -> None:
    spaces = reference_ranges.AugMix(all_ops=False)._augmentation_space(10, (30, 60))
    names = {name.replace("_", ""): name for name in augmix.OPERATIONS}
    assert {name.lower() for name in spaces} == set(names)
    for theirs, (values, signed) in spaces.items():
        ours = names[theirs.lower()]
        assert signed == (ours in SIGNED)
        for level in range(10):
            expected = float(values[level]) if values.ndim else 0.0
            expected = int(expected) if "translate" in ours else expected / 255 if ours == "solarize" else expected
            assert augmix._magnitude(ours, level, 30, 60) == pytest.approx(expected, rel=1e-6, abs=1e-6)


# --- random erasing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, 0.0, 0.25])
def test_erasing_equals_torchvision(value: float | None) -> None:
    transform = random_erasing.RandomErasing(p=0.6, value=value)
    images = photographs(64, 32)
    drawn = transform.draw(64, 32, 32, seeded(2))
    found, targets = transform(images, distributions(64), seeded(2))
    assert torch.equal(targets, distributions(64))
    for image, erasure, result in zip(images, drawn, found, strict=True):
        if erasure is None:
            assert torch.equal(result, image)
        else:
            box = erasure.box
            expected = reference.erase(image, box.top, box.left, box.height, box.width, erasure.content)
            assert torch.equal(result, expected)


def test_erased_boxes_have_the_right_shares_and_ratios() -> None:
    n, side = 8_000, 400
    drawn = random_erasing.RandomErasing(p=0.25, value=0.0, ratio_min=0.5, ratio_max=3.0).draw(n, side, side, seeded(0))
    boxes = [one.box for one in drawn if one]
    assert abs(len(boxes) / n - 0.25) < 4 * math.sqrt(0.25 * 0.75 / n)
    shares = torch.tensor([box.height * box.width / side**2 for box in boxes])
    assert 0.0195 < shares.min() < 0.03
    assert 0.32 < shares.max() < 0.3305
    assert shares.mean().item() == pytest.approx((0.02 + 0.33) / 2, abs=0.01)
    ratios = torch.tensor([math.log(box.height / box.width) for box in boxes])
    assert ratios.min() > math.log(0.5) - 0.02
    assert ratios.max() < math.log(3.0) + 0.02
    assert ratios.mean().item() == pytest.approx((math.log(0.5) + math.log(3)) / 2, abs=0.04)
    assert all(0 <= box.top <= side - box.height and 0 <= box.left <= side - box.width for box in boxes)


def test_erased_noise_is_uniform() -> None:
    noise = [one.content for one in random_erasing.RandomErasing(p=1.0).draw(64, 64, 64, seeded(0)) if one]
    values = torch.cat([one.flatten() for one in noise]).double()
    assert values.mean().item() == pytest.approx(0.5, abs=0.005)
    assert values.var().item() == pytest.approx(1 / 12, rel=0.01)


# --- random resized crop ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(32, 32), (24, 50), (7, 3)])
def test_cropping_equals_torchvision(shape: tuple[int, int]) -> None:
    transform = random_resized_crop.build()
    images = photographs(96, max(shape))[..., : shape[0], : shape[1]].contiguous()
    boxes = transform.draw(96, *shape, seeded(4))
    found, _ = transform(images, distributions(96), seeded(4))
    for image, box, result in zip(images, boxes, found, strict=True):
        expected = reference.resized_crop(
            image, box.top, box.left, box.height, box.width, list(shape), interpolation=BILINEAR, antialias=True
        )
        assert (result - expected).abs().max() <= 1e-4


def test_cropped_boxes_have_the_right_shares_and_ratios() -> None:
    n, side = 8_000, 400
    boxes = random_resized_crop.build().draw(n, side, side, seeded(0))
    assert all(
        0 <= box.top <= side - box.height and 0 <= box.left <= side - box.width and box.height > 0 < box.width
        for box in boxes
    )
    shares = torch.tensor([box.height * box.width / side**2 for box in boxes])
    assert 0.079 < shares.min() < 0.09
    # Of large areas only those near the square fit, so compare below the area that fits at every ratio.
    small = shares[shares < 0.7]
    assert small.mean().item() == pytest.approx((0.08 + 0.7) / 2, abs=0.012)
    ratios = torch.tensor([box.width / box.height for box in boxes])
    assert 0.74 < ratios.min() < 0.77
    assert 1.3 < ratios.max() < 1.35
    assert ratios.log().mean().abs() < 0.01
    left = torch.tensor([box.left / (side - box.width) for box in boxes if box.width < side - 10])
    assert left.mean().item() == pytest.approx(0.5, abs=0.02)


def test_the_largest_central_box_is_used_if_no_box_fits() -> None:
    transform = random_resized_crop.build(scale_min=1.0, ratio_min=1.0, ratio_max=1.0)
    (box,) = transform.draw(1, 10, 30, seeded(0))
    assert (box.top, box.left, box.height, box.width) == (0, 10, 10, 10)
    (box,) = transform.draw(1, 30, 10, seeded(0))
    assert (box.top, box.left, box.height, box.width) == (10, 0, 10, 10)


# --- mixup ------------------------------------------------------------------------------------------------------------


def test_mixup_equals_torchvision() -> None:
    images, targets = photographs(16, 24), distributions(16)
    rolled = torch.arange(16).roll(1)
    transform, parameters = mixup.build(), mixup.MixupParameters(rolled, 0.3)
    found, mixed = transform.apply(images, parameters), transform.mix_targets(targets, parameters)
    theirs = MixUp(num_classes=5)
    params = {"lam": 0.3, "labels": targets, "batch_size": 16}
    assert (found - theirs.transform(images, params)).abs().max() <= 1e-6
    expected = 0.3 * targets + 0.7 * targets.roll(1, 0)
    assert torch.allclose(mixed, expected)
    assert torch.allclose(mixed.sum(dim=1), torch.ones(16))


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixups_lambda_is_beta_and_its_share_of_batches_p(alpha: float) -> None:
    n, generator = 6_000, seeded(0)
    transform = mixup.build(alpha=alpha, p=0.75)
    drawn = torch.tensor([transform.draw(2, 8, 8, generator).lam for _ in range(n)], dtype=torch.float64)
    blended = drawn[drawn != 1.0]
    assert abs(len(blended) / n - 0.75) < 0.03
    assert blended.mean().item() == pytest.approx(0.5, abs=0.02)
    assert blended.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.07)


def test_cutmix_and_mixup_together_leave_distributions() -> None:
    images, targets = photographs(32, 24), torch.eye(5)[torch.randint(5, (32,), generator=seeded(0))]
    for seed in range(20):
        found, mixed = cutmix.build()(*mixup.build(alpha=1.0)(images, targets, seeded(seed)), seeded(100 + seed))
        assert torch.allclose(mixed.sum(dim=1), torch.ones(32), atol=1e-5)
        assert mixed.min() >= 0
        assert (mixed > 0).sum(dim=1).max() <= 4
        assert found.min() >= 0
        assert found.max() <= 1


# --- strengths --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "strengths", "message"),
    [
        (randaugment, {"magnitude": 31}, "magnitude is 31, expected 0 to 30"),
        (randaugment, {"magnitude": 1.5}, "magnitude is 1.5, expected a whole number"),
        (randaugment, {"num_ops": 0}, "num_ops is 0, expected 1 or above"),
        (augmix, {"severity": 0}, "severity is 0, expected 1 to 10"),
        (augmix, {"width": 1.5}, "width is 1.5, expected a whole number"),
        (augmix, {"depth": -1}, "depth is -1, expected 0"),
        (augmix, {"alpha": 0}, "alpha is 0, expected a finite number above 0"),
        (random_erasing, {"p": 2}, "p is 2, expected a probability"),
        (random_erasing, {"value": 255}, "value is 255, expected a number between 0 and 1"),
        (random_erasing, {"scale_max": 0.01}, "scale_min is 0.02 and scale_max 0.01, expected 0 < scale_min"),
        (random_resized_crop, {"ratio_min": 2}, "ratio_min is 2 and ratio_max 1.33"),
        (mixup, {"alpha": -1}, "alpha is -1, expected a finite number above 0"),
        (mixup, {"p": -0.1}, "p is -0.1, expected a probability"),
    ],
)
def test_impossible_strengths_are_refused(module: Any, strengths: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        module.harness_augmentations()[0].build(**strengths)
