"""The slow imports of a worker. The fork server imports this module once (``harness.processes``)."""

from __future__ import annotations

import contextlib
import gc
import warnings

from harness.machine import gc_paused

# A worker repeats an import that fails here, and reports the error.
with warnings.catch_warnings(), contextlib.suppress(Exception), gc_paused():
    warnings.simplefilter("ignore")
    import timm  # noqa: F401 - the reference models and many others are built by it

    import harness.execute.runner  # noqa: F401

    # A garbage collection in a worker writes to every page that it shares with the fork server, which copies the page,
    # and the first collection visits every object, which takes 0.3 seconds. Frozen objects are left out.
    gc.freeze()
