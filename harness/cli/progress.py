"""The progress of a run on stderr: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, SupportsFloat

from harness.api import Cell, Reporter, StopSignal
from harness.cli.output import say
from harness.results.profile import Profile, read_profile
from harness.results.store import RunsFolder

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from harness.api import EpochRecord, Job, Shares
    from harness.registry import Protocol

_LOSS_SECONDS = 0.5  # reading a loss waits for the device
_LINE_SECONDS = 30.0  # between two lines about one job's epochs
_WIDE = 140  # columns that a job with a profile needs to fit into one line


def stop_signal() -> StopSignal:
    """Make the signal handler of a command: the first Ctrl-C stops after the step, the second at once."""

    def explain(name: str) -> None:
        what = "" if name == "SIGINT" else f" ({name})"
        say(f"\nStopping after this step{what}; press Ctrl-C again to stop at once.")

    return StopSignal(say=explain, again=KeyboardInterrupt)


class RunReporter(Reporter):
    """Shows the progress of a run: one bar per job on a terminal, else one line per job.

    ``finished`` holds the jobs that have ended, also after a stop.
    """

    def __init__(self, total: int, protocol: Protocol, stop: StopSignal) -> None:
        """Make one.

        Args:
            total: The number of jobs.
            protocol: Their protocol.
            stop: Set when the user wants to stop.
        """
        self._total = total
        self._epochs = protocol.epochs
        self._metric = protocol.metric
        self._stop = stop
        self.finished: list[Cell] = []
        self._began = time.monotonic()
        self._read: dict[Job, float] = {}
        self._written: dict[Job, float] = {}
        self._rate: dict[Job, float] = {}
        self._shares: dict[Job, str] = {}
        self._bars: dict[Job, TaskID] = {}
        self._progress = _make_bars() if sys.stderr.isatty() else None
        if self._progress:
            self._overall = self._progress.add_task("all jobs", total=total, detail="")

    def live(self) -> AbstractContextManager[Any]:
        """Return a context in which the bars are shown."""
        return self._progress if self._progress else nullcontext()

    def job_started(self, job: Job) -> None:
        """A job is about to start or to resume."""
        self._written[job] = time.monotonic()
        if self._progress and job not in self._bars:
            self._bars[job] = self._progress.add_task(str(job), total=None, detail="starting")

    def step_finished(self, job: Job, epoch: int, step: int, steps: int, loss: SupportsFloat) -> None:
        """A training step has ended."""
        if not self._progress or job not in self._bars:
            return
        now = time.monotonic()
        if now - self._read.get(job, 0.0) >= _LOSS_SECONDS:
            self._read[job] = now
            speed = f", {self._rate[job]:.0f} images/s" if job in self._rate else ""
            self._progress.update(
                self._bars[job],
                completed=epoch * steps + step + 1,
                total=self._epochs * steps,
                detail=f"epoch {epoch + 1} of {self._epochs}, loss {float(loss):.3f}{speed}{self._shares.get(job, '')}",
            )

    def batch_evaluated(self, job: Job) -> None:
        """A batch of the test split has been evaluated."""
        if self._progress and job in self._bars:
            self._progress.update(self._bars[job], detail="evaluating")

    def epoch_finished(self, job: Job, record: EpochRecord) -> None:
        """An epoch has ended."""
        self._rate[job] = record.images_per_second
        now = time.monotonic()
        if not self._progress and now - self._written.get(job, 0.0) >= _LINE_SECONDS:
            self._written[job] = now
            self._write(
                f"        {job}: epoch {record.epoch + 1} of {self._epochs}, loss {record.loss:.3f}, "
                f"{record.images_per_second:.0f} images/s{self._shares.get(job, '')}"
            )

    def profiled(self, job: Job, shares: Shares) -> None:
        """Keep the shares of an epoch's time for the next line about the job."""
        narrow = self._progress is not None and self._progress.console.width < _WIDE
        self._shares[job] = f"\n{shares}" if narrow else f", {shares}"

    def should_stop(self) -> bool:
        """Return whether Ctrl-C was pressed."""
        return self._stop.wanted

    def job_finished(self, cell: Cell) -> None:
        """A job has ended, well or not."""
        self.finished.append(cell)
        if cell.result is not None and cell.state == "done":
            outcome = f"{cell.result.metrics[self._metric]:.2f} % in {cell.result.seconds:.1f} s"
        else:
            outcome = f"{cell.state}: {cell.detail}"
        left = self._time_left()
        if self._progress:
            self._progress.update(self._overall, completed=len(self.finished), detail=left)
            if (bar := self._bars.pop(cell.job, None)) is not None:
                self._progress.remove_task(bar)
            self._write(f"{cell.job}: {outcome}")
        else:
            count = f"[{len(self.finished):>{len(str(self._total))}}/{self._total}]"
            self._write(f"{count} {cell.job}: {outcome}{left and ', ' + left}")

    def notice(self, text: str) -> None:
        """Something that a user should know has happened."""
        self._write(f"Note: {text}")

    def _write(self, line: str) -> None:
        # A closed terminal or pipe must not end the run.
        with contextlib.suppress(OSError):
            if self._progress:
                self._progress.console.print(line, highlight=False, markup=False)
            else:
                say(line)

    def _time_left(self) -> str:
        remaining = self._total - len(self.finished)
        if remaining <= 0:
            return ""
        # By wall-clock time, which accounts for the number of parallel jobs.
        return f"{duration((time.monotonic() - self._began) / len(self.finished) * remaining)} left"


def duration(seconds: float) -> str:
    """Format a time span for people.

    >>> [duration(s) for s in (8, 200, 9000, 500_000, 90_000_000)]
    ['8 s', '3 min', '2.5 h', '5.8 days', '2.9 years']
    """
    for limit, unit, size in ((90, "s", 1), (5400, "min", 60), (172_800, "h", 3600), (63_115_200, "days", 86_400)):
        if seconds < limit:
            value = seconds / size
            return f"{value:.0f} {unit}" if unit in ("s", "min") else f"{value:.1f} {unit}"
    return f"{seconds / 31_557_600:.1f} years"


def _make_bars() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[detail]}"),
        console=Console(stderr=True),
    )


_SHOWN = {
    "start": "start",
    "waiting": "data",
    "augmentation": "augment",
    "forward": "forward",
    "backward": "backward",
    "optimizer": "optim.",
    "evaluation": "eval.",
    "checkpoint": "save",
    "other": "other",
}


def say_profiles(runs: RunsFolder, cells: Sequence[Cell], *, trained: int) -> None:
    """Print the profiles of finished jobs, and the number of jobs without one.

    Args:
        runs: The folder of the results.
        cells: The jobs of the command.
        trained: The number of jobs that this command carried out.
    """
    done = [cell.job for cell in cells if cell.state == "done"]
    found = [(job, profile) for job in done if (profile := read_profile(runs.of(job)))]
    if found:
        rows = [(job.model, job.dataset, str(job.seed), *_row([profile])) for job, profile in found]
        if len(rows) > 1:
            rows.append((f"all {len(rows)}", "", "", *_row([profile for _, profile in found])))
        say("\nTime by phase, in % of each job's seconds; 'idle' is the device's, in % of its training steps:\n")
        say(_table(("model", "data set", "seed", "images/s", *_SHOWN.values(), "idle"), rows))
        say(f"\nBy epoch: {runs.of(found[0][0]).profile}" + (" and the others." if len(found) > 1 else ""))
    if partial := sum(profile.steps < profile.epochs * profile.steps_per_epoch for _, profile in found):
        say(f"Profiled for a part of the training: {partial} of these; see 'steps_profiled' in the file.")
    if without := len(done) - len(found):
        many = "1 job was finished before and has" if without == 1 else f"{without} jobs were finished before and have"
        nothing = "" if trained else "Nothing was left to train. "
        say(f"{nothing}{many} no profile: finished jobs are not trained again. To start anew, choose another --runs.")


def _row(profiles: Sequence[Profile]) -> tuple[str, ...]:
    """Return the cells of one job, or of several together: images/s, the phases, the idle share."""
    whole = sum(profile.seconds for profile in profiles) or 1.0
    spent = {name: sum(profile.phases[name] for profile in profiles) for name in _SHOWN}
    spent["other"] += whole - sum(spent.values())  # includes measuring the idle share
    training = sum(profile.training_seconds for profile in profiles)
    images = sum(profile.steps * profile.batch_size for profile in profiles)
    known = [(profile.idle, profile.training_seconds) for profile in profiles if profile.idle is not None]
    weight = sum(seconds for _, seconds in known)
    return (
        f"{images / training:,.0f}" if training else "-",
        *(f"{100 * seconds / whole:.1f}" for seconds in spent.values()),
        f"{100 * sum(idle * seconds for idle, seconds in known) / weight:.1f}" if weight else "-",
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format 14 columns without the padding of ``print_rows``, so that they fit into 120 characters."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(
            text.ljust(width) if column < 2 else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
