"""Rules that hold for every reference augmentation, and the horizontal flip."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from harness.api import BatchTransform
from tests.xscore_plugins.pictures import PROTOCOL, distributions, photographs, seeded
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

pytestmark = [pytest.mark.portable, pytest.mark.usefixtures("one_thread")]


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
