"""The settings of torch that code of a plugin may change for everybody: noted before it runs, put back afterwards.

They are modes and flags; the functions and classes of ``torch.nn`` with the defaults of their parameters; hooks on all
modules; and the filters of warnings. The random generators are not among them, for ``build`` is meant to draw from one.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import FunctionType, MappingProxyType, ModuleType
from typing import Any

_NAMESPACES = ("torch.nn", "torch.nn.functional", "torch.nn.init", "torch.nn.parameter")
_LAYERS = "torch.nn.modules"


@dataclass(frozen=True)
class _Setting:
    """A mode or a flag of torch."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]


@contextlib.contextmanager
def kept_torch() -> Iterator[list[str]]:
    """Put back what the block changes in torch and in the filters of warnings; the list then names the settings.

    Where torch is not imported yet, and so has no earlier state, only the filters of warnings are put back.
    """
    changed: list[str] = []
    with warnings.catch_warnings():
        put_back = _noted() if "torch" in sys.modules else lambda: []
        try:
            yield changed
        finally:
            changed += put_back()


def put_back_sentence(doing: str, changed: list[str]) -> str:
    """Say which settings were put back; empty if none were.

    >>> put_back_sentence("Building the model 'mynet'", ["the default dtype"])
    "Building the model 'mynet' changes settings of torch for everybody: the default dtype. They were put back."
    """
    if not changed:
        return ""
    more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
    return f"{doing} changes settings of torch for everybody: {', '.join(changed[:5])}{more}. They were put back."


def _noted() -> Callable[[], list[str]]:
    """Note the state of torch; the function puts it back and returns the names of what had changed."""
    flags = [(setting, _value(setting)) for setting in _settings()]
    modules = [module for name in sorted(sys.modules) if (module := _namespace(name)) is not None]
    spaces: dict[Any, Mapping[str, Any]] = {module: dict(vars(module)) for module in modules}
    spaces |= {kind: dict(vars(kind)) for kind in _classes(spaces.values())}
    functions = {id(one): (name, one, _defaults(one)) for name, one in _functions(spaces)}
    hooks = [(name, table, dict(table)) for name, table in _global_hooks().items()]

    def put_back() -> list[str]:
        changed = [setting.name for setting, before in flags if _differs(setting, before)]
        changed += [name for space, before in spaces.items() for name in _restore_names(space, before)]
        for name, function, defaults in functions.values():
            if _defaults(function) != defaults:
                function.__code__, function.__defaults__, function.__kwdefaults__ = defaults
                changed.append(f"the parameters of {name}")
        for name, table, content in hooks:
            if dict(table) != content:
                table.clear()
                table.update(content)
                changed.append(name)
        return changed

    return put_back


def _value(setting: _Setting) -> Any:
    try:
        return setting.read()
    except RuntimeError:  # torch's answer where its older and newer interfaces were used for different values
        return None


def _differs(setting: _Setting, before: Any) -> bool:
    """Put a setting back if it differs from before; return whether it did."""
    if before is None or _value(setting) == before:
        return False
    setting.write(before)
    return True


def _namespace(name: str) -> ModuleType | None:
    module = sys.modules.get(name)
    return module if module is not None and (name in _NAMESPACES or name.startswith(_LAYERS)) else None


def _classes(spaces: Any) -> set[type]:
    """Return the classes that torch defines for layers, and its tensors."""
    torch = sys.modules["torch"]
    found = {
        one
        for space in spaces
        for one in space.values()
        if isinstance(one, type) and one.__module__.startswith(("torch.nn.modules", "torch.nn.parameter"))
    }
    return found | {torch.Tensor}


def _functions(spaces: Mapping[Any, Mapping[str, Any]]) -> Iterator[tuple[str, FunctionType]]:
    for space, content in spaces.items():
        for name, value in content.items():
            if isinstance(value, FunctionType) and str(value.__module__).startswith("torch"):
                yield f"{space.__name__}.{name}", value


def _defaults(function: FunctionType) -> tuple[Any, ...]:
    kept = function.__kwdefaults__
    return function.__code__, function.__defaults__, dict(kept) if kept else None


def _global_hooks() -> dict[str, dict[Any, Any]]:
    """Return torch's tables of the hooks on every module."""
    tables = vars(sys.modules["torch.nn.modules.module"])
    return {
        f"the hooks in {name}": table
        for name, table in tables.items()
        if name.startswith("_global_") and isinstance(table, dict)
    }


def _restore_names(space: Any, before: Mapping[str, Any]) -> list[str]:
    """Put back the names of a module or a class that were replaced, deleted, or laid over those of a base class."""
    now = dict(vars(space))
    found = []
    for name, value in before.items():
        if (name not in now or now[name] is not value) and not _is_bookkeeping(name):
            setattr(space, name, value)
            found.append(f"{space.__name__}.{name}")
    inherited = {name for base in getattr(space, "__mro__", (None, object))[1:-1] for name in vars(base)}
    for name in now.keys() - before.keys():
        if name in inherited and not _is_bookkeeping(name):
            delattr(space, name)
            found.append(f"{space.__name__}.{name}")
    return found


def _is_bookkeeping(name: str) -> bool:
    """Return True for attributes that Python or torch sets by itself."""
    return (
        name.startswith("_")
        and name not in ("__init__", "__call__", "__setattr__", "__getattr__", "_apply")
        and (not name.startswith("_global_"))
    )


def _settings() -> tuple[_Setting, ...]:
    import torch

    backends: Any = torch.backends
    cuda, cudnn, matmul = backends.cuda, backends.cudnn, backends.cuda.matmul
    return (
        _Setting("the default dtype", torch.get_default_dtype, torch.set_default_dtype),
        _Setting("the default device", torch.get_default_device, _set_device),
        _Setting("the grad mode", torch.is_grad_enabled, torch.set_grad_enabled),
        _Setting("the number of threads", torch.get_num_threads, torch.set_num_threads),
        _Setting("deterministic algorithms", _read_deterministic, _write_deterministic),
        _Setting("float32 precision", torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        *(_attribute(f"float32 precision of {name}", owner, "fp32_precision") for name, owner in precisions().items()),
        *(
            _attribute(f"cudnn.{name}", cudnn, name)
            for name in ("enabled", "benchmark", "deterministic", "allow_tf32", "benchmark_limit")
        ),
        *(
            _attribute(f"cuda.matmul.{name}", matmul, name)
            for name in ("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction")
        ),
        _Setting("flash attention", cuda.flash_sdp_enabled, cuda.enable_flash_sdp),
        _Setting("memory-efficient attention", cuda.mem_efficient_sdp_enabled, cuda.enable_mem_efficient_sdp),
        _Setting("plain attention", cuda.math_sdp_enabled, cuda.enable_math_sdp),
        _Setting("cuDNN's attention", cuda.cudnn_sdp_enabled, cuda.enable_cudnn_sdp),
        _Setting("the fast path of attention", backends.mha.get_fastpath_enabled, backends.mha.set_fastpath_enabled),
        _Setting("anomaly detection", torch.is_anomaly_enabled, torch.set_anomaly_enabled),
        *(_autocast(kind) for kind in ("cpu", "cuda")),
        _Setting("flushing of denormal numbers", _flushes, torch.set_flush_denormal),
    )


def precisions() -> Mapping[str, Any]:
    """Return torch's backends that have a float32 precision of their own, by name; it is their ``fp32_precision``."""
    import torch

    found: dict[str, Any] = {}
    for name in ("mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn"):
        owner: Any = torch.backends
        for part in name.split("."):
            owner = getattr(owner, part, None)
        if hasattr(owner, "fp32_precision"):  # older versions of torch have none
            found[name] = owner
    return MappingProxyType(found)


def _attribute(name: str, owner: Any, attribute: str) -> _Setting:
    return _Setting(name, lambda: getattr(owner, attribute, None), lambda value: setattr(owner, attribute, value))


def _autocast(kind: str) -> _Setting:
    import torch

    def write(value: tuple[bool, Any]) -> None:
        torch.set_autocast_enabled(kind, value[0])
        torch.set_autocast_dtype(kind, value[1])

    def read() -> tuple[bool, Any]:
        return torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)

    return _Setting(f"autocast on {kind}", read, write)


def _set_device(device: Any) -> None:
    import torch

    torch.set_default_device(None)
    if torch.get_default_device() != device:
        torch.set_default_device(device)


def _read_deterministic() -> tuple[bool, bool]:
    import torch

    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _write_deterministic(value: tuple[bool, bool]) -> None:
    import torch

    torch.use_deterministic_algorithms(value[0], warn_only=value[1])


def _flushes() -> bool:
    import torch

    return float(torch.full((1,), 1e-40, dtype=torch.float32, device="cpu").mul(1.0)) == 0
