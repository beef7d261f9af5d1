"""The origin of a result: versions, machine, threads, flags, and the source of every plugin that took part.

It is read once per run, after training. An unknown value is None: no run fails because git is not installed.
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
from harness.source import source_digest

_SECONDS = 10


def describe_environment(
    device: torch.device, catalog: Catalog, *, model: Offer[ModelSpec], job: Job, protocol: Protocol
) -> dict[str, Any]:
    """Return the facts that a reader needs to judge or repeat a run.

    Args:
        device: The training device.
        catalog: The installed plugins.
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
    """Return the origins of plugins, one entry per origin.

    Args:
        plugins: Each by its role, such as ``model mynet``.

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


def plugin_sources(catalog: Catalog, model: ModelSpec, protocol: Protocol) -> dict[str, str]:
    """Return a hash of the code of each plugin that decides the weights, by role such as ``model mynet``.

    Read it as soon as the plugins are imported: it is that of the files, and they may be edited while a job trains.
    """
    found = {f"model {model.name}": source_digest(model.build)}
    for use in protocol.augmentations:
        if use.name in catalog.augmentations:
            found[f"augmentation {use.name}"] = source_digest(catalog.augmentations[use.name].spec.build)
    return found


class Sources:
    """The answers of git about folders and files; each checkout is asked once."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, Path | None], dict[str, Any]] = {}

    def of(self, path: Path | None) -> dict[str, Any]:
        """Return ``commit`` and ``dirty`` of the sources at a path; both None if git does not track them."""
        nothing = {"commit": None, "dirty": None}
        if path is None:
            return nothing
        folder = path if path.is_dir() else path.parent
        # A plugin's behaviour depends on its whole package, or on its single module.
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
    """The answers of git for a process, which runs the code that it imported, whatever is committed later."""
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
    """Return the file of a plugin's module; None if it is unknown."""
    with contextlib.suppress(ImportError, AttributeError, ValueError):
        found = importlib.util.find_spec(module.partition(":")[0])
        if found is not None and found.origin and Path(found.origin).is_file():
            return Path(found.origin)
    return None


def _git(folder: Path, *arguments: str) -> str | None:
    """Return the output of a git command, or None if it fails."""
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
