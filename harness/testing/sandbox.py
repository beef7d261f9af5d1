"""Looking at code while it runs: what it prints, opens, writes and connects to, and which settings it changes."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import random
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "os.link", "os.symlink", "shutil.rmtree")
_NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")


class NetworkRefused(PermissionError):
    """Raised in place of a connection."""


@dataclass
class Seen:
    """What was seen.

    Attributes:
        out, err: Text on stdout and on stderr, by Python or below it.
        connections: Where it wanted to connect to.
        written: Files and folders that it made, changed or removed.
        opened: Files that it opened for reading.
        environment: Environment variables that it set or removed, to the value that they had already, too.
    """

    out: str = ""
    err: str = ""
    connections: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    opened: set[str] = field(default_factory=set)
    environment: set[str] = field(default_factory=set)

    @property
    def printed(self) -> str:
        """All text."""
        return self.out + self.err

    def notice(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Take note of an audit event; a connection is refused."""
        if event == "open":
            self._opened(*arguments[:3])
        elif event in _CHANGES:
            self.written.append(str(arguments[0]))
        elif event in ("os.putenv", "os.unsetenv"):
            self.environment.add(os.fsdecode(arguments[0]))
        elif event in _NETWORK:
            where = arguments[1] if event in ("socket.connect", "socket.sendto") else arguments[:2]
            if isinstance(where, tuple | list):  # a name on this machine's own file system is no network
                self.connections.append(":".join(str(part) for part in where[:2]))
                raise NetworkRefused(f"the conformance check keeps plugins from the network ({where[0]})")

    def _opened(self, path: object, mode: object, flags: object) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return  # a file descriptor
        name = os.fsdecode(path)
        if name.startswith(("/dev/", "/proc/")) or name.lower() in ("nul", "con") or "__pycache__" in name:
            return
        if isinstance(mode, str) and mode:
            writing = any(letter in mode for letter in "wax+")
        else:
            writing = isinstance(flags, int) and bool(flags & _WRITES)
        if writing:
            self.written.append(name)
        else:
            self.opened.add(str(Path(name).absolute()))


_CURRENT: ContextVar[Seen | None] = ContextVar("seen", default=None)


@cache
def _listen() -> None:
    """Install the audit hook. Python offers no way to remove one, so it does nothing while nobody watches."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        seen = _CURRENT.get()
        if seen is not None:
            seen.notice(event, arguments)

    sys.addaudithook(hook)


@contextlib.contextmanager
def watching() -> Iterator[Seen]:
    """Look at what the block does. The network is refused to it; what it prints is held back."""
    _listen()
    seen = Seen()
    with _captured(1) as out, _captured(2) as err:
        token = _CURRENT.set(seen)
        try:
            yield seen
        finally:
            _CURRENT.reset(token)
            seen.out, seen.err = out(), err()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back whatever the block prints through Python, and let no warning become an error."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("default")
        yield


@contextlib.contextmanager
def _captured(number: int) -> Iterator[Callable[[], str]]:
    """Hold back stdout (1) or stderr (2), also below Python; the value gives the text while the block is open."""
    above, redirect = io.StringIO(), contextlib.redirect_stdout if number == 1 else contextlib.redirect_stderr
    with contextlib.suppress(ValueError, OSError, AttributeError):
        (sys.stdout if number == 1 else sys.stderr).flush()
    try:
        kept = os.dup(number)
    except OSError:  # closed, as in a service: then nothing below Python can print
        kept = -1
    with tempfile.TemporaryFile() as below:

        def text() -> str:
            below.seek(0)
            return above.getvalue() + below.read().decode(errors="replace")

        try:
            if kept >= 0:
                os.dup2(below.fileno(), number)
            with redirect(above):
                yield text
        finally:
            if kept >= 0:
                os.dup2(kept, number)
                os.close(kept)


def settings() -> dict[str, object]:
    """Global settings that no plugin has a reason to change, by what people call them."""
    found: dict[str, object] = {
        "the working folder": os.getcwd(),  # noqa: PTH109
        "the environment variables": dict(os.environ),
        "sys.path": list(sys.path),
        "the root logger's level and handlers": (logging.root.level, list(logging.root.handlers)),
    }
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        found |= {
            "torch's number of threads": torch.get_num_threads(),
            "torch's default dtype": torch.get_default_dtype(),
            "torch's default device": str(torch.get_default_device()),
            "torch's grad mode": torch.is_grad_enabled(),
            "torch's deterministic mode": torch.are_deterministic_algorithms_enabled(),
            "torch's float32 precision": torch.get_float32_matmul_precision(),
            "cuDNN's flags": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
            "the state of CUDA": torch.cuda.is_initialized(),
        }
    return found


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Work in an empty folder for a while, where what is examined may leave files."""
    before = os.getcwd()  # noqa: PTH109
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.chdir(folder)
        try:
            yield Path(folder)
        finally:
            os.chdir(before)


def random_states() -> dict[str, object]:
    """States of the global random generators, by name, in a form that can be compared."""
    found: dict[str, object] = {"Python's random": random.getstate()}
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None:
        state = numpy.random.get_state(legacy=False)
        found["numpy.random"] = (state["state"]["pos"], state["state"]["key"].tobytes())
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        found["torch's global generator"] = torch.get_rng_state().numpy().tobytes()
    return found


def changed(before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    """Names of what differs."""
    return [name for name, value in before.items() if after.get(name, value) != value]


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Put global settings and random states back as they were."""
    folder, environment, path = os.getcwd(), dict(os.environ), list(sys.path)  # noqa: PTH109
    level, handlers, state = logging.root.level, list(logging.root.handlers), random.getstate()
    numpy: Any = sys.modules.get("numpy")
    numpy_state = numpy.random.get_state() if numpy is not None else None
    put_back = _torch_settings()
    try:
        yield
    finally:
        put_back()
        os.chdir(folder)
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)
        sys.path[:] = path
        logging.root.setLevel(level)
        logging.root.handlers[:] = handlers
        random.setstate(state)
        if numpy is not None:
            numpy.random.set_state(numpy_state)


def _torch_settings() -> Callable[[], None]:
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return lambda: None
    threads, dtype, grad = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    device = torch.get_default_device()
    deterministic, state = torch.are_deterministic_algorithms_enabled(), torch.get_rng_state()
    precision = torch.get_float32_matmul_precision()
    cudnn = torch.backends.cudnn
    flags = cudnn.benchmark, cudnn.deterministic

    def put_back() -> None:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        if torch.get_default_device() != device:
            torch.set_default_device(device)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)
        torch.use_deterministic_algorithms(deterministic)
        torch.set_float32_matmul_precision(precision)
        cudnn.benchmark, cudnn.deterministic = flags
        torch.set_rng_state(state)

    return put_back


_SECONDS = 300


@dataclass(frozen=True)
class Done:
    """What a process did: its exit code and all that it printed."""

    code: int
    out: str
    err: str

    @property
    def last_error(self) -> str:
        """The last line on stderr, which names the exception."""
        return (self.err.strip().splitlines() or ["it ended without a word"])[-1]


def run_python(
    code: str, *arguments: str, stdin: bytes = b"", threads: int = 0, folder: Path | None = None
) -> Done:  # fmt: skip
    """Run code in a fresh interpreter.

    Args:
        code: The program.
        arguments: ``sys.argv[1:]``.
        stdin: What it reads.
        threads: ``OMP_NUM_THREADS``; as it is for 0.
        folder: Its working folder.
    """
    environment = os.environ | {
        # Folders that were put on sys.path for this check reach the child by the environment.
        "PYTHONPATH": os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path if entry),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        input=stdin, capture_output=True, env=environment, timeout=_SECONDS, check=False, cwd=folder,
    )  # fmt: skip
    return Done(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
