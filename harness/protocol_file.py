"""Reads a user's TOML file as a protocol of their own, which is kept apart from the frozen ones."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from harness.catalog import Catalog
from harness.errors import PluginError, RegistryError, WrongUseError, unknown_name
from harness.guard import guarded
from harness.registry import Ablation, AugmentationUse, Benchmark, Protocol, Suite, check_protocol
from harness.toml_file import convert, read_toml

_NAME = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
_LONGEST_NAME = 100  # a folder has this name
_UNEXECUTED = ("name", "title", "accelerator")


def read_protocol_file(benchmark: Benchmark, given: str, advice: str = "") -> Benchmark:
    """Return the benchmark with a file's protocol in it, under its full name and under the given path.

    The file has a ``name`` and either every key of a protocol, or ``based_on`` with the name of one in the registry
    and the keys that change; a given table or list replaces the base's whole.

    Args:
        benchmark: The registry's.
        given: The file's path, as the user wrote it.
        advice: The advice in the error for a missing file.

    Raises:
        RegistryError: the file is missing or has impossible content; names file, key, found and expected.
        WrongUseError: it has a frozen protocol's name but another content.
    """
    path = Path(given)
    table = read_toml(
        path, "protocol file", advice or "--protocol takes a name of the registry, or the path of a file."
    )
    text = path.read_text(encoding="utf-8")
    name = _take_text(table, "name", path)
    if name is None or not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise RegistryError(
            f"{path}: name is {name!r:.120}, expected lower-case letters and digits with '.', '_' or '-' between, "
            f'at most {_LONGEST_NAME}, such as name = "no-cutmix".'
        )
    base = _base(benchmark, _take_text(table, "based_on", path), path)
    inherited = msgspec.to_builtins(base) | {"title": f"{base.title}, changed"} if base else {}
    protocol = convert(inherited | table, Protocol, path, "")
    check_protocol(protocol, str(path))
    _check_augmentations(protocol, path)
    if name in benchmark.protocols:
        if benchmark.protocols[name].digest == protocol.digest:
            return msgspec.structs.replace(
                benchmark, protocols={**benchmark.protocols, given: benchmark.protocols[name]}
            )
        raise WrongUseError(
            f"{path}: the name '{name}' belongs to a frozen protocol (digest {benchmark.protocols[name].digest}), and "
            f"this one is another (digest {protocol.digest}). Give it a name of its own."
        )
    ablation = Ablation(
        name=name,
        based_on=base.name if base else "",
        base_digest=base.digest if base else "",
        departures=tuple(departures(base, protocol)) if base else (),
        file=str(path),
        text=text,
    )
    return add_ablation(benchmark, protocol, ablation, alias=given)


def add_ablation(benchmark: Benchmark, protocol: Protocol, ablation: Ablation, *, alias: str) -> Benchmark:
    """Return the benchmark with a user's protocol, whose digest in the name makes it unmistakable."""
    full = full_name(ablation.name, protocol)
    named = msgspec.structs.replace(protocol, name=full)
    return msgspec.structs.replace(
        benchmark,
        protocols={**benchmark.protocols, full: named, alias: named},
        ablations={**benchmark.ablations, full: ablation},
    )


def full_name(name: str, protocol: Protocol) -> str:
    """Return the full name of a user's protocol, which is also its folder among the results."""
    return f"{name}-{protocol.digest[:8]}"


def departures(base: Protocol, protocol: Protocol) -> list[str]:
    """Return a phrase for each difference of a protocol from another; names and titles do not count."""
    before, after = msgspec.to_builtins(base), msgspec.to_builtins(protocol)
    found = [
        f"{key}: {_say(before[key])} to {_say(after[key])}"
        for key in before
        if key not in (*_UNEXECUTED, "augmentations") and before[key] != after[key]
    ]
    return [*found, *_augmentation_departures(base.augmentations, protocol.augmentations)]


def check_strengths(catalog: Catalog, protocol: Protocol) -> None:
    """Build every augmentation of a protocol once, to find an error before any training.

    Raises:
        WrongUseError: an unknown augmentation or metric, or strengths that an augmentation refuses.
        PluginError: an augmentation or the metric belongs to a broken plugin.
    """
    catalog.metric(protocol.metric)
    for use in protocol.augmentations:
        augmentation = catalog.augmentation(use.name).spec
        try:
            with guarded():
                augmentation.build(**use.strengths)
        except PluginError as error:
            raise WrongUseError(
                f"The protocol {protocol.name}: the augmentation '{use.name}' refuses {use.strengths}: {error}."
            ) from error


def under_protocol(benchmark: Benchmark, suite: str | None, protocol: str) -> Benchmark:
    """Return the benchmark with one suite under another protocol than its own.

    The suite's anchors belong to its own protocol, so scores are then normalised by the measured extrema.
    """
    chosen, used = benchmark.suite(suite), benchmark.protocol(protocol)
    if used.name == chosen.protocol:
        return benchmark
    moved: Suite = msgspec.structs.replace(
        chosen, protocol=used.name, anchors=None, title=f"{chosen.title}, under {used.name}"
    )
    return msgspec.structs.replace(benchmark, suites={**benchmark.suites, chosen.name: moved})


def describe_ablation(benchmark: Benchmark, protocol: Protocol) -> tuple[str, ...]:
    """Return sentences about an ablation and its differences; none for a protocol of the registry."""
    ablation = benchmark.ablations.get(protocol.name)
    if ablation is None:
        return ()
    first = f"This is an ablation, not the frozen benchmark: protocol {protocol.name} (digest {protocol.digest})"
    if not ablation.based_on:
        return (f"{first}, a complete one of its own.",)
    changes = "; ".join(ablation.departures) or "nothing that is executed"
    return (f"{first}, based on {ablation.based_on} (digest {ablation.base_digest}).", f"It departs in {changes}.")


def _take_text(table: dict[str, Any], key: str, path: Path) -> str | None:
    value = table.pop(key, None)
    if value is not None and not isinstance(value, str):
        raise RegistryError(f"{path}: {key} is {value!r}, expected text.")
    return value


def _base(benchmark: Benchmark, name: str | None, path: Path) -> Protocol | None:
    if name is None:
        return None
    frozen = {key: value for key, value in benchmark.protocols.items() if key == value.name}
    if name not in frozen:
        raise RegistryError(f"{path}: based_on: {unknown_name('protocol', name, frozen)}")
    return frozen[name]


def _check_augmentations(protocol: Protocol, path: Path) -> None:
    names = [use.name for use in protocol.augmentations]
    for name in names:
        if names.count(name) > 1:
            raise RegistryError(f"{path}: augmentations: '{name}' is there {names.count(name)} times, expected once.")


def _augmentation_departures(before: Sequence[AugmentationUse], after: Sequence[AugmentationUse]) -> list[str]:
    old, new = ({use.name: use for use in uses} for uses in (before, after))
    found = [f"{name}: left out" for name in old if name not in new]
    for name, use in new.items():
        if name not in old:
            found.append(f"{name}: added ({_strengths(use.strengths)}, at the {use.at} size)")
            continue
        if old[name].strengths != use.strengths:
            found.append(f"{name}: {_strengths(old[name].strengths)} to {_strengths(use.strengths)}")
        if old[name].at != use.at:
            found.append(f"{name}: at the {old[name].at} size to at the {use.at} size")
    kept = [name for name in old if name in new]
    if [name for name in new if name in old] != kept:
        found.append(f"order of augmentations: {', '.join(new)}")
    return found


def _strengths(strengths: Mapping[str, float]) -> str:
    return ", ".join(f"{key} {value:g}" for key, value in strengths.items()) or "no strengths"


def _say(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_say(one)}" for key, one in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(_say(one) for one in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
