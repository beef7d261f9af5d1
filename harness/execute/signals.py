"""Signals -> a wish to stop after the current step."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

# A closed terminal and a cluster's or a container's request count like Ctrl-C. Windows knows no SIGHUP.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


class StopSignal:
    """Turns the first Ctrl-C (or SIGTERM, or SIGHUP) into a wish to stop after the current step.

    Attributes:
        wanted: Whether to stop.
    """

    def __init__(self, *, say: Callable[[str], object] | None = None, again: type[BaseException] | None = None) -> None:
        """Make one.

        Args:
            say: Called with a sentence at the first signal.
            again: Raised at the second signal; None lets it pass.
        """
        self.wanted = False
        self._say = say
        self._again = again

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals for a while. A signal that is ignored stays so, which is what nohup relies on."""
        if threading.current_thread() is not threading.main_thread():  # Python handles signals there alone
            yield
            return
        numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
        heeded = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._handle) for number in heeded}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.wanted and self._again is not None:
            raise self._again
        if not self.wanted and self._say is not None:
            with contextlib.suppress(OSError):  # the terminal may be what has just gone
                self._say(signal.Signals(number).name)
        self.wanted = True
