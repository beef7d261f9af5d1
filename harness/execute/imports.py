"""What takes a worker long to import, for the process that workers are forked from; see ``harness.execute.nursery``."""

from __future__ import annotations

import contextlib
import gc
import warnings

from harness.collection import without_collection

# The worker meets the same error again, and can report it.
with warnings.catch_warnings(), contextlib.suppress(Exception), without_collection():
    warnings.simplefilter("ignore")
    import timm  # noqa: F401  (the reference's models and many others are built by it)

    import harness.execute.runner  # noqa: F401

    # A collection in a worker would write to, and so copy, all pages that it shares with the others. And the first one
    # after this would look at everything, for 0.3 seconds.
    gc.freeze()
