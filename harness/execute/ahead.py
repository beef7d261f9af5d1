"""What a run has to know of its models before it trains, found in a process that has torch: this one needs none then.

Importing torch here as well, at the same time as the process that workers are forked from, takes both half as long
again. A model that does not build there is met again by whoever asks for it here, and is said there; one that crashes
would end this process, too.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from multiprocessing.connection import Connection
from pathlib import Path

from harness.catalog import Catalog, discover
from harness.errors import CannotContinueError, HarnessError
from harness.execute.forkserver import process_context
from harness.execute.worker import Surroundings, how_it_ended, set_up_process
from harness.machine import torch_threads
from harness.models import Architecture, Architectures
from harness.price.scaling import count_products
from harness.price.timings import Timings, threads_per_job


@dataclass(frozen=True)
class Wanted:
    """What to look at.

    Attributes:
        models: Names.
        classes: The class counts at which each is built.
        resolution: Pixels of a side at which its multiply-adds are counted, at the first class count, and left to
            ``Timings``; None for not at all.
    """

    models: tuple[str, ...]
    classes: tuple[int, ...]
    resolution: int | None = None


@dataclass(frozen=True)
class Findings:
    """What was found; what is missing has to be found here.

    Attributes:
        threads: How many threads torch takes by itself.
        architectures: By the keys of ``Architectures``.
    """

    threads: int | None = None
    architectures: Mapping[str, Architecture] = field(default_factory=dict)


class Ahead:
    """Has a process look once somebody asks. With nothing wanted, everything is left to be found here."""

    def __init__(self, wanted: Wanted | None) -> None:
        self._wanted = wanted

    @property
    def architectures(self) -> Mapping[str, Architecture]:
        """What the models are.

        Raises:
            CannotContinueError: the process has died.
        """
        return self._findings.architectures

    def threads(self) -> int:
        """How many threads torch takes by itself."""
        return self._findings.threads or torch_threads()

    @cached_property
    def _findings(self) -> Findings:
        context = process_context(("cpu",))
        if self._wanted is None or context.get_start_method() != "forkserver":
            return Findings()
        here, there = context.Pipe(duplex=False)
        arguments = (there, Surroundings(dict(os.environ), str(Path.cwd())), self._wanted)
        process = context.Process(target=_look, args=arguments, name="harness look", daemon=True)
        process.start()
        there.close()
        doing = "started"
        try:
            while isinstance(said := here.recv(), str):
                doing = said
        except EOFError:
            process.join()
            raise CannotContinueError(
                f"The process that was to look at the models {how_it_ended(process.exitcode)} while it {doing}. "
                "'harness run --in-process' looks, and trains, without such a process."
            ) from None
        finally:
            here.close()
        findings: Findings = said
        return findings


def _look(connection: Connection, surroundings: Surroundings, wanted: Wanted) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the command says what it means
    set_up_process(None, surroundings)
    catalog, architectures = discover(), Architectures(remember=False)
    with contextlib.suppress(BrokenPipeError):  # the command has ended meanwhile
        for name in wanted.models:
            connection.send(f"built {name}")
            with contextlib.suppress(HarnessError):
                for classes in wanted.classes:
                    architectures.get(catalog.model(name), classes)
        architectures.save()
        if wanted.resolution is not None and wanted.classes:
            connection.send("counted multiply-adds")
            _leave_numbers(catalog, architectures, wanted, wanted.resolution)
        connection.send(Findings(torch_threads(), architectures.known))


def _leave_numbers(catalog: Catalog, architectures: Architectures, wanted: Wanted, resolution: int) -> None:
    """Leave what jobs are ordered by."""
    timings = Timings()
    threads_per_job(1, None, timings)
    for name in wanted.models:
        with contextlib.suppress(HarnessError):
            model, classes = catalog.model(name), wanted.classes[0]
            count_products(timings, model, classes, architectures.get(model, classes).digest, resolution)
    timings.save()
