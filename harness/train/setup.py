"""The parts of a run, built from the protocol: input pipeline, optimiser, layout, seeds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import nn

from harness.catalog import Catalog
from harness.errors import PluginError
from harness.registry import AugmentationUse, Protocol
from harness.train.loop import MEMORY_FORMATS
from harness.train.pipeline import Augment, InputPipeline, Normalise, Resize, Stage
from harness.train.seeds import derive_seed


def build_pipeline(
    protocol: Protocol,
    catalog: Catalog,
    *,
    num_classes: int,
    moments: tuple[Sequence[float], Sequence[float]],
    device: torch.device,
) -> InputPipeline:
    """Build the stages that a protocol names.

    Args:
        protocol, catalog: The protocol, and the plugins that offer its augmentations.
        num_classes: Number of the data set's classes.
        moments: Mean and standard deviation of its three channels.
        device: The training device.

    Raises:
        PluginError: an augmentation refuses its strengths.
    """

    def augmentations(at: str) -> list[Stage]:
        return [_build(catalog, use) for use in protocol.augmentations if use.at == at]

    mean, std = (torch.tensor(values, dtype=torch.float32, device=device).view(1, 3, 1, 1) for values in moments)
    stages = (
        *augmentations("stored"), Resize(protocol.input_size), *augmentations("input"), Normalise(mean, std),
    )  # fmt: skip
    return InputPipeline(stages, num_classes)


def read_strengths(transform: object, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return an augmentation's strengths from the transform itself if it is a dataclass, else the given ones."""
    own = {field.name for field in fields(transform)} if is_dataclass(transform) else set()
    return {name: getattr(transform, name) if name in own else value for name, value in given.items()}


def build_optimizer(module: nn.Module, protocol: Protocol) -> torch.optim.Optimizer:
    """Return the protocol's Adam in its fused form, which changes speed alone. The loop sets the rate every epoch.

    Torch has no fused form for complex parameters.
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return torch.optim.Adam(
        trained,
        lr=protocol.lr_max,
        betas=protocol.betas,
        eps=protocol.eps,
        weight_decay=protocol.weight_decay,
        fused=trained[0].device.type in ("cpu", "cuda", "mps") and not any(one.is_complex() for one in trained),
    )


@contextlib.contextmanager
def seeded(seed: int, *purpose: str | int) -> Iterator[None]:
    """Seed torch's global generators for a purpose, and restore them afterwards."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()):
        torch.manual_seed(derive_seed(seed, *purpose))
        yield


def to_layout(module: nn.Module, device: torch.device, memory_format: str) -> nn.Module:
    """Move a module to the device and into the layout in which it trains."""
    module.to(device=device)  # in place; not chained, for a plugin's own method may return nothing
    module.to(memory_format=MEMORY_FORMATS[memory_format])
    return module


def _build(catalog: Catalog, use: AugmentationUse) -> Augment:
    try:
        transform = catalog.augmentation(use.name).spec.build(**use.strengths)
    except (TypeError, ValueError) as error:
        raise PluginError(f"The augmentation '{use.name}' refuses {use.strengths}: {error}") from error
    return Augment(use.name, use.at, transform, read_strengths(transform, use.strengths))
