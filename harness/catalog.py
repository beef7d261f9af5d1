"""Loads the installed plugins, and gives the catalog: every model, data set, augmentation, metric, executor and tracker
with its owner, and every failure with its reason.

One plugin never harms another: each is loaded, registered and called on its own. One that fails is removed whole and
recorded with the reason. A name that two plugins claim costs a plugin only that name.
"""

from __future__ import annotations

import copy
import difflib
import reprlib
import traceback
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint
from typing import Any, Generic, TypeAlias, TypeVar

import pluggy

from harness import hookspecs
from harness.api import (
    HOOK_API_VERSION,
    PROJECT,
    AugmentationSpec,
    DatasetSpec,
    ExecutorSpec,
    MetricSpec,
    ModelSpec,
    TrackerSpec,
)
from harness.errors import HarnessError, PluginError, WrongUseError, text_of, unknown_name
from harness.guard import Interrupted, guarded
from harness.installed import find_installed
from harness.torch_settings import kept_torch

DISTRIBUTION = "xscore-harness"
"""The harness's own distribution: its plugins are the reference, so they keep a contested name."""

_MOST_OFFERS = 1000  # of one hook of one plugin
_MOST_REASONS = 3  # in one sentence

_Spec: TypeAlias = ModelSpec | DatasetSpec | AugmentationSpec | MetricSpec | ExecutorSpec | TrackerSpec
_S = TypeVar("_S", bound=_Spec)

_OFFERS: Mapping[str, tuple[str, type[_Spec]]] = {
    "harness_models": ("model", ModelSpec),
    "harness_datasets": ("data set", DatasetSpec),
    "harness_augmentations": ("augmentation", AugmentationSpec),
    "harness_metrics": ("metric", MetricSpec),
    "harness_executors": ("executor", ExecutorSpec),
    "harness_trackers": ("tracker", TrackerSpec),
}


@dataclass(frozen=True)
class Plugin:
    """One entry point and its state.

    Attributes:
        name: The entry point's name.
        module: The entry point's value.
        distribution, version: The distribution that installed it.
        reason: The reason why it, or a name that it offers, is out of use; empty if there is none.
        offers: Its names in use, such as ``"model mynet"``.
        trace: The traceback behind the reason, if there is one.
        api: The version of the hook API that it was written for; None if it failed before that was known.
    """

    name: str
    module: str
    distribution: str
    version: str
    reason: str = ""
    offers: tuple[str, ...] = ()
    trace: str = field(default="", repr=False)
    api: int | None = None

    @property
    def state(self) -> str:
        """``"ok"``, ``"partly"`` if some of its names are out of use, or ``"failed"``."""
        if not self.reason:
            return "ok"
        return "partly" if self.offers else "failed"

    def __str__(self) -> str:
        return f"plugin '{self.name}' of {self.distribution} {self.version}"


@dataclass(frozen=True)
class Offer(Generic[_S]):
    """A spec and the plugin that offers it."""

    spec: _S
    owner: Plugin


@dataclass(frozen=True)
class Catalog:
    """The installed plugins and their offers.

    Attributes:
        models, datasets, augmentations, metrics, executors, trackers: The offers in use, by name.
        plugins: Every entry point, including the broken ones.
        contested: The reason why a (kind, name) is out of use although plugins offer it.
        observers: Implementations of the observer hooks by hook name, each with its plugin.
    """

    models: Mapping[str, Offer[ModelSpec]]
    datasets: Mapping[str, Offer[DatasetSpec]]
    augmentations: Mapping[str, Offer[AugmentationSpec]]
    metrics: Mapping[str, Offer[MetricSpec]]
    executors: Mapping[str, Offer[ExecutorSpec]]
    trackers: Mapping[str, Offer[TrackerSpec]]
    plugins: tuple[Plugin, ...]
    contested: Mapping[tuple[str, str], str]
    observers: Mapping[str, Sequence[tuple[Plugin, pluggy.HookImpl]]] = field(default_factory=dict)

    def model(self, name: str) -> Offer[ModelSpec]:
        """Return a model. Raises WrongUseError with a suggestion, or PluginError if a broken plugin may offer it."""
        return self._get("model", name, self.models)

    def dataset(self, name: str) -> Offer[DatasetSpec]:
        """Return a data set. Raises like ``model``."""
        return self._get("data set", name, self.datasets)

    def augmentation(self, name: str) -> Offer[AugmentationSpec]:
        """Return an augmentation. Raises like ``model``."""
        return self._get("augmentation", name, self.augmentations)

    def metric(self, name: str) -> Offer[MetricSpec]:
        """Return a metric. Raises like ``model``."""
        return self._get("metric", name, self.metrics)

    def executor(self, name: str) -> Offer[ExecutorSpec]:
        """Return an executor. Raises like ``model``."""
        return self._get("executor", name, self.executors)

    def tracker(self, name: str) -> Offer[TrackerSpec]:
        """Return a tracker. Raises like ``model``."""
        return self._get("tracker", name, self.trackers)

    def notify(self, hook: str, **arguments: object) -> list[str]:
        """Call an observer hook on every plugin that has it; return a sentence for each plugin that raised.

        Each plugin gets copies, so that none can change the run's own values or those that the next plugin sees.
        """
        failures = []
        for plugin, implementation in self.observers.get(hook, ()):
            try:
                with guarded():
                    implementation.function(*(copy.deepcopy(arguments[name]) for name in implementation.argnames))
            except HarnessError as error:
                failures.append(f"{plugin}: {hook} raised {error}; the run continues without it.")
        return failures

    def _get(self, kind: str, name: str, table: Mapping[str, Offer[_S]]) -> Offer[_S]:
        if name in table:
            return table[name]
        if (kind, name) in self.contested:
            raise PluginError(self.contested[kind, name])
        broken = [plugin for plugin in self.plugins if plugin.state == "failed"]
        near = [p for p in broken if name == p.name or name in p.distribution.replace("_", "-").split("-")]
        if near:
            raise PluginError(f"The {kind} '{name}' is not available: {near[0]} failed to load: {near[0].reason}")
        text = unknown_name(kind, name, table)
        if broken:
            reasons = _few([f"{plugin}: {plugin.reason}" for plugin in broken])
            text += f" It may belong to a plugin that failed to load: {reasons}"
        raise WrongUseError(text)


@dataclass(frozen=True)
class _Loaded:
    """The content of one entry point: its specs by kind and its observers by hook; empty if it failed."""

    plugin: Plugin
    specs: tuple[tuple[str, _Spec], ...] = ()
    observers: tuple[tuple[str, pluggy.HookImpl], ...] = ()


class _Refused(PluginError):
    """A plugin broke a rule; the message is the reason that users read."""


def discover(found: Iterable[EntryPoint] | None = None) -> Catalog:
    """Load every installed plugin and collect its offers.

    Args:
        found: The entry points to load; None for those installed in the group ``harness``.
    """
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    entries = sorted(_entries(found), key=lambda entry: entry.order)
    with kept_torch():  # a plugin's import must not set torch up for the others
        return _assemble([_load(manager, entry, f"{index}:{entry.plugin.name}") for index, entry in enumerate(entries)])


@dataclass(frozen=True)
class _Entry:
    """A plugin before it is loaded; a damaged distribution may have no entry point to load."""

    plugin: Plugin
    point: EntryPoint | None

    @property
    def order(self) -> tuple[bool, str, str]:
        """The sort key: reference plugins first, then by distribution and name, whatever the order on disk."""
        return self.plugin.distribution != DISTRIBUTION, self.plugin.distribution, self.plugin.name


def _entries(found: Iterable[EntryPoint] | None) -> Iterator[_Entry]:
    for point in found or ():
        yield _Entry(Plugin(point.name, point.value, "unknown", "unknown"), point)
    for one in find_installed() if found is None else ():
        for point in one.points:
            yield _Entry(Plugin(point.name, point.value, one.name, one.version, one.damage), point)
        if not one.points:
            yield _Entry(Plugin(one.name, "", one.name, one.version, one.damage), None)


def _load(manager: pluggy.PluginManager, entry: _Entry, unique: str) -> _Loaded:
    plugin, point = entry.plugin, entry.point
    if plugin.reason or point is None:
        return _Loaded(plugin)
    try:
        with guarded():
            module = _import(point)
            version = getattr(module, "HARNESS_API", HOOK_API_VERSION)
            plugin = replace(plugin, api=version if isinstance(version, int) else None)
            if version != HOOK_API_VERSION:
                raise _Refused(
                    f"it was written for hook API version {version!r:.40}, this harness has version "
                    f"{HOOK_API_VERSION}; install a release of the plugin that fits"
                )
            _refuse_unknown_hooks(manager, module)
            if (other := manager.get_name(module)) is not None:
                raise _Refused(
                    f"its entry point leads to {point.value}, which is loaded already for the entry point "
                    f"'{other.partition(':')[2]}'; rename one of two modules, or remove one of two entry points"
                )
            manager.register(module, unique)
            return _ask(plugin, _implementations(manager, module))
    except Interrupted as error:
        raise Interrupted(f"while {plugin} was being loaded") from error
    except HarnessError as error:
        if manager.has_plugin(unique):
            manager.unregister(name=unique)
        cause = error.__cause__ or error
        trace = "".join(traceback.format_exception(cause))
        return _Loaded(replace(plugin, reason=text_of(error) + _place(cause, point), trace=trace))


def _import(point: EntryPoint) -> Any:
    if point.pattern.match(point.value) is None:
        raise _Refused(
            f"its entry point is {point.value!r:.80}; expected a module, such as 'mynet' or 'mynet.models', in the "
            f"table [project.entry-points.{PROJECT}] of its pyproject.toml"
        )
    return point.load()


def _place(error: BaseException, point: EntryPoint) -> str:
    """Return the last line of the plugin's own code on the way to an error; empty if there is none."""
    package = point.value.partition(":")[0].partition(".")[0].strip()
    own = [
        f" ({frame.f_code.co_filename}, line {line})"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__")).partition(".")[0] == package
    ]
    return own[-1] if own else ""


def _refuse_unknown_hooks(manager: pluggy.PluginManager, module: object) -> None:
    """Refuse a misspelt hook, with the nearest known name: pluggy would silently never call it."""
    known = [name for name in dir(hookspecs) if manager.parse_hookspec_opts(hookspecs, name) is not None]
    for attribute in dir(module):
        options = manager.parse_hookimpl_opts(module, attribute)
        name = (options and options.get("specname")) or attribute
        if options is not None and name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(known)}"
            raise _Refused(f"it implements an unknown hook '{name}'{hint}")


def _implementations(manager: pluggy.PluginManager, module: object) -> list[tuple[str, pluggy.HookImpl]]:
    found = [
        (caller.name, implementation)
        for caller in manager.get_hookcallers(module) or []
        for implementation in caller.get_hookimpls()
        if implementation.plugin is module
    ]
    if not found:
        raise _Refused("it implements no hook: nothing in it is marked with @hookimpl from harness.api")
    if wrappers := [name for name, implementation in found if implementation.hookwrapper or implementation.wrapper]:
        raise _Refused(f"{wrappers[0]} is a hook wrapper; plain implementations are expected")
    return found


def _ask(plugin: Plugin, implementations: list[tuple[str, pluggy.HookImpl]]) -> _Loaded:
    """Call the hooks that return specs, check the specs, and keep the other hooks for the runs."""
    specs: list[tuple[str, _Spec]] = []
    observers: list[tuple[str, pluggy.HookImpl]] = []
    for hook, implementation in implementations:
        if hook not in _OFFERS:
            observers.append((hook, implementation))
            continue
        kind, expected = _OFFERS[hook]
        answer = implementation.function()
        if not isinstance(answer, Iterable):
            raise _Refused(f"{hook} returned {type(answer).__name__}, expected a list of {expected.__name__}")
        for count, item in enumerate(answer):
            if count == _MOST_OFFERS:
                raise _Refused(f"{hook} returned more than {_MOST_OFFERS:,} items, so it may be endless")
            if not isinstance(item, expected):
                raise _Refused(f"{hook} returned a list with {reprlib.repr(item):.80}, expected {expected.__name__}")
            if (kind, item.name) in [(k, spec.name) for k, spec in specs]:
                raise _Refused(f"{hook} returned the name '{item.name}' twice")
            specs.append((kind, item))
    return _Loaded(plugin, tuple(specs), tuple(observers))


def _few(reasons: Sequence[str]) -> str:
    """Join reasons to one line that can be read."""
    more = len(reasons) - _MOST_REASONS
    return "; ".join([*reasons[:_MOST_REASONS], *([f"and {more} more of this kind"] if more > 0 else [])])


def _assemble(loaded: Sequence[_Loaded]) -> Catalog:
    claims: dict[tuple[str, str], list[tuple[int, _Spec]]] = defaultdict(list)
    for index, one in enumerate(loaded):
        for kind, spec in one.specs:
            claims[kind, spec.name].append((index, spec))
    winners: list[tuple[str, int, _Spec]] = []
    contested: dict[tuple[str, str], str] = {}
    reasons: dict[int, list[str]] = defaultdict(list)
    for (kind, name), claimants in claims.items():
        if len(claimants) == 1:
            winners.append((kind, *claimants[0]))
            continue
        owners = " and ".join(str(loaded[index].plugin) for index, _ in claimants)
        first = claimants[0][0]
        if loaded[first].plugin.distribution == DISTRIBUTION:
            winners.append((kind, *claimants[0]))
            text = f"the {kind} name '{name}' belongs to {loaded[first].plugin}; rename or uninstall one of them"
            losers = claimants[1:]
        else:
            text = f"the {kind} name '{name}' is claimed by {owners}; it is out of use until one is uninstalled"
            contested[kind, name] = text[0].upper() + text[1:] + "."
            losers = claimants
        for index, _ in losers:
            reasons[index].append(text)
    plugins = [
        replace(
            one.plugin,
            reason=_few([*filter(None, [one.plugin.reason]), *reasons[index]]),
            offers=tuple(f"{kind} {spec.name}" for kind, owner, spec in winners if owner == index),
        )
        for index, one in enumerate(loaded)
    ]
    observers: dict[str, list[tuple[Plugin, pluggy.HookImpl]]] = defaultdict(list)
    for plugin, one in zip(plugins, loaded, strict=True):
        for hook, implementation in one.observers:
            observers[hook].append((plugin, implementation))

    def table(kind: str) -> dict[str, Offer[Any]]:
        mine = sorted((spec.name, index, spec) for k, index, spec in winners if k == kind)
        return {name: Offer(spec, plugins[index]) for name, index, spec in mine}

    return Catalog(
        models=table("model"),
        datasets=table("data set"),
        augmentations=table("augmentation"),
        metrics=table("metric"),
        executors=table("executor"),
        trackers=table("tracker"),
        plugins=tuple(plugins),
        contested=contested,
        observers=observers,
    )
