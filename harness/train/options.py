"""The options of a run, carried as one value from the command line to the training loop."""

from __future__ import annotations

from dataclasses import dataclass

from harness.train.save_timer import SAVE_EVERY


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The user's choices for training; none changes a number of the protocol. Light to import and to pickle.

    Attributes:
        over_budget: Models over the budget that are trained because the user asked; marked in the results.
        accept_cpu: Whether a CPU may train under a protocol made for an accelerator, since the user named the device.
        save_every: Seconds between checkpoints within an epoch.
        trackers: Names of the trackers that follow each run, each once.
        profile: Whether to write ``profile.json``.
        compile_mode: The mode of torch.compile; None trains without it.
    """

    over_budget: frozenset[str] = frozenset()
    accept_cpu: bool = True
    save_every: float = SAVE_EVERY
    trackers: tuple[str, ...] = ()
    profile: bool = False
    compile_mode: str | None = None
