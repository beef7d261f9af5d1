"""A model's spec -> BudgetReport: trainable parameters, counted by fvcore, and the verdict on them; MACs to inform.

Parameters are trainable and as trained, head included, from a fresh build at every class count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from harness.errors import BudgetError, one_line
from harness.macs import fvcore_nn, measure_macs

if TYPE_CHECKING:
    import torch
    from torch import nn

    from harness.api import ModelSpec
    from harness.registry import Budget

Verdict: TypeAlias = Literal["within", "over", "under"]

BATCH = 2
"""Images in the batch that a model's output is checked with: 2, so that one that loses the batch axis is seen."""


@dataclass(frozen=True, kw_only=True)
class BudgetReport:
    """What ``harness check-budget`` says about one model.

    Attributes:
        model: Its name.
        parameters: Trainable parameters as trained, by number of classes.
        frozen: Parameters that are not trainable; they are outside the budget and therefore shown.
        budget: The number of parameters aimed at.
        tolerance: The share by which a count may depart from it.
        verdict: ``"over"`` if any count is above the tolerance, ``"under"`` if any is below it and none above.
        macs_resolution, macs_classes: What the following are counted at, for one image.
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
    frozen: int
    deployed: int | None = None
    deployed_macs: int | None = None
    macs_multiply: int | None = None
    torch_flops: int | None = None
    macs_resolution: int
    macs_classes: int
    counted_operators: Mapping[str, int] = field(default_factory=dict)
    uncounted_operators: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def limit(self) -> int:
        """The largest number of parameters that is within the budget."""
        return _bounds(self.budget, self.tolerance)[1]

    def as_row(self) -> dict[str, Any]:
        """Return plain values: the command-line contract's keys first, then the rest in the order above."""
        row = {item.name: getattr(self, item.name) for item in fields(self)} | {"limit": self.limit}
        return row | {name: dict(value) for name, value in row.items() if isinstance(value, Mapping)}


def count_parameters(module: nn.Module) -> int:
    """Count a module's trainable parameters with fvcore; a parameter that is used twice counts once."""
    sizes = fvcore_nn().parameter_count(module)
    return sum(int(sizes[name]) for name, parameter in module.named_parameters() if parameter.requires_grad)


def check_budget(spec: ModelSpec, budget: Budget, class_counts: Iterable[int], *, macs: bool = True) -> BudgetReport:
    """Build a model at every class count, check its output and count it.

    The output is checked at every class count in evaluation mode with two images of ``budget.macs_resolution``, and
    once in training mode. torch's random state is left as it was.

    Args:
        spec: The model.
        budget: The budget.
        class_counts: The class counts that parameters are counted at, and that the verdict looks at.
        macs: Whether to count multiply-adds too, which takes a second or two a model.

    Raises:
        BudgetError: The model does not build, builds differently from one time to the next, or does not give float32
            logits (N, classes).
    """
    import torch

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        parameters = {}
        for classes in class_counts:
            module = _build(spec, classes)
            parameters[classes] = count_parameters(module)
            _check_output(spec, module, classes, budget.macs_resolution)
        if not parameters:
            raise ValueError("check_budget needs at least one class count")
        module = _build(spec, budget.macs_classes)
        _check_stable(spec, module, parameters, budget.macs_classes)
        _check_output(spec, module, budget.macs_classes, budget.macs_resolution, training=True)
        measured = _measure(spec, module, budget) if macs else {}
    return BudgetReport(
        model=spec.name,
        parameters=parameters,
        frozen=sum(parameter.numel() for parameter in module.parameters() if not parameter.requires_grad),
        budget=budget.parameters,
        tolerance=budget.tolerance,
        verdict=_verdict(parameters.values(), budget),
        macs_resolution=budget.macs_resolution,
        macs_classes=budget.macs_classes,
        **measured,
    )


def _bounds(parameters: int, tolerance: float) -> tuple[int, int]:
    # Rounded, since 2_500_000 * (1 + 0.1) is a hair above 2_750_000 in floating point.
    return round(parameters * (1 - tolerance)), round(parameters * (1 + tolerance))


def _verdict(counts: Iterable[int], budget: Budget) -> Verdict:
    counts = list(counts)
    low, high = _bounds(budget.parameters, budget.tolerance)
    if max(counts) > high:
        return "over"
    return "under" if min(counts) < low else "within"


def _build(spec: ModelSpec, classes: int) -> nn.Module:
    from torch import nn
    from torch.nn.parameter import is_lazy

    expected = f"Expected build({classes}) to return a torch.nn.Module"
    try:
        module = spec.build(classes)
    except (Exception, SystemExit) as error:  # a plugin that calls sys.exit() must not end the command
        raise BudgetError(
            f"Model '{spec.name}' does not build for {classes} classes: {one_line(error)}. {expected}."
        ) from error
    if not isinstance(module, nn.Module):
        raise BudgetError(f"Model '{spec.name}' builds a {type(module).__name__} for {classes} classes. {expected}.")
    lazy = [name for name, parameter in module.named_parameters() if is_lazy(parameter)]
    if lazy:
        raise BudgetError(
            f"Model '{spec.name}' has parameters without a shape at {classes} classes: {', '.join(lazy)}. Expected "
            "every parameter to be ready after build; run the model once on zeros inside build, or avoid lazy modules."
        )
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise BudgetError(f"Model '{spec.name}' has no trainable parameters at {classes} classes: nothing to train.")
    return module


def _check_output(spec: ModelSpec, module: nn.Module, classes: int, resolution: int, *, training: bool = False) -> None:
    """Check that two images give finite float32 logits (2, classes), and that doing so adds no parameters."""
    import torch

    before = count_parameters(module)
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
    expected = f"expected one float32 tensor of shape ({BATCH}, {classes})"
    if not isinstance(logits, torch.Tensor):
        raise BudgetError(f"{where} returns a {type(logits).__name__}, {expected}.")
    if tuple(logits.shape) != (BATCH, classes) or logits.dtype != torch.float32:
        raise BudgetError(f"{where} returns {_describe(logits)}, {expected}.")
    if not bool(torch.isfinite(logits).all()):
        bad = int((~torch.isfinite(logits)).sum())
        raise BudgetError(f"{where} returns {bad} of {logits.numel()} logits that are not finite, expected none.")
    after = count_parameters(module)
    if after != before:
        raise BudgetError(
            f"{where} goes from {before:,} to {after:,} trainable parameters. Expected build to create all of them, "
            "since the optimiser takes them from there."
        )


def _check_stable(spec: ModelSpec, module: nn.Module, parameters: Mapping[int, int], classes: int) -> None:
    # One further build costs little where this class count was not asked for.
    first = parameters[classes] if classes in parameters else count_parameters(_build(spec, classes))
    second = count_parameters(module)
    if first != second:
        raise BudgetError(
            f"Model '{spec.name}' has {first:,} trainable parameters in one build for {classes} classes and {second:,} "
            "in the next. Expected the same architecture every time; only initial values may be random."
        )


def _measure(spec: ModelSpec, module: nn.Module, budget: Budget) -> dict[str, Any]:
    """Return the report's fields about multiply-adds and deployment."""
    measured: dict[str, Any] = {}
    notes: list[str] = []
    if spec.deploy is not None:
        deployed = _deploy(spec, module, budget.macs_resolution)
        # All parameters, since merging may leave survivors that no longer ask for a gradient.
        measured["deployed"] = sum(parameter.numel() for parameter in deployed.parameters())
        try:
            measured["deployed_macs"] = measure_macs(deployed, budget.macs_resolution).total
        except Exception as error:
            notes.append(f"The deployed model's multiply-adds could not be counted: {one_line(error)}.")
    try:
        count = measure_macs(module, budget.macs_resolution)
    except Exception as error:
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


def _deploy(spec: ModelSpec, module: nn.Module, resolution: int) -> nn.Module:
    """Return the re-parameterised model, after checking that it computes the same and left the trained one alone."""
    import torch
    from torch import nn

    assert spec.deploy is not None
    before = count_parameters(module)
    images = torch.rand(BATCH, 3, resolution, resolution)
    expected = module.eval()(images)
    try:
        deployed = spec.deploy(module)
        if not isinstance(deployed, nn.Module):
            raise TypeError(f"deploy returned a {type(deployed).__name__}, expected a torch.nn.Module")
        found = deployed.eval()(images)
    except Exception as error:
        raise BudgetError(f"Model '{spec.name}' cannot be deployed: {one_line(error)}.") from error
    if count_parameters(module) != before:
        raise BudgetError(f"Model '{spec.name}': deploy changes the model that it is given, expected it to use a copy.")
    scale = float(expected.abs().max())
    if found.shape != expected.shape or not torch.allclose(found, expected, rtol=0.0, atol=1e-3 * scale):
        raise BudgetError(
            f"Model '{spec.name}': the deployed model computes something else than the trained one on the same images. "
            "Expected logits equal to a thousandth of the largest; deploy may merge branches, not change the function."
        )
    return deployed


def _describe(logits: torch.Tensor) -> str:
    return f"a {str(logits.dtype).removeprefix('torch.')} tensor of shape {tuple(logits.shape)}"
