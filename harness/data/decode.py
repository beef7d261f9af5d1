"""Runs a plugin's reader, checks its samples, and decodes the images in several threads, in the reader's order.

Pillow releases Python's global lock while it decodes and resizes. Threads therefore use all cores, and a reader may be
any generator. Only a window of images is in memory, however large the set is.
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import os
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.api import DatasetSpec, ReadError, Split, open_image
from harness.errors import DatasetError, HarnessError, legible, one_line
from harness.images import load_image

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_MODES = ("RGB", "L")
_TABLES = (".csv", ".tsv", ".txt", ".json", ".jsonl")
_SEARCHED = 100_000  # files that are looked at for a hint
_MARK = "\ufeff"
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_WINDOW = 4  # images per thread that are decoded in advance


class NotUniformError(Exception):
    """The images differ in size or exceed the network's input, so they must be stored resized."""


@dataclass(frozen=True)
class Encoded:
    """One sample from the reader, checked but not decoded.

    Attributes:
        where: The sample's name in messages.
        image: A PIL image, a path or bytes.
        label: Its checked label.
        group: Its group, or None.
        identity: A text by which a later attempt recognises the sample; None for a PIL image.
    """

    where: str
    image: Any
    label: int
    group: str | None
    identity: str | None


@dataclass(frozen=True)
class Decoded:
    """One decoded sample: ``pixels`` uint8 (H, W, 3) and ``histogram`` int64 (3, 256); None where it was skipped."""

    sample: Encoded
    pixels: npt.NDArray[np.uint8] | None
    histogram: npt.NDArray[np.int64] | None


def read_samples(spec: DatasetSpec, folder: Path, split: Split) -> Generator[Encoded]:
    """Run a plugin's reader and check everything but the pixels.

    Raises:
        DatasetError: names the image, the value that was found, and the one that was expected.
    """
    expected = spec.splits[split]
    index = 0
    left_out = {os.path.realpath(folder / name) for name in spec.unreadable}
    with contextlib.closing(_run_reader(spec, folder, split)) as samples:
        for image, label, group in samples:
            where = f"Data set '{spec.name}', {split} image {index}"
            if isinstance(image, Path):
                name = image.relative_to(folder).as_posix() if image.is_relative_to(folder) else str(image)
                # Left out even if this decoder could read it, and if the reader has resolved the links to it.
                if name in spec.unreadable or (left_out and os.path.realpath(image) in left_out):
                    continue
                where += f" ({legible(name)})"
                if _MARK in name:
                    raise DatasetError(
                        f"{where} has a byte-order mark in its name. The list that names it begins with one, as Excel "
                        "writes it; save the list as plain UTF-8, or let the plugin's reader open it with "
                        "encoding='utf-8-sig'."
                    )
            if index == expected:
                raise DatasetError(
                    f"{where}: expected {expected} images and no more. The reader or the files are wrong."
                )
            _check_sample(where, image, label, group, spec)
            group = None if group is None else legible(group)
            yield Encoded(where, image, label, group, _identity(image, folder, label, group))
            index += 1
    if index != expected:
        raise DatasetError(
            f"Data set '{spec.name}': its reader yields {index} {split} images, expected {expected}. "
            "The files are incomplete or the plugin declares the wrong size."
        )


def decode_samples(
    samples: Iterator[Encoded], input_size: int, *, native: bool, workers: int, skip: int = 0
) -> Generator[Decoded]:
    """Decode samples in parallel and yield them in order.

    Args:
        samples: From ``read_samples``.
        input_size: Side of the network's input in pixels.
        native: Keep the images' own size, and raise NotUniformError for an image that is larger than the input.
        workers: Number of threads.
        skip: Number of first samples that are yielded without being decoded.

    Raises:
        NotUniformError: an image does not fit the native form.
    """
    waiting: deque[tuple[Future[Decoded], Encoded]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        for index, sample in enumerate(samples):
            if index < skip:
                yield Decoded(sample, None, None)
                continue
            waiting.append((pool.submit(_decode, sample, input_size, native=native), sample))
            if len(waiting) >= workers * _WINDOW:
                yield waiting.popleft()[0].result()
        while waiting:
            yield waiting.popleft()[0].result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for _, sample in waiting:
            if getattr(sample.image, "fp", None) is not None:  # opened by the reader, closed nowhere else
                sample.image.close()


def _decode(sample: Encoded, input_size: int, *, native: bool) -> Decoded:
    import numpy as np
    from PIL.Image import Image, Resampling

    image = sample.image
    read = open_image if isinstance(image, Path | bytes) else load_image
    try:
        colour: Image = read(image, sample.where)
    except ReadError as error:
        raise DatasetError(str(error)) from error
    if native and max(colour.size) > input_size:
        raise NotUniformError
    if not native:
        # Pillow's bilinear filter widens its support when it shrinks an image. That is the protocol's antialiasing.
        colour = colour.resize((input_size, input_size), Resampling.BILINEAR)
    histogram = np.asarray(colour.histogram(), dtype=np.int64).reshape(3, 256)
    return Decoded(sample, np.asarray(colour, dtype=np.uint8), histogram)


def _run_reader(spec: DatasetSpec, folder: Path, split: Split) -> Generator[tuple[Any, Any, Any]]:
    """Run the reader; report any error in it as the plugin's failure."""
    try:
        for item in spec.read(folder, split):
            match item:
                case (image, label):
                    yield image, label, None
                case (image, label, group):
                    yield image, label, group
                case _:
                    raise DatasetError(
                        f"Data set '{spec.name}': its reader yields {type(item).__name__}, "
                        "expected (image, label) or (image, label, group)."
                    )
    except (HarnessError, GeneratorExit):
        raise
    except ReadError as error:
        raise DatasetError(f"Data set '{spec.name}', {split} split: {error}") from error
    except (Exception, SystemExit) as error:
        hint = _byte_order_mark(folder) if folder != Path() else ""
        raise DatasetError(
            f"Data set '{spec.name}': reading its {split} split failed: {one_line(error)}{hint}"
        ) from error


def _byte_order_mark(folder: Path) -> str:
    """Return a sentence about a table that begins with a mark, which hides its first column's name; else nothing."""
    for path in islice(folder.rglob("*"), _SEARCHED):
        if path.suffix.lower() not in _TABLES or not path.is_file():
            continue
        with contextlib.suppress(OSError), path.open("rb") as file:
            start = file.read(3)
            for mark, encoding in _MARKS.items():
                if start.startswith(mark):
                    return (
                        f". {legible(path.relative_to(folder))} begins with a byte-order mark, as Excel writes it; "
                        f"save it as plain UTF-8, or let the plugin's reader open it with encoding='{encoding}'."
                    )
    return ""


def _check_sample(where: str, image: object, label: object, group: object, spec: DatasetSpec) -> None:
    from PIL.Image import Image

    if not isinstance(image, Image | Path | bytes):
        raise DatasetError(f"{where} is a {type(image).__name__}, expected a PIL image, a path or bytes.")
    if isinstance(image, Image) and image.mode not in _MODES:
        raise DatasetError(
            f"{where} has mode {image.mode}, expected {' or '.join(_MODES)}. The plugin's reader must convert it, "
            "since several conversions are possible."
        )
    if isinstance(label, bool) or not isinstance(label, int):
        raise DatasetError(f"{where} has the label {label!r} of type {type(label).__name__}, expected an int.")
    if not 0 <= label < len(spec.classes):
        raise DatasetError(
            f"{where} has the label {label}, expected 0 to {len(spec.classes) - 1}, one of {len(spec.classes)} classes."
        )
    if group is not None and (not isinstance(group, str) or not group or group.splitlines() != [group]):
        raise DatasetError(f"{where} has the group {group!r}, expected a text of one line, or None.")


def _identity(image: object, folder: Path, label: int, group: str | None) -> str | None:
    """Return the text by which a later attempt, whose folder may have another name, recognises a sample."""
    if isinstance(image, bytes):
        return f"{hashlib.sha256(image).hexdigest()} {label} {group}"
    if not isinstance(image, Path):
        return None
    name = legible(image.relative_to(folder) if image.is_relative_to(folder) else image)
    try:
        status = image.stat()
    except OSError:
        return f"{name} missing"
    return f"{name} {status.st_size} {status.st_mtime_ns} {label} {group}"
