"""Defines the errors that a user can solve, and their exit codes.

The core raises them; only ``harness.cli`` turns them into messages.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import ClassVar
from urllib.parse import unquote

_USER = re.compile(r"(?<=://)[^/\s]+(?=@)")
_SECRET = re.compile(r"([?&][^=&\s]*(?:token|key|sig|pass|secret|auth|credential)[^=&\s]*=)[^&\s'\")]+", re.IGNORECASE)

_LONGEST = 240  # characters of an error that are quoted


class HarnessError(Exception):
    """Base of every error whose text is for the user: the value found, the value expected, and the next step."""

    exit_code: ClassVar[int] = 3


class WrongUseError(HarnessError):
    """The request itself is wrong: an unknown name, an impossible option. Exit code 2."""

    exit_code = 2


class CannotContinueError(HarnessError):
    """The request is fine but something is missing or damaged: data, a file, disk, a device. Exit code 3."""


class RegistryError(CannotContinueError):
    """The registry file is missing, unreadable or has impossible content."""


class PluginError(CannotContinueError):
    """A needed plugin failed to load or to work."""


class DatasetError(CannotContinueError):
    """A data set is not prepared, or its reader's samples differ from its plugin's declaration."""


class SourceError(CannotContinueError):
    """A source file of a data set can't be fetched, is not the expected one, or can't be unpacked safely."""


class LicenceError(WrongUseError):
    """The user must accept a data set's terms first."""


class BudgetError(HarnessError):
    """A model does not fit the parameter budget, or cannot be measured. Exit code 1: the answer is no."""

    exit_code = 1


class TrainingError(CannotContinueError):
    """A run failed in a way that a repetition does not fix, such as a loss that is not a number."""


class StoreError(CannotContinueError):
    """A runs folder cannot be read or written."""


class JobLockedError(HarnessError):
    """Another process is working on this job."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the message for an unknown name, with the nearest known name and the whole list.

    >>> unknown_name("model", "starnt", ["convnext", "starnet"])
    "There is no model named 'starnt'. Did you mean 'starnet'? Known: convnext, starnet."
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return f"There is no {kind} named '{name}'.{hint} Known: {', '.join(names) or 'none'}."


def one_line(error: BaseException) -> str:
    """Return the type and the text of an error in one line, without a full stop at its end, to quote in a sentence.

    A long text is cut, a password in an address is left out, and an error whose text can't be made has none.

    >>> one_line(ValueError("two\\n  lines."))
    'ValueError: two lines'
    >>> one_line(OSError("no answer from https://me:secret@example.org/x"))
    'OSError: no answer from https://***@example.org/x'
    """
    text = text_of(error).rstrip(".")
    text = text if len(text) <= _LONGEST else text[:_LONGEST] + "..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def legible(text: object) -> str:
    """Return a text in which the bytes of a file's name that are not UTF-8 are escapes, so that it can be written.

    >>> print(legible(chr(0xDCFC) + ".png"))
    \\udcfc.png
    """
    return str(text).encode("utf-8", "backslashreplace").decode()


def text_of(error: BaseException) -> str:
    """Return the text of an error in one line of encodable characters, without passwords.

    Of an error that can't say its text, return a remark.
    """
    try:
        text = str(error)
    except BaseException as second:  # the exception is a plugin's, and so is its __str__
        text = f"its text can't be read ({type(second).__name__})"
    return without_passwords(" ".join(legible(text).split()))


def without_passwords(text: str, *addresses: str) -> str:
    """Return a text in which user names, passwords and access keys in web addresses are replaced by ``***``.

    Args:
        text: A message for the user.
        addresses: Addresses that may occur in it in parts, such as those of proxies.

    >>> without_passwords("http://anna:s3cret@example.org/a.zip?sig=ab12 failed")
    'http://***@example.org/a.zip?sig=*** failed'
    """
    for address in addresses:
        rest = re.sub(r"^[\w+.-]+://", "", address)
        host = rest.partition("/")[0]
        if "@" not in host and re.search(r":(?!\d*$)", host):  # no port behind the colon: a password with a slash
            host = rest
        user = host.rpartition("@")[0]
        password = user.partition(":")[2]
        parts = re.split(r"[/?#@]", user)  # an address with such a password is misread, and quoted in parts
        for secret in (user, password, unquote(password), *parts):
            if len(secret) > 2:
                text = text.replace(secret, "***")
    return _SECRET.sub(r"\1***", _USER.sub("***", text))
