"""The outcome of a check, and the look-ups that checks share. A look-up may be impossible on this machine."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from harness.api import Job, ModelSpec, RunResult
from harness.catalog import Offer
from harness.data.prepared import PreparedDataset
from harness.errors import HarnessError
from harness.registry import Budget, Protocol
from harness.results.protocols import find_protocol
from harness.results.store import JobFolder, RunsFolder
from harness.workspace import Workspace

if TYPE_CHECKING:
    import torch

    from harness.train.checkpoint import Checkpoint
    from harness.train.task import Built, Task

Verdict: TypeAlias = Literal["ok", "failed", "skipped"]


@dataclass(frozen=True)
class Check:
    """The outcome of one check of one run.

    Attributes:
        name: The subject, such as ``weights`` or ``metric top1``.
        verdict: ``skipped`` if it could not be checked here; ``detail`` gives the reason.
        found, expected: The two sides of the comparison, for people.
        detail: A sentence, if the two sides are not enough.
    """

    name: str
    verdict: Verdict
    found: Any = None
    expected: Any = None
    detail: str = ""

    def as_row(self, run: str) -> dict[str, Any]:
        """Return the row that ``harness verify`` prints."""
        return {
            "run": run,
            "check": self.name,
            "verdict": self.verdict,
            "found": _flat(self.found),
            "expected": _flat(self.expected),
            "detail": self.detail,
        }


def compare(name: str, found: Any, expected: Any, detail: str = "") -> Check:
    """Return a check that is ok if both sides are equal; otherwise it has the ``detail``."""
    same = found == expected
    return Check(name, "ok" if same else "failed", found, expected, "" if same else detail)


def _flat(value: Any) -> Any:
    """Return compact JSON for a value with parts, so that every row has the same columns."""
    if isinstance(value, str | int | float) or value is None:
        return value
    return json.dumps(value, default=list)


class ImpossibleError(Exception):
    """A check can't be made here; the message gives the reason."""


@dataclass(frozen=True)
class Run:
    """A finished run under examination. The properties raise ImpossibleError where this machine lacks something.

    Attributes:
        folder, result: The run's files.
        workspace: Registry, plugins and folders; the run itself may be elsewhere.
        device_name: The device to compute on; ``auto`` takes the run's own device if this machine has it.
    """

    folder: JobFolder
    result: RunResult
    workspace: Workspace
    device_name: str = "auto"

    @property
    def job(self) -> Job:
        """The job in the result."""
        return self.result.job

    @cached_property
    def protocol(self) -> Protocol:
        """The protocol of that name here, or the user's own, kept beside the results."""
        with _impossible():
            known, name = self.workspace.benchmark, self.job.protocol
            above = self.folder.path.absolute().parents
            if name not in known.protocols and len(above) > 3:  # a run that was moved has nothing beside it
                known = find_protocol(known, self.workspace.catalog, RunsFolder(above[3]), name)
            return known.protocol(name)

    @cached_property
    def budget(self) -> Budget:
        """The budget of that name here."""
        with _impossible():
            return self.workspace.benchmark.budget(self.job.budget)

    @cached_property
    def model(self) -> Offer[ModelSpec]:
        """The installed model."""
        with _impossible():
            return self.workspace.catalog.model(self.job.model)

    @cached_property
    def dataset(self) -> PreparedDataset:
        """The prepared data set."""
        with _impossible():
            return self.workspace.prepared(self.job.dataset, self.protocol)

    @cached_property
    def device(self) -> torch.device:
        """The device to compute on."""
        from harness.machine import resolve_device

        name = self.device_name
        if name == "auto":
            with contextlib.suppress(HarnessError):
                return resolve_device(str(self.result.environment.get("device", "auto")))
        with _impossible():
            return resolve_device(name)

    @cached_property
    def task(self) -> Task:
        """The job with everything looked up."""
        from harness.train.environment import COMPILE_MODES
        from harness.train.options import RunOptions
        from harness.train.task import Task

        with _impossible():
            for use in self.protocol.augmentations:
                self.workspace.catalog.augmentation(use.name)
        mode = (self.result.executed or {}).get("compiled")
        return Task(
            job=self.job,
            protocol=self.protocol,
            model=self.model,
            dataset=self.dataset,
            catalog=self.workspace.catalog,
            device=self.device,
            checkpoint=self.folder.checkpoint,
            options=RunOptions(
                over_budget=frozenset({self.job.model} if self.result.over_budget else ()),
                compile_mode=mode if mode in COMPILE_MODES else None,
            ),
        )

    def build(self) -> Built:
        """Return a freshly initialised model, a new one per call since training changes it in place."""
        from harness.train.task import build_model

        with _impossible():
            return build_model(self.task)

    @cached_property
    def identity(self) -> tuple[str, int]:
        """The job's fingerprint today, and its model's trainable parameters."""
        built = self.build()
        return built.fingerprint, built.parameters

    @cached_property
    def checkpoint(self) -> Checkpoint | None:
        """The final checkpoint; None if there is none. Raises DamagedCheckpointError like reading it does."""
        from harness.train.checkpoint import load_checkpoint

        return load_checkpoint(self.folder.checkpoint, fingerprint=self.result.fingerprint)

    def differences(self) -> list[str]:
        """Return the differences between this environment and the run's that may change the last bits."""
        import torch

        from harness.machine import device_name

        recorded = self.result.environment
        here = {
            "device": self.device.type,
            "device_name": device_name(self.device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__.partition("+")[0],
        }
        there = {
            "device": str(recorded.get("device", "")).partition(":")[0],
            "device_name": recorded.get("device_name"),
            "threads": recorded.get("threads"),
            "torch": str(recorded.get("versions", {}).get("torch")).partition("+")[0],
        }
        return [f"{key} {there[key]} then, {here[key]} now" for key in here if here[key] != there[key]]

    @contextlib.contextmanager
    def same_threads(self) -> Iterator[None]:
        """Compute with the run's number of threads, if this machine has so many cores."""
        import torch

        before, wanted = torch.get_num_threads(), self.result.environment.get("threads")
        if isinstance(wanted, int) and 1 <= wanted <= (os.cpu_count() or 1):
            torch.set_num_threads(wanted)
        try:
            yield
        finally:
            torch.set_num_threads(before)


@contextlib.contextmanager
def _impossible() -> Iterator[None]:
    try:
        yield
    except HarnessError as error:
        raise ImpossibleError(str(error)) from error
