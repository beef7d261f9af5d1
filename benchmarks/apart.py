"""An object in a process of its own, whose methods are called from here.

A run of the harness changes settings of its whole process: numerics, and how malloc keeps memory, which glibc cannot
wholly undo. What it is compared with lives in a process that never saw them, as it would at a user's.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import torch

NAME = "apart"
"""Of the process, among this one's children."""


class Apart:
    """Makes the object, and calls it; between two calls its process waits and uses no core."""

    def __init__(self, make: Callable[..., Any], *arguments: Any) -> None:
        context = get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(there, make, arguments, torch.get_num_threads()), name=NAME, daemon=True
        )
        self._process.start()
        there.close()
        self._answer()

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method and return what it returns."""
        self._here.send((method, arguments))
        return self._answer()

    def close(self) -> None:
        """End the process."""
        # Said, because a forked worker of a loader may hold this end open, too.
        self._here.send(None)
        self._here.close()
        self._process.join()

    def _answer(self) -> Any:
        fine, answer = self._here.recv()
        if not fine:
            raise RuntimeError(f"The process apart failed:\n{answer}")
        return answer


def _serve(there: Connection, make: Callable[..., Any], arguments: tuple[Any, ...], threads: int) -> None:
    torch.set_num_threads(threads)
    try:
        made = make(*arguments)
        there.send((True, None))
        while True:
            asked = there.recv()
            if asked is None:
                return
            method, given = asked
            there.send((True, getattr(made, method)(*given)))
    except EOFError:  # closed on the other side
        return
    except Exception:
        there.send((False, traceback.format_exc()))
