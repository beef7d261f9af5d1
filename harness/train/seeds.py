"""Seeds as pure functions of their purpose: a run has no hidden generator state, so it may stop anywhere."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed for a purpose, such as ``derive_seed(0, "shuffle", epoch)``.

    Different purposes give independent streams, so that a new one never shifts another.
    """
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Return a fresh CPU generator for a purpose."""
    import torch

    return torch.Generator().manual_seed(derive_seed(seed, *purpose))


@dataclass(frozen=True, slots=True)
class Position:
    """A training step: all that its random numbers depend on."""

    seed: int
    epoch: int
    step: int

    def derive_seed(self, *purpose: str) -> int:
        """Return the step's seed for a purpose."""
        return derive_seed(self.seed, *purpose, self.epoch, self.step)

    def generator(self, *purpose: str) -> torch.Generator:
        """Return the step's fresh CPU generator for a purpose."""
        return generator(self.seed, *purpose, self.epoch, self.step)
