"""Compares a file with the size and the checksums that its source declares."""

from __future__ import annotations

import hashlib
from pathlib import Path

from harness.api import Source
from harness.errors import SourceError

_CHUNK = 1 << 22


def digests_of(path: Path, algorithms: set[str]) -> dict[str, str]:
    """Return a file's hex digests, computed in one pass. Raises SourceError if the file can't be read."""
    hashers = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                for hasher in hashers.values():
                    hasher.update(chunk)
    except OSError as error:
        raise SourceError(f"{path} can't be read: {error.strerror or error}.") from error
    return {name: hasher.hexdigest() for name, hasher in hashers.items()}


def may_be_accepted(source: Source) -> bool:
    """Return whether the user may accept another file: its checksum is known from one place only, or from none."""
    return bool(source.sole_origin) or not source.checksums


def verify_file(path: Path, source: Source, accepted: frozenset[str] = frozenset()) -> tuple[str, str]:
    """Compare a file with a source's size and checksums.

    Returns:
        The file's SHA-256, and the compared properties, such as ``"bytes, md5, sha256"``.

    Raises:
        SourceError: names the value that was found, the expected one and its origin, and the remedy.
    """
    found = digests_of(path, {"sha256", *source.checksums})
    size = path.stat().st_size
    if found["sha256"] in accepted and may_be_accepted(source):
        return found["sha256"], "accepted by the user"
    problems = []
    if source.bytes is not None and size != source.bytes:
        problems.append(f"it has {size:,} bytes, expected {source.bytes:,}")
    problems += [
        f"its {name} is {found[name]}, expected {expected}"
        for name, expected in source.checksums.items()
        if found[name] != expected.lower()
    ]
    if not source.checksums:
        problems.append(f"no checksum of it is published; its sha256 is {found['sha256']}")
    if problems:
        raise SourceError(f"{path} is not the expected file: {'; '.join(problems)}. {_advice(source, found['sha256'])}")
    compared = [*(["bytes"] if source.bytes is not None else []), *sorted(source.checksums)]
    return found["sha256"], ", ".join(compared)


def _advice(source: Source, sha256: str) -> str:
    accept = f"add --accept-file {sha256}. The manifest then records that you accepted this file."
    if not source.checksums:
        return f"If you trust the file's origin, {accept}"
    if source.sole_origin:
        return (
            f"The expected checksum is known from one place only ({source.sole_origin}), so the published file may "
            f"have changed. If you have made sure that this file is right, {accept}"
        )
    return (
        "Several independent sources agree on the expected file, so this file is damaged or a different one. Remove it "
        "and fetch it again. If you have unpacked the archive yourself, pass the folder with --from."
    )
