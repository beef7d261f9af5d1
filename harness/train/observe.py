"""The record of a run: the tensors that reach the model, its optimiser and its loss, as they were executed.

Hooks of torch on the module and the optimiser see the values that really pass; the loop's events give the rest. A step
costs some microseconds. Checks by arithmetic, and a look at every operator inside the model, happen in the first and
the last step of every epoch and in the first batch of the test split alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from harness.train.deviations import COVERAGE, SOURCES, chained
from harness.train.environment import fill_uninitialized_memory, numeric_flags
from harness.train.observer import Observer
from harness.train.pipeline import Augment, Resize
from harness.train.precision import PrecisionWatch

if TYPE_CHECKING:
    from torch import nn

    from harness.registry import Protocol
    from harness.train.feeder import Batch
    from harness.train.pipeline import Stage
    from harness.train.state import TrainingState

_SETTINGS = ("betas", "eps", "weight_decay", "amsgrad", "maximize", "decoupled_weight_decay")
_LOSS_TOLERANCE = 2e-5
"""Relative difference of a float32 loss to its definition in float64 that rounding explains."""
_UNSURE = "label_smoothing as declared"
"""The smoothing of steps whose loss would be the same with another one: it counts only if no step tells more."""
_INSIDE = "operators"
"""The floating types inside the model other than float32; recorded only where there are any."""
_MOMENT_TOLERANCE = 1e-4
_PIXEL_TOLERANCE = 1e-4


class RunRecorder(Observer):
    """Records what a run executes; resumes from the record that a checkpoint holds.

    Attributes:
        probing: Whether the present step is one of those that are examined closely.
    """

    def __init__(self, earlier: Mapping[str, Any] | None = None, *, position: tuple[int, int] = (0, 0)) -> None:
        """Start at a position (epoch, step), or resume from the ``state()`` of an earlier process."""
        state = dict(earlier or {})
        self._seen: dict[str, list[Any]] = {name: list(values) for name, values in state.get("seen", {}).items()}
        self._rates: dict[str, list[float]] = {epoch: list(rates) for epoch, rates in state.get("rates", {}).items()}
        self._steps: dict[str, int] = dict(state.get("steps", {}))
        self._chain: str = state.get("chain", "")
        self._from: list[int] = list(state.get("from", position))
        self._epoch = ""
        self._last: dict[str, Any] = {}
        self._augmentations: list[dict[str, Any]] = []
        self._resized = False
        self._evaluating = False
        self._smoothing = 0.0
        self._watch: PrecisionWatch | None = None
        self.probing = False

    def state(self) -> dict[str, Any]:
        """Return the record as plain values for a checkpoint."""
        return {
            "seen": {setting: list(values) for setting, values in self._seen.items()},
            "rates": {epoch: list(rates) for epoch, rates in self._rates.items()},
            "steps": dict(self._steps),
            "chain": self._chain,
            "from": list(self._from),
        }

    def facts(self) -> dict[str, Any]:
        """Return the record by the settings of ``deviations.expected_facts``; several values as ``varied``."""
        rates = [_one(self._rates[epoch]) for epoch in sorted(self._rates, key=int)]
        facts = {setting: _one(values) for setting, values in sorted(self._seen.items()) if setting != SOURCES}
        unsure = facts.pop(_UNSURE, None)
        facts.setdefault("label_smoothing", unsure)
        if inside := facts.pop(_INSIDE, None):
            precision = facts.get("precision") or {}
            facts["precision"] = precision | {_INSIDE: inside}
        evaluation = {key.removeprefix("evaluation."): facts.pop(key) for key in list(facts) if "evaluation." in key}
        if _INSIDE in evaluation:  # first, where a sentence that is cut short still shows it
            evaluation = {_INSIDE: evaluation.pop(_INSIDE)} | evaluation
        facts |= {
            "epochs": len(self._steps),
            "steps_per_epoch": _one(list(dict.fromkeys(self._steps.values()))),
            "learning_rates": rates,
            "order": self._chain,
            "evaluation": evaluation or None,
        }
        if len(sources := self._seen.get(SOURCES, [])) > 1:
            facts[SOURCES] = sources
        if self._from != [0, 0]:
            facts[COVERAGE] = self._from
        return facts

    def see(self, setting: str, value: object) -> None:
        """Record a value, once however often it occurs."""
        if setting in self._last and self._last[setting] == value:
            return
        self._last[setting] = value
        seen = self._seen.setdefault(setting, [])
        if value not in seen:
            seen.append(value)

    def saw(self, setting: str) -> bool:
        """Return True if a value of this setting was recorded, in this process or an earlier one."""
        return setting in self._seen

    def see_inside(self, other: RunRecorder) -> None:
        """Record the types that another recorder saw inside the model."""
        for kind in other._seen.get(_INSIDE, ()):
            self.see(_INSIDE, kind)

    # ------------------------------------------------------------------------------------------ events of the loop

    def step_started(self, state: TrainingState, batch: Batch) -> None:
        """Record the images of the batch; examine the first and the last step of an epoch closely."""
        self._epoch = str(state.epoch)
        self._chain = chained(self._chain, batch.chosen)
        self._augmentations = []
        self._resized = False
        self.probing = state.step in (0, state.steps - 1)
        fill_uninitialized_memory(self.probing)

    def stage_applied(self, stage: Stage, before: torch.Tensor, after: torch.Tensor) -> None:
        """Record an augmentation in every step; check the deterministic stages by arithmetic in probed steps."""
        if isinstance(stage, Augment):
            at = "input" if self._resized else "stored"
            self._augmentations.append({"name": stage.name, "at": at, "strengths": dict(stage.strengths)})
        elif isinstance(stage, Resize):
            self._resized = True
            if self.probing and not self._evaluating:
                self.see("resizing", applied_resizing(before, after, stage.settings))
        elif self._evaluating:
            if not self.saw("evaluation.normalisation"):
                self.see("evaluation.normalisation", applied_moments(before, after, stage.mean, stage.std))
        elif self.probing:
            self.see("normalisation", applied_moments(before, after, stage.mean, stage.std))

    def loss_computed(
        self, state: TrainingState, logits: torch.Tensor, targets: torch.Tensor, loss: torch.Tensor
    ) -> None:
        """Record the augmentations of the batch and, in probed steps, the loss by its definition."""
        self.see("augmentations", self._augmentations)
        if not self.probing:
            return
        self._pause(True)
        smoothing, sure = applied_smoothing(logits.detach(), targets, float(loss.detach()), self._smoothing)
        self.see("loss", "other than cross_entropy" if smoothing is None else "cross_entropy")
        self.see("label_smoothing" if sure else _UNSURE, smoothing)
        fresh = all(parameter.grad is None for parameter in state.module.parameters())
        self.see("gradients", "of one batch" if fresh else "added up over batches")
        self._pause(False)

    # --------------------------------------------------------------------------------------------- hooks of torch

    @contextlib.contextmanager
    def attached(self, state: TrainingState, protocol: Protocol, compile_mode: str | None) -> Iterator[None]:
        """Observe the forward passes of the model and the steps of its optimiser."""
        self._smoothing = protocol.label_smoothing
        if compile_mode is not None or self.saw("compiled"):
            if (state.epoch or state.step) and not self.saw("compiled"):
                self.see("compiled", "no")  # by the process that was stopped
            self.see("compiled", compile_mode or "no")
        handles = [
            state.module.register_forward_hook(self._forward),
            state.optimizer.register_step_pre_hook(lambda which, *_: self._optimizer_step(state.module, which)),
        ]
        if compile_mode is None:  # torch.compile would take a watched step back to uncompiled arithmetic
            handles.append(state.module.register_forward_pre_hook(self._forward_due, prepend=True))
        try:
            yield
        finally:
            self._look_away()
            for handle in handles:
                handle.remove()

    @contextlib.contextmanager
    def attached_to_evaluation(self, module: nn.Module) -> Iterator[None]:
        """Observe the forward passes of the test split."""
        count = 0

        def forward(part: nn.Module, inputs: tuple[Any, ...], _: Any) -> None:
            nonlocal count
            images = inputs[0]
            count += len(images)
            self.see("evaluation.mode", "train" if part.training else "eval")
            self.see("evaluation.input_size", list(images.shape[2:]))
            self.see("evaluation.inputs", _name(images.dtype))
            self.see("evaluation.autocast", torch.is_autocast_enabled(images.device.type))
            self._look_away()

        def forward_due(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            if not count:
                self._look_inside(inputs[0].device.type)

        handles = [
            module.register_forward_hook(forward),
            module.register_forward_pre_hook(forward_due, prepend=True),
        ]
        self._evaluating = True
        try:
            yield
        finally:
            self._look_away()
            self._evaluating = False
            for handle in handles:
                handle.remove()
        self.see("test_images", count)

    def _forward_due(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if self.probing:
            self._look_inside(inputs[0].device.type)

    def _look_inside(self, device_type: str) -> None:
        """Watch the operators from here on."""
        if self._watch is None:
            self._watch = PrecisionWatch(device_type)
            self._watch.begin()

    def _pause(self, paused: bool) -> None:
        if self._watch is not None:
            self._watch.paused = paused

    def _look_away(self) -> None:
        """Stop watching, and record the types and the flags that were seen."""
        watch, self._watch = self._watch, None
        if watch is None:
            return
        watch.end()
        for kind in watch.found:
            self.see(f"evaluation.{_INSIDE}" if self._evaluating else _INSIDE, kind)
        for flags in watch.flags:
            self.see("numerics", dict(flags))

    def _forward(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if not isinstance(output, torch.Tensor):
            return  # not a model of the interface; the loop raises the error
        images = inputs[0]
        kind = images.device.type
        key = (images.shape, images.dtype, output.dtype, output.shape, module.training, numeric_flags(kind))
        if not self.probing and self._last.get("forward") == key:
            return
        self._last["forward"] = key
        self.see("batch_size", len(images))
        self.see("input_size", list(images.shape[2:]))
        self.see("classes", output.shape[-1])
        self.see("mode", "train" if module.training else "eval")
        autocast, numerics = numeric_flags(kind)
        self.see("numerics", dict(numerics))
        parameters = list(dict.fromkeys(_name(parameter.dtype.to_real()) for parameter in module.parameters()))
        self.see(
            "precision",
            {
                "parameters": _one(parameters),
                "inputs": _name(images.dtype),
                "logits": _name(output.dtype),
                "autocast": autocast,
            },
        )

    def _optimizer_step(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._look_away()
        self._steps[self._epoch] = self._steps.get(self._epoch, 0) + 1
        rates = self._rates.setdefault(self._epoch, [])
        for group in optimizer.param_groups:
            if float(group["lr"]) not in rates:
                rates.append(float(group["lr"]))
            key = [group.get(name) for name in _SETTINGS]
            if not self.probing and self._last.get("optimizer step") == key:
                continue
            self._last["optimizer step"] = key
            kind = type(optimizer)
            settings = {name: group.get(name, False) for name in _SETTINGS}
            settings["betas"] = list(settings["betas"] or ())
            self.see("optimizer", {"class": f"{kind.__module__.partition('.')[0]}.{kind.__qualname__}", **settings})
        if self.probing:
            self.see("trained_parameters", _coverage(module, optimizer))


def applied_resizing(before: torch.Tensor, after: torch.Tensor, settings: Mapping[str, Any]) -> object:
    """Return the settings if they turn images (N, 3, H, W) ``before`` into ``after``, else that they do not."""
    same = before.shape == after.shape
    due = before if same else F.interpolate(before, size=tuple(after.shape[2:]), **settings)
    agrees = torch.allclose(after, due, rtol=0, atol=_PIXEL_TOLERANCE)
    return dict(settings) if agrees else f"other than {settings.get('mode')}"


def applied_smoothing(
    logits: torch.Tensor, targets: torch.Tensor, loss: float, declared: float
) -> tuple[float | None, bool]:
    """Return the label smoothing with which a loss comes out of logits and targets (N, C), from the numbers alone.

    Cross-entropy with smoothing s is (1 - s) T + s U, T with the targets and U with the uniform distribution, so s can
    be solved for. Where ``declared`` gives the loss within rounding it is returned as it is; otherwise the solution is,
    to three decimals, or None where none in [0, 1) exists. The second value is False where the logits are so equal that
    a smoothing off by a hundredth would give the same loss.
    """
    logs = torch.log_softmax(logits.double(), dim=1)
    plain = float(-(targets.double() * logs).sum(dim=1).mean())
    uniform = float(-logs.mean(dim=1).mean())
    rounding = _LOSS_TOLERANCE * max(1.0, abs(loss))
    if abs((1 - declared) * plain + declared * uniform - loss) <= rounding:
        return declared, 0.01 * abs(uniform - plain) > rounding
    if abs(uniform - plain) < 1e-9:
        return None, True
    solution = round((loss - plain) / (uniform - plain), 3) + 0.0  # and never -0.0
    return (solution if 0 <= solution < 1 else None), True


def applied_moments(
    before: torch.Tensor, after: torch.Tensor, mean: torch.Tensor, std: torch.Tensor
) -> dict[str, list[float]]:
    """Return by which mean and standard deviation images (N, 3, H, W) were normalised, from the numbers alone.

    ``mean`` and ``std`` (1, 3, 1, 1) are returned if they give what came out within rounding; otherwise the straight
    line through each channel's darkest and lightest value, to four decimals.
    """
    if after.shape == before.shape and torch.allclose(
        after, (before - mean) / std, rtol=_MOMENT_TOLERANCE, atol=_MOMENT_TOLERANCE
    ):
        return {"mean": mean.flatten().tolist(), "std": std.flatten().tolist()}
    found: dict[str, list[float]] = {"mean": [], "std": []}
    for channel in range(before.shape[1]):
        x, y = before[:, channel].double(), after[:, channel].double()
        slope = float((x.max() - x.min()) / (y.max() - y.min()).clamp_min(1e-12))
        found["std"].append(round(slope, 4))
        found["mean"].append(round(float(x.min()) - float(y.min()) * slope, 4))
    return found


def _coverage(module: nn.Module, optimizer: torch.optim.Optimizer) -> str:
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    left = sum(parameter.numel() for parameter in trainable if id(parameter) not in held)
    return f"all but {left:,}" if left else "all"


def _one(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else {"varied": values} if values else None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
