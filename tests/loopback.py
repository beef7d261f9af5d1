"""A web server on the loopback interface that misbehaves as told: cuts connections, refuses, crawls, lies."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Behaviour:
    """How one path is served.

    Attributes:
        content: The whole file.
        cut_after: Close the connection after so many bytes of an answer, the first ``cuts`` times.
        cuts: How often.
        status: Answer this instead of the file.
        ranges: Whether ranges are served.
        etag: Sent as the file's version.
        delay: Seconds between pieces of 100 bytes.
        chunked: Send no Content-Length.
        refuse_libraries: Answer 403 to clients that do not name themselves.
        wrong_range: Answer a range request with another range.
        kind: The Content-Type.
        encoding: The Content-Encoding; an empty one is not sent.
    """

    content: bytes = b""
    cut_after: int | None = None
    cuts: int = 10**9
    status: int = 200
    ranges: bool = True
    etag: str = ""
    delay: float = 0.0
    chunked: bool = False
    refuse_libraries: bool = False
    wrong_range: bool = False
    kind: str = "application/octet-stream"
    encoding: str = ""


@dataclass
class Loopback:
    """A running server: its base address, what it serves, and the headers of every request."""

    base: str
    files: dict[str, Behaviour]
    requests: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)

    def url(self, name: str) -> str:
        return f"{self.base}/{name}"

    def ranges(self) -> list[str | None]:
        return [headers.get("Range") for _, headers in self.requests]


@contextmanager
def serving(files: Mapping[str, Behaviour | bytes]) -> Iterator[Loopback]:
    table = {name: one if isinstance(one, Behaviour) else Behaviour(one) for name, one in files.items()}
    loopback = Loopback("", table)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            name = self.path.lstrip("/").partition("?")[0]
            loopback.requests.append((self.path, dict(self.headers.items())))
            behaviour = loopback.files.get(name)
            if behaviour is None:
                self.send_error(404)
                return
            agent = self.headers.get("User-Agent", "")
            if behaviour.refuse_libraries and (not agent or "urllib" in agent or "requests" in agent):
                self.send_error(403)
                return
            if behaviour.status != 200:
                self.send_error(behaviour.status)
                return
            self._send(behaviour)

        def _send(self, behaviour: Behaviour) -> None:
            content, start = behaviour.content, 0
            asked = self.headers.get("Range")
            same = self.headers.get("If-Range") in (None, behaviour.etag)
            if asked and behaviour.ranges and same:
                start = int(asked.removeprefix("bytes=").rstrip("-"))
                if start >= len(content):
                    self.send_error(416)
                    return
                self.send_response(206)
                shown = start + 1 if behaviour.wrong_range else start
                self.send_header("Content-Range", f"bytes {shown}-{len(content) - 1}/{len(content)}")
            else:
                self.send_response(200)
            self.send_header("Content-Type", behaviour.kind)
            if behaviour.encoding:
                self.send_header("Content-Encoding", behaviour.encoding)
            if behaviour.etag:
                self.send_header("ETag", behaviour.etag)
            if behaviour.chunked:
                self.send_header("Connection", "close")
            else:
                self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            body = content[start:]
            if behaviour.cut_after is not None and behaviour.cuts > 0:
                behaviour.cuts -= 1
                self.wfile.write(body[: behaviour.cut_after])
                self.close_connection = True
                return
            try:
                if behaviour.delay:
                    for position in range(0, len(body), 100):
                        self.wfile.write(body[position : position + 100])
                        self.wfile.flush()
                        time.sleep(behaviour.delay)
                else:
                    self.wfile.write(body)
            except OSError:
                pass  # the client has gone
            if behaviour.chunked:
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    loopback.base = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield loopback
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
