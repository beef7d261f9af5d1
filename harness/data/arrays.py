"""Writes one split's images to a ``.npy`` file one by one, and resumes a half-written file.

The file is not memory-mapped. A full disk is then an error that can be reported, where a map would end the process with
a bus error. Written images do not count as this process's memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from harness.api import Split
from harness.files import write_text_atomically, writing_to

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from harness.data.decode import Encoded


@dataclass
class Journal:
    """The progress of an ingestion, kept in a JSON file beside the arrays' folder.

    Attributes:
        stamp: Everything that determines the pixels. Half-written arrays of another stamp are useless.
        done: Number of images on disk, by split.
        chain: Hash of their identities, by split.
    """

    stamp: str
    done: dict[str, int] = field(default_factory=dict)
    chain: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, stamp: str) -> Journal:
        """Return the journal of an interrupted attempt with the same stamp, or an empty one."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            found = cls(**json.loads(path.read_bytes()))
            if found.stamp == stamp:
                return found
        return cls(stamp)

    def note(self, path: Path, split: Split, done: int, chain: str) -> None:
        """Record the progress of a split, after its images are on the disk."""
        self.done[split], self.chain[split] = done, chain
        write_text_atomically(path, json.dumps(vars(self)))


class ArrayWriter:
    """Grows a ``.npy`` file of ``count`` images, image by image."""

    def __init__(self, path: Path, count: int) -> None:
        self._path = path
        self._count = count
        self._shape: tuple[int, int, int] | None = None
        self._file: BinaryIO | None = None

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """The images' shape (H, W, 3); None before the first one."""
        return self._shape

    def append(self, pixels: npt.NDArray[np.uint8]) -> None:
        """Add an image. Raises StoreError if the disk is full."""
        with writing_to(self._path.parent):
            if self._file is None:
                self._shape = (*pixels.shape[:2], 3)
                self._file = self._path.open("wb")
                self._file.write(_header(self._count, pixels.shape))
            self._file.write(pixels.data.cast("B"))

    def resume(self, done: int) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield the images that are on disk, then continue behind them.

        Raises:
            ValueError, OSError: the file does not match the journal.
        """
        import numpy as np

        if not done:
            return
        with self._path.open("rb") as file:
            np.lib.format.read_magic(file)
            (count, *shape), _, kind = np.lib.format.read_array_header_1_0(file)
            if count != self._count or len(shape) != 3 or kind != np.uint8:
                raise ValueError(f"{self._path} holds an array of another shape")
            self._shape = (shape[0], shape[1], shape[2])
            size = int(np.prod(shape))
            for _ in range(done):
                content = file.read(size)
                if len(content) != size:
                    raise ValueError(f"{self._path} is shorter than its journal says")
                yield np.frombuffer(content, dtype=np.uint8).reshape(shape)
            end = file.tell()
        with writing_to(self._path.parent):
            self._file = self._path.open("r+b")
            self._file.truncate(end)
            self._file.seek(end)

    def sync(self) -> None:
        """Flush the added images to the disk."""
        if self._file is not None:
            with writing_to(self._path.parent):
                self._file.flush()
                os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file, complete or not."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # on a full disk, closing fails like the write before it
                self._file.close()


def _header(count: int, shape: tuple[int, ...]) -> bytes:
    import numpy as np

    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)})
    return buffer.getvalue()


class Chain:
    """A running hash over the samples' identities; ``None`` once a sample has no identity."""

    def __init__(self) -> None:
        self._hash: hashlib._Hash | None = hashlib.sha256()

    def add(self, identity: str | None) -> None:
        """Add the identity of the next sample."""
        if identity is None:
            self._hash = None
        elif self._hash is not None:
            self._hash.update(identity.encode() + b"\n")

    @property
    def value(self) -> str | None:
        """The hash so far."""
        return self._hash.hexdigest() if self._hash else None


@dataclass
class SplitSums:
    """Sums over one split: the pixels' hash, the labels and groups, and a histogram of every channel.

    The histogram holds integers, so that mean and standard deviation are exact for any number of images.
    """

    digest: hashlib._Hash
    labels: list[int]
    groups: list[str | None]
    histogram: npt.NDArray[np.int64]
    size: tuple[int, int] = (0, 0)

    def add(self, pixels: npt.NDArray[np.uint8], histogram: npt.NDArray[np.int64], sample: Encoded) -> None:
        """Add an image uint8 (H, W, 3), its histogram int64 (3, 256), and the sample that it was decoded from."""
        self.digest.update(pixels.data)
        self.histogram += histogram
        self.labels.append(sample.label)
        self.groups.append(sample.group)


def array_file(folder: Path, split: Split) -> Path:
    """The path of a split's images."""
    return folder / f"{split}.images.npy"
