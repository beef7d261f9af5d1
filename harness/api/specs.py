"""The values that plugins return: models, data sets, augmentations, metrics."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import nn


Split: TypeAlias = Literal["train", "test"]


Sample: TypeAlias = "tuple[Image | Path | bytes, int] | tuple[Image | Path | bytes, int, str]"


_FILENAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


_NAME = re.compile(r"[a-z][a-z0-9]*(?:[_-][a-z0-9]+)*")


_LONGEST_NAME = 100


def require_name(kind: str, name: object) -> None:
    """Raise ValueError unless a name is usable on the command line and as a folder."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise ValueError(
            f"{kind} name {name!r:.120} is not usable: expected lower-case letters, digits, '_' and '-', "
            f"starting with a letter, such as 'mynet' or 'my_net2', and at most {_LONGEST_NAME} characters"
        )


def require_callable(kind: str, name: str, attribute: str, value: object) -> None:
    """Raise TypeError unless an attribute of a spec is callable."""
    if not callable(value):
        raise TypeError(f"{kind} {name!r}: {attribute} is {type(value).__name__}, expected a callable")


def require_texts(kind: str, name: str, **values: object) -> None:
    """Raise TypeError unless the values are texts, since tables and JSON hold them."""
    for attribute, value in values.items():
        if not isinstance(value, str):
            raise TypeError(f"{kind} {name!r}: {attribute} is {type(value).__name__}, expected a text")


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """An architecture that the benchmark trains from scratch.

    Attributes:
        name: The name on the command line and in results.
        build: ``build(num_classes)`` returns a fresh, randomly initialised module that maps float32 images
            (N, 3, H, W) to logits (N, num_classes). It draws from torch's global generator and downloads nothing.
        paper: The source of the architecture: authors, title, year, identifier.
        title: The name as the paper prints it; the plain name if left out.
        lr_max: A learning-rate peak other than the protocol's. It is shown with every result.
        deploy: Maps a trained module to its re-parameterised form, for the deployed parameter count; ``None`` if
            there is nothing to merge. Must not change its argument.
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
        require_name("model", self.name)
        require_callable("model", self.name, "build", self.build)
        require_texts("model", self.name, paper=self.paper, title=self.title)
        if self.deploy is not None:
            require_callable("model", self.name, "deploy", self.deploy)
        if self.lr_max is not None and not 0 < self.lr_max < 1:
            raise ValueError(f"model {self.name!r}: lr_max is {self.lr_max!r}, expected a number between 0 and 1")
        if self.memory_format not in ("channels_last", "contiguous"):
            raise ValueError(
                f"model {self.name!r}: memory_format is {self.memory_format!r}, "
                "expected 'channels_last' or 'contiguous'"
            )


@dataclass(frozen=True, kw_only=True)
class Source:
    """One source file of a data set: an archive, recognised by its name, or a plain file.

    Attributes:
        filename: The file's name once downloaded. ``.zip`` and ``.tar`` are unpacked, and ``.tar.gz``, ``.tar.bz2``
            and ``.tar.xz`` with their short forms ``.tgz``, ``.tbz2`` and ``.txz``.
        urls: Its addresses, the official one first, then mirrors.
        bytes: Its size; ``None`` if it is not published.
        checksums: Hex digests by algorithm (md5, sha1, sha256, sha512), such as ``{"sha256": "..."}``.
        sole_origin: The origin of the checksums, if there is only one. A file that differs from such a checksum is
            refused like any other, but the user may accept it by name; empty if two or more origins agree.
        into: The folder that an archive is unpacked to, within the reader's folder; the folder itself if empty.
        gives: Paths within the reader's folder that this source provides, such as ``("Images",)``. Their last names
            identify a folder that the user has unpacked already; if several folders have the name, the one in which
            ``read`` finds its images is taken. A plain file gives itself.
        members: Digests of unpacked files by path within the reader's folder, such as
            ``{"cifar-10-batches-bin/test_batch.bin": "md5:803d..."}``, for all files that are read or for none. They
            verify an unpacked folder, or an archive that was packed anew.
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
        name: The name on the command line and in results.
        title: The name for people.
        classes: Class names in label order; label i means ``classes[i]``.
        splits: Number of images by split, ``{"train": ..., "test": ...}``; a reader that yields another number is
            refused.
        read: ``read(folder, split)`` yields ``(image, label)`` or ``(image, label, group)`` in a fixed order; the
            image is a path or the bytes of an encoded image, which are decoded in parallel by the rules of
            ``harness.images``, or a PIL image in mode RGB or L; the label an int in ``range(len(classes))``; the group
            names the common origin of images (a patient, a photograph), so that leakage between splits can be found.
            ``folder`` holds the unpacked sources, in real folders, without leftovers such as ``.DS_Store``. For a set
            without sources it is the folder of ``harness prepare --from``, which an embedded set ignores. For a file
            that is not as expected, raise ``ReadError`` with a sentence.
        licence: The terms under which the images may be used.
        citation: How to cite the set.
        domain: The kind of images, in a word or two.
        homepage: The address of a description of the set.
        sources: The files to download; empty for an embedded set.
        accept_licence: Whether users must accept the terms before the set is prepared for them.
        native_side: Height and width of the images if all have one size; only for the estimate of disk space.
        unreadable: Paths within the reader's folder of image files that are known to be damaged in the published set.
            They are left out, and ``splits`` does not count them; any other damaged image is an error.
        leakage: Known leakage between the splits, in words; shown with every ranking on the set.
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
        require_name("data set", self.name)
        require_callable("data set", self.name, "read", self.read)
        require_texts(
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
        name: The name in protocols.
        build: ``build(**strengths)`` returns the transform; strengths come from the protocol, unknown ones raise. A
            transform that is a dataclass holds each strength unchanged in a field of that name, if it has one: results
            record them from there.
        paper: Its source.
        title: The name for people.
    """

    name: str
    build: Callable[..., BatchTransform]
    paper: str = ""
    title: str = ""

    def __post_init__(self) -> None:
        require_name("augmentation", self.name)
        require_callable("augmentation", self.name, "build", self.build)
        require_texts("augmentation", self.name, paper=self.paper, title=self.title)


Parameters = TypeVar("Parameters")


class Augmentation(ABC, Generic[Parameters]):
    """A ``BatchTransform`` in two steps: draw the parameters of a batch on the CPU, then apply them on its device.

    A subclass is a frozen dataclass with one field per strength. This base class is a convenience: ``build`` may return
    any ``BatchTransform``.
    """

    @abstractmethod
    def draw(self, n: int, height: int, width: int, generator: torch.Generator) -> Parameters:
        """Draw the parameters of ``n`` images of ``height`` x ``width`` pixels; all randomness is the generator's."""

    @abstractmethod
    def apply(self, images: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """Return the transformed images, a new tensor of the same shape, range and device."""

    def mix_targets(self, targets: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """Return the targets of the transformed images; the same targets unless overridden."""
        return targets

    def __call__(
        self, images: torch.Tensor, targets: torch.Tensor, generator: torch.Generator, /
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Transform a batch; see ``BatchTransform``."""
        n, _, height, width = images.shape
        parameters = self.draw(n, height, width, generator)
        return self.apply(images, parameters), self.mix_targets(targets, parameters)


@dataclass(frozen=True, kw_only=True)
class MetricSpec:
    """A number computed from the test split's logits and labels.

    Attributes:
        name: Its key in results.
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
        require_name("metric", self.name)
        require_callable("metric", self.name, "compute", self.compute)
        require_texts("metric", self.name, unit=self.unit, title=self.title)
