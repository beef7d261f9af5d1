"""Everything a plugin author imports: the hook marker, the specs a hook returns, and the values an observer sees.

Importing this module costs milliseconds: torch, timm and torchvision appear in annotations only. Keep plugin modules
as cheap by importing them inside ``build``, ``read`` and ``compute``.

    from harness.api import ModelSpec, hookimpl

    @hookimpl
    def harness_models():
        return [ModelSpec(name="mynet", build=build, paper="Ada et al., MyNet, 2026")]
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import pluggy

from harness.images import ReadError, open_image

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import nn

__all__ = [
    "HOOK_API_VERSION",
    "AugmentationSpec",
    "BatchTransform",
    "DatasetSpec",
    "EpochRecord",
    "ExecutorSpec",
    "Job",
    "MetricSpec",
    "ModelSpec",
    "ReadError",
    "Resources",
    "RunOne",
    "RunResult",
    "Sample",
    "Source",
    "Split",
    "StoppedError",
    "TrackedRun",
    "Tracker",
    "TrackerSpec",
    "Work",
    "hookimpl",
    "open_image",
]

PROJECT = "harness"
"""pluggy's project name and the entry-point group of plugins."""

HOOK_API_VERSION = 1
"""Raised when a hook or a spec changes incompatibly. A plugin module may state the version that it was written for as
``HARNESS_API = 1``; one that states another version is refused with that reason. Absent means 1."""

hookimpl = pluggy.HookimplMarker(PROJECT)

Split: TypeAlias = Literal["train", "test"]
Sample: TypeAlias = "tuple[Image | Path | bytes, int] | tuple[Image | Path | bytes, int, str]"

_FILENAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NAME = re.compile(r"[a-z][a-z0-9]*(?:[_-][a-z0-9]+)*")


def _require_name(kind: str, name: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            f"{kind} name {name!r} is not usable: expected lower-case letters, digits, '_' and '-', "
            "starting with a letter, such as 'mynet' or 'my_net2'"
        )


def _require_callable(kind: str, name: str, attribute: str, value: object) -> None:
    if not callable(value):
        raise TypeError(f"{kind} {name!r}: {attribute} is {type(value).__name__}, expected a callable")


def _require_texts(kind: str, name: str, **values: object) -> None:
    """They are printed in tables and written to JSON."""
    for attribute, value in values.items():
        if not isinstance(value, str):
            raise TypeError(f"{kind} {name!r}: {attribute} is {type(value).__name__}, expected a text")


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """An architecture that the benchmark trains from scratch.

    Attributes:
        name: What users type and what results are filed under.
        build: ``build(num_classes)`` returns a fresh, randomly initialised module that maps float32 images
            (N, 3, H, W) to logits (N, num_classes). It draws from torch's global generator and downloads nothing.
        paper: Where the architecture is from: authors, title, year, identifier.
        title: The name as the paper prints it; the plain name if left out.
        lr_max: A learning-rate peak that departs from the protocol's. It is shown wherever the results are.
        deploy: Maps a trained module to its re-parameterised form, for the deployed parameter count; ``None`` if
            there is nothing to merge. Must leave its argument as it is.
        memory_format: The layout in which the training step is fastest. It changes speed, never the mathematics.
    """

    name: str
    build: Callable[[int], nn.Module]
    paper: str
    title: str = ""
    lr_max: float | None = None
    deploy: Callable[[nn.Module], nn.Module] | None = None
    memory_format: Literal["channels_last", "contiguous"] = "channels_last"

    def __post_init__(self) -> None:
        _require_name("model", self.name)
        _require_callable("model", self.name, "build", self.build)
        _require_texts("model", self.name, paper=self.paper, title=self.title)
        if self.deploy is not None:
            _require_callable("model", self.name, "deploy", self.deploy)
        if self.lr_max is not None and not 0 < self.lr_max < 1:
            raise ValueError(f"model {self.name!r}: lr_max is {self.lr_max!r}, expected a number between 0 and 1")
        if self.memory_format not in ("channels_last", "contiguous"):
            raise ValueError(
                f"model {self.name!r}: memory_format is {self.memory_format!r}, "
                "expected 'channels_last' or 'contiguous'"
            )


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file that a data set is made from: an archive, told by its name, or a plain file.

    Attributes:
        filename: The file's name once downloaded. ``.tar``, ``.tar.gz``, ``.tgz`` and ``.zip`` are unpacked.
        urls: Where to fetch it, the official address first, then mirrors.
        bytes: Its size; ``None`` where nobody has stated it.
        checksums: Hex digests by algorithm (md5, sha1, sha256, sha512), such as ``{"sha256": "..."}``.
        sole_origin: Where the checksums were seen, if that is one place only. A file that differs from such a checksum
            is refused like any other, but the user may accept it by name; empty where two or more places agree.
        into: The folder that an archive is unpacked to, within the reader's folder; the folder itself if empty.
        gives: Paths within the reader's folder that this source provides, such as ``("Images",)``. By their last names
            a folder that the user has unpacked already is recognised; a plain file gives itself.
        members: Digests of unpacked files by path within the reader's folder, such as
            ``{"cifar-10-batches-bin/test_batch.bin": "md5:803d..."}``, for all that the reader reads or none:
            what a folder, or an archive that somebody has packed anew, is verified by.
    """

    filename: str
    urls: tuple[str, ...]
    bytes: int | None = None
    checksums: Mapping[str, str] = field(default_factory=dict)
    sole_origin: str = ""
    into: str = ""
    gives: tuple[str, ...] = ()
    members: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _FILENAME.fullmatch(self.filename):
            raise ValueError(
                f"source file name {self.filename!r} is not usable: expected a plain name without folders, "
                "such as 'images.tar.gz'"
            )
        algorithms = {*self.checksums, *(digest.partition(":")[0] for digest in self.members.values())}
        if unknown := algorithms - {"md5", "sha1", "sha256", "sha512"}:
            raise ValueError(
                f"source {self.filename!r}: checksum algorithm {min(unknown)!r} is unknown, "
                "expected md5, sha1, sha256 or sha512"
            )


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """A labelled image set with a fixed train and test split.

    Attributes:
        name: What users type and what results are filed under.
        title: The name for people.
        classes: Class names in label order; label i means ``classes[i]``.
        splits: Number of images by split, ``{"train": ..., "test": ...}``; a reader that yields another number is
            refused.
        read: ``read(folder, split)`` yields ``(image, label)`` or ``(image, label, group)`` in a fixed order; the
            image is a path or the bytes of an encoded image, which are decoded in parallel by the rules of
            ``harness.images``, or a PIL image in mode RGB or L; the label an int in ``range(len(classes))``; the group
            names what images share (a patient, a photograph), so that leakage between splits can be seen. ``folder``
            holds the unpacked sources; an embedded set, one without sources, may ignore it. A file that is not as
            expected is answered by raising ``ReadError`` with a sentence.
        licence: The terms under which the images may be used.
        citation: How to cite the set.
        domain: What kind of images they are, in a word or two.
        homepage: Where the set is described.
        sources: The files to download; empty for an embedded set.
        accept_licence: Whether users must accept the terms before the set is prepared for them.
        native_side: Height and width of the images where all are of one size; for the estimate of disk space alone.
        unreadable: Paths within the reader's folder of image files that are known to be damaged where the set is
            published. They are left out, and ``splits`` does not count them; any other damaged image is an error.
        leakage: What the test split is known to share with train, in words; shown wherever results on it are ranked.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    splits: Mapping[Split, int]
    read: Callable[[Path, Split], Iterable[Sample]]
    licence: str
    citation: str
    domain: str = ""
    homepage: str = ""
    sources: tuple[Source, ...] = ()
    accept_licence: bool = False
    native_side: int | None = None
    unreadable: tuple[str, ...] = ()
    leakage: str = ""

    def __post_init__(self) -> None:
        _require_name("data set", self.name)
        _require_callable("data set", self.name, "read", self.read)
        _require_texts(
            *("data set", self.name), title=self.title, licence=self.licence, citation=self.citation,
            domain=self.domain, homepage=self.homepage, leakage=self.leakage,
        )  # fmt: skip
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise ValueError(f"data set {self.name!r}: classes must be two or more different names")
        if set(self.splits) != {"train", "test"} or not all(
            isinstance(size, int) and size > 0 for size in self.splits.values()
        ):
            raise ValueError(
                f"data set {self.name!r}: splits is {dict(self.splits)!r}, "
                "expected positive sizes for exactly 'train' and 'test'"
            )


class BatchTransform(Protocol):
    """An augmentation ready for use: a pure function of a batch and a generator."""

    def __call__(
        self, images: torch.Tensor, targets: torch.Tensor, generator: torch.Generator, /
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Transform a batch.

        Args:
            images: float32 (N, 3, H, W) in 0..1 on the training device.
            targets: float32 (N, C), each row a distribution over the classes, on the same device.
            generator: A CPU generator and the only source of randomness, so that the same (seed, epoch, step) draws
                the same parameters on every device.

        Returns:
            Images and targets of the same shapes, ranges and device. The inputs are not modified.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class AugmentationSpec:
    """A training-time augmentation of whole batches.

    Attributes:
        name: What a protocol in the registry calls it.
        build: ``build(**strengths)`` returns the transform; strengths come from the protocol, unknown ones raise. A
            transform that is a dataclass holds each strength, as it was given, in a field of that name, if it has one:
            results record them from there.
        paper: Where it is from.
        title: The name for people.
    """

    name: str
    build: Callable[..., BatchTransform]
    paper: str = ""
    title: str = ""

    def __post_init__(self) -> None:
        _require_name("augmentation", self.name)
        _require_callable("augmentation", self.name, "build", self.build)
        _require_texts("augmentation", self.name, paper=self.paper, title=self.title)


@dataclass(frozen=True, kw_only=True)
class MetricSpec:
    """A number computed from the test split's logits and labels.

    Attributes:
        name: The key under which results hold it.
        unit: Its unit, such as ``"%"``; empty for a pure number.
        higher_is_better: The direction in which it improves.
        compute: ``compute(logits, labels)`` with float32 (N, C) and int64 (N,) CPU tensors returns a finite float.
        title: The name for people.
    """

    name: str
    unit: str
    higher_is_better: bool
    compute: Callable[[torch.Tensor, torch.Tensor], float]
    title: str = ""

    def __post_init__(self) -> None:
        _require_name("metric", self.name)
        _require_callable("metric", self.name, "compute", self.compute)
        _require_texts("metric", self.name, unit=self.unit, title=self.title)


@dataclass(frozen=True, order=True, slots=True)
class Job:
    """One cell of the benchmark's grid: a model trained on a data set under a protocol from a seed."""

    protocol: str
    model: str
    dataset: str
    seed: int

    def __str__(self) -> str:
        return f"{self.model} on {self.dataset}, seed {self.seed}"


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochRecord:
    """What one epoch of training looked like.

    Attributes:
        epoch: Counted from 0.
        lr: The learning rate that the optimiser used in it.
        loss: Mean training loss over its steps.
        images_per_second: Training images through the step, evaluation and checkpoints not counted.
        seconds: Wall-clock time of its steps.
    """

    epoch: int
    lr: float
    loss: float
    images_per_second: float
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """All that is known about a finished job; the content of its ``result.json``.

    Attributes:
        job: What was asked.
        fingerprint: Hash of everything that determines the numbers (see ``harness.identity``).
        protocol_digest: Hash of the protocol that was executed.
        metrics: Values by metric name; ``top1`` in percent is always there.
        parameters: Trainable parameters as trained, head included.
        over_budget: Whether the model was over the parameter budget and run at the user's insistence. For good.
        lr_max: The learning-rate peak that was used.
        lr_exception: Who declared it where it departs from the protocol's general one: ``"protocol"`` or ``"model"``.
        weights_sha256: Hash of the final weights' names, shapes and bytes.
        test_reads: How often the test split was opened: 1.
        seconds: Wall-clock time from start to result, interruptions left out.
        started, finished: UTC, ISO 8601.
        interruptions: When and where the run went on after it had been stopped.
        notes: Anything a reader should know, such as a damaged checkpoint that was set aside.
        environment: Versions, device, threads, flags and where each plugin came from.
        executed: What was seen of the training while it ran, by knob; None where an earlier harness did not look.
        executed_digest: Hash of ``executed``: the same for every run of the job that kept to the protocol.
        deviations: A sentence for each knob that stood otherwise than the protocol says; such a result does not count.
    """

    job: Job
    fingerprint: str
    protocol_digest: str
    metrics: Mapping[str, float]
    parameters: int
    over_budget: bool
    lr_max: float
    lr_exception: str | None
    weights_sha256: str
    test_reads: int
    seconds: float
    started: str
    finished: str
    interruptions: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    executed: Mapping[str, Any] | None = None
    executed_digest: str | None = None
    deviations: Sequence[str] = ()


class StoppedError(Exception):
    """The user asked to stop; what was under way is saved. Executors raise it once they have stopped."""


class RunOne(Protocol):
    """Trains one job in the process that calls it. Picklable, so that it may be called on any machine with harness."""

    def __call__(self, job: Job, /, *, device: str = "auto", threads: int | None = None, reporter: Any = None) -> Any:
        """Train a job, unless it is done or another process works on it, and return how it stands then.

        Args:
            job: What to train. A job that fails is recorded on disk, and what is returned says so; nothing is raised.
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` ..., looked up on the machine that trains.
            threads: CPU threads; None leaves torch's own number.
            reporter: Told how it goes; None writes lines to stderr and stops at SIGINT, SIGTERM and SIGHUP.

        Raises:
            StoreError: results can't be written; no other job could go on either.
            StoppedError: the reporter asked to stop; the position is saved.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What jobs may use.

    Attributes:
        devices: One device name for each job that may run at the same time on this machine; its length is that number.
            For a remote executor the one name that was asked for, such as ``auto``.
        jobs: How many jobs may run at a time; None where the user left it open.
        jobs_per_gpu: How many share one GPU.
        threads: CPU threads for a job; None leaves torch's own number.
        timeout: Seconds without any progress after which a job counts as hung; None for no limit.
        needs_gpu: Whether jobs are to be placed on machines with a GPU.
        in_process: Train in the calling process, one job after the other, so that a debugger sees it.
        detach: Submit and return, where the executor can.
        options: The executor's own settings, as the user typed them.
    """

    devices: tuple[str, ...] = ("auto",)
    jobs: int | None = None
    jobs_per_gpu: int = 1
    threads: int | None = None
    timeout: float | None = None
    needs_gpu: bool = False
    in_process: bool = False
    detach: bool = False
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What an executor is asked to carry out.

    Attributes:
        jobs: In the order in which they should start.
        run_one: Trains one of them.
        look: ``look(job)`` returns how a job stands on disk, without training.
        fail: ``fail(job, sentence)`` records that a job failed for a reason that its own process could not record, and
            returns how it stands then.
        resources: What the jobs may use.
        reporter: Tells the user how it goes: ``job_started(job)``, ``epoch_finished(job, record)``,
            ``profiled(job, shares)``, ``job_finished(outcome)``, ``notice(text)``, and ``should_stop()``, which an
            executor asks now and then.
        folder: Where the executor may keep its own files; beside the results, made by the executor.
    """

    jobs: tuple[Job, ...]
    run_one: RunOne
    look: Callable[[Job], Any]
    fail: Callable[[Job, str], Any]
    resources: Resources
    reporter: Any
    folder: Path


@dataclass(frozen=True, kw_only=True)
class ExecutorSpec:
    """A way to carry out jobs: on this machine, or on a cluster.

    Attributes:
        name: What ``harness run --executor`` takes.
        title: What it does, in a few words.
        execute: ``execute(work)`` has ``work.run_one(job)`` called for every job, wherever it likes, and yields each
            outcome as it comes. It raises StoppedError once the reporter's ``should_stop()`` has been heeded.
        remote: Whether jobs run on other machines than the one that asks.
        options: The settings that it understands, with a line of help for each.
        waiting: ``waiting(folder)`` returns the jobs that are queued or running by the executor's own account, with a
            few words on each; ``harness status`` shows them. None if there is no such account.
    """

    name: str
    title: str
    execute: Callable[[Work], Iterable[Any]]
    remote: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    waiting: Callable[[Path], Mapping[Job, str]] | None = None

    def __post_init__(self) -> None:
        _require_name("executor", self.name)
        _require_callable("executor", self.name, "execute", self.execute)
        if self.waiting is not None:
            _require_callable("executor", self.name, "waiting", self.waiting)
        _require_texts("executor", self.name, title=self.title)


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """The run that a tracker is opened for: plain values, known before the first step.

    Attributes:
        id: What to call the run in the tracker's own store: letters, digits and '-'. It stays the same when a stopped
            job goes on, and is another one when a job is begun anew.
        resumed: Whether the run was opened under this id before, by a process that was stopped.
        job: The cell that is trained.
        fingerprint: Hash of everything that determines the numbers.
        protocol_digest: Hash of the protocol that is executed.
        parameters: Trainable parameters.
        lr_max: The learning-rate peak that is used.
        config: All that tells runs apart by a value, flat: what stands above and every number of the protocol, such as
            ``model``, ``epochs`` and ``augmentations.cutmix.alpha``.
        tags: Where the run happens, flat: versions of the libraries, the model's plugin, host, device, threads.
        folder: Where the tracker may write unless the user configured it otherwise: of its own and shared by all its
            runs, ``<runs>/tracking/<name>``. It need not exist. Other processes may write there at the same time.
    """

    id: str
    resumed: bool
    job: Job
    fingerprint: str
    protocol_digest: str
    parameters: int
    lr_max: float
    config: Mapping[str, str | int | float | bool]
    tags: Mapping[str, str]
    folder: Path


class Tracker(Protocol):
    """One run of one job, as a tracking tool sees it; what ``TrackerSpec.open`` returns.

    All methods of one tracker are called one after the other in one thread, which is not the one that trains. What one
    of them raises, or one that takes longer than ``TrackerSpec.patience``, is reported once and ends the tracking of
    that run; the run itself goes on. Nothing here may print to stdout or draw from torch's global generator.
    """

    def epoch_finished(self, record: EpochRecord) -> None:
        """Log an epoch.

        Every epoch comes once and in order, those told in earlier processes left out, as soon as a checkpoint holds it:
        short epochs come several at a time. After a process was killed, one epoch may come again with the same content.
        """
        ...

    def run_finished(self, result: RunResult) -> None:
        """Log the finished run: its final metrics, and that it is done."""
        ...

    def run_failed(self, reason: str) -> None:
        """Note that this attempt failed. A later one may go on under the same id."""
        ...

    def close(self) -> None:
        """Flush and let go. Called last and once; without one of the two above the run was stopped and may go on."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrackerSpec:
    """A tracking tool that follows runs, for users who switch it on with ``harness run --track NAME``.

    Attributes:
        name: What ``--track`` takes.
        title: The name for people.
        open: ``open(run)`` begins or goes on with a run in the tool and returns its ``Tracker``; called in the process
            that trains, once the job is known to be trained.
        needs: Modules that have to be importable, such as ``("mlflow",)``; where one is not, ``--track`` is refused
            before any training.
        install: The command that installs them, for that refusal.
        patience: Seconds that one call may take before the tracker is given up for the run.
    """

    name: str
    title: str
    open: Callable[[TrackedRun], Tracker]
    needs: tuple[str, ...] = ()
    install: str = ""
    patience: float = 30.0

    def __post_init__(self) -> None:
        _require_name("tracker", self.name)
        _require_callable("tracker", self.name, "open", self.open)
        _require_texts("tracker", self.name, title=self.title, install=self.install)
        if not 0 < self.patience < float("inf"):
            raise ValueError(f"tracker {self.name!r}: patience is {self.patience!r}, expected seconds, above 0")
