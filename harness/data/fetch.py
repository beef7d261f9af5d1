"""Downloads a source to a verified file: resumes cut connections, tries the mirrors in turn, uses no unverified file.

pooch would be the first choice, but it always starts a file anew. Files here have up to 2.6 GB and come from university
hosts. This module therefore uses requests, which handles redirects, proxies from the environment, TLS and time limits.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import platform
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit
from urllib.request import getproxies

from harness import __version__
from harness.api import Source
from harness.data.checksums import digests_of, may_be_accepted, verify_file
from harness.data.network_errors import may_pass, reason_of
from harness.data.unpack import Limits, is_archive
from harness.errors import SourceError, WrongUseError, without_passwords
from harness.files import writing_to

if TYPE_CHECKING:
    import requests

Progress = Callable[[str, int, int | None], None]
"""Called with a file's name, the bytes received so far, and the bytes expected or None."""

# Some hosts (Harvard Dataverse) refuse a client without a name, or with the name of a library.
USER_AGENT = f"xscore-harness/{__version__} (Python {platform.python_version()}; benchmark data sets)"
_CHUNK = 1 << 16  # a cut connection loses at most these bytes


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
    mirror: str = field(default_factory=lambda: os.environ.get("HARNESS_MIRROR", "").strip(), repr=False)
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
        WrongUseError: the mirror is no web address.
        StoreError: the disk is full or not writable; the partial download is kept.
    """
    transfer = _Transfer(source, folder, policy, progress)
    final, refused = transfer.final, transfer.refused
    if refused.exists() and policy.accepted and digests_of(refused, {"sha256"})["sha256"] in policy.accepted:
        refused.replace(final)
    if final.exists():
        return final, *verify_file(final, source, policy.accepted)
    urls = [] if policy.offline else [*_on_mirror(policy.mirror, dataset, source), *source.urls]
    if not urls:
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
            answers.append(without_passwords(f"  {url}: {failure}", url, *getproxies().values()))
        else:
            return final, sha256, compared
    raise SourceError(
        f"The file {source.filename} of '{dataset}' could not be fetched:\n"
        + "\n".join(answers)
        + f"\nTry again later (the partial download is kept), set HARNESS_MIRROR, or pass your own copy: "
        f"harness prepare {dataset} --from PATH"
    )


def _on_mirror(mirror: str, dataset: str, source: Source) -> list[str]:
    """Return the address of a source on the user's mirror, if there is one. A query of the mirror stays at the end."""
    if not mirror:
        return []
    try:
        parts = urlsplit(mirror)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise WrongUseError(
            f"HARNESS_MIRROR is '{without_passwords(mirror, mirror)}', expected an address that starts with http:// or "
            "https://. Files in a folder are given with --from PATH."
        )
    return [urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{dataset}/{source.filename}"))]


def _fetch_from(url: str, transfer: _Transfer) -> tuple[str, str]:
    """Fetch from one address until the file is complete and verified."""
    source, policy, part = transfer.source, transfer.policy, transfer.part
    pause = policy.pause_seconds
    tries = restarts = 0
    anew = False  # a resumed file was wrong and has been started anew
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _try(url, transfer)
        except _FetchError as error:
            now = part.stat().st_size if part.exists() else 0
            gained = now > before
            tries = 0 if gained else tries + 1
            restarts += now < before  # limits the restarts that a server can force
            if not error.again or tries >= policy.attempts or restarts > 1:
                raise
            time.sleep(pause if not gained else policy.pause_seconds)
            pause = pause * 2 if not gained else policy.pause_seconds
            continue
        try:
            sha256, compared = _verify_received(transfer)
        except SourceError as error:
            if before and not anew:
                anew = True  # the two halves may come from two files
                part.unlink()
                continue
            if may_be_accepted(source):
                part.replace(transfer.refused)  # if the user accepts it, it need not be fetched twice
            else:
                part.unlink()
            raise _FetchError(str(error).replace(str(part), "the received file")) from error
        with writing_to(transfer.folder):
            part.replace(transfer.final)
        return sha256, compared


def _verify_received(transfer: _Transfer) -> tuple[str, str]:
    """Verify a complete download. If a server has packed it for the transport, though asked not to, unpack it first."""
    source, part, accepted = transfer.source, transfer.part, transfer.policy.accepted
    unpacked = part.with_name(f"{part.name}.unpacked")
    try:
        return verify_file(part, source, accepted)
    except SourceError:
        if not (source.checksums and _gunzip(part, unpacked, source.bytes)):
            raise
        with contextlib.suppress(SourceError):
            verified = verify_file(unpacked, source, accepted)
            unpacked.replace(part)
            return verified
        raise
    finally:
        unpacked.unlink(missing_ok=True)


def _gunzip(packed: Path, target: Path, size: int | None) -> bool:
    """Unpack a gzip file of at most ``size`` bytes, or of an honest number if None. Return whether it is one."""
    limit = size if size is not None else Limits().bytes_of(packed)
    with writing_to(target.parent):
        file = target.open("wb")
    try:
        with file, gzip.open(packed) as content:
            while chunk := content.read(_CHUNK):
                with writing_to(target.parent):
                    file.write(chunk)
                if file.tell() > limit:
                    return False
    except (gzip.BadGzipFile, EOFError, zlib.error):
        return False
    return True


def _try(url: str, transfer: _Transfer) -> None:
    """Download once, and turn each exception of the network into a _FetchError."""
    import urllib3

    try:
        _download(url, transfer)
    # The errors of requests are OSErrors; those of the layers below it, and of bad addresses, come through it.
    except (OSError, ValueError, urllib3.exceptions.HTTPError) as error:
        raise _FetchError(reason_of(error), again=may_pass(error)) from error


def _download(url: str, transfer: _Transfer) -> None:
    """Append the missing bytes to the partial file."""
    import requests

    source, part = transfer.source, transfer.part
    have = part.stat().st_size if part.exists() else 0
    if not may_be_accepted(source) and source.bytes is not None and have > source.bytes:
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
            with writing_to(part.parent):
                file.truncate()
                file.flush()
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
    # The size may differ if the bytes are packed for the transport, or if the user may accept another file.
    packed = response.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity")
    if packed or (may_be_accepted(source) and (total is not None or _marks_its_end(response))):
        return total, offset
    if source.bytes is not None and total is not None and total != source.bytes:
        raise _FetchError(f"the server's file has {total:,} bytes, expected {source.bytes:,}")
    return total if total is not None else source.bytes, offset


def _marks_its_end(response: requests.Response) -> bool:
    """Return whether an answer without a length is sent in marked pieces, so that a cut connection is noticed."""
    return "chunked" in response.headers.get("Transfer-Encoding", "").lower()


def _copy(
    response: requests.Response, write: Callable[[bytes], object], transfer: _Transfer, done: int, total: int | None
) -> None:
    policy = transfer.policy
    began, mark = time.monotonic(), done
    # The bytes as they are sent: servers label files that are stored compressed as if packed for the transport.
    for chunk in response.raw.stream(_CHUNK, decode_content=False):
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
