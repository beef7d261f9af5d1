"""Source -> a verified file on disk: resumed where a connection was cut, mirrors in turn, nothing used unverified.

pooch, the first choice, always begins a file anew; files here have up to 2.6 GB and hosts of universities, so this is
written on requests, which brings redirects, proxies from the environment, TLS and time limits.
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
"""Called with a file's name, the bytes that are there, and the bytes expected or None."""

# Some hosts (Harvard Dataverse) refuse a client that does not say who it is, or says the name of a library.
USER_AGENT = f"xscore-harness/{__version__} (Python {platform.python_version()}; benchmark data sets)"
_CHUNK = 1 << 16  # what is lost at most when a connection is cut
_HASH_CHUNK = 1 << 22


def no_progress(name: str, done: int, total: int | None) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class FetchPolicy:
    """How files are fetched.

    Attributes:
        offline: Never touch the network.
        mirror: A base address that is asked first, for ``<mirror>/<data set>/<file>``.
        accepted: SHA-256 digests of files that the user accepts although they differ from what is expected, which is
            possible only where the expected checksum is known from one place.
        connect_seconds, read_seconds: Time limits for a connection and for the next piece of a file.
        slowest, patience: A host that sends less than ``slowest`` bytes a second over ``patience`` seconds is given up.
        attempts: Tries of one address in a row without a single new byte.
        pause_seconds: Before the second try of an address; doubled before each further one.
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


class _Failed(Exception):
    """One address did not give the file; the message says why. ``again`` is whether another try may help."""

    def __init__(self, reason: str, *, again: bool = False) -> None:
        super().__init__(reason)
        self.again = again


def digests_of(path: Path, algorithms: set[str]) -> dict[str, str]:
    """Return a file's hex digests, from one pass over it. Raises SourceError if it can't be read."""
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
    """Compare a file with what is known of a source.

    Returns:
        Its SHA-256, and what was compared, such as ``"bytes, md5, sha256"``.

    Raises:
        SourceError: naming what was found, what was expected, from where, and what to do.
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
        problems.append(f"nobody has published a checksum of it; its sha256 is {found['sha256']}")
    if problems:
        raise SourceError(f"{path} is not the expected file: {'; '.join(problems)}. {_advice(source, found['sha256'])}")
    compared = [*(["bytes"] if source.bytes is not None else []), *sorted(source.checksums)]
    return found["sha256"], ", ".join(compared)


def _advice(source: Source, sha256: str) -> str:
    accept = f"say --accept-file {sha256}; the results then rest on your word, and the manifest says so."
    if not source.checksums:
        return f"If you trust where it is from, {accept}"
    if source.sole_origin:
        return (
            f"The expected checksum is known from one place only ({source.sole_origin}), so the published file may "
            f"have changed. If you have made sure that this one is right, {accept}"
        )
    return (
        "Several independent sources agree on the expected file, so this one is damaged or another one. Remove it and "
        "fetch it again; a folder that you have unpacked yourself can be given with --from."
    )


def fetch(
    source: Source, folder: Path, dataset: str, policy: FetchPolicy, progress: Progress = no_progress
) -> tuple[Path, str, str]:
    """Return a verified file, downloading it or the rest of it where it is not there yet.

    Args:
        source: What to fetch.
        folder: Where to; a partial download waits there under ``<name>.part``.
        dataset: For the mirror's address.
        policy: How.
        progress: Told about every piece.

    Returns:
        The file, its SHA-256, and what was compared.

    Raises:
        SourceError: no address gave the right file; the message says what each answered.
        StoreError: the disk is full or not writable; what has arrived so far is kept.
    """
    final = folder / source.filename
    refused = folder / f"{source.filename}.refused"
    if refused.exists() and policy.accepted and digests_of(refused, {"sha256"})["sha256"] in policy.accepted:
        refused.replace(final)
    if final.exists():
        return final, *verify_file(final, source, policy.accepted)
    mirror = [f"{policy.mirror.rstrip('/')}/{dataset}/{source.filename}"] if policy.mirror else []
    urls = [*mirror, *source.urls]
    if policy.offline or not urls:
        reason = "--offline forbids to fetch it" if policy.offline else "no address is known for it"
        raise SourceError(
            f"The file {source.filename} of '{dataset}' is not in {folder}, and {reason}. Get it another way and say: "
            f"harness prepare {dataset} --from PATH"
        )
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    answers: list[str] = []
    for url in urls:
        try:
            sha256, compared = _fetch_from(url, source, folder, policy, progress)
        except _Failed as failure:
            answers.append(f"  {url}: {failure}")
        else:
            return final, sha256, compared
    raise SourceError(
        f"The file {source.filename} of '{dataset}' could not be fetched:\n"
        + "\n".join(answers)
        + f"\nTry again later (what has arrived is kept), set HARNESS_MIRROR, or give your own copy: "
        f"harness prepare {dataset} --from PATH"
    )


def _fetch_from(url: str, source: Source, folder: Path, policy: FetchPolicy, progress: Progress) -> tuple[str, str]:
    """Fetch from one address until the file is whole and right."""
    import requests

    part = folder / f"{source.filename}.part"
    final = folder / source.filename
    pause = policy.pause_seconds
    tries = restarts = 0
    anew = False  # whether a file that was resumed and came out wrong has been begun anew
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _download(url, source, part, policy, progress)
        except (_Failed, requests.RequestException) as error:
            if isinstance(error, _Failed) and not error.again:
                raise
            now = part.stat().st_size if part.exists() else 0
            gained = now > before
            tries = 0 if gained else tries + 1
            restarts += now < before  # a server that makes us begin again and again would never be given up
            if tries >= policy.attempts or restarts > 1:
                raise _Failed(_reason(error)) from error
            time.sleep(pause if not gained else policy.pause_seconds)
            pause = pause * 2 if not gained else policy.pause_seconds
            continue
        try:
            sha256, compared = verify_file(part, source, policy.accepted)
        except SourceError as error:
            if before and not anew:
                anew = True  # the two halves may be of two files
                part.unlink()
                continue
            refused = folder / f"{source.filename}.refused"
            if source.sole_origin or not source.checksums:
                part.replace(refused)  # the user may accept it, and should not have to fetch it twice
            else:
                part.unlink()
            raise _Failed(str(error).replace(str(part), "what came")) from error
        with writing_to(folder):
            part.replace(final)
        return sha256, compared


def _download(url: str, source: Source, part: Path, policy: FetchPolicy, progress: Progress) -> None:
    """Append to the partial file what is missing of it."""
    import requests

    have = part.stat().st_size if part.exists() else 0
    if source.bytes is not None and have > source.bytes:
        part.unlink()
        have = 0
    if have and have == source.bytes:
        return
    # Without "identity", a server may compress what it sends, and sizes and ranges would mean something else.
    headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
    validator = _validator_file(part)
    if have:
        headers["Range"] = f"bytes={have}-"
        if validator.exists():
            headers["If-Range"] = validator.read_text(encoding="latin-1")
    with requests.get(
        url, headers=headers, stream=True, timeout=(policy.connect_seconds, policy.read_seconds)
    ) as response:
        if response.status_code == 416:  # the file there is no longer than what is here, so that is of another one
            part.unlink(missing_ok=True)
            raise _Failed("it has fewer bytes than had arrived before", again=True)
        total, offset = _agree(response, source, have)
        with writing_to(part.parent):
            _remember_validator(response.headers, validator)
            file = part.open("r+b" if offset else "wb")
        with file:
            file.seek(offset)
            _copy(response, file.write, part.parent, offset, total, source, policy, progress)
            file.truncate()
    size = part.stat().st_size
    if total is not None and size < total:
        raise _Failed(f"the connection was cut after {size:,} of {total:,} bytes", again=True)
    validator.unlink(missing_ok=True)


def _agree(response: requests.Response, source: Source, have: int) -> tuple[int | None, int]:
    """Return the file's total size and where this answer begins; refuse an answer that can't be the file."""
    code = response.status_code
    if code >= 500 or code in (408, 429):
        raise _Failed(f"the server answered {code} {response.reason}", again=True)
    if code not in (200, 206):
        hint = " (access refused)" if code in (401, 403) else ""
        raise _Failed(f"the server answered {code} {response.reason}{hint}")
    kind = response.headers.get("Content-Type", "")
    if kind.startswith("text/html") and is_archive(source.filename):
        raise _Failed("a web page is there, expected an archive; open it in a browser to see what it says")
    total: int | None = None
    offset = 0
    if code == 206:
        content_range = response.headers.get("Content-Range", "")
        span, _, whole = content_range.removeprefix("bytes ").partition("/")
        if not span.startswith(f"{have}-"):
            raise _Failed(f"the server was asked for the bytes from {have:,} on and sent {content_range!r}")
        offset = have
        total = int(whole) if whole.isdigit() else None
    elif response.headers.get("Content-Length", "").isdigit():
        total = int(response.headers["Content-Length"])
    if source.bytes is not None and total is not None and total != source.bytes:
        raise _Failed(f"the file there has {total:,} bytes, expected {source.bytes:,}")
    return total if total is not None else source.bytes, offset


def _copy(
    response: requests.Response, write: Callable[[bytes], object], folder: Path, done: int, total: int | None,
    source: Source, policy: FetchPolicy, progress: Progress,
) -> None:  # fmt: skip
    began, mark = time.monotonic(), done
    for chunk in response.iter_content(_CHUNK):
        done += len(chunk)
        if total is not None and done > total:
            raise _Failed(f"the server sends more than the {total:,} bytes that the file should have")
        with writing_to(folder):
            write(chunk)
        progress(source.filename, done, total)
        elapsed = time.monotonic() - began
        if elapsed > policy.patience:
            if done - mark < policy.slowest * elapsed:
                raise _Failed(f"the server is too slow: {(done - mark) / elapsed:.0f} bytes a second")
            began, mark = time.monotonic(), done


def _validator_file(part: Path) -> Path:
    """Where the server's name for the version of a partial file is kept, so that no two versions are joined."""
    return part.with_name(f"{part.name}.etag")


def _remember_validator(headers: Mapping[str, str], file: Path) -> None:
    etag = headers.get("ETag", "")
    if etag and not etag.startswith("W/"):  # a weak one does not vouch for bytes
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
        return "there is no connection to it" if "Read timed out" not in str(error) else "the server stopped sending"
    return str(error) or type(error).__name__
