"""``harness --version``: the versions that numbers and bug reports depend on, from metadata and so without torch."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, entry_points, version

import click

from harness import __version__
from harness.api import HOOK_API_VERSION, PROJECT

_LIBRARIES = ("torch", "torchvision", "timm", "numpy", "pillow", "fvcore", "pluggy")


def version_text() -> str:
    """Return the version in the first line and the environment below it."""
    facts = {
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "platform": platform.platform(),
        **{name: _version(name) for name in _LIBRARIES},
        "plugins": _plugins(),
        "hook API": str(HOOK_API_VERSION),
    }
    width = max(map(len, facts))
    return "\n".join(
        [f"harness, version {__version__}", *(f"  {name:{width}}  {value}" for name, value in facts.items())]
    )


def show_version(context: click.Context, _: click.Parameter, value: bool) -> None:
    """Print the version and end, as the callback of an option."""
    if value and not context.resilient_parsing:
        click.echo(version_text())
        context.exit()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _plugins() -> str:
    """Count entry points without loading them: whether they work is for 'harness list plugins' to say."""
    owners = [entry.dist.name if entry.dist else "?" for entry in entry_points(group=PROJECT)]
    return f"{len(owners)} of {len(set(owners))} distribution{'s' if len(set(owners)) != 1 else ''}"
