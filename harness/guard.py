"""Guards an entry into the code of others: a failure becomes one sentence, and streams and folder are put back."""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from harness.errors import HarnessError, PluginError, one_line


class Interrupted(KeyboardInterrupt):
    """The user pressed Ctrl-C. A plugin that raises KeyboardInterrupt itself has only failed."""


def interrupt(*_: object) -> None:
    """Handle SIGINT in a command."""
    raise Interrupted


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Enter the code of others: import it, or call it.

    It writes to stderr, since stdout is for data. It can't end the command, change its folder, or close its streams.

    Raises:
        HarnessError: raised by that code.
        PluginError: that code raised anything else, SystemExit included; the text is one line, the cause the error.
        KeyboardInterrupt: the user pressed Ctrl-C.
    """
    folder = _working_folder()
    try:
        with contextlib.redirect_stdout(lend(sys.stderr)), contextlib.redirect_stderr(lend(sys.stderr)):
            yield
    except HarnessError:
        raise
    except BaseException as error:
        if _is_users(error):
            raise
        raise PluginError(one_line(error)) from error
    finally:
        if folder is not None and _working_folder() != folder:
            with contextlib.suppress(OSError):
                os.chdir(folder)


def _is_users(error: BaseException) -> bool:
    """Return whether an error is the user's Ctrl-C; one that handles or ignores it tells it from a plugin's."""
    told_apart = signal.getsignal(signal.SIGINT) in (interrupt, signal.SIG_IGN)
    return isinstance(error, Interrupted) or (isinstance(error, KeyboardInterrupt) and not told_apart)


def _working_folder() -> str | None:
    """Return the working folder; None if it has been removed."""
    try:
        return str(Path.cwd())
    except OSError:
        return None


class Patient(io.FileIO):
    """A file that waits while a pipe in non-blocking mode is full."""

    def write(self, data: object, /) -> int:
        """Write, and return the number of bytes."""
        while (written := super().write(data)) is None:  # type: ignore[arg-type, unused-ignore]
            select.select([], [self], [])
        return written


class Careless(Patient):
    """Loses what a closed terminal or a full disk refuses, without an error."""

    def write(self, data: object, /) -> int:
        """Write, and return the number of bytes."""
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes  # type: ignore[arg-type]


class _Unclosable(io.BufferedWriter):
    """A buffer that stays open when somebody wraps it and drops the wrapper."""

    def close(self) -> None:
        """Write out the content."""
        self.flush()


def text_stream(raw: io.FileIO, like: TextIO) -> io.TextIOWrapper:
    """Return a text stream on a file: each line is written at once, and no character is an error.

    Args:
        raw: The file.
        like: The stream whose encoding it has.
    """
    encoding = getattr(like, "encoding", None) or "utf-8"
    return io.TextIOWrapper(_Unclosable(raw), encoding=encoding, errors="backslashreplace", line_buffering=True)


def lend(stream: TextIO) -> TextIO:
    """Return a stream to the same file that others may close, wrap or detach, and whose writes never fail.

    A stream without a file, such as that of a notebook, is returned itself.
    """
    try:
        if sys.platform == "win32":  # a console there takes no bytes
            return stream
        return text_stream(Careless(stream.fileno(), "w", closefd=False), stream)
    except (AttributeError, OSError, ValueError):
        return stream
