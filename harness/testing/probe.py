"""Import a plugin's module in this, fresh, interpreter and print what was seen as one line of JSON.

python -c "from harness.testing.probe import main; main(['the_module', 'torch', 'numpy'])"
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from importlib.metadata import EntryPoint

import harness.api  # noqa: F401 - what it costs is not the plugin's
from harness.errors import one_line
from harness.testing.sandbox import changed, settings, watching


def main(arguments: Sequence[str]) -> None:
    """Import ``arguments[0]``, an entry point's value, and tell which of the other names it has imported."""
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
        # This process may have inherited what the same import did to its parent, so that nothing changes any more.
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
