"""The clock on CUDA: phases by events in the device's own stream, its idle share from a window that Kineto records."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.train.clock import Phase, Piece

_WARM_UP_STEPS = 10
_WINDOW_STEPS = 20
_WORK = frozenset({"kernel", "gpu_memcpy", "gpu_memset"})  # categories of a Kineto trace; others are annotations
_REFUSALS = (RuntimeError, AssertionError, OSError, ValueError)  # of a profiler; none of them may end a run
_PENDING = 256  # events after which those that the device has passed are read, which waits for nothing


@dataclass
class StepWindow:
    """The one recorded window of a process: after the first steps, and within an epoch."""

    seen: int = 0
    rest: int = 0
    begun: bool = False

    def due(self, done: int, left: int) -> bool:
        """Return True if it begins or ends after this step, the ``done``-th of its epoch with ``left`` to come."""
        self.seen += 1
        if self.rest:
            self.rest -= 1
            return self.rest == 0
        length = min(_WINDOW_STEPS, (done + left) // 2)
        if self.begun or self.seen < _WARM_UP_STEPS or not 0 < length <= left:
            return False
        self.rest, self.begun = length, True
        return True


class CudaWatch:
    """Takes the time of phases on the device's timeline.

    At each boundary an event is put into the stream; the time between two of them belongs to the phase in between. So
    the phases sum up to the wall-clock time, and work that the host prepares while the device computes costs nothing.
    """

    def __init__(self, device: torch.device) -> None:
        """Begin. Kineto starts once for nothing here: its first start takes long, and would fall into an epoch."""
        self._device = device
        self._last = self._mark()
        self._then = time.perf_counter()
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it would write its own lines into the live display
        with contextlib.suppress(*_REFUSALS):
            profiler = _kineto()
            profiler.start()
            profiler.stop()
        self._pending: deque[tuple[torch.cuda.Event, Phase, Piece]] = deque()
        self._profiler: Any = None
        self._window = StepWindow()

    def now(self) -> float:
        """Seconds on the host's clock."""
        return time.perf_counter()

    def lap(self, phase: Phase, piece: Piece) -> None:
        """Mark the boundary in the stream."""
        now = self.now()
        if phase is Phase.WAITING:
            piece.host_waiting = (piece.host_waiting or 0.0) + now - self._then
        self._then = now
        self._pending.append((self._mark(), phase, piece))
        if len(self._pending) >= _PENDING:
            self._read()

    def settle(self) -> None:
        """Wait for the device and read what is left. Where it has failed, that stays unread."""
        with contextlib.suppress(RuntimeError):
            if self._pending:
                self._pending[-1][0].synchronize()
            self._read()

    def window_due(self, piece: Piece, left: int) -> bool:
        """Return True if the window begins or ends after this step."""
        return self._window.due(piece.steps, left)

    def turn_window(self, piece: Piece) -> None:
        """Begin or end the window. The run never fails for it: without CUPTI's permission nothing is measured."""
        with contextlib.suppress(*_REFUSALS):
            torch.cuda.synchronize(self._device)
            if self._window.rest:
                self._profiler = _kineto()
                self._profiler.start()
            elif self._profiler is not None:
                profiler, self._profiler = self._profiler, None
                profiler.stop()
                piece.idle = idle_in(_trace(profiler))

    def close(self) -> None:
        """End a window that a stop fell into: the next run of this process could not begin its own."""
        if self._profiler is not None:
            with contextlib.suppress(*_REFUSALS):
                self._profiler.stop()

    def _mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _read(self) -> None:
        while self._pending and self._pending[0][0].query():
            event, phase, piece = self._pending.popleft()
            piece.add(phase, self._last.elapsed_time(event) / 1000)
            self._last = event


def idle_in(trace: Mapping[str, Any]) -> float | None:
    """Return the idle share of the device in a Kineto trace; None if it did nothing there."""
    return idle_share(
        (event["ts"], event["ts"] + event["dur"])
        for event in trace["traceEvents"]
        if event.get("ph") == "X" and event.get("cat") in _WORK
    )


def idle_share(busy: Iterable[tuple[float, float]]) -> float | None:
    """Return which share of the time from the first beginning to the last end no interval covers.

    Args:
        busy: (begin, end) in any unit and order; they may overlap, as kernels of several streams do.

    >>> idle_share([(0, 4), (3, 5), (9, 10)])
    0.4
    """
    intervals = sorted(busy)
    if not intervals:
        return None
    first = reached = intervals[0][0]
    covered = 0.0
    for begin, end in intervals:
        covered += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return 1 - covered / (reached - first) if reached > first else None


def _kineto() -> Any:
    return torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])


def _trace(profiler: Any) -> dict[str, Any]:
    """The recorded work, by the format that other tools read, too: torch's own objects change with its versions."""
    with tempfile.TemporaryDirectory(prefix="harness-profile-") as folder:
        path = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(path))
        trace: dict[str, Any] = json.loads(path.read_bytes())
        return trace
