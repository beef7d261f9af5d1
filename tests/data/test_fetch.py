"""Downloads against a server that misbehaves: what arrives is right, or refused with a sentence and never used."""

from __future__ import annotations

import errno
import gzip
import hashlib
import random
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.api import Source
from harness.data import fetch as module
from harness.data.fetch import FetchPolicy, fetch
from harness.errors import SourceError, StoreError, WrongUseError, without_passwords
from tests.loopback import Behaviour, Loopback, serving

CONTENT = random.Random(0).randbytes(5000)
OTHER = random.Random(1).randbytes(5000)
POLICY = FetchPolicy(mirror="", connect_seconds=2, read_seconds=0.5, pause_seconds=0.01, attempts=2)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "HARNESS_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module, "_CHUNK", 512)


@pytest.fixture
def server() -> Iterator[Loopback]:
    with serving({"a.bin": CONTENT}) as running:
        yield running


def source(*urls: str, **changes: Any) -> Source:
    sums = {"md5": hashlib.md5(CONTENT).hexdigest(), "sha256": hashlib.sha256(CONTENT).hexdigest()}
    return replace(Source(filename="a.bin", urls=urls, bytes=len(CONTENT), checksums=sums), **changes)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir()) if folder.exists() else []


def test_a_file_arrives_whole_and_is_verified(server: Loopback, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    path, sha256, compared = fetch(
        source(server.url("a.bin")), tmp_path, "d", POLICY, lambda *progress: seen.append(progress)
    )
    assert path.read_bytes() == CONTENT
    assert sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert compared == "bytes, md5, sha256"
    assert names(tmp_path) == ["a.bin"]
    assert seen[-1] == ("a.bin", 5000, 5000)
    headers = server.requests[0][1]
    assert headers["User-Agent"].startswith("xscore-harness/")
    assert headers["Accept-Encoding"] == "identity"


def test_an_existing_file_is_verified_and_not_fetched_again(server: Loopback, tmp_path: Path) -> None:
    fetch(source(server.url("a.bin")), tmp_path, "d", POLICY)
    fetch(source(server.url("a.bin")), tmp_path, "d", replace(POLICY, offline=True))
    assert len(server.requests) == 1
    (tmp_path / "a.bin").write_bytes(OTHER)
    with pytest.raises(SourceError, match="not the expected file"):
        fetch(source(server.url("a.bin")), tmp_path, "d", POLICY)


def test_a_cut_connection_is_resumed_where_it_ended(server: Loopback, tmp_path: Path) -> None:
    server.files["a.bin"] = Behaviour(CONTENT, cut_after=2048, etag='"v1"')
    fetch(source(server.url("a.bin")), tmp_path, "d", POLICY)
    assert server.ranges() == [None, "bytes=2048-", "bytes=4096-"]
    assert server.requests[1][1]["If-Range"] == '"v1"'
    assert names(tmp_path) == ["a.bin"]


def test_the_next_command_resumes_too(server: Loopback, tmp_path: Path) -> None:
    server.files["a.bin"] = Behaviour(CONTENT, cut_after=2048, cuts=1)
    down = replace(POLICY, attempts=1)
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:1234])
    fetch(source(server.url("a.bin")), tmp_path, "d", down)
    assert server.ranges() == ["bytes=1234-", "bytes=3282-"]


def test_a_server_without_ranges_sends_all_again(server: Loopback, tmp_path: Path) -> None:
    server.files["a.bin"] = Behaviour(CONTENT, cut_after=2000, cuts=1, ranges=False)
    path, *_ = fetch(source(server.url("a.bin")), tmp_path, "d", POLICY)
    assert path.read_bytes() == CONTENT


def test_halves_of_two_versions_are_not_joined(server: Loopback, tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").write_bytes(OTHER[:2500])
    path, *_ = fetch(source(server.url("a.bin")), tmp_path, "d", POLICY)
    assert path.read_bytes() == CONTENT
    assert server.ranges() == ["bytes=2500-", None]


def test_a_part_longer_than_the_file_is_started_anew(server: Loopback, tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").write_bytes(CONTENT + b"more")
    path, *_ = fetch(source(server.url("a.bin")), tmp_path, "d", POLICY)
    assert path.read_bytes() == CONTENT


def test_a_part_longer_than_a_file_of_unknown_size_is_started_anew(server: Loopback, tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").write_bytes(CONTENT + b"more")
    path, *_ = fetch(source(server.url("a.bin"), bytes=None), tmp_path, "d", POLICY)
    assert path.read_bytes() == CONTENT


def test_mirrors_are_tried_in_turn(server: Loopback, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{closed.getsockname()[1]}/a.bin"
        server.files["gone.bin"] = Behaviour(status=404)
        server.files["broken.bin"] = Behaviour(status=503)
        server.files["other.bin"] = Behaviour(OTHER)
        urls = [dead, *map(server.url, ("gone.bin", "broken.bin", "other.bin", "a.bin"))]
        path, *_ = fetch(source(*urls), tmp_path, "d", POLICY)
    assert path.read_bytes() == CONTENT


def test_the_users_mirror_is_asked_first(server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["m/d/a.bin"] = Behaviour(CONTENT)
    monkeypatch.setenv("HARNESS_MIRROR", server.url("m/"))
    fetch(source("http://127.0.0.1:9/a.bin"), tmp_path, "d", FetchPolicy())
    assert server.requests[0][0] == "/m/d/a.bin"


def test_a_proxy_from_the_environment_is_used(
    server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.base)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    server.files["http://data.example/a.bin"] = Behaviour(CONTENT)
    fetch(source("http://data.example/a.bin"), tmp_path, "d", POLICY)
    assert server.requests[0][0] == "http://data.example/a.bin"


def test_a_host_that_refuses_unnamed_clients_accepts_this_one(server: Loopback, tmp_path: Path) -> None:
    server.files["a.bin"].refuse_libraries = True
    fetch(source(server.url("a.bin")), tmp_path, "d", POLICY)


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (Behaviour(status=403), "403 Forbidden (access refused)"),
        (Behaviour(status=404), "404 Not Found"),
        (Behaviour(status=500), "500 Internal Server Error"),
        (Behaviour(CONTENT[:400]), "has 400 bytes, expected 5,000"),
        (Behaviour(CONTENT + b"x"), "has 5,001 bytes, expected 5,000"),
        (Behaviour(CONTENT * 3, chunked=True), "sends more than the 5,000 bytes"),
        (Behaviour(CONTENT[:900], chunked=True), "fewer bytes than had arrived before"),
        (Behaviour(OTHER), "its md5 is"),
        (Behaviour(CONTENT, cut_after=0), "the connection was cut"),
        (Behaviour(CONTENT, delay=0.9), "stopped sending"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_failure_is_reported_and_nothing_is_used(
    server: Loopback, tmp_path: Path, behaviour: Behaviour, reason: str
) -> None:
    server.files["a.bin"] = behaviour
    with pytest.raises(SourceError) as caught:
        fetch(source(server.url("a.bin")), tmp_path, "dogs", replace(POLICY, attempts=1))
    text = str(caught.value)
    assert reason in text
    assert server.url("a.bin") in text
    assert "harness prepare dogs --from PATH" in text
    assert "a.bin" not in names(tmp_path)


def test_a_server_without_progress_is_given_up(server: Loopback, tmp_path: Path) -> None:
    server.files["a.bin"] = Behaviour(CONTENT[:900], chunked=True)
    with pytest.raises(SourceError, match="fewer bytes than had arrived before"):
        fetch(source(server.url("a.bin")), tmp_path, "d", replace(POLICY, attempts=5))
    server.files["a.bin"] = Behaviour(CONTENT, cut_after=2048, ranges=False)
    with pytest.raises(SourceError, match="the connection was cut"):
        fetch(source(server.url("a.bin")), tmp_path, "d", replace(POLICY, attempts=3))


def test_a_web_page_is_not_taken_for_an_archive(server: Loopback, tmp_path: Path) -> None:
    server.files["a.zip"] = Behaviour(b"<html>Please log in</html>", kind="text/html; charset=utf-8")
    lone = Source(filename="a.zip", urls=(server.url("a.zip"),), checksums={"md5": "0" * 32}, sole_origin="a blog")
    with pytest.raises(SourceError, match="found a web page, expected an archive"):
        fetch(lone, tmp_path, "d", POLICY)
    assert names(tmp_path) == []


def test_a_slow_server_is_given_up(server: Loopback, tmp_path: Path) -> None:
    server.files["a.bin"] = Behaviour(CONTENT, delay=0.05)
    slow = replace(POLICY, slowest=1e6, patience=0.1)
    with pytest.raises(SourceError, match="too slow"):
        fetch(source(server.url("a.bin")), tmp_path, "d", slow)
    server.files["b.bin"] = Behaviour(CONTENT)
    path, *_ = fetch(source(server.url("a.bin"), server.url("b.bin")), tmp_path, "d", slow)
    assert path.read_bytes() == CONTENT


def test_a_wrong_range_is_refused(server: Loopback, tmp_path: Path) -> None:
    server.files["a.bin"] = Behaviour(CONTENT, wrong_range=True)
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:100])
    with pytest.raises(SourceError, match="was asked for the bytes from 100 on"):
        fetch(source(server.url("a.bin")), tmp_path, "d", POLICY)


def test_offline_never_touches_the_network(server: Loopback, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="--offline forbids"):
        fetch(source(server.url("a.bin")), tmp_path, "d", replace(POLICY, offline=True))
    assert not server.requests


def test_a_source_without_an_address_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no address is known .* --from PATH"):
        fetch(source(), tmp_path, "d", POLICY)


def test_a_confirmed_checksum_cannot_be_overruled(server: Loopback, tmp_path: Path) -> None:
    server.files["a.bin"] = Behaviour(OTHER)
    policy = replace(POLICY, accepted=frozenset({hashlib.sha256(OTHER).hexdigest()}))
    with pytest.raises(SourceError, match="Several independent sources agree"):
        fetch(source(server.url("a.bin")), tmp_path, "d", policy)
    assert names(tmp_path) == []


@pytest.mark.parametrize("changes", [{"sole_origin": "a blog"}, {"checksums": {}, "bytes": None}])
def test_a_lone_checksum_can_be_overruled_without_fetching_twice(
    server: Loopback, tmp_path: Path, changes: dict[str, Any]
) -> None:
    server.files["a.bin"] = Behaviour(OTHER)
    lone = source(server.url("a.bin"), **changes)
    found = hashlib.sha256(OTHER).hexdigest()
    with pytest.raises(SourceError, match=f"--accept-file {found}"):
        fetch(lone, tmp_path, "d", POLICY)
    assert names(tmp_path) == ["a.bin.refused"]
    asked = len(server.requests)
    path, sha256, compared = fetch(lone, tmp_path, "d", replace(POLICY, accepted=frozenset({found})))
    assert (path.read_bytes(), sha256, compared) == (OTHER, found, "accepted by the user")
    assert len(server.requests) == asked


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "br", "x-compress"])
def test_a_stored_archive_with_a_wrong_label_is_kept_as_it_is(server: Loopback, tmp_path: Path, encoding: str) -> None:
    packed = gzip.compress(CONTENT, mtime=0)
    server.files["a.tar.gz"] = Behaviour(packed, encoding=encoding, cut_after=2048)
    digest = hashlib.sha256(packed).hexdigest()
    stored = Source(
        filename="a.tar.gz", urls=(server.url("a.tar.gz"),), bytes=len(packed), checksums={"sha256": digest}
    )
    path, *_ = fetch(stored, tmp_path, "d", POLICY)
    assert path.read_bytes() == packed
    assert server.ranges() == [None, "bytes=2048-", "bytes=4096-"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_file_that_was_packed_for_the_transport_is_unpacked(server: Loopback, tmp_path: Path, chunked: bool) -> None:
    server.files["a.bin"] = Behaviour(gzip.compress(CONTENT), encoding="gzip", chunked=chunked)
    path, sha256, compared = fetch(source(server.url("a.bin")), tmp_path, "d", POLICY)
    assert path.read_bytes() == CONTENT
    assert (sha256, compared) == (hashlib.sha256(CONTENT).hexdigest(), "bytes, md5, sha256")
    assert names(tmp_path) == ["a.bin"]


def test_a_bomb_packed_for_the_transport_is_not_unpacked(server: Loopback, tmp_path: Path) -> None:
    server.files["a.bin"] = Behaviour(gzip.compress(bytes(10**7)), encoding="gzip")
    with pytest.raises(SourceError, match="is not the expected file"):
        fetch(source(server.url("a.bin")), tmp_path, "d", POLICY)
    assert names(tmp_path) == []


@pytest.mark.parametrize("size", [400, 9000])
@pytest.mark.parametrize("cut_after", [None, 300])
def test_a_lone_size_can_be_overruled_too(server: Loopback, tmp_path: Path, size: int, cut_after: int | None) -> None:
    content = random.Random(2).randbytes(size)
    server.files["a.bin"] = Behaviour(content, cut_after=cut_after)
    lone = source(server.url("a.bin"), sole_origin="a blog")
    found = hashlib.sha256(content).hexdigest()
    with pytest.raises(SourceError, match=f"has {size:,} bytes, expected 5,000.*--accept-file {found}"):
        fetch(lone, tmp_path, "d", POLICY)
    path, *_ = fetch(lone, tmp_path, "d", replace(POLICY, accepted=frozenset({found})))
    assert path.read_bytes() == content


def test_an_answer_that_was_cut_cannot_be_accepted(server: Loopback, tmp_path: Path) -> None:
    server.files["a.bin"] = Behaviour(CONTENT, cut_after=900, ranges=False)
    with pytest.raises(SourceError) as caught:
        fetch(source(server.url("a.bin"), sole_origin="a blog"), tmp_path, "d", replace(POLICY, attempts=1))
    assert "the connection was cut" in str(caught.value)
    assert "--accept-file" not in str(caught.value)


@pytest.mark.parametrize(
    "mirror", ["/srv/sets", "file:///srv", "ftp://host/x", "host:9/sets", "http://", "http://[::1"]
)
def test_a_mirror_that_is_no_web_address_is_refused(tmp_path: Path, mirror: str) -> None:
    with pytest.raises(WrongUseError, match=r"HARNESS_MIRROR is .* expected an address that starts with http"):
        fetch(source("http://127.0.0.1:9/a.bin"), tmp_path, "d", replace(POLICY, mirror=mirror))


def test_a_query_of_the_mirror_stays_at_the_end(server: Loopback, tmp_path: Path) -> None:
    server.files["m/d/a.bin"] = Behaviour(CONTENT)
    fetch(source("http://127.0.0.1:9/a.bin"), tmp_path, "d", replace(POLICY, mirror=server.url("m/?sig=12ab")))
    assert server.requests[0][0] == "/m/d/a.bin?sig=12ab"


@pytest.mark.parametrize(
    "mirror",
    [
        "http://anna:s3cret@127.0.0.1:9/x",
        "http://anna:s3cret@127.0.0.1:99999/x",
        "http://anna:s3cret@.bad/x",
        "http://anna:s3cret/more@127.0.0.1:9/x",
        "http://anna:a@s3cret@127.0.0.1:9/x",
        "ftp://anna:s3cret@127.0.0.1/x",
        "http://127.0.0.1:9/x?token=s3cret",
    ],
)
def test_a_password_is_never_shown(tmp_path: Path, mirror: str) -> None:
    policy = replace(POLICY, mirror=mirror, attempts=1)
    with pytest.raises((SourceError, WrongUseError)) as caught:
        fetch(source("http://127.0.0.1:9/a.bin"), tmp_path, "d", policy)
    assert "***" in str(caught.value)
    assert "s3cret" not in str(caught.value) + repr(policy)


def test_the_password_of_a_proxy_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://anna:s3cret@:99999")
    with pytest.raises(SourceError) as caught:
        fetch(source("http://data.example/a.bin"), tmp_path, "d", replace(POLICY, attempts=1))
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://host/@scope/a@b.zip", "https://host/@scope/a@b.zip"),
        ("https://user@host/a", "https://***@host/a"),
        ("https://host/a?format=original&X-Amz-Signature=12", "https://host/a?format=original&X-Amz-Signature=***"),
    ],
)
def test_only_secrets_are_hidden(text: str, shown: str) -> None:
    assert without_passwords(text, text) == shown


def test_every_exception_of_the_network_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import requests
    import urllib3

    errors = [
        OSError("Could not find a suitable TLS CA certificate bundle, invalid path: /gone.pem"),
        PermissionError(13, "Permission denied"),
        UnicodeError("label empty or too long"),
        urllib3.exceptions.LocationParseError("x"),
        urllib3.exceptions.ProtocolError("x"),
        requests.exceptions.InvalidSchema("Missing dependencies for SOCKS support."),
        requests.exceptions.InvalidProxyURL("x"),
        requests.exceptions.ConnectionError(),
        requests.exceptions.TooManyRedirects("Exceeded 30 redirects."),
    ]
    for error in errors:

        def fail(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr(requests, "get", fail)
        with pytest.raises(SourceError, match=r"a\.bin: [a-zA-Z]+"):
            fetch(source("http://data.example/a.bin"), tmp_path, "d", replace(POLICY, attempts=1))


def test_a_socks_proxy_without_its_package_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import requests

    def missing(*_: object, **__: object) -> None:  # as in requests.adapters, where the package is not installed
        raise requests.exceptions.InvalidSchema("Missing dependencies for SOCKS support.")

    monkeypatch.setattr("requests.adapters.SOCKSProxyManager", missing)
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:9")
    with pytest.raises(SourceError, match=r"needs PySocks; run: pip install PySocks"):
        fetch(source("http://data.example/a.bin"), tmp_path, "d", replace(POLICY, attempts=1))


def test_a_full_disk_is_reported_and_the_partial_download_is_kept(
    server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module._copy

    def full(response: Any, write: Any, *rest: Any) -> None:
        written = 0

        def limited(chunk: bytes) -> None:
            nonlocal written
            written += len(chunk)
            if written > 2000:
                raise OSError(errno.ENOSPC, "No space left on device")
            write(chunk)

        real(response, limited, *rest)

    monkeypatch.setattr(module, "_copy", full)
    with pytest.raises(StoreError, match="the disk is full"):
        fetch(source(server.url("a.bin")), tmp_path, "d", POLICY)
    monkeypatch.setattr(module, "_copy", real)
    path, *_ = fetch(source(server.url("a.bin")), tmp_path, "d", POLICY)
    assert path.read_bytes() == CONTENT
    assert server.ranges()[-1] is not None
