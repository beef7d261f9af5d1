"""A sandbox for plugins: it records output, files, connections and changed settings, and starts fresh interpreters."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import random
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from harness.errors import one_line
from harness.processes import helper_environment
from harness.torch_settings import kept_torch

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "os.link", "os.symlink", "shutil.rmtree")
_NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
_SECONDS = 300  # that a fresh interpreter may take


class NetworkRefused(PermissionError):
    """Raised in place of a connection."""


@dataclass
class Seen:
    """The side effects of a block of code.

    Attributes:
        out, err: Text on stdout and on stderr, from Python or from compiled code.
        connections: Addresses that it wanted to connect to.
        written: Files and folders that it created, changed or removed.
        opened: Files that it opened for reading.
        environment: Environment variables that it set or removed, even if their value stayed the same.
    """

    out: str = ""
    err: str = ""
    connections: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    opened: set[str] = field(default_factory=set)
    environment: set[str] = field(default_factory=set)

    @property
    def printed(self) -> str:
        """Return all text."""
        return self.out + self.err

    def notice(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Record an audit event. Raises NetworkRefused at a connection."""
        if event == "open":
            self._opened(*arguments[:3])
        elif event in _CHANGES:
            self.written.append(str(arguments[0]))
        elif event in ("os.putenv", "os.unsetenv"):
            self.environment.add(os.fsdecode(arguments[0]))
        elif event in _NETWORK:
            where = arguments[1] if event in ("socket.connect", "socket.sendto") else arguments[:2]
            if isinstance(where, tuple | list):  # a socket on this machine's file system has a plain name
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
    """Install the audit hook. Python can't remove one, so outside of ``watching`` the hook does nothing."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        seen = _CURRENT.get()
        if seen is not None:
            seen.notice(event, arguments)

    sys.addaudithook(hook)


@contextlib.contextmanager
def watching() -> Iterator[Seen]:
    """Record the side effects of the block. Its connections are refused, and its output is held back."""
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
    """Hold back the block's output by Python, and let no warning become an error."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("default")
        yield


@contextlib.contextmanager
def _captured(number: int) -> Iterator[Callable[[], str]]:
    """Hold back stdout (1) or stderr (2), of compiled code too. The value returns the text, within the block."""
    above, redirect = io.StringIO(), contextlib.redirect_stdout if number == 1 else contextlib.redirect_stderr
    with contextlib.suppress(ValueError, OSError, AttributeError):
        (sys.stdout if number == 1 else sys.stderr).flush()
    try:
        kept = os.dup(number)
    except OSError:  # closed, as in a service: then compiled code can't print
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
    """Return global settings that no plugin has a reason to change, by readable names."""
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
    """Change into an empty folder, which is removed at the end with all that the block leaves there."""
    before = os.getcwd()  # noqa: PTH109
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.chdir(folder)
        try:
            yield Path(folder)
        finally:
            os.chdir(before)


def random_states() -> dict[str, object]:
    """Return the states of the global random generators by name, in a form that can be compared."""
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
    """Return the names of the values that differ."""
    return [name for name, value in before.items() if after.get(name, value) != value]


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Restore global settings and random states after the block."""
    folder, environment, path = os.getcwd(), dict(os.environ), list(sys.path)  # noqa: PTH109
    level, handlers, state = logging.root.level, list(logging.root.handlers), random.getstate()
    numpy: Any = sys.modules.get("numpy")
    numpy_state = numpy.random.get_state() if numpy is not None else None
    torch: Any = sys.modules.get("torch")
    torch_state = torch.get_rng_state() if torch is not None else None
    try:
        with kept_torch():
            yield
    finally:
        if torch is not None:
            torch.set_rng_state(torch_state)
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


@dataclass(frozen=True)
class Done:
    """A finished process: its exit code and its output."""

    code: int
    out: str
    err: str

    @property
    def last_error(self) -> str:
        """Return the last line on stderr, which names the exception."""
        return (self.err.strip().splitlines() or [f"it ended with exit code {self.code} and no message"])[-1]


def run_python(
    code: str, *arguments: str, stdin: bytes = b"", threads: int = 0, folder: Path | None = None
) -> Done:  # fmt: skip
    """Run code in a fresh interpreter.

    Args:
        code: The program.
        arguments: ``sys.argv[1:]``.
        stdin: Its input.
        threads: Its ``OMP_NUM_THREADS``; 0 leaves the variable as it is.
        folder: Its working folder; None for the current one.
    """
    environment = os.environ | helper_environment() | {"PYTHONDONTWRITEBYTECODE": "1"}
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        input=stdin, capture_output=True, env=environment, timeout=_SECONDS, check=False, cwd=folder,
    )  # fmt: skip
    return Done(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


def probe(arguments: Sequence[str]) -> None:
    """Import a plugin's module in this interpreter, a fresh one, and print the side effects as one line of JSON.

    Args:
        arguments: The value of the plugin's entry point, then names of modules: those that it imports are reported.
    """
    import harness.api  # noqa: F401 - its cost does not count against the plugin

    value, *watched = arguments
    before, modules, error, module = settings(), set(sys.modules), "", None
    with watching() as seen:
        began = time.perf_counter()
        try:
            module = EntryPoint("probed", value, "harness").load()
        except BaseException as raised:
            error = one_line(raised)
        seconds = time.perf_counter() - began
    torch = sys.modules.get("torch")
    heavy = [name for name in watched if name in sys.modules and name not in modules]
    found_settings = changed(before, settings())
    if seen.environment and not heavy:
        # This process may have inherited the variables from a parent that imported the plugin, so that none changes.
        found_settings = [f"the environment variables {', '.join(sorted(seen.environment))}", *found_settings[1:]]
    found = {
        "error": error,
        "api": getattr(module, "HARNESS_API", None),
        "seconds": seconds,
        "modules": heavy,
        "printed": seen.printed.strip(),
        "connections": seen.connections,
        "written": sorted(set(seen.written)),
        "settings": found_settings,
        "cuda": torch is not None and bool(torch.cuda.is_initialized()),
    }
    print(json.dumps(found, default=str))
