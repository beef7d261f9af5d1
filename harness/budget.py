"""Reports a model against a budget: its counts at every class count, the verdict, and multiply-adds to inform.

Parameters are trainable and as trained, head included, from a fresh build at every class count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from harness.errors import BudgetError, PluginError, one_line
from harness.macs import measure_macs
from harness.models import Counts, build, count_parameters, deploy, differs

if TYPE_CHECKING:
    from torch import nn

    from harness.api import ModelSpec
    from harness.catalog import Offer
    from harness.registry import Budget, Counting, Verdict

BATCH = 2
"""Images in the batch that a model's output is checked with: 2, so that one that loses the batch axis is seen."""


@dataclass(frozen=True, kw_only=True)
class BudgetReport:
    """The report of ``harness check-budget`` on one model.

    Attributes:
        model: Its name.
        parameters: Trainable parameters as trained, by number of classes; ``trainable`` is the same.
        frozen: Parameters that are not trainable, by number of classes; they are outside the budget.
        buffers: Numbers in buffers, by number of classes; they are outside the budget.
        budget: The number of parameters that the budget is called after.
        budget_name: The budget's name.
        tolerance: The share by which a count may depart from ``budget``.
        limit: The largest number of parameters that is within the budget.
        verdict: ``"over"`` if any count is above the tolerance, ``"under"`` if any is below it and none above.
        macs_resolution, macs_classes: The size and the class count of the following counts, for one image.
        macs: fvcore's total; ``None`` if not asked for, or if the model cannot be traced (``notes`` has the reason).
        macs_multiply: Convolutions, linear layers and attention products only.
        torch_flops: torch's own count, as a cross-check.
        deployed: All parameters of the re-parameterised model, where the spec has ``deploy``.
        deployed_macs: fvcore's total for it.
        counted_operators: Multiply-adds by operator.
        uncounted_operators: Operators that fvcore does not count, and how often each is called.
        notes: Sentences that a reader of the numbers should know.
    """

    model: str
    parameters: Mapping[int, int]
    macs: int | None = None
    budget: int
    tolerance: float
    verdict: Verdict
    budget_name: str
    limit: int
    trainable: Mapping[int, int]
    frozen: Mapping[int, int]
    buffers: Mapping[int, int]
    deployed: int | None = None
    deployed_macs: int | None = None
    macs_multiply: int | None = None
    torch_flops: int | None = None
    macs_resolution: int
    macs_classes: int
    counted_operators: Mapping[str, int] = field(default_factory=dict)
    uncounted_operators: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def as_row(self) -> dict[str, Any]:
        """Return plain values: the command-line contract's keys first, then the rest in the order above."""
        row = {item.name: getattr(self, item.name) for item in fields(self)}
        return row | {name: dict(value) for name, value in row.items() if isinstance(value, Mapping)}


def check_budget(spec: ModelSpec, budget: Budget, counting: Counting, *, macs: bool = True) -> BudgetReport:
    """Build a model at every class count, check its output and count it.

    The output is checked at every class count in evaluation mode with two images of ``counting.macs_resolution``, and
    once in training mode. torch's random state is left as it was.

    Args:
        spec: The model.
        budget: The budget.
        counting: The class counts that the verdict looks at, and the sizes for multiply-adds.
        macs: Whether to count multiply-adds too, which takes a second or two per model.

    Raises:
        BudgetError: The model does not build, builds differently from one time to the next, or does not give float32
            logits (N, classes).
    """
    try:
        return _check(spec, budget, counting, macs=macs)
    except PluginError as error:
        raise BudgetError(str(error)) from error


def check_offer(model: Offer[ModelSpec], budget: Budget, counting: Counting) -> BudgetReport:
    """Check an installed model like ``check_budget``."""
    return check_budget(model.spec, budget, counting)


def _check(spec: ModelSpec, budget: Budget, counting: Counting, *, macs: bool) -> BudgetReport:
    import torch

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        counts: dict[int, Counts] = {}
        for classes in counting.classes:
            module = _build(spec, classes)
            counts[classes] = count_parameters(module)
            check_output(spec, module, classes, counting.macs_resolution)
        module = _build(spec, counting.macs_classes)
        _check_stable(spec, module, counts, counting.macs_classes)
        check_output(spec, module, counting.macs_classes, counting.macs_resolution, training=True)
        measured = _measure(spec, module, counting.macs_resolution) if macs else {}
    trainable = {classes: count.trainable for classes, count in counts.items()}
    return BudgetReport(
        model=spec.name,
        parameters=trainable,
        trainable=trainable,
        frozen={classes: count.frozen for classes, count in counts.items()},
        buffers={classes: count.buffers for classes, count in counts.items()},
        budget=budget.parameters,
        budget_name=budget.name,
        tolerance=budget.tolerance,
        limit=budget.limit,
        verdict=budget.verdict(trainable.values()),
        macs_resolution=counting.macs_resolution,
        macs_classes=counting.macs_classes,
        **measured,
    )


def _build(spec: ModelSpec, classes: int) -> nn.Module:
    return build(spec, classes, f"Model '{spec.name}'")


def check_output(spec: ModelSpec, module: nn.Module, classes: int, resolution: int, *, training: bool = False) -> None:
    """Check that two images give finite float32 logits (2, classes), and that doing so adds no parameters.

    Raises:
        BudgetError: they do not; the sentence says in which mode and at which size.
    """
    import torch

    before = count_parameters(module).trainable
    mode = "training" if training else "evaluation"
    where = (
        f"Model '{spec.name}' at {classes} classes, given {BATCH} images of {resolution} x {resolution} in {mode} mode,"
    )
    module.train(training)
    try:
        logits = module(torch.rand(BATCH, 3, resolution, resolution))
    except (Exception, SystemExit) as error:
        raise BudgetError(
            f"{where} fails: {one_line(error)}. Expected logits of shape ({BATCH}, {classes})."
        ) from error
    if found := differs(logits, BATCH, classes):
        raise BudgetError(f"{where} returns {found}, expected one float32 tensor of shape ({BATCH}, {classes}).")
    if not bool(torch.isfinite(logits).all()):
        bad = int((~torch.isfinite(logits)).sum())
        raise BudgetError(f"{where} returns {bad} of {logits.numel()} logits that are not finite, expected none.")
    after = count_parameters(module).trainable
    if after != before:
        raise BudgetError(
            f"{where} goes from {before:,} to {after:,} trainable parameters. Expected build to create all of them, "
            "since the optimiser takes them from there."
        )


def _check_stable(spec: ModelSpec, module: nn.Module, counts: Mapping[int, Counts], classes: int) -> None:
    # One further build costs little where this class count was not asked for.
    first = (counts[classes] if classes in counts else count_parameters(_build(spec, classes))).trainable
    second = count_parameters(module).trainable
    if first != second:
        raise BudgetError(
            f"Model '{spec.name}' has {first:,} trainable parameters in one build for {classes} classes and {second:,} "
            "in the next. Expected the same architecture every time; only initial values may be random."
        )


def _measure(spec: ModelSpec, module: nn.Module, resolution: int) -> dict[str, Any]:
    """Return the report's fields about multiply-adds and deployment."""
    import torch

    measured: dict[str, Any] = {}
    notes: list[str] = []
    if spec.deploy is not None:
        deployed = deploy(spec, module, torch.rand(BATCH, 3, resolution, resolution))
        # All parameters, since merging may leave survivors that no longer ask for a gradient.
        size = count_parameters(deployed)
        measured["deployed"] = size.trainable + size.frozen
        try:
            measured["deployed_macs"] = measure_macs(deployed, resolution).total
        except (Exception, SystemExit) as error:
            notes.append(f"The deployed model's multiply-adds could not be counted: {one_line(error)}.")
    try:
        count = measure_macs(module, resolution)
    except (Exception, SystemExit) as error:
        # Parameters bind a model, multiply-adds inform; one that torch cannot trace may still be trained.
        notes.append(f"Multiply-adds could not be counted: {one_line(error)}.")
        return {**measured, "notes": tuple(notes)}
    return {
        **measured,
        "macs": count.total,
        "macs_multiply": count.products,
        "torch_flops": count.torch_flops,
        "counted_operators": count.operators,
        "uncounted_operators": count.uncounted,
        "notes": (*notes, *count.doubts()),
    }
