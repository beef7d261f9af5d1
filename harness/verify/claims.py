"""What a result claims against what the code, the registry and the data say today, without training or evaluating."""

from __future__ import annotations

from collections.abc import Iterator

from harness.train.schedule import learning_rate_peak
from harness.verify.checks import Check, ImpossibleError, Run, compare


def check_protocol(run: Run) -> Iterator[Check]:
    """The protocol that was executed is the one that has this name here."""
    yield compare(
        "protocol",
        run.result.protocol_digest,
        run.protocol.digest,
        f"{run.protocol.name} is another protocol here than the one that the run names.",
    )


def check_fingerprint(run: Run) -> Iterator[Check]:
    """Model, data, protocol and seed of today give the fingerprint that the result carries."""
    yield compare(
        "fingerprint",
        run.result.fingerprint,
        run.identity[0],
        "The model (structure, plugin version, learning-rate peak), the data or the protocol is not that of the run.",
    )


def check_budget(run: Run) -> Iterator[Check]:
    """The parameters are those of the model, and within the budget unless the result is marked for good."""
    budget = run.workspace.benchmark.budget
    claimed = run.result.parameters
    try:
        counted = run.identity[1]
    except ImpossibleError as impossible:
        counted = claimed
        yield Check("parameters", "skipped", claimed, detail=str(impossible))
    else:
        yield compare("parameters", claimed, counted, "The model has another number of trainable parameters.")
    marked = run.result.over_budget
    over = budget.verdict([counted]) == "over"
    fine = marked or not over
    detail = "It is over, and marked so." if over and marked else ""
    yield Check(
        "budget",
        "ok" if fine else "failed",
        counted,
        f"at most {budget.limit:,}",
        detail if fine else "The model is over the parameter budget, and the result is not marked so.",
    )


def check_learning_rates(run: Run) -> Iterator[Check]:
    """The recorded rates are the schedule's, and the peak is the protocol's or the model's."""
    from harness.train.schedule import learning_rate

    peak = run.result.lr_max
    wrong = [
        (record.epoch, record.lr, due)
        for record in run.folder.read_history()
        if record.lr != (due := learning_rate(record.epoch, run.protocol, peak))
    ]
    if wrong:
        epoch, found, due = wrong[0]
        detail = f"{len(wrong)} epochs were trained with another rate than the schedule's, first epoch {epoch}."
        yield Check("learning rates", "failed", found, due, detail)
    else:
        yield Check("learning rates", "ok", f"peak {peak:g}", f"peak {peak:g}")
    try:
        expected, exception = learning_rate_peak(run.protocol, run.model.spec)
    except ImpossibleError as impossible:
        yield Check("lr_max", "skipped", peak, detail=str(impossible))
        return
    yield compare("lr_max", peak, expected, "Neither the protocol nor the model declares this peak.")
    yield compare("lr_exception", run.result.lr_exception, exception, "Who departs from the general peak is not so.")


def check_test_reads(run: Run) -> Iterator[Check]:
    """The test split was opened once, or again only after a stop that came when the weights were final."""
    from harness.train.deviations import accounted_reads

    reads = run.result.test_reads
    counted = accounted_reads(reads, run.result.interruptions, run.protocol.epochs)
    detail = f"Opened {reads} times; {reads - 1} because of a stop after the training." if reads > counted else ""
    if counted == 1:
        yield Check("test reads", "ok", reads, 1, detail)
    else:
        yield Check("test reads", "failed", reads, 1, "The protocol opens the test split once, after training.")


def check_executed(run: Run) -> Iterator[Check]:
    """What was seen of the training is what the protocol, the model and the data ask for, knob by knob."""
    from harness.train.deviations import COVERAGE, compare_facts, expected_facts, facts_digest

    facts, digest = run.result.executed, run.result.executed_digest
    if facts is None:
        yield Check("executed", "skipped", detail="The run is from a harness that did not look at what was executed.")
        return
    yield compare("executed digest", digest, facts_digest(facts), "The recorded facts were changed after the run.")
    try:
        expected = expected_facts(run.protocol, run.model.spec, run.dataset.manifest, run.job.seed)
    except ImpossibleError as impossible:
        for sentence in run.result.deviations:
            yield Check("executed", "failed", detail=f"The run itself noted: {sentence}.")
        yield Check("executed", "skipped", detail=str(impossible))
        return
    deviations = compare_facts(facts, expected)
    for one in deviations:
        if one.setting == "order" and _other_torch(run):
            yield Check("executed: order", "skipped", detail=f"Another version of torch may shuffle otherwise: {one}.")
        else:
            yield Check(f"executed: {one.setting}", "failed", one.found, one.expected, f"In this run {one}.")
    if COVERAGE in facts:
        epoch, step = facts[COVERAGE]
        detail = (
            f"Training before epoch {epoch + 1}, step {step + 1} was not watched: an earlier harness carried it out."
        )
        yield Check("executed", "skipped", detail=detail)
    elif not deviations:
        yield Check("executed", "ok", f"{len(expected)} knobs", digest)


def _other_torch(run: Run) -> bool:
    import torch

    recorded = str(run.result.environment.get("versions", {}).get("torch")).partition("+")[0]
    return recorded != torch.__version__.partition("+")[0]
