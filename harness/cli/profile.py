"""What ``harness run --profile`` says at the end: a row a job, of where its time went. To stderr, for it is no data."""

from __future__ import annotations

from collections.abc import Sequence

from harness.cli.output import say
from harness.results.grid import Cell
from harness.results.profile import Profile, read_profile
from harness.results.store import RunsFolder

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
    """Tell where the time of finished jobs went, as far as they have a profile, and which have none.

    Args:
        runs: Where the results are.
        cells: The jobs of the command.
        trained: How many of them this command carried out.
    """
    done = [cell.job for cell in cells if cell.state == "done"]
    found = [(job, profile) for job in done if (profile := read_profile(runs.of(job)))]
    if found:
        rows = [(job.model, job.dataset, str(job.seed), *_row([profile])) for job, profile in found]
        if len(rows) > 1:
            rows.append((f"all {len(rows)}", "", "", *_row([profile for _, profile in found])))
        say("\nWhere the time went, in % of each job's seconds; 'idle' is the device's, in % of its training steps:\n")
        say(_table(("model", "data set", "seed", "images/s", *_SHOWN.values(), "idle"), rows))
        say(f"\nBy epoch: {runs.of(found[0][0]).profile}" + (" and its like." if len(found) > 1 else ""))
    if partial := sum(profile.steps < profile.epochs * profile.steps_per_epoch for _, profile in found):
        say(f"Profiled for a part of the training: {partial} of these; 'steps_profiled' in the file says how much.")
    if without := len(done) - len(found):
        many = "1 job was finished before and has" if without == 1 else f"{without} jobs were finished before and have"
        nothing = "" if trained else "Nothing was left to train. "
        say(f"{nothing}{many} no profile: what is done is not trained again. Another folder, by --runs, starts anew.")


def _row(profiles: Sequence[Profile]) -> tuple[str, ...]:
    """What the table says of one job, or of several together: images/s, the phases, the idle share."""
    whole = sum(profile.seconds for profile in profiles) or 1.0
    spent = {name: sum(profile.phases[name] for profile in profiles) for name in _SHOWN}
    spent["other"] += whole - sum(spent.values())  # with what measuring the idle share took
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
    """Lay out 14 columns without the padding of ``print_rows``, so that they fit into 120."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(
            text.ljust(width) if column < 2 else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
