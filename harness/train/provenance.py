"""Where a result comes from: versions, machine, threads, flags, and the source of every plugin that took part.

Looked at once a run, after training. Whatever cannot be found out is None: no run fails because git is not installed.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import platform
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from harness import __version__
from harness.api import Job, ModelSpec
from harness.catalog import DISTRIBUTION, Catalog, Offer, Plugin
from harness.machine import LIBRARIES, device_name, installed_version, nvidia_driver
from harness.registry import Protocol

_SECONDS = 10


def describe_environment(
    device: torch.device, catalog: Catalog, *, model: Offer[ModelSpec], job: Job, protocol: Protocol
) -> dict[str, Any]:
    """Return what a reader needs to judge or repeat a run.

    Args:
        device: Where it was trained.
        catalog: Where the plugins that took part are looked up.
        model: The model that was trained.
        job, protocol: Name the data set, the augmentations and the metric.
    """
    cuda = device.type == "cuda"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "harness": {"version": __version__, **_sources().of(Path(__file__).parents[1])},
        "versions": {name: found for name in (DISTRIBUTION, *LIBRARIES) if (found := installed_version(name))},
        "model_plugin": str(model.owner),
        "plugins": describe_plugins(_involved(catalog, model, job, protocol)),
        "device": str(device),
        "device_name": device_name(device),
        "driver": nvidia_driver() if cuda else None,
        "cuda": torch.version.cuda if cuda else None,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_format": model.spec.memory_format,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "deterministic_warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "tf32": torch.backends.cudnn.allow_tf32,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        "comparable": device.type != "mps",
    }


def describe_plugins(plugins: Mapping[str, Plugin]) -> list[dict[str, Any]]:
    """Return where plugins come from, one entry for all that come from the same place.

    Args:
        plugins: By what they took part with, such as ``model mynet``.

    Returns:
        Entries with ``distribution``, ``version``, ``commit`` and ``dirty`` of the source where that lies in a git
        checkout, and ``gave``, the list of what came from there.
    """
    sources = _sources()
    found: dict[str, dict[str, Any]] = {}
    for role, plugin in plugins.items():
        origin = {"distribution": plugin.distribution, "version": plugin.version, **sources.of(_source(plugin.module))}
        found.setdefault(repr(origin), {**origin, "gave": []})["gave"].append(role)
    return list(found.values())


class Sources:
    """Asks git about folders and files, about each checkout once."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, Path | None], dict[str, Any]] = {}

    def of(self, path: Path | None) -> dict[str, Any]:
        """Return ``commit`` and ``dirty`` of the sources at a path; both None if git does not track them."""
        nothing = {"commit": None, "dirty": None}
        if path is None:
            return nothing
        folder = path if path.is_dir() else path.parent
        # A file's package, as a whole, is what the plugin's behaviour depends on; a single module stands for itself.
        package = folder if path.is_dir() or (folder / "__init__.py").is_file() else None
        while package is not None and (package.parent / "__init__.py").is_file():
            package = package.parent
        scope = package or path
        key = (folder, None) if package is None else (package, package)
        if key not in self._known:
            tracked = _git(folder, "ls-files", "--", str(scope))
            if not tracked:  # none, or a checkout that merely surrounds the environment it is installed in
                self._known[key] = nothing
            else:
                changes = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", str(scope))
                self._known[key] = {
                    "commit": _git(folder, "rev-parse", "HEAD") or None,
                    "dirty": None if changes is None else bool(changes),
                }
        return self._known[key]


@functools.cache
def _sources() -> Sources:
    """The answers of git for a process: it goes on with the code that it has imported, whatever is committed later."""
    return Sources()


def _involved(catalog: Catalog, model: Offer[ModelSpec], job: Job, protocol: Protocol) -> dict[str, Plugin]:
    plugins = {f"model {job.model}": model.owner}
    if job.dataset in catalog.datasets:
        plugins[f"data set {job.dataset}"] = catalog.datasets[job.dataset].owner
    for use in protocol.augmentations:
        if use.name in catalog.augmentations:
            plugins[f"augmentation {use.name}"] = catalog.augmentations[use.name].owner
    return plugins | {f"metric {name}": offer.owner for name, offer in catalog.metrics.items()}


def _source(module: str) -> Path | None:
    """The file of a plugin's module; None if it can't be told."""
    with contextlib.suppress(ImportError, AttributeError, ValueError):
        found = importlib.util.find_spec(module.partition(":")[0])
        if found is not None and found.origin and Path(found.origin).is_file():
            return Path(found.origin)
    return None


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says, or None if it does not."""
    # Variables of a surrounding git command, such as a hook, would lead to another checkout.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    with contextlib.suppress(OSError, subprocess.SubprocessError, UnicodeDecodeError):
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=True,
            stdin=subprocess.DEVNULL,
            env=environment | {"GIT_OPTIONAL_LOCKS": "0"},
        )
        return done.stdout.strip()
    return None
