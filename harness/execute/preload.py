"""The slow imports of a worker, done once in the fork server (``harness.execute.forkserver``)."""

from __future__ import annotations

import contextlib
import gc
import warnings

from harness.machine import gc_paused

# The worker meets the same error again, and can report it.
with warnings.catch_warnings(), contextlib.suppress(Exception), gc_paused():
    warnings.simplefilter("ignore")
    import timm  # noqa: F401  (the reference's models and many others are built by it)

    import harness.execute.runner  # noqa: F401

    # A collection in a worker would write to, and so copy, all pages that it shares with the others. And the first one
    # after this would look at everything, for 0.3 seconds.
    gc.freeze()
