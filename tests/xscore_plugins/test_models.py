"""The 11 reference models: frozen counts, shapes, gradients, re-parameterisation, and cheap imports."""

from __future__ import annotations

import importlib
import socket
import subprocess
import sys
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from harness.api import ModelSpec

CLASSES = (7, 10, 67, 100, 120)

# Trainable parameters as trained, at CLASSES. A change here is a change of the benchmark: old results become stale.
COUNTS = {
    "mobilenet": (2386647, 2390634, 2466387, 2510244, 2536824),
    "shufflenet": (2391867, 2394942, 2453367, 2487192, 2507692),
    "efficientnet": (2414149, 2417320, 2477569, 2512450, 2533590),
    "mobilevit": (2465479, 2466826, 2492419, 2507236, 2516216),
    "convmixer": (2444119, 2445706, 2475859, 2493316, 2503896),
    "starnet": (2466222, 2466777, 2477322, 2483427, 2487127),
    "fbnet": (2336359, 2342314, 2455459, 2520964, 2560664),
    "ghostnet": (2367043, 2370886, 2443903, 2486176, 2511796),
    "mobileone": (2420695, 2423962, 2486035, 2521972, 2543752),
    "tinynet": (2346101, 2349944, 2422961, 2465234, 2490854),
    "convnext": (2454093, 2454912, 2470473, 2479482, 2484942),
}
DEPLOYED = {"ghostnet": 1876644, "mobileone": 1294148}  # all parameters after merging, at 100 classes


def plugin(name: str) -> ModuleType:
    return importlib.import_module(f"xscore_plugins.models.{name}")


def spec_of(name: str) -> ModelSpec:
    (spec,) = plugin(name).harness_models()
    assert isinstance(spec.name, str)
    return spec  # type: ignore[no-any-return]


@pytest.fixture(params=COUNTS)
def spec(request: pytest.FixtureRequest) -> ModelSpec:
    return spec_of(request.param)


def test_parameter_counts_are_frozen(spec: ModelSpec) -> None:
    found = [sum(p.numel() for p in spec.build(classes).parameters() if p.requires_grad) for classes in CLASSES]
    assert tuple(found) == COUNTS[spec.name]


def test_module_docstring_states_paper_and_count(spec: ModelSpec) -> None:
    doc = plugin(spec.name).__doc__ or ""
    assert f"{COUNTS[spec.name][CLASSES.index(100)]:,}" in doc
    identifier = spec.paper.rsplit(" ", 1)[-1]
    assert identifier.startswith("arXiv:")
    assert identifier in doc


def test_no_model_declares_its_own_learning_rate(spec: ModelSpec) -> None:
    # MobileViT's exception belongs to the protocol, in the registry.
    assert spec.lr_max is None


def test_build_is_silent_and_offline(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError(f"building {spec.name} opened a connection to {args[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    spec.build(10)
    assert capfd.readouterr() == ("", "")


def test_build_is_a_function_of_torchs_seed(spec: ModelSpec) -> None:
    import torch

    def state(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        return spec.build(10).state_dict()

    first, again, other = state(1), state(1), state(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("resolution", [40, 64])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_maps_images_to_logits(spec: ModelSpec, resolution: int, training: bool) -> None:
    import torch

    torch.manual_seed(0)
    model = spec.build(10).train(training)
    with torch.no_grad():
        logits = model(torch.randn(2, 3, resolution, resolution))
    assert logits.shape == (2, 10)
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()


def test_every_parameter_receives_a_gradient(spec: ModelSpec) -> None:
    import torch

    torch.manual_seed(0)
    model = spec.build(10).train()
    loss = torch.nn.functional.cross_entropy(model(torch.randn(2, 3, 64, 64)), torch.tensor([1, 2]))
    loss.backward()  # type: ignore[no-untyped-call]
    without = [name for name, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert without == []


def test_memory_format_does_not_change_the_function(spec: ModelSpec) -> None:
    import torch

    torch.manual_seed(0)
    model, images = spec.build(10).eval(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        plain = model(images)
        model.to(memory_format=torch.channels_last)
        strided = model(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(strided, plain, rtol=1e-4, atol=1e-5 * float(plain.abs().max()))


def test_only_models_with_branches_can_be_deployed() -> None:
    assert {name for name in COUNTS if spec_of(name).deploy is not None} == set(DEPLOYED)


@pytest.mark.parametrize("name", DEPLOYED)
def test_deploy_merges_branches_of_a_copy(name: str) -> None:
    import torch

    spec = spec_of(name)
    assert spec.deploy is not None
    torch.manual_seed(0)
    model = spec.build(100)
    images = torch.randn(2, 3, 64, 64)
    model.train()(images)  # moves the running statistics away from their trivial start
    before = {key: value.clone() for key, value in model.state_dict().items()}
    deployed = spec.deploy(model.eval())
    assert sum(p.numel() for p in deployed.parameters()) == DEPLOYED[name]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with torch.no_grad():
        expected = model(images)
        torch.testing.assert_close(deployed(images), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_plugin_modules_are_cheap_to_import() -> None:
    modules = [f"xscore_plugins.models.{name}" for name in COUNTS]
    script = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name).harness_models()\n"
        "print(sorted({'torch', 'torchvision', 'timm', 'fvcore', 'numpy', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
