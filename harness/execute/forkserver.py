"""The start of worker processes. For a CPU under Linux, a fork server imports the libraries and forks the workers.

Importing torch and timm takes two to three seconds per process. The fork server does it once, while the command still
reads models and results. It only imports, so it has no threads of OpenMP and no CUDA context, which a fork can't copy.
For an accelerator every worker is a fresh interpreter, for a library may initialise the driver at import.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

from harness.machine import device_without_torch, forks_workers

if TYPE_CHECKING:
    from multiprocessing.context import SpawnContext

    if sys.platform == "win32":
        _Context: TypeAlias = SpawnContext
    else:
        from multiprocessing.context import ForkServerContext

        _Context: TypeAlias = ForkServerContext | SpawnContext

_IMPORTS = "harness.execute.preload"


def process_context(devices: Sequence[str]) -> _Context:
    """Return the context that starts processes for these devices."""
    if sys.platform != "win32" and forks_workers(devices):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([_IMPORTS])
        return context
    return multiprocessing.get_context("spawn")


def begin_imports(device: str) -> None:
    """Start the fork server, which imports torch, if workers for the device of ``--device`` will be forked."""
    known = device_without_torch(device)
    if known is None or process_context((known.address,)).get_start_method() != "forkserver":
        return
    from multiprocessing import forkserver  # Windows does not have it

    with _stdout_to_stderr(), _sigint_ignored():
        forkserver.ensure_running()


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
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
