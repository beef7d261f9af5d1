"""A user's protocol beside its results, so that it is known for good what was run.

<runs>/<name>-<digest>/
    protocol.toml     the file as it was when the first job began
    protocol.json     the whole protocol as it is executed, its digest, its base and what departs from that
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from harness.ablation import add_ablation, check_strengths, full_name, read_protocol_file
from harness.catalog import Catalog
from harness.errors import StoreError, WrongUseError, unknown_name
from harness.files import write_text_atomically, writing_to
from harness.registry import Ablation, Benchmark, Protocol
from harness.results.store import RunsFolder

SCHEMA = 1


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: int
    digest: str
    protocol: Protocol
    ablation: Ablation


def find_protocol(benchmark: Benchmark, catalog: Catalog, runs: RunsFolder, given: str) -> Benchmark:
    """Return the benchmark in which ``protocol(given)`` is what a user means.

    Args:
        benchmark, catalog: The registry and what is installed.
        runs: Where results, and with them the protocols that they were made under, are.
        given: A name of the registry, the path of a file (it ends in ``.toml`` or has a folder in it), or the full name
            of a user's protocol that there are results of.

    Raises:
        RegistryError: the file is missing or says something impossible.
        WrongUseError: there is no such protocol, or it takes a frozen one's name, or names something unknown.
        StoreError: what was kept with the results is damaged.
    """
    if given in benchmark.protocols:
        return benchmark
    kept = [path.parent.name for path in sorted(runs.root.glob("*/protocol.json"))]
    if given.endswith(".toml") or Path(given).name != given:
        found = read_protocol_file(benchmark, given, _advice(kept))
    elif given in kept:
        found = _read_kept(benchmark, runs, given)
    else:
        raise WrongUseError(unknown_name("protocol", given, [*benchmark.protocols, *kept]))
    if found.protocol(given).name in found.ablations:
        check_strengths(catalog, found.protocol(given))
    return found


def other_contents(benchmark: Benchmark, runs: RunsFolder, protocol: Protocol) -> list[str]:
    """Return the full names of kept protocols that have the same name as a user's protocol and another content."""
    ablation = benchmark.ablations.get(protocol.name)
    if ablation is None:
        return []
    return [
        path.parent.name
        for path in sorted(runs.root.glob(f"{ablation.name}-*/protocol.json"))
        if path.parent.name != protocol.name and path.parent.name.rpartition("-")[0] == ablation.name
    ]


def keep_protocol(benchmark: Benchmark, runs: RunsFolder, name: str) -> None:
    """Write a user's protocol beside its results, once; a protocol of the registry needs none.

    Raises StoreError where that is impossible, or where another protocol lies there already.
    """
    ablation = benchmark.ablations.get(name)
    if ablation is None:
        return
    protocol = benchmark.protocol(name)
    folder = runs.root / name
    record = folder / "protocol.json"
    if record.exists():
        digest = _decode(record).digest
        if digest != protocol.digest:
            raise StoreError(
                f"{folder} holds results of another protocol (digest {digest}) than this one (digest "
                f"{protocol.digest}). Rename yours."
            )
        return
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_text_atomically(folder / "protocol.toml", ablation.text)
    content: dict[str, Any] = msgspec.to_builtins(_Record(SCHEMA, protocol.digest, protocol, ablation))
    write_text_atomically(record, json.dumps(content, indent=2) + "\n")


def _read_kept(benchmark: Benchmark, runs: RunsFolder, name: str) -> Benchmark:
    path = runs.root / name / "protocol.json"
    record = _decode(path)
    if record.protocol.digest != record.digest or full_name(record.ablation.name, record.protocol) != name:
        raise StoreError(
            f"{path} says digest {record.digest}, but the protocol in it has {record.protocol.digest}: the file was "
            "changed, or written by a version of harness that executes the same numbers in another way."
        )
    return add_ablation(benchmark, record.protocol, record.ablation, alias=name)


def _decode(path: Path) -> _Record:
    try:
        record = msgspec.json.decode(path.read_bytes(), type=_Record)
    except OSError as error:
        raise StoreError(f"{path} can't be read: {error.strerror}.") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} is damaged: {error}.") from error
    if record.schema != SCHEMA:
        raise StoreError(f"{path} has schema {record.schema}, expected {SCHEMA}: another version of harness wrote it.")
    return record


def _advice(kept: list[str]) -> str:
    """Say what to do where a protocol's file is gone."""
    if not kept:
        return "--protocol takes a name of the registry, or the path of a file."
    return f"To look at results whose file is gone, say --protocol with the name of their folder: {', '.join(kept)}."
