"""Keep a user's protocol beside its results, as the lasting record of it.

<runs>/<name>-<digest>/
    protocol.toml     the user's file at the start of the first job
    protocol.json     the whole protocol as executed, its digest, its base and the differences from that
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from harness.catalog import Catalog
from harness.errors import StoreError, WrongUseError, unknown_name
from harness.files import write_text_atomically, writing_to
from harness.protocol_file import add_ablation, check_strengths, full_name, read_protocol_file
from harness.registry import Ablation, Benchmark, Protocol
from harness.results.store import JobFolder, RunsFolder, protocol_folder

SCHEMA = 1
KEPT = ("protocol.toml", "protocol.json")
"""The files beside the results of a user's protocol, in the order in which they are written."""


class OtherProtocolError(StoreError):
    """The folder of a user's protocol holds another content."""


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: int
    digest: str
    protocol: Protocol
    ablation: Ablation


def find_protocol(benchmark: Benchmark, catalog: Catalog, runs: RunsFolder, given: str) -> Benchmark:
    """Return the benchmark with the protocol that a user named, as ``protocol(given)``.

    Args:
        benchmark, catalog: The registry and the installed plugins.
        runs: The folder of the results and their users' protocols.
        given: A name of the registry, the path of a file (it ends in ``.toml`` or has a folder in it), or the full name
            of a user's protocol with results.

    Raises:
        RegistryError: the file is missing or has impossible content.
        WrongUseError: there is no such protocol, or it takes a frozen one's name, or names something unknown.
        StoreError: the kept file is damaged.
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
    """Write a user's protocol beside its results, once; a protocol of the registry needs no file.

    Raises StoreError if that is impossible, or if the folder holds another protocol.
    """
    ablation = benchmark.ablations.get(name)
    if ablation is None:
        return
    protocol = benchmark.protocol(name)
    folder = runs.root / name
    record = folder / "protocol.json"
    if record.exists():
        digest = _decode(_read(record), str(record)).digest
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


def kept_beside(folder: JobFolder) -> dict[str, bytes]:
    """Return the kept files of a run's user's protocol, checked; the keys are their names.

    The dict is empty for a protocol of the registry, and for a run that was moved away from its protocol's folder.

    Raises:
        StoreError: a file can't be read, is damaged, or belongs to another protocol than the folder.
    """
    job, above = folder.job, folder.path.absolute().parents
    if len(above) < 4 or above[2].name != protocol_folder(job.protocol, job.budget):
        return {}
    home = above[3] / job.protocol  # one place for the results of all budgets
    if not (home / "protocol.json").is_file():
        return {}
    kept = {name: _read(home / name) for name in KEPT}
    check_kept(job.protocol, kept, f"{home}/")
    return kept


def check_kept(name: str, kept: Mapping[str, bytes], where: str) -> None:
    """Raise StoreError unless kept files belong to the user's protocol of this full name; ``where`` is their folder."""
    if _checked(name, kept["protocol.json"], f"{where}protocol.json").ablation.text.encode() != kept["protocol.toml"]:
        raise StoreError(f"{where}protocol.toml was changed: it is not the file that protocol.json was made from.")


def same_kept(one: Mapping[str, bytes], other: Mapping[str, bytes]) -> bool:
    """Return whether checked files describe the same protocol; the path of the user's file does not count."""
    return _placeless(one["protocol.json"]) == _placeless(other["protocol.json"])


def take_in(runs: RunsFolder, name: str, kept: Mapping[str, bytes]) -> None:
    """Write checked files to the folder of a user's protocol; existing files stay.

    Raises:
        OtherProtocolError: the existing files differ or are damaged; they stay unchanged.
        StoreError: the runs folder can't be written.
    """
    folder = runs.root / name
    here = {file: _read(folder / file) for file in KEPT if (folder / file).exists()}
    if here != {file: kept[file] for file in here} and not _says_the_same(name, here, kept, folder):
        raise OtherProtocolError(
            f"{folder} has another protocol.toml or protocol.json than the incoming runs, so none of them was merged. "
            "Compare the two, and merge into another runs folder to keep both."
        )
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for file in KEPT:
        if file not in here:
            write_text_atomically(folder / file, kept[file].decode())


def _says_the_same(name: str, here: Mapping[str, bytes], kept: Mapping[str, bytes], folder: Path) -> bool:
    """Return whether the files here agree in all but their bytes. Raises OtherProtocolError if they are damaged."""
    if len(here) < len(KEPT):
        return False
    try:
        check_kept(name, here, f"{folder}/")
    except StoreError as error:
        raise OtherProtocolError(f"{error} None of the runs of {name} was merged.") from error
    return same_kept(here, kept)


def _placeless(content: bytes) -> _Record:
    record = msgspec.json.decode(content, type=_Record)
    return msgspec.structs.replace(record, ablation=msgspec.structs.replace(record.ablation, file=""))


def _read_kept(benchmark: Benchmark, runs: RunsFolder, name: str) -> Benchmark:
    path = runs.root / name / "protocol.json"
    record = _checked(name, _read(path), str(path))
    return add_ablation(benchmark, record.protocol, record.ablation, alias=name)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path} can't be read: {error.strerror}.") from error


def _checked(name: str, content: bytes, where: str) -> _Record:
    record = _decode(content, where)
    if record.protocol.digest != record.digest:
        raise StoreError(
            f"{where} says digest {record.digest}, but the protocol in it has {record.protocol.digest}: the file was "
            "changed, or written by a version of harness that executes the same numbers in another way."
        )
    if (recorded := full_name(record.ablation.name, record.protocol)) != name:
        raise StoreError(f"{where} belongs to the protocol {recorded}, expected {name}: it is not in its own folder.")
    return record


def _decode(content: bytes, path: str) -> _Record:
    try:
        record = msgspec.json.decode(content, type=_Record)
    except (ValueError, RecursionError) as error:  # msgspec's errors and those of Unicode are ValueErrors
        raise StoreError(f"{path} is damaged: {error}.") from error
    if record.schema != SCHEMA:
        raise StoreError(f"{path} has schema {record.schema}, expected {SCHEMA}: another version of harness wrote it.")
    return record


def _advice(kept: list[str]) -> str:
    """Return the advice for a missing protocol file."""
    if not kept:
        return "--protocol takes a name of the registry, or the path of a file."
    return f"For results whose file is gone, give --protocol the name of their folder: {', '.join(kept)}."
