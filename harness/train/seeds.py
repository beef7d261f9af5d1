"""Seeds as a pure function of what they are for, so that a run has no hidden generator state and may stop anywhere."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed for a purpose, such as ``derive_seed(0, "shuffle", epoch)``.

    Different purposes give independent streams, so that adding one never shifts another.
    """
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Return a fresh CPU generator for a purpose."""
    import torch

    return torch.Generator().manual_seed(derive_seed(seed, *purpose))
