"""Downloads a source to a verified file: resumes cut connections, tries the mirrors in turn, uses no unverified file.

pooch would be the first choice, but it always starts a file anew. Files here have up to 2.6 GB and come from university
hosts. This module therefore uses requests, which handles redirects, proxies from the environment, TLS and time limits.
"""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from harness import __version__
from harness.api import Source
from harness.data.unpack import is_archive
from harness.errors import SourceError
from harness.files import writing_to

if TYPE_CHECKING:
    import requests

Progress = Callable[[str, int, int | None], None]
"""Called with a file's name, the bytes received so far, and the bytes expected or None."""

# Some hosts (Harvard Dataverse) refuse a client without a name, or with the name of a library.
USER_AGENT = f"xscore-harness/{__version__} (Python {platform.python_version()}; benchmark data sets)"
_CHUNK = 1 << 16  # a cut connection loses at most these bytes
_HASH_CHUNK = 1 << 22


def no_progress(name: str, done: int, total: int | None) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class FetchPolicy:
    """The download settings.

    Attributes:
        offline: Never use the network.
        mirror: A base address that is tried first, for ``<mirror>/<data set>/<file>``.
        accepted: SHA-256 digests of unexpected files that the user accepts. Accepting is possible only if the expected
            checksum is known from one place, or from none.
        connect_seconds, read_seconds: Time limits for a connection and for the next piece of a file.
        slowest, patience: A host that sends under ``slowest`` bytes per second for ``patience`` seconds is given up.
        attempts: Successive tries of one address without a new byte.
        pause_seconds: Pause before the second try of an address; doubled before each further try.
    """

    offline: bool = False
    mirror: str = field(default_factory=lambda: os.environ.get("HARNESS_MIRROR", ""))
    accepted: frozenset[str] = frozenset()
    connect_seconds: float = 10.0
    read_seconds: float = 30.0
    slowest: float = 1024.0
    patience: float = 60.0
    attempts: int = 3
    pause_seconds: float = 1.0


@dataclass(frozen=True)
class _Transfer:
    """One file on its way into a folder.

    A partial download waits in ``part``. ``refused`` is a complete file of the wrong content that the user may accept.
    """

    source: Source
    folder: Path
    policy: FetchPolicy
    progress: Progress

    @property
    def final(self) -> Path:
        return self.folder / self.source.filename

    @property
    def part(self) -> Path:
        return self.folder / f"{self.source.filename}.part"

    @property
    def refused(self) -> Path:
        return self.folder / f"{self.source.filename}.refused"


class _FetchError(Exception):
    """One address did not give the file, for the reason in the message. If ``again``, another try may succeed."""

    def __init__(self, reason: str, *, again: bool = False) -> None:
        super().__init__(reason)
        self.again = again


def digests_of(path: Path, algorithms: set[str]) -> dict[str, str]:
    """Return a file's hex digests, computed in one pass. Raises SourceError if the file can't be read."""
    hashers = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}
    try:
        with path.open("rb") as file:
            while chunk := file.read(_HASH_CHUNK):
                for hasher in hashers.values():
                    hasher.update(chunk)
    except OSError as error:
        raise SourceError(f"{path} can't be read: {error.strerror or error}.") from error
    return {name: hasher.hexdigest() for name, hasher in hashers.items()}


def verify_file(path: Path, source: Source, accepted: frozenset[str] = frozenset()) -> tuple[str, str]:
    """Compare a file with a source's size and checksums.

    Returns:
        The file's SHA-256, and the compared properties, such as ``"bytes, md5, sha256"``.

    Raises:
        SourceError: names the value that was found, the expected one and its origin, and the remedy.
    """
    size = path.stat().st_size
    found = digests_of(path, {"sha256", *source.checksums})
    if found["sha256"] in accepted and (source.sole_origin or not source.checksums):
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


def fetch(
    source: Source, folder: Path, dataset: str, policy: FetchPolicy, progress: Progress = no_progress
) -> tuple[Path, str, str]:
    """Return a verified file. Download it, or the missing rest of it, first.

    Args:
        source: The file to fetch.
        folder: The target folder; a partial download waits there under ``<name>.part``.
        dataset: The data set's name, for the mirror's address.
        policy: The download settings.
        progress: Called after every piece.

    Returns:
        The file, its SHA-256, and the compared properties.

    Raises:
        SourceError: no address gave the right file; the message lists each address and its answer.
        StoreError: the disk is full or not writable; the partial download is kept.
    """
    transfer = _Transfer(source, folder, policy, progress)
    final, refused = transfer.final, transfer.refused
    if refused.exists() and policy.accepted and digests_of(refused, {"sha256"})["sha256"] in policy.accepted:
        refused.replace(final)
    if final.exists():
        return final, *verify_file(final, source, policy.accepted)
    mirror = [f"{policy.mirror.rstrip('/')}/{dataset}/{source.filename}"] if policy.mirror else []
    urls = [*mirror, *source.urls]
    if policy.offline or not urls:
        reason = "--offline forbids downloads" if policy.offline else "no address is known for it"
        raise SourceError(
            f"The file {source.filename} of '{dataset}' is not in {folder}, and {reason}. Get it another way and run: "
            f"harness prepare {dataset} --from PATH"
        )
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    answers: list[str] = []
    for url in urls:
        try:
            sha256, compared = _fetch_from(url, transfer)
        except _FetchError as failure:
            answers.append(f"  {url}: {failure}")
        else:
            return final, sha256, compared
    raise SourceError(
        f"The file {source.filename} of '{dataset}' could not be fetched:\n"
        + "\n".join(answers)
        + f"\nTry again later (the partial download is kept), set HARNESS_MIRROR, or pass your own copy: "
        f"harness prepare {dataset} --from PATH"
    )


def _fetch_from(url: str, transfer: _Transfer) -> tuple[str, str]:
    """Fetch from one address until the file is complete and verified."""
    import requests

    source, policy, part = transfer.source, transfer.policy, transfer.part
    pause = policy.pause_seconds
    tries = restarts = 0
    anew = False  # a resumed file was wrong and has been started anew
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _download(url, transfer)
        except (_FetchError, requests.RequestException) as error:
            if isinstance(error, _FetchError) and not error.again:
                raise
            now = part.stat().st_size if part.exists() else 0
            gained = now > before
            tries = 0 if gained else tries + 1
            restarts += now < before  # limits the restarts that a server can force
            if tries >= policy.attempts or restarts > 1:
                raise _FetchError(_reason(error)) from error
            time.sleep(pause if not gained else policy.pause_seconds)
            pause = pause * 2 if not gained else policy.pause_seconds
            continue
        try:
            sha256, compared = verify_file(part, source, policy.accepted)
        except SourceError as error:
            if before and not anew:
                anew = True  # the two halves may come from two files
                part.unlink()
                continue
            if source.sole_origin or not source.checksums:
                part.replace(transfer.refused)  # if the user accepts it, it need not be fetched twice
            else:
                part.unlink()
            raise _FetchError(str(error).replace(str(part), "the received file")) from error
        with writing_to(transfer.folder):
            part.replace(transfer.final)
        return sha256, compared


def _download(url: str, transfer: _Transfer) -> None:
    """Append the missing bytes to the partial file."""
    import requests

    source, part = transfer.source, transfer.part
    have = part.stat().st_size if part.exists() else 0
    if source.bytes is not None and have > source.bytes:
        part.unlink()
        have = 0
    if have and have == source.bytes:
        return
    # Without "identity", a server may compress the file. Sizes and ranges would then be those of the compressed bytes.
    headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
    validator = _validator_file(part)
    if have:
        headers["Range"] = f"bytes={have}-"
        if validator.exists():
            headers["If-Range"] = validator.read_text(encoding="latin-1")
    timeout = transfer.policy.connect_seconds, transfer.policy.read_seconds
    with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
        if response.status_code == 416:  # the server's file is no longer than ours, so ours is part of another file
            part.unlink(missing_ok=True)
            raise _FetchError("it has fewer bytes than had arrived before", again=True)
        total, offset = _agree(response, source, have)
        with writing_to(part.parent):
            _remember_validator(response.headers, validator)
            file = part.open("r+b" if offset else "wb")
        with file:
            file.seek(offset)
            _copy(response, file.write, transfer, offset, total)
            file.truncate()
    size = part.stat().st_size
    if total is not None and size < total:
        raise _FetchError(f"the connection was cut after {size:,} of {total:,} bytes", again=True)
    validator.unlink(missing_ok=True)


def _agree(response: requests.Response, source: Source, have: int) -> tuple[int | None, int]:
    """Return the file's total size and the offset of this answer. Refuse an answer that can't be the file."""
    code = response.status_code
    if code >= 500 or code in (408, 429):
        raise _FetchError(f"the server answered {code} {response.reason}", again=True)
    if code not in (200, 206):
        hint = " (access refused)" if code in (401, 403) else ""
        raise _FetchError(f"the server answered {code} {response.reason}{hint}")
    kind = response.headers.get("Content-Type", "")
    if kind.startswith("text/html") and is_archive(source.filename):
        raise _FetchError("found a web page, expected an archive; open the address in a browser to read the page")
    total: int | None = None
    offset = 0
    if code == 206:
        content_range = response.headers.get("Content-Range", "")
        span, _, whole = content_range.removeprefix("bytes ").partition("/")
        if not span.startswith(f"{have}-"):
            raise _FetchError(f"the server was asked for the bytes from {have:,} on and sent {content_range!r}")
        offset = have
        total = int(whole) if whole.isdigit() else None
    elif response.headers.get("Content-Length", "").isdigit():
        total = int(response.headers["Content-Length"])
    if source.bytes is not None and total is not None and total != source.bytes:
        raise _FetchError(f"the server's file has {total:,} bytes, expected {source.bytes:,}")
    return total if total is not None else source.bytes, offset


def _copy(
    response: requests.Response, write: Callable[[bytes], object], transfer: _Transfer, done: int, total: int | None
) -> None:
    policy = transfer.policy
    began, mark = time.monotonic(), done
    for chunk in response.iter_content(_CHUNK):
        done += len(chunk)
        if total is not None and done > total:
            raise _FetchError(f"the server sends more than the {total:,} bytes that the file should have")
        with writing_to(transfer.folder):
            write(chunk)
        transfer.progress(transfer.source.filename, done, total)
        elapsed = time.monotonic() - began
        if elapsed > policy.patience:
            if done - mark < policy.slowest * elapsed:
                raise _FetchError(f"the server is too slow: {(done - mark) / elapsed:.0f} bytes per second")
            began, mark = time.monotonic(), done


def _validator_file(part: Path) -> Path:
    """The file with the ETag of a partial download, so that two versions of a file are never joined."""
    return part.with_name(f"{part.name}.etag")


def _remember_validator(headers: Mapping[str, str], file: Path) -> None:
    etag = headers.get("ETag", "")
    if etag and not etag.startswith("W/"):  # a weak ETag does not identify the bytes
        file.write_text(etag, encoding="latin-1")
    else:
        file.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    import requests

    if isinstance(error, requests.exceptions.ReadTimeout):
        return "the server stopped sending"
    if isinstance(error, requests.ConnectTimeout):
        return "the server does not answer"
    if isinstance(error, requests.exceptions.SSLError):
        return f"its certificate is not valid ({error})"
    if isinstance(error, requests.exceptions.ProxyError):
        return f"the proxy does not work ({error})"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection was cut"
    if isinstance(error, requests.ConnectionError):
        return "the connection failed" if "Read timed out" not in str(error) else "the server stopped sending"
    return str(error) or type(error).__name__
