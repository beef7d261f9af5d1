"""The price of a plan: from finished runs, else from a few timed steps, else scaled from other models."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from harness.api import Cell, Job
from harness.data.prepare import PrepareRequest, estimate
from harness.data.prepared import PreparedDataset
from harness.errors import HarnessError
from harness.machine import WATTS, Device, forks_workers, free_memory_bytes, installed_version, usable_cores
from harness.plan import Plan
from harness.price.price import Basis, JobPrice, Price, Rates, Workload, count_products, find_rates
from harness.price.timings import Conditions, Timing, Timings, mean_timing
from harness.workspace import Workspace

Say: TypeAlias = Callable[[str], object]

_IMPORT_SECONDS = 4.0  # until it has been measured
_QUICK_SECONDS = 30.0  # limit of a timing that only explains a refusal
_QUICK_MODELS = 2
_PROCESS_BYTES = 5 * 2**28  # of a process with torch
_ACTIVATIONS = 280  # of the largest of the paper's models while its job begins, as a multiple of its batch of images


@dataclass(frozen=True)
class Setting:
    """The device and the numbers of jobs and threads that a price is for.

    Attributes:
        device: The device.
        jobs: Number of parallel jobs.
        threads: CPU threads per job.
        watts: Assumed power; None for the default of the kind of device.
        devices: Number of devices of this kind that share the jobs.
    """

    device: Device
    jobs: int
    threads: int
    watts: float | None = None
    devices: int = 1

    @property
    def sharing(self) -> int:
        """Parallel jobs on one device, which slow each other down."""
        return -(-self.jobs // self.devices)

    @property
    def used_devices(self) -> int:
        """Number of devices with a job."""
        return min(self.jobs, self.devices)


@dataclass(frozen=True)
class _Known:
    """The evidence for a job's price: its workload, and seconds of finished runs or timed steps."""

    workload: Workload | None
    finished: float | None
    timing: Timing | None
    rates: Rates


def _named(case: Workload) -> str:
    return f"{case.model} on {case.dataset}"


class Estimator:
    """Estimates the price of plans on one machine. Only ``time_missing`` and ``time_some`` time anything.

    Attributes:
        setting: The device and the number of jobs.
    """

    def __init__(self, workspace: Workspace, setting: Setting, *, fresh: bool = False) -> None:
        """Make one; ``fresh`` ignores earlier timings and finished runs."""
        self.setting = setting
        self._workspace = workspace
        self._timings = Timings()
        self._known: dict[str, Timing] = {}
        self._macs_by_model: dict[str, float] = {}
        self._fresh = fresh
        self._notes: list[str] = []

    def price(self, plan: Plan, cells: Sequence[Cell], *, nominal: bool = False) -> Price:
        """Price the unfinished jobs from finished runs, earlier timings, and multiply-adds.

        Args:
            plan: The plan.
            cells: The states of its jobs, and of finished jobs with other seeds.
            nominal: Whether to return numbers in proportion, not in seconds, if nothing was ever timed.
        """
        wanted = set(plan.jobs)
        todo = [cell for cell in cells if cell.state != "done" and cell.job in wanted]
        cases = self._cases(plan, todo)
        self._notes.extend(self._about_one(plan, cases.values()))
        finished = self._finished(cells)
        timed = {name: self._timing(case) for name, case in cases.items()}
        rates = find_rates(
            cases,
            timed,
            batch=plan.protocol.batch_size,
            macs_of=lambda case: self._macs(plan, case),
            nominal=nominal,
        )
        prices = []
        for cell in todo:
            name = cell.job.model, cell.job.dataset
            known = _Known(cases.get(name), finished.get(name), timed.get(name), rates)
            prices.append(self._job_price(plan, cell, known))
        self._workspace.architectures.save()
        self._timings.save()
        if scaled := sorted({one.job.model for one in prices if one.basis == "scaled"}):
            self._notes.append(f"Scaled from other models by multiply-adds, which is rough: {', '.join(scaled)}.")
        unprepared, data_bytes = self._unprepared(plan, todo)
        return Price(
            jobs=tuple(prices),
            start_up=self._start_up(cases, timed),
            at_once=min(self.setting.jobs, max(1, len(prices))),
            watts=self.setting.watts or WATTS[self.setting.device.kind] * self.setting.used_devices,
            data_bytes=data_bytes,
            unprepared=unprepared,
            notes=tuple(self._notes),
        )

    def time_missing(self, plan: Plan, cells: Sequence[Cell], say: Say) -> None:
        """Time a few steps of every (model, data set) without finished runs and earlier timings.

        Those jobs are timed at the same time that share a device, if memory and cores allow, else one at a time. On a
        CPU, a protocol made for an accelerator gets one step per model, at one of the class counts.
        """
        wanted = set(plan.jobs)
        todo = [cell for cell in cells if cell.state != "done" and cell.job in wanted]
        finished = {} if self._fresh else self._finished(cells)
        cases = {name: case for name, case in self._cases(plan, todo).items() if name not in finished}
        sharing = self._sharing(todo)
        together = sharing if self._fit(plan, sharing) else 1
        look = self._timing if together == 1 else (lambda case: self._remembered(case.key))
        missing = {case.key: case for case in cases.values() if self._fresh or look(case) is None}
        if self._is_slow(plan):
            # A step takes seconds, and the size of the head hardly matters: one class count is enough.
            known = {case.model for case in cases.values() if case.key not in missing}
            missing = {case.model: case for case in missing.values() if case.model not in known}
        if missing:
            self._time(plan, list(missing.values()), together, say)

    def time_some(self, plan: Plan, cells: Sequence[Cell], say: Say) -> tuple[str, ...]:
        """Time one or two models in about half a minute, unless they were timed earlier; return their names.

        ``price`` scales the others by multiply-adds.
        """
        todo = [cell for cell in cells if cell.state != "done"]
        cases: dict[str, Workload] = {}
        for case in self._cases(plan, todo).values():
            cases.setdefault(case.model, case)
        known = [case.model for case in cases.values() if self._timing(case) is not None]
        order = sorted(
            (case for case in cases.values() if case.model not in known), key=lambda case: self._macs(plan, case) or 0
        )
        # Begin with the model of median cost, since the extremes scale worst.
        order = order[len(order) // 2 :] + order[: len(order) // 2]
        timed: list[str] = []
        began = time.monotonic()
        while order and len(known) + len(timed) < _QUICK_MODELS and 2.5 * (time.monotonic() - began) < _QUICK_SECONDS:
            case = order.pop(0)
            self._time(plan, [case], case.jobs if self._fit(plan, case.jobs) else 1, say)
            timed.append(case.model)
        return (*known, *timed)

    def expected_seconds(self, plan: Plan, cells: Sequence[Cell]) -> dict[Job, float]:
        """Return the expected time of each unfinished job, for ordering them; times nothing.

        If nothing was ever timed, the numbers are in proportion to multiply-adds, not in seconds.
        """
        return {one.job: one.remaining for one in self.price(plan, cells, nominal=True).jobs}

    def _cases(self, plan: Plan, todo: Sequence[Cell]) -> dict[tuple[str, str], Workload]:
        cases = {}
        broken: dict[str, str] = {}
        for model, dataset in dict.fromkeys((cell.job.model, cell.job.dataset) for cell in todo):
            try:
                cases[model, dataset] = self._case(plan, model, dataset, self._sharing(todo))
            except HarnessError as error:
                broken.setdefault(str(error), model)
        self._notes = [f"Not priced: {sentence}" for sentence in broken]
        return cases

    def _sharing(self, todo: Sequence[Cell]) -> int:
        """Return the number of parallel jobs on one device."""
        return max(1, min(self.setting.sharing, len(todo)))

    def _fit(self, plan: Plan, jobs: int) -> bool:
        """Return whether so many trainings fit into this machine at once; the plan may be for another one."""
        protocol = plan.protocol
        images = 4 * 3 * protocol.batch_size * protocol.input_size**2
        free = free_memory_bytes()
        enough = free is None or jobs * (_PROCESS_BYTES + _ACTIVATIONS * images) <= free
        spare = self.setting.device.kind != "cpu" or jobs * self.setting.threads <= usable_cores()
        return jobs == 1 or (enough and spare)

    def _case(self, plan: Plan, model: str, dataset: str, sharing: int) -> Workload:
        facts = self._workspace.facts(dataset)
        offer = self._workspace.catalog.model(model)
        architecture = self._workspace.architecture(model, facts.classes)
        side = self._side(plan, dataset)
        conditions = Conditions(
            architecture=architecture.digest,
            memory_format=offer.spec.memory_format,
            protocol=plan.protocol,
            side=side,
            device=self.setting.device,
            threads=self.setting.threads,
            jobs=sharing,
        )
        alone = replace(conditions, jobs=1).key()
        sizes = facts.classes, side, facts.train, facts.test
        return Workload(model, dataset, architecture, *sizes, conditions.key(), sharing, alone)

    def _side(self, plan: Plan, dataset: str) -> int:
        found = self._workspace.find_prepared(dataset, plan.protocol)
        if found is not None:
            return max(found.manifest.size)
        size = plan.protocol.input_size
        offered = self._workspace.catalog.datasets.get(dataset)
        return min(offered.spec.native_side or size, size) if offered else size

    def _timing(self, case: Workload) -> Timing | None:
        """Return the timing of parallel jobs, else that of one job as if the others slowed it down."""
        if found := self._remembered(case.key):
            return found
        alone = self._remembered(case.alone)
        return alone.slower(self._slowdown(case.jobs)) if alone else None

    def _remembered(self, key: str) -> Timing | None:
        return self._known.get(key) or (None if self._fresh else self._timings.get(key))

    def _slowdown(self, jobs: int) -> float:
        """Return the factor by which parallel jobs are slower than one: as cores are divided, or a GPU's time."""
        if self.setting.device.kind != "cpu":
            return float(jobs)
        return max(1.0, jobs * self.setting.threads / usable_cores())

    def _about_one(self, plan: Plan, cases: Iterable[Workload]) -> Iterator[str]:
        """Yield a sentence if jobs that share the device are priced by one that has it to itself."""
        for case in cases:
            if self._remembered(case.key) is None and self._remembered(case.alone) is not None:
                why = "" if self._fit(plan, case.jobs) else ", since so many do not fit into the memory and cores here"
                factor = self._slowdown(case.jobs)
                pace = f"{factor:.3g} times as slow" if factor > 1 else "as fast"
                yield f"Timed one job at a time, not {case.jobs} at once{why}; each of them is taken to be {pace}."
                return

    def _finished(self, cells: Sequence[Cell]) -> dict[tuple[str, str], float]:
        """Return mean recorded seconds by (model, data set), of runs on this device with as many threads."""
        seconds = defaultdict(list)
        for cell in cells:
            if cell.state == "done" and cell.result:
                environment = cell.result.environment
                here = environment.get("device_name"), environment.get("threads")
                if here == (self.setting.device.name, self.setting.threads):
                    seconds[cell.job.model, cell.job.dataset].append(cell.result.seconds)
        return {name: statistics.fmean(values) for name, values in seconds.items()}

    def _is_slow(self, plan: Plan) -> bool:
        return plan.protocol.accelerator and self.setting.device.kind == "cpu"

    # ------------------------------------------------------------------------------------------------------ timing

    def _time(self, plan: Plan, cases: Sequence[Workload], together: int, say: Say) -> None:
        from harness.price.trial import ACCELERATED, HASTY, THOROUGH, Trial, import_seconds, time_trials

        if self._timings.number("imports", sys.executable, installed_version("torch")) is None:
            say("Timing the start of a process, once")
            if (seconds := import_seconds()) is not None:
                self._timings.put_number(seconds, "imports", sys.executable, installed_version("torch"))
        effort = HASTY if self._is_slow(plan) else THOROUGH if self.setting.device.kind == "cpu" else ACCELERATED
        measured = defaultdict(list)
        with tempfile.TemporaryDirectory(prefix="harness-timing-") as folder:
            steps = effort.warm + effort.steps + 1
            each = {case.dataset: case for case in cases}
            datasets = {name: self._dataset(plan, case, Path(folder) / name, steps) for name, case in each.items()}
            trials = [
                Trial(
                    protocol=plan.protocol,
                    model=case.model,
                    dataset=datasets[case.dataset],
                    device=self.setting.device.address,
                    threads=self.setting.threads,
                    effort=effort,
                    folder=self._writable_folder(),
                )
                for case in cases
            ]
            say(f"Timing {_named(cases[0])} (1 of {len(cases)})" + (f", {together} at once" if together > 1 else ""))
            for done, (index, timing) in enumerate(time_trials(trials, self._workspace.catalog, together=together), 1):
                if isinstance(timing, str):
                    say(timing)
                else:
                    measured[cases[index].alone if together == 1 else cases[index].key].append(timing)
                if done < len(cases):
                    say(f"Timing {_named(cases[done])} ({done + 1} of {len(cases)})")
        for key, timings in measured.items():
            self._known[key] = mean_timing(timings)
            self._timings.put(key, self._known[key])
        self._timings.save()

    def _dataset(self, plan: Plan, case: Workload, folder: Path, steps: int) -> PreparedDataset:
        from harness.price.trial import invented_dataset

        found = self._workspace.find_prepared(case.dataset, plan.protocol)
        if found is not None:
            return found
        images = steps * plan.protocol.batch_size
        return invented_dataset(folder, name=case.dataset, classes=case.classes, side=case.side, images=images)

    def _writable_folder(self) -> Path:
        """Return the folder for the checkpoints of a timing: the runs folder if it is writable, for its disk."""
        try:
            with tempfile.TemporaryDirectory(dir=self._workspace.runs.root):
                return self._workspace.runs.root
        except OSError:
            return Path(tempfile.gettempdir())

    # ------------------------------------------------------------------------------------------------------ scaling

    def _macs(self, plan: Plan, case: Workload) -> float | None:
        """Return the multiply-adds of an image at one of the class counts; None if the model refuses an image."""
        if case.model not in self._macs_by_model:
            model = self._workspace.catalog.model(case.model)
            self._macs_by_model[case.model] = count_products(
                self._timings, model, case.classes, case.architecture.digest, plan.protocol.input_size
            )
        return self._macs_by_model[case.model] or None

    def _job_price(self, plan: Plan, cell: Cell, known: _Known) -> JobPrice:
        case, timing = known.workload, known.timing
        if case is None:
            return JobPrice(job=cell.job, seconds=None, basis=None)
        protocol = plan.protocol
        epochs = 0 if cell.state == "stale" else len(self._workspace.runs.of(cell.job).read_history())
        price = JobPrice(
            job=cell.job,
            seconds=None,
            basis=None,
            overhead=timing.build if timing else 0.0,
            left=max(0.0, 1 - epochs / protocol.epochs),
            weights=case.architecture.parameters,
            predictions=case.test * (4 * case.classes + 8),
        )
        if known.finished is not None and not self._fresh:
            return replace(price, seconds=known.finished, basis="runs")
        found: tuple[Timing, Basis] | None = (timing, "timed") if timing else known.rates.timing(case)
        if found is None:
            return price
        steps = case.train // protocol.batch_size
        seconds = found[0].seconds(steps=steps, epochs=protocol.epochs, test=case.test)
        return replace(price, seconds=seconds, basis=found[1])

    # ------------------------------------------------------------------------------------------------------- totals

    def _start_up(
        self, cases: Mapping[tuple[str, str], Workload], timed: Mapping[tuple[str, str], Timing | None]
    ) -> float:
        """Return the seconds until the first job starts: imports, and building every model at every class count."""
        imports = self._timings.number("imports", sys.executable, installed_version("torch")) or _IMPORT_SECONDS
        builds = {(cases[name].model, cases[name].classes): timing.build for name, timing in timed.items() if timing}
        # Unless workers are forked from a process with torch, they import it again after the command.
        forked = forks_workers((self.setting.device.address,))
        return (1 if forked else 2) * imports + sum(builds.values())

    def _unprepared(self, plan: Plan, todo: Sequence[Cell]) -> tuple[tuple[str, ...], int]:
        """Return the names of data sets that must be prepared first, and the bytes that this takes."""
        names, total = [], 0
        for name in dict.fromkeys(cell.job.dataset for cell in todo):
            offer = self._workspace.catalog.datasets.get(name)
            if offer is not None and offer.spec.sources and self._workspace.find_prepared(name, plan.protocol) is None:
                names.append(name)
                total += estimate(PrepareRequest(offer, self._workspace.data, (plan.protocol.input_size,))).total
        return tuple(names), total
