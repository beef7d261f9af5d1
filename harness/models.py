"""A model's spec -> a built module, its architecture digest and its parameters."""

from __future__ import annotations

import importlib.util
import re
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from harness.api import ModelSpec
from harness.cache import Cache, cache_folder
from harness.catalog import Offer
from harness.errors import PluginError, one_line
from harness.fingerprint import hash_of
from harness.garbage import gc_paused

if TYPE_CHECKING:
    from torch import nn


_ADDRESS = re.compile(r"\b0x[0-9a-f]+\b")


def architecture_digest(module: nn.Module) -> str:
    """Hash of a module's structure: the type and settings of every submodule, and every parameter's and buffer's shape.

    Settings are what modules print of themselves (stride, padding, drop rate), memory addresses left out, so that the
    hash is the same in every process.
    """
    structure = [
        [name, f"{type(part).__module__}.{type(part).__qualname__}", _ADDRESS.sub("", part.extra_repr())]
        for name, part in module.named_modules()
    ]
    shapes = [[name, list(value.shape), value.requires_grad] for name, value in module.named_parameters()]
    buffers = [[name, list(value.shape)] for name, value in module.named_buffers()]
    return hash_of([structure, shapes, buffers])


@dataclass(frozen=True)
class Architecture:
    """What a model is at one class count: the hash of its structure, and its trainable parameters."""

    digest: str
    parameters: int


class Architectures:
    """Architectures by model and class count, remembered between commands.

    Building eleven models takes seconds, and commands that only look (``status``, ``plan``) should answer at once. What
    is remembered is used while the plugin's source files and the libraries are the same; ``run`` builds anew, and
    leaves what it built to the other commands.
    """

    def __init__(self, *, remember: bool) -> None:
        self._cache = Cache(cache_folder() / "architectures.json")
        self._remember = remember
        self._known: dict[str, Architecture] = {}
        self._stamps: dict[str, list[object]] = {}

    def get(self, model: Offer[ModelSpec], num_classes: int) -> Architecture:
        """Return what a model is, building it if need be.

        Raises:
            PluginError: it does not build, or something else than a module.
        """
        key = hash_of([model.spec.name, num_classes, self._stamp(model.spec)])
        if key not in self._known:
            found = self._cache.get(key, Architecture) if self._remember else None
            self._known[key] = found or self._build(key, model, num_classes)
        return self._known[key]

    def _build(self, key: str, model: Offer[ModelSpec], num_classes: int) -> Architecture:
        module = build_module(model, num_classes)
        parameters = sum(p.numel() for p in module.parameters() if p.requires_grad)
        built = Architecture(architecture_digest(module), parameters)
        self._cache.put(key, built)
        return built

    def _stamp(self, spec: ModelSpec) -> list[object]:
        """The stamp as of this command's start; looking at the files again for every job would take minutes."""
        module = spec.build.__module__
        if module not in self._stamps:
            self._stamps[module] = source_stamp(spec)
        return self._stamps[module]

    def save(self) -> None:
        """Write what is new for the next command."""
        self._cache.save()


def build_module(model: Offer[ModelSpec], num_classes: int) -> nn.Module:
    """Call a plugin's ``build``; it draws from torch's global generator.

    Raises:
        PluginError: it failed, or returned something else than a module.
    """
    with gc_paused():
        from torch import nn

    try:
        with gc_paused():  # the first model of a process imports timm or another large library
            module = model.spec.build(num_classes)
    except (Exception, SystemExit) as error:  # a plugin that calls sys.exit() must not end the command
        raise PluginError(
            f"The model '{model.spec.name}' of {model.owner} does not build for {num_classes} classes: "
            f"{one_line(error)}"
        ) from error
    if not isinstance(module, nn.Module):
        raise PluginError(
            f"The model '{model.spec.name}' of {model.owner} builds a {type(module).__name__}, "
            "expected a torch.nn.Module."
        )
    return module


def source_stamp(spec: ModelSpec) -> list[object]:
    """Everything that may change what ``build`` makes: the plugin's source files, and the libraries."""
    top = spec.build.__module__.partition(".")[0]
    found = importlib.util.find_spec(top) if top not in ("__main__", "builtins") else None
    places = [Path(place) for place in (found.submodule_search_locations or [])] if found else []
    files = [file for place in places for file in place.rglob("*.py")]
    if found and not places and found.origin:
        files = [Path(found.origin)]
    stats = sorted((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files)
    libraries = [version(name) for name in ("torch", "torchvision", "timm")]
    return [spec.build.__module__, stats, libraries, sys.version]
