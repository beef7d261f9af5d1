"""Where worker processes come from: on a CPU under Linux they are forked from one that has imported what they need.

Importing torch and timm takes two to three seconds a process. The process that workers are forked from does it once,
while the command itself still looks at models and results. It does nothing but import, so that what forking cannot
copy, threads of OpenMP and contexts of CUDA, is not there yet. With an accelerator every worker is a fresh interpreter
all the same: a driver that some library touched at import would be broken in each of them.
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
    """Return how processes that train on these devices are started."""
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
    from multiprocessing import forkserver  # not made for every system

    with _stdout_to_stderr(), _deaf_to_ctrl_c():
        forkserver.ensure_running()


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Start a process without this one's stdout: whoever reads that waits until the last process has let go of it."""
    try:
        kept = os.dup(1)
        os.dup2(2, 1)
    except OSError:  # one of them is closed
        yield
        return
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@contextlib.contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Start a process that ignores SIGINT from its first moment.

    Ctrl-C reaches it, too. It would print where in its imports it was; what that means is the command's to say.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
