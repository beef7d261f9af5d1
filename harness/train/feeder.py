"""Orders of images -> batches on the training device, gathered one ahead of the step where that device is another."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from harness.data.prepared import SplitArrays

if TYPE_CHECKING:
    import numpy.typing as npt

    Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """A batch on the training device, and what it was gathered from.

    Attributes:
        chosen: int64 (N,), the images' numbers in the split.
        images: uint8 (N, H, W, 3).
        labels: int64 (N,).
    """

    chosen: Indices
    images: torch.Tensor
    labels: torch.Tensor


class Feeder:
    """Gathers batches out of a memory-mapped split; the split itself is never held in memory.

    On a CPU a batch is gathered when it is asked for: a thread that gathered ahead would take its time from the very
    cores that train. For a GPU one thread gathers the next batch into pinned memory and starts its copy on a stream of
    its own, while the present batch trains.
    """

    def __init__(self, split: SplitArrays, device: torch.device, *, ahead: bool | None = None) -> None:
        """Make one.

        Args:
            split: Where the images are.
            device: Where batches are wanted.
            ahead: Whether to gather one batch ahead; None decides by the device.
        """
        self._split = split
        self._device = device
        self._ahead = device.type != "cpu" if ahead is None else ahead
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @contextlib.contextmanager
    def batches(self, order: Indices, *, size: int, first: int = 0, partial: bool = False) -> Iterator[Iterator[Batch]]:
        """Give an iterator over an epoch's batches.

        Args:
            order: int64 (N,), the epoch's order.
            size: Images in a batch.
            first: The batch to begin with.
            partial: Whether what is left over at the end is a batch, too.
        """
        end = len(order) if partial else len(order) - size + 1
        chosen = [order[start : start + size] for start in range(first * size, end, size)]
        if not self._ahead:
            yield (self._arrived(*self._gather(which)) for which in chosen)
            return
        with ThreadPoolExecutor(1, thread_name_prefix="feeder") as pool:
            yield self._one_ahead(pool, chosen)

    def _one_ahead(self, pool: ThreadPoolExecutor, chosen: Sequence[Indices]) -> Iterator[Batch]:
        waiting: Future[tuple[Batch, torch.cuda.Event | None]] | None = None
        for number in range(len(chosen)):
            present = waiting or pool.submit(self._gather, chosen[number])
            waiting = pool.submit(self._gather, chosen[number + 1]) if number + 1 < len(chosen) else None
            yield self._arrived(*present.result())

    def _gather(self, chosen: Indices) -> tuple[Batch, torch.cuda.Event | None]:
        """Read a batch and start its way to the device; the event says when it has arrived there."""
        images, labels = self._read(self._split.images, chosen), self._read(self._split.labels, chosen)
        if self._stream is None:
            return Batch(chosen, images.to(self._device), labels.to(self._device)), None
        with torch.cuda.stream(self._stream):
            batch = Batch(
                chosen,
                images.to(self._device, non_blocking=True),
                labels.to(self._device, non_blocking=True),
            )
            return batch, self._stream.record_event()

    def _read(self, values: npt.NDArray[np.generic], chosen: Indices) -> torch.Tensor:
        # Not by indexing: ``take`` lets other threads run meanwhile, and writes into a given array. All numbers are
        # inside the split, so the mode does not matter; the default one would copy twice.
        kind = torch.from_numpy(np.empty(0, values.dtype)).dtype
        read = torch.empty((len(chosen), *values.shape[1:]), dtype=kind, pin_memory=self._stream is not None)
        np.take(values, chosen, axis=0, out=read.numpy(), mode="clip")
        return read

    def _arrived(self, batch: Batch, event: torch.cuda.Event | None) -> Batch:
        """Make the training stream wait for the copy, and the copy's memory for the training stream."""
        if event is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(event)
            batch.images.record_stream(stream)
            batch.labels.record_stream(stream)
        return batch
