"""A job with all that it names looked up, its built model, and the fixed part of its training."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from harness.api import Job, ModelSpec
from harness.catalog import Catalog, Offer
from harness.data.prepared import PreparedDataset
from harness.errors import PluginError, one_line
from harness.fingerprint import Identity, job_fingerprint
from harness.models import architecture_digest, build_noting, called, count_parameters
from harness.registry import Protocol
from harness.train.checkpoint import state_hash
from harness.train.clock import OFF, Clock
from harness.train.loop import Training
from harness.train.options import RunOptions
from harness.train.schedule import learning_rate_peak
from harness.train.setup import build_pipeline, seeded


@dataclass(frozen=True)
class Task:
    """A job with all that it names looked up."""

    job: Job
    protocol: Protocol
    model: Offer[ModelSpec]
    dataset: PreparedDataset
    catalog: Catalog
    device: torch.device
    checkpoint: Path
    options: RunOptions = field(default_factory=RunOptions)
    clock: Clock = OFF

    @property
    def over_budget(self) -> bool:
        """True if the model is over the budget and trained because the user asked."""
        return self.job.model in self.options.over_budget

    @property
    def num_classes(self) -> int:
        """Number of the data set's classes."""
        return len(self.dataset.manifest.classes)

    def blank_batch(self) -> torch.Tensor:
        """Return black images (N, 3, S, S) like a batch of the training."""
        side = self.protocol.input_size
        return torch.zeros(self.protocol.batch_size, 3, side, side, device=self.device)


@dataclass(frozen=True)
class Built:
    """A freshly initialised model and the fingerprint of the job that it is for.

    Attributes:
        module: The model.
        fingerprint: The job's.
        parameters: Its trainable parameters.
        initial_sha256: Hash of its state dict, like ``RunResult.weights_sha256``.
        remarks: Sentences about the build for the readers of the result.
    """

    module: nn.Module = field(repr=False)
    fingerprint: str
    parameters: int
    initial_sha256: str = ""
    remarks: tuple[str, ...] = ()


def build_model(task: Task) -> Built:
    """Build the job's model from its seed.

    Raises:
        PluginError: the plugin's ``build`` failed or returned something else than a module that can be trained.
    """
    spec = task.model.spec
    name = called(task.model)
    with seeded(task.job.seed, "initialise"):
        module, remarks = build_noting(spec, task.num_classes, name)
    try:
        initial = weights_hash(module)
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"{name} has a state that can't be stored: {one_line(error)}. Expected a state dict of tensors on the "
            "CPU and plain values."
        ) from error
    lr_max, _ = learning_rate_peak(task.protocol, spec)
    identity = Identity(
        protocol=task.protocol,
        model=task.model,
        architecture=architecture_digest(module),
        lr_max=lr_max,
        data=task.dataset.manifest.fingerprint,
    )
    return Built(
        module=module,
        fingerprint=job_fingerprint(task.job, identity),
        parameters=count_parameters(module).trainable,
        initial_sha256=initial,
        remarks=remarks,
    )


def weights_hash(module: nn.Module) -> str:
    """Hash of a module's state dict, from ``state_hash``."""
    return state_hash(module.state_dict())


def make_training(task: Task) -> Training:
    """Return the fixed part of a job's training, with the train split opened."""
    manifest = task.dataset.manifest
    return Training(
        protocol=task.protocol,
        lr_max=learning_rate_peak(task.protocol, task.model.spec)[0],
        seed=task.job.seed,
        train=task.dataset.open_train(),
        pipeline=build_pipeline(
            task.protocol,
            task.catalog,
            num_classes=task.num_classes,
            moments=(manifest.mean, manifest.std),
            device=task.device,
        ),
        device=task.device,
        memory_format=task.model.spec.memory_format,
    )
