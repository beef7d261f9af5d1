"""Builds a model from its spec, and gives its architecture digest and its parameters."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from harness.api import ModelSpec
from harness.cache import Cache, cache_folder
from harness.catalog import Offer, discover
from harness.errors import HarnessError, PluginError, one_line
from harness.fingerprint import hash_of, repeatable
from harness.guard import guarded
from harness.machine import gc_paused
from harness.macs import fvcore_nn
from harness.processes import EndedError, call_apart
from harness.source import source_stamp
from harness.torch_settings import kept_torch, put_back_sentence

if TYPE_CHECKING:
    import torch
    from torch import nn


T = TypeVar("T")
_BUILD_SECONDS = 300.0  # for all that a command asks of a model in one process, on a busy machine


def architecture_digest(module: nn.Module) -> str:
    """Hash of a module's structure: the type and settings of every submodule, and every parameter's and buffer's shape.

    Settings are what modules print of themselves (stride, padding, drop rate), without what differs between two
    processes, such as memory addresses and the order of a set.
    """
    structure = [
        [name, f"{type(part).__module__}.{type(part).__qualname__}", _settings(part)]
        for name, part in module.named_modules()
    ]
    shapes = [[name, list(value.shape), value.requires_grad] for name, value in module.named_parameters()]
    buffers = [[name, list(value.shape)] for name, value in module.named_buffers()]
    return hash_of([structure, shapes, buffers])


def _settings(part: nn.Module) -> str:
    """Return what a submodule prints of its settings, the same in every process; nothing if that changes by itself."""
    own, of_kind = vars(part), {name: value for kind in type(part).__mro__ for name, value in vars(kind).items()}
    objects = [part, type(part), *own.values(), *of_kind.values()]
    unordered = {name: value for name, value in (of_kind | own).items() if _is_unordered(value)}
    before = {name: own[name] for name in unordered if name in own}
    own.update({name: _InOrder(value) for name, value in unordered.items()})
    try:
        first, second = (repeatable(str(part.extra_repr()), map(id, objects)) for _ in range(2))
    finally:
        own.update(before)
        for name in unordered.keys() - before.keys():
            del own[name]
    return first if first == second else ""


def _is_unordered(value: object) -> bool:
    """Return whether a value is a set whose order differs between processes; numbers have the same order always."""
    return isinstance(value, set | frozenset) and not all(isinstance(one, int | float) for one in value)


class _InOrder(frozenset[Any]):
    """A set that is printed and iterated in the order of its elements' texts."""

    def __iter__(self) -> Iterator[Any]:
        return iter(sorted(super().__iter__(), key=repr))

    def __repr__(self) -> str:
        return f"{{{', '.join(map(repr, self))}}}"


@dataclass(frozen=True)
class Counts:
    """The size of a module, in single numbers.

    Attributes:
        trainable: Parameters that the optimiser changes; a budget is a number of these.
        frozen: Parameters that need no gradient.
        buffers: Numbers in buffers, such as running means. fvcore counts parameters alone.

    A complex number is two numbers.
    """

    trainable: int
    frozen: int
    buffers: int


def count_parameters(module: nn.Module) -> Counts:
    """Count a module's parameters with fvcore; one that is used twice counts once, a complex one as two numbers."""
    sizes = fvcore_nn().parameter_count(module)
    trainable = frozen = 0
    for name, parameter in module.named_parameters():
        numbers = int(sizes[name]) * _numbers(parameter)
        trainable += numbers if parameter.requires_grad else 0
        frozen += 0 if parameter.requires_grad else numbers
    buffers = sum(buffer.numel() * _numbers(buffer) for _, buffer in module.named_buffers())
    return Counts(trainable, frozen, buffers)


def _numbers(value: torch.Tensor) -> int:
    """Return how many real numbers an element is."""
    return 2 if value.is_complex() else 1


@dataclass(frozen=True)
class Architecture:
    """A model at one class count: the hash of its structure, and its trainable parameters."""

    digest: str
    parameters: int


class Architectures:
    """Architectures by model and class count, remembered between commands.

    Building eleven models takes seconds, and commands that only look (``status``, ``plan``) should answer at once. What
    is remembered is used while the plugin's source files and the libraries are the same; ``run`` builds anew, and
    leaves what it built to the other commands.
    """

    def __init__(self, *, remember: bool, apart: bool = True) -> None:
        """Make one.

        Args:
            remember: Whether to use what earlier commands have built.
            apart: Whether to build each model in a fresh process. All that its code changes ends with the process, and
                a crash ends the process alone.
        """
        self._cache = Cache(cache_folder() / "architectures.json")
        self._remember = remember
        self._apart = apart
        self._known: dict[str, Architecture | PluginError] = {}
        self._stamps: dict[str, list[object]] = {}

    def get(self, model: Offer[ModelSpec], num_classes: int) -> Architecture:
        """Return a model's architecture; build the model if no command has.

        Raises:
            PluginError: as ``build_module``, or building it ends the process or takes minutes.
        """
        return self.get_all(model, (num_classes,))[num_classes]

    def get_all(self, model: Offer[ModelSpec], class_counts: Sequence[int]) -> dict[int, Architecture]:
        """Return a model's architecture at each class count. Raises like ``get``."""
        # The text parts these entries from those of an earlier harness, which counted in another way.
        stamp = self._stamp(model.spec)
        keys = {count: hash_of(["fvcore, complex as two", model.spec.name, count, stamp]) for count in class_counts}
        missing = []
        for count, key in keys.items():
            if key not in self._known:
                found = self._cache.get(key, Architecture) if self._remember else None
                if found is None:
                    missing.append(count)
                else:
                    self._known[key] = found
        for count, built in zip(missing, self._build(model, missing), strict=True):
            self._known[keys[count]] = built
            if isinstance(built, Architecture):
                self._cache.put(keys[count], built)
        found_all = {}
        for count, key in keys.items():
            one = self._known[key]
            if isinstance(one, PluginError):
                raise one.with_traceback(None)
            found_all[count] = one
        return found_all

    def _build(self, model: Offer[ModelSpec], class_counts: Sequence[int]) -> list[Architecture | PluginError]:
        if not class_counts:
            return []
        if not self._apart:
            return read_architectures(model, class_counts)
        try:
            return call_with_model(read_architectures, model, class_counts)
        except PluginError as error:
            return [error] * len(class_counts)

    def _stamp(self, spec: ModelSpec) -> list[object]:
        """The stamp as of this command's start; looking at the files again for every job would take minutes."""
        if spec.name not in self._stamps:
            self._stamps[spec.name] = source_stamp(spec)
        return self._stamps[spec.name]

    def save(self) -> None:
        """Write what is new for the next command."""
        self._cache.save()


def call_with_model(function: Callable[..., T], model: Offer[ModelSpec], *arguments: object) -> T:
    """Call a function of a model and of other arguments in a fresh process, and return its answer.

    All that the model's code changes ends with the process, and a crash ends the process alone.

    Raises:
        PluginError: the process gave no answer, because it crashed or took minutes.
        HarnessError: the function raised it.
    """
    try:
        answer: T = call_apart(_with_model, function, _to_send(model), arguments, seconds=_BUILD_SECONDS)
    except EndedError as error:
        raise PluginError(
            f"{called(model)} does not build, or does not run: the process that tried it {error}. Expected "
            "build(num_classes) to return a torch.nn.Module."
        ) from error
    return answer


def _with_model(
    function: Callable[..., T], model: Offer[ModelSpec] | str, arguments: tuple[object, ...]
) -> T:  # fmt: skip
    try:
        offer = discover().model(model) if isinstance(model, str) else model
    except HarnessError as error:
        raise PluginError(str(error)) from error
    return function(offer, *arguments)


def read_architectures(
    model: Offer[ModelSpec], class_counts: Sequence[int]
) -> list[Architecture | PluginError]:  # fmt: skip
    """Build a model at each class count; return its architecture there, or the reason why there is none."""
    found: list[Architecture | PluginError] = []
    for count in class_counts:
        try:
            module = build_module(model, count)
            found.append(Architecture(architecture_digest(module), count_parameters(module).trainable))
        except PluginError as error:
            found.append(error.with_traceback(None))
    return found


def _to_send(model: Offer[ModelSpec]) -> Offer[ModelSpec] | str:
    """Return the model as it can be sent to another process: by name if its ``build`` is no function of a module.

    To find it by its name, all plugins are imported there.
    """
    try:
        pickle.dumps(model)
    except Exception:  # pickle raises many kinds
        return model.spec.name
    return model


def build_module(model: Offer[ModelSpec], num_classes: int) -> nn.Module:
    """Build an installed model. Raises like ``build``."""
    return build(model.spec, num_classes, called(model))


def called(model: Offer[ModelSpec]) -> str:
    """Return a model's name at the start of a sentence."""
    return f"The model '{model.spec.name}' of {model.owner}"


def build(spec: ModelSpec, num_classes: int, name: str) -> nn.Module:
    """Build like ``build_noting``, and keep the remarks to itself."""
    return build_noting(spec, num_classes, name)[0]


def build_noting(spec: ModelSpec, num_classes: int, name: str) -> tuple[nn.Module, tuple[str, ...]]:
    """Call a plugin's ``build``, which draws from torch's global generator, and check that the module can be trained.

    Torch's other settings are afterwards as before.

    Args:
        spec: The model.
        num_classes: The number of classes.
        name: The name of the model at the start of an error's sentence.

    Returns:
        The module, and remarks: a sentence if settings of torch had to be put back.

    Raises:
        PluginError: it fails, returns something else than a module, has parameters without a shape or none to train, or
            a structure that it can't describe.
    """
    with gc_paused():
        from torch import nn

    expected = f"Expected build({num_classes}) to return a torch.nn.Module"
    try:
        with gc_paused(), guarded(), kept_torch() as changed:  # the first model imports timm or another large library
            module = spec.build(num_classes)
    except HarnessError as error:
        raise PluginError(f"{name} does not build for {num_classes} classes: {error}. {expected}.") from error
    if not isinstance(module, nn.Module):
        found = f"the class {module.__name__}" if isinstance(module, type) else f"a {type(module).__name__}"
        raise PluginError(f"{name} builds {found} for {num_classes} classes. {expected}.")
    try:
        with guarded():
            reason = _untrainable(module, num_classes)
            if not reason:
                architecture_digest(module)
                count_parameters(module)
    except HarnessError as error:
        raise PluginError(
            f"{name} has a structure that can't be described at {num_classes} classes: {error}. Expected the "
            "names, parameters and extra_repr of every submodule to be readable after build."
        ) from error
    if reason:
        raise PluginError(f"{name} has {reason}")
    remark = put_back_sentence(f"Building the model '{spec.name}'", changed)
    return module, (remark,) if remark else ()


def _untrainable(module: nn.Module, num_classes: int) -> str:
    """Return the end of a sentence on why a module can't be trained; empty if it can."""
    from torch.nn.parameter import is_lazy

    tensors = [*module.named_parameters(), *module.named_buffers()]
    if lazy := [name for name, value in tensors if is_lazy(value)]:
        return (
            f"parameters without a shape at {num_classes} classes: {', '.join(lazy)}. Expected every parameter to be "
            "ready after build; run the model once on zeros inside build, or avoid lazy modules."
        )
    if not any(parameter.requires_grad for _, parameter in module.named_parameters()):
        return f"no trainable parameters at {num_classes} classes: nothing to train."
    return ""


def differs(logits: object, images: int, num_classes: int) -> str:
    """Describe a model's output where it is not one float32 tensor (images, num_classes); empty where it is."""
    import torch

    if not isinstance(logits, torch.Tensor):
        return "nothing (None)" if logits is None else f"a {type(logits).__name__}"
    if tuple(logits.shape) != (images, num_classes) or logits.dtype != torch.float32:
        return f"a {str(logits.dtype).removeprefix('torch.')} tensor of shape {tuple(logits.shape)}"
    return ""


def deploy(spec: ModelSpec, module: nn.Module, images: torch.Tensor) -> nn.Module:
    """Re-parameterise a module, and check that the copy computes the same and the module is as it was.

    Args:
        spec: The model; it has ``deploy``.
        module: As trained; it is left in evaluation mode.
        images: The images (N, 3, H, W) that both are compared on.

    Raises:
        PluginError: it fails, changes the module that it is given, or computes something else.
    """
    import torch
    from torch import nn

    assert spec.deploy is not None
    with torch.no_grad():
        module.eval()  # not chained: a plugin's own eval() may return nothing
        expected = module(images)
        before = _state(module)
        try:
            with kept_torch():
                deployed = spec.deploy(module)
            if not isinstance(deployed, nn.Module):
                raise TypeError(f"deploy returned a {type(deployed).__name__}, expected a torch.nn.Module")
            deployed.eval()
            found = deployed(images)
            if not isinstance(found, torch.Tensor):
                raise TypeError(f"the deployed model returns a {type(found).__name__}, expected a tensor")
        except (Exception, SystemExit) as error:
            raise PluginError(f"Model '{spec.name}' cannot be deployed: {one_line(error)}.") from error
    after = _state(module)
    if list(before) != list(after) or any(
        grad != after[name][0] or not torch.equal(value, after[name][1]) for name, (grad, value) in before.items()
    ):
        raise PluginError(f"Model '{spec.name}': deploy changes the model that it is given, expected it to use a copy.")
    scale = float(expected.abs().max())
    if found.shape != expected.shape or not torch.allclose(found, expected, rtol=0.0, atol=1e-3 * scale):
        raise PluginError(
            f"Model '{spec.name}': the deployed model computes something else than the trained one: different logits "
            "for the same images. Expected them equal to a thousandth of the largest; deploy may merge branches alone."
        )
    return deployed


def _state(module: nn.Module) -> dict[str, tuple[bool, torch.Tensor]]:
    """Return whether each parameter and buffer needs a gradient, and a copy of its values."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: (value.requires_grad, value.detach().clone()) for name, value in tensors.items()}
