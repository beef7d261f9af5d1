"""Turns an exception of a download into a reason in plain words, and says whether another try may help."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING
from urllib.request import getproxies

from harness.errors import one_line

if TYPE_CHECKING:
    import requests


def may_pass(error: Exception) -> bool:
    """Return whether another try may succeed. A wrong address or setting stays wrong: ValueErrors, a plain OSError."""
    return not isinstance(error, ValueError) and type(error) is not OSError


def reason_of(error: Exception) -> str:
    """Return the reason why a download failed, as a part of a sentence."""
    import requests
    from urllib3.exceptions import ProtocolError, ReadTimeoutError

    match error:
        case requests.ConnectTimeout():
            return "the server does not answer"
        case requests.ReadTimeout() | ReadTimeoutError():
            return "the server stopped sending"
        case requests.exceptions.SSLError():
            invalid = "CERTIFICATE_VERIFY_FAILED" in str(error)
            what = "its certificate is not valid" if invalid else "no secure connection could be made"
            return f"{what}{_cause(error)}{_certificate_setting()}"
        case requests.exceptions.ProxyError():
            return f"the proxy does not work{_cause(error)}"
        case requests.exceptions.InvalidProxyURL():
            return f"the address of the proxy in the environment is not usable ({one_line(error)})"
        case requests.exceptions.ChunkedEncodingError() | ProtocolError():
            return "the connection was cut"
        case requests.ConnectionError():
            return f"the connection failed{_cause(error)}"
        case requests.exceptions.InvalidSchema() if "SOCKS" in str(error):
            return "the proxy of the environment is a SOCKS proxy, which needs PySocks; run: pip install PySocks"
        case requests.exceptions.InvalidURL() | UnicodeError():
            which = "the address, or that of the proxy in the environment," if getproxies() else "the address"
            return f"{which} is not usable ({one_line(error)})"
    if type(error) is OSError and "certificate" in str(error):
        return f"the file of trusted certificates is missing{_certificate_setting() or f' ({error})'}"
    return one_line(error)


def _cause(error: requests.ConnectionError) -> str:
    """Return the lowest layer's reason in brackets, such as a refused connection or an unknown host, if any."""
    reason = getattr(error.args[0], "reason", None) if error.args else None
    lowest = getattr(reason, "original_error", reason)
    text = " ".join(re.sub(r"^\S*\([^()]*\): ", "", str(lowest or "")).split())  # without the object's name
    return f" ({text})" if text else ""


def _certificate_setting() -> str:
    """Return a clause that names the user's file of trusted certificates, or nothing."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # in the order of requests
        if path := os.environ.get(name):
            return f"; {name} is {path}: correct or unset it"
    return ""
