"""What a store's content amounts to: its exact statistics and its fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from harness.api import Split

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def pixel_histogram(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Count how often each value occurs in each channel of pixels (..., 3); int64 (3, 256)."""
    import numpy as np

    return np.stack([np.bincount(pixels[..., channel].ravel(), minlength=256) for channel in range(3)])


def channel_moments(
    histogram: npt.NDArray[np.int64],
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Exact mean and standard deviation (ddof 0) of three channels in 0..1, from their histograms."""
    means: list[float] = []
    deviations: list[float] = []
    for counts in histogram.tolist():
        n = sum(counts)
        total = sum(value * count for value, count in enumerate(counts))
        squares = sum(value * value * count for value, count in enumerate(counts))
        means.append(total / (255 * n))
        deviations.append((n * squares - total * total) ** 0.5 / (255 * n))
    return (means[0], means[1], means[2]), (deviations[0], deviations[1], deviations[2])


def pixel_digest(images: npt.NDArray[np.uint8], chunk: int = 256) -> str:
    """SHA-256 over the pixels of images (N, H, W, 3), some at a time, since they may be a map of a large file."""
    import numpy as np

    digest = hashlib.sha256()
    for first in range(0, len(images), chunk):
        digest.update(np.ascontiguousarray(images[first : first + chunk]).data)
    return digest.hexdigest()


def content_fingerprint(classes: Sequence[str], splits: Mapping[Split, tuple[Sequence[int], str]]) -> str:
    """Hash class names, and by split the labels and the hash of the pixels."""
    parts = {
        split: [len(labels), pixels, hashlib.sha256(json.dumps(list(labels)).encode()).hexdigest()]
        for split, (labels, pixels) in splits.items()
    }
    canonical = json.dumps({"classes": list(classes), "splits": parts}, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
