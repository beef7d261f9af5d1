"""A user's protocol beside its results, so that it is known for good what was run.

<runs>/<name>-<digest>/
    protocol.toml     the file as it was when the first job began
    protocol.json     the whole protocol as it is executed, its digest, its base and what departs from that
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
from harness.results.store import JobFolder, RunsFolder

SCHEMA = 1
KEPT = ("protocol.toml", "protocol.json")
"""What lies beside the results of a user's protocol, in the order in which it is written."""


class OtherProtocolError(StoreError):
    """Another content lies where a user's protocol belongs."""


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
    """Return what is kept of the user's protocol that a run was made under, whole and in agreement with itself.

    Nothing for a protocol of the registry, and for a run that was moved away from its protocol's folder.

    Raises:
        StoreError: it can't be read, is damaged, or is not what the folder's name says.
    """
    above = folder.path.absolute().parents
    if len(above) < 3 or above[2].name != folder.job.protocol or not (above[2] / "protocol.json").is_file():
        return {}
    kept = {name: _read(above[2] / name) for name in KEPT}
    check_kept(folder.job.protocol, kept, f"{above[2]}/")
    return kept


def check_kept(name: str, kept: Mapping[str, bytes], where: str) -> None:
    """Check that kept files are those of the user's protocol of this full name; ``where`` precedes their names.

    Raises StoreError with the reason if they are not.
    """
    if _checked(name, kept["protocol.json"], f"{where}protocol.json").ablation.text.encode() != kept["protocol.toml"]:
        raise StoreError(f"{where}protocol.toml was changed: it is not the file that protocol.json was made from.")


def same_kept(one: Mapping[str, bytes], other: Mapping[str, bytes]) -> bool:
    """Whether checked files say the same of a protocol, wherever the user's file was when the first job began."""
    return _placeless(one["protocol.json"]) == _placeless(other["protocol.json"])


def take_in(runs: RunsFolder, name: str, kept: Mapping[str, bytes]) -> None:
    """Write checked files to where a user's protocol is kept; what lies there already stays.

    Raises:
        OtherProtocolError: what lies there says something else, or is damaged; it is as it was.
        StoreError: the runs folder can't be written.
    """
    folder = runs.root / name
    here = {file: _read(folder / file) for file in KEPT if (folder / file).exists()}
    if here != {file: kept[file] for file in here} and not _says_the_same(name, here, kept, folder):
        raise OtherProtocolError(
            f"{folder} keeps another protocol.toml or protocol.json than what comes with the runs, so none of its runs "
            "was taken in. Compare the two, and merge into another runs folder to keep both."
        )
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for file in KEPT:
        if file not in here:
            write_text_atomically(folder / file, kept[file].decode())


def _says_the_same(name: str, here: Mapping[str, bytes], kept: Mapping[str, bytes], folder: Path) -> bool:
    """Whether what lies here agrees in all but its bytes; OtherProtocolError with the reason where it is damaged."""
    if len(here) < len(KEPT):
        return False
    try:
        check_kept(name, here, f"{folder}/")
    except StoreError as error:
        raise OtherProtocolError(f"{error} None of the runs of {name} was taken in.") from error
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
        raise StoreError(f"{where} is of the protocol {recorded}, expected {name}: it is not in its own folder.")
    return record


def _decode(content: bytes, path: str) -> _Record:
    try:
        record = msgspec.json.decode(content, type=_Record)
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
