"""Starts processes that import what this one imports, and calls a function in a fresh process.

For a CPU under Linux, a fork server imports the libraries and forks the processes. Importing torch and timm takes two
to three seconds. The fork server does it once, while the command still reads models and results. It only imports, so it
has no threads of OpenMP and no CUDA context, which a fork can't copy. For an accelerator every process is a fresh
interpreter, for a library may initialise the driver at import.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from harness.errors import CannotContinueError, HarnessError, one_line
from harness.machine import THREAD_VARIABLES, forks_workers

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

T = TypeVar("T")

_IMPORTS = "harness.execute.preload"
_NAME = "harness worker"
_LONGEST_FOLDER = 70  # of a socket: multiprocessing adds 32 characters, and a name has 103 on macOS, 107 under Linux
_SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
_POLL_SECONDS = 0.1
_LONGEST_GAP = 1.0
_THREAD_SECONDS = 2.0  # for which a process that ends waits for the threads that plugins have left


class EndedError(CannotContinueError):
    """A fresh process gave no answer; the text is the end of a sentence about it, such as ``was killed by SIGSEGV``."""


class AwakeClock:
    """Counts the seconds in which this process was awake, for judging the silence of another one.

    A gap between two looks counts for a second at most, so it must be looked at more often than that. The rest of a
    long gap is one in which this process was stopped (Ctrl-Z, the suspension of a cluster's job, a paused container) or
    the computer slept, and so did the process that is judged.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._last = time.monotonic()

    def seconds(self) -> float:
        """Return the seconds since the start."""
        now = time.monotonic()
        self._seconds += min(now - self._last, _LONGEST_GAP)
        self._last = now
        return self._seconds


@dataclass(frozen=True)
class Surroundings:
    """The environment and the folder of the parent. A forked process has those with which the fork server started."""

    environment: Mapping[str, str]
    folder: str

    @classmethod
    def here(cls) -> Surroundings:
        """Return those of this process.

        Raises:
            CannotContinueError: the working folder is gone.
        """
        try:
            folder = str(Path.cwd())
        except OSError as error:
            raise CannotContinueError(
                "The folder in which this command was started no longer exists, so no process can start in it. Change "
                "to a folder that exists, and run the command again."
            ) from error
        return cls(dict(os.environ), folder)

    def take_over(self, threads: int | None) -> None:
        """Give this process the surroundings, limit its threads, and point its stdout at stderr.

        The variables limit the threads of libraries that are imported afterwards. In a forked process torch is imported
        already.
        """
        os.environ.clear()
        os.environ.update(self.environment)
        os.chdir(self.folder)
        if threads is not None:
            os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.dup2(sys.stderr.fileno(), 1)
        sys.stdout = sys.stderr


def start_process(
    devices: Sequence[str],
    target: Callable[..., None],
    *arguments: object,
    say: Callable[[str], object] = lambda _: None,
) -> BaseProcess:
    """Start a process for work on these devices.

    Args:
        devices: Names of devices, such as ``cpu`` or ``cuda:0``.
        target: The function to call there, found by its name.
        arguments: Its arguments, which are pickled.
        say: Receives a sentence if the process could not be forked, so that its start takes longer.

    Raises:
        CannotContinueError: no process can be started.
    """
    if forks_workers(devices):
        context: Any = multiprocessing.get_context("forkserver")  # absent on Windows, where nothing is forked
        process: BaseProcess = context.Process(target=target, args=arguments, name=_NAME)
        try:
            _ensure_fork_server()
            with importing_alike():
                process.start()
            return process
        except (OSError, EOFError) as error:  # no room for its socket, or it has ended
            say(f"Processes start slowly, because the fork server does not start: {one_line(error)}.")
    process = multiprocessing.get_context("spawn").Process(target=target, args=arguments, name=_NAME)
    try:
        with importing_alike(), _sigint_ignored():
            process.start()
    except OSError as error:
        raise CannotContinueError(f"This machine does not start another process: {one_line(error)}.") from error
    return process


def begin_imports() -> None:
    """Start the fork server, which imports torch, if processes are forked here."""
    if forks_workers(("cpu",)):
        with contextlib.suppress(OSError):  # ``start_process`` meets the error again, and does without
            _ensure_fork_server()


def _ensure_fork_server() -> None:
    from multiprocessing import forkserver  # Windows does not have it

    multiprocessing.get_context("forkserver").set_forkserver_preload([_IMPORTS])
    with importing_alike(), _sigint_ignored():
        forkserver.ensure_running()


def call_apart(function: Callable[..., T], *arguments: object, seconds: float) -> T:
    """Call a function in a fresh process on the CPU, and return its answer.

    Args:
        function: A function of a module.
        arguments: Its arguments; they and the answer are pickled.
        seconds: For which it may take, in the time that this process is awake.

    Raises:
        EndedError: there was no answer: it raised, took too long, or ended the process.
        HarnessError: it raised one.
    """
    content = pickle.dumps((function, arguments))
    here, there = multiprocessing.Pipe()
    process = start_process(("cpu",), _answer, there, content, Surroundings.here())
    there.close()  # so that the pipe ends with the process
    try:
        answer = _wait_for_answer(here, process, seconds)
    finally:
        if process.is_alive():
            process.kill()
        process.join()
        here.close()
    if isinstance(answer, HarnessError):
        raise answer
    value: T = answer[0]
    return value


def _wait_for_answer(here: Any, process: BaseProcess, seconds: float) -> Any:
    clock = AwakeClock()
    while clock.seconds() <= seconds:
        if not wait([here, process.sentinel], timeout=_POLL_SECONDS):
            continue
        if here.poll():
            with contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):
                return here.recv()
        process.join(timeout=5)
        raise EndedError(how_it_ended(process.exitcode))
    raise EndedError(f"took longer than {seconds:.0f} seconds and was ended")


def _answer(connection: Connection, content: bytes, surroundings: Surroundings) -> None:
    """Call the function in the fresh process: send a tuple with its value, or a HarnessError."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends this process
    surroundings.take_over(threads=None)
    threading.Thread(target=_end_with_parent, args=(connection,), daemon=True).start()
    answer: object
    try:
        function, arguments = pickle.loads(content)
        answer = (function(*arguments),)
    except HarnessError as error:
        answer = error.with_traceback(None)
    except BaseException as error:  # a plugin's, whatever it is
        answer = EndedError(f"failed: {one_line(error)}")
    try:
        connection.send(answer)
    except OSError:  # the parent has ended
        os._exit(1)
    except Exception as error:
        connection.send(EndedError(f"failed: its answer can't be sent: {one_line(error)}"))
    end_process(0)


def _end_with_parent(connection: Connection) -> None:
    with contextlib.suppress(EOFError, OSError):
        connection.recv()
    os._exit(1)


def end_process(code: int) -> NoReturn:
    """End this process after its exit functions, and do not wait for long for threads that plugins have left."""
    patience = time.monotonic() + _THREAD_SECONDS
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(max(0.0, patience - time.monotonic()))
    for child in multiprocessing.active_children():
        child.terminate()
    try:
        atexit._run_exitfuncs()  # a forked process skips these functions, and a library may use one to flush
        sys.stderr.flush()
    except BaseException:  # a plugin's exit function
        traceback.print_exc()
    os._exit(code)


def how_it_ended(code: int | None) -> str:
    """Return the end of a sentence about a process, from its exit code.

    >>> how_it_ended(3)
    'ended with exit code 3'
    """
    if code is None or code >= 0:
        return f"ended with exit code {code}"
    with contextlib.suppress(ValueError):
        name = signal.Signals(-code).name
        hint = " (the system does that when memory runs out)" if name == "SIGKILL" else ""
        hint = " (a crash in compiled code)" if name in ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE") else hint
        return f"was killed by {name}{hint}"
    return f"was killed by signal {-code}"


def helper_environment() -> dict[str, str]:
    """Return the variables by which a fresh interpreter imports from where this one does.

    ``python -c`` and ``python -m``, by which ``multiprocessing``, too, starts its helpers, put the working folder first
    on the path: a user's ``random.py`` or ``timm/`` in it would be imported in place of the library, and another
    checkout's ``harness/`` in place of this one.
    """
    path = [str(Path(entry).absolute()) for entry in sys.path if entry]
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(path)}


@contextlib.contextmanager
def importing_alike() -> Iterator[None]:
    """Let a process that is started in the block import what this one does, and write to stderr alone."""
    with _environment(helper_environment()), _room_for_sockets(), _stdout_to_stderr():
        yield


@contextlib.contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _room_for_sockets() -> Iterator[None]:
    """Let sockets be in a folder with a short name, for the name of a socket has a limit of about 100 bytes."""
    with contextlib.suppress(OSError):  # there is none
        tempfile.gettempdir()
    before = tempfile.tempdir
    if before and len(os.fsencode(before)) > _LONGEST_FOLDER:
        own = os.environ.get("XDG_RUNTIME_DIR")
        short = (folder for folder in (*([own] if own else []), *_SHORT_FOLDERS) if len(folder) <= _LONGEST_FOLDER)
        tempfile.tempdir = next((folder for folder in short if os.access(folder, os.W_OK | os.X_OK)), before)
    try:
        yield
    finally:
        tempfile.tempdir = before


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Let a process that is started in the block have stderr as its stdout.

    A pipe reader sees the end of the command's stdout only after every process has closed it.
    """
    try:
        kept = os.dup(1)
        os.dup2(2, 1)
    except OSError:  # stdout or stderr is closed
        yield
        return
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@contextlib.contextmanager
def _sigint_ignored() -> Iterator[None]:
    """Let a process that is started in the block ignore SIGINT.

    Ctrl-C reaches it, too. Otherwise it prints a traceback over the command's own message.
    """
    if threading.current_thread() is not threading.main_thread():  # Python handles signals only there
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
