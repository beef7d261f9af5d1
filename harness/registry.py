"""Reads registry.toml: protocols, budgets, suites, anchors and the published table, validated, typed and frozen."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from harness.api.jobs import STANDARD_BUDGET
from harness.errors import RegistryError, WrongUseError, unknown_name
from harness.toml_file import convert, read_toml

SCHEMA = 1
RULES = 1
"""Version of the code's interpretation of a protocol's numbers; part of every protocol digest. Raise it whenever the
same numbers would be executed differently."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_T = TypeVar("_T")
_Positive: TypeAlias = Annotated[int, Meta(gt=0)]
_Size: TypeAlias = Annotated[int, Meta(gt=0, le=1_000_000)]
_Rate: TypeAlias = Annotated[float, Meta(gt=0, lt=1)]
_Share: TypeAlias = Annotated[float, Meta(ge=0, lt=1)]
_Percent: TypeAlias = Annotated[float, Meta(ge=0, le=100)]
Verdict: TypeAlias = Literal["within", "over", "under"]


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the tables of the file: immutable; an unknown key is an error, since it may be a typing error."""


class AugmentationUse(_Strict, frozen=True):
    """One augmentation of a protocol: its registered name, its place in the pipeline, and its strengths.

    ``at = "stored"`` acts on the images at their stored resolution, ``"input"`` after upsampling to the network's.
    """

    name: str
    at: Literal["stored", "input"]
    strengths: dict[str, float] = {}


class Protocol(_Strict, frozen=True):
    """Every number of a training protocol. docs/protocol.md gives the source of each."""

    title: str
    input_size: _Size
    batch_size: _Size
    epochs: _Size
    warmup_epochs: Annotated[int, Meta(ge=0)]
    lr_max: _Rate
    lr_min: _Rate
    optimizer: Literal["adam"]
    betas: tuple[_Share, _Share]
    eps: _Rate
    weight_decay: Annotated[float, Meta(ge=0, lt=1_000_000)]
    label_smoothing: _Share
    precision: Literal["fp32"]
    metric: str
    augmentations: tuple[AugmentationUse, ...]
    lr_max_exceptions: dict[str, _Rate] = {}
    accelerator: bool = False
    name: str = ""

    @property
    def digest(self) -> str:
        """Hash of all that is executed: every field but the name, the title and the advice about accelerators."""
        executed = {k: v for k, v in msgspec.to_builtins(self).items() if k not in ("name", "title", "accelerator")}
        canonical = json.dumps({"rules": RULES, **executed}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class Suite(_Strict, frozen=True):
    """A named set of data sets under one protocol and one budget.

    ``anchors`` is None if the suite's own extrema normalise its scores.
    """

    title: str
    protocol: str
    datasets: Annotated[tuple[str, ...], Meta(min_length=1)]
    budget: str = STANDARD_BUDGET
    anchors: str | None = None
    name: str = ""


class DatasetFacts(_Strict, frozen=True):
    """The expected size of a data set: number of classes, of train and of test images."""

    classes: Annotated[int, Meta(ge=2)]
    train: _Positive
    test: _Positive


class Published(_Strict, frozen=True):
    """A published accuracy table in percent: one row of values per model, in the order of ``datasets``.

    ``majority`` is the percentage of the largest class of each test set, the accuracy of a constant prediction.
    ``macs`` are the multiply-adds of the published models, which are not the harness's own definitions.
    ``proxy`` is the data set that represents ImageNet in the paper's Figure 1.
    """

    title: str
    datasets: tuple[str, ...]
    accuracy: dict[str, tuple[_Percent, ...]]
    majority: dict[str, _Percent] = {}
    macs: dict[str, _Positive] = {}
    proxy: str = ""


class AnchorTable(_Strict, frozen=True):
    """Accuracies in percent that normalise to 0 (``minimum``) and 1 (``maximum``), by data set."""

    title: str
    minimum: dict[str, _Percent]
    maximum: dict[str, _Percent]
    name: str = ""


class Budget(_Strict, frozen=True):
    """A budget of trainable parameters: as trained, head included, within ``tolerance`` at every class count."""

    parameters: _Positive
    tolerance: _Share
    name: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.parameters:,} trainable parameters, plus or minus {self.tolerance:.0%})"

    @property
    def bounds(self) -> tuple[int, int]:
        """The smallest and the largest number of parameters that are within the budget."""
        # Rounded, since 2_500_000 * (1 + 0.1) is a hair above 2_750_000 in floating point.
        return round(self.parameters * (1 - self.tolerance)), round(self.parameters * (1 + self.tolerance))

    @property
    def limit(self) -> int:
        """The largest number of parameters that is within the budget."""
        return self.bounds[1]

    def verdict(self, counts: Iterable[int]) -> Verdict:
        """Judge a model by its parameters at every class count: over if any is over, else under if any is under."""
        counts = list(counts)
        low, high = self.bounds
        if max(counts) > high:
            return "over"
        return "under" if min(counts) < low else "within"

    def excess(self, model: str, counts: Mapping[int, int]) -> str:
        """Return a sentence about the first class count at which a model is over the budget; empty if there is none.

        Args:
            model: The model's name.
            counts: Its trainable parameters by number of classes.
        """
        for classes, count in counts.items():
            if self.verdict([count]) == "over":
                return (
                    f"{model} has {count:,} trainable parameters at {classes} classes; the limit is {self.limit:,} "
                    f"(budget {self.name}: {self.parameters:,} + {self.tolerance:.0%})."
                )
        return ""


class Counting(_Strict, frozen=True):
    """The sizes at which models are counted if no suite is named.

    Parameters are counted at every number of ``classes``; multiply-adds for one image of ``macs_resolution`` pixels a
    side and ``macs_classes`` classes.
    """

    classes: Annotated[tuple[_Positive, ...], Meta(min_length=1)]
    macs_resolution: _Positive
    macs_classes: _Positive


class _File(_Strict, frozen=True):
    schema: int
    default_suite: str
    protocols: dict[str, dict[str, Any]]
    suites: dict[str, dict[str, Any]]
    budgets: dict[str, dict[str, Any]] = {}
    counting: dict[str, Any] | None = None
    budget: dict[str, Any] | None = None
    datasets: dict[str, dict[str, Any]] = {}
    anchors: dict[str, dict[str, Any]] = {}
    published: dict[str, Any] | None = None


class Ablation(_Strict, frozen=True):
    """The origin of a user's own protocol; see ``harness.protocol_file``.

    Attributes:
        name: The user's name for it; the protocol's own name is ``<name>-<first 8 digits of its digest>``.
        based_on: The registry's protocol that it is derived from; empty for a complete one.
        base_digest: The digest of that protocol when the file was read.
        departures: A phrase for each difference from it.
        file, text: The path and the content of the user's file.
    """

    name: str
    based_on: str
    base_digest: str
    departures: tuple[str, ...]
    file: str
    text: str


class Benchmark(msgspec.Struct, frozen=True, kw_only=True):
    """The whole registry file, validated. The methods look names up; their errors suggest the nearest name.

    ``ablations`` holds the ``protocols`` that are a user's own and not of the registry. A benchmark can be pickled, so
    worker processes have them, too.
    """

    path: str
    default_suite: str
    budgets: Mapping[str, Budget]
    counting: Counting
    protocols: Mapping[str, Protocol]
    suites: Mapping[str, Suite]
    datasets: Mapping[str, DatasetFacts]
    anchors: Mapping[str, AnchorTable]
    published: Published | None
    ablations: Mapping[str, Ablation] = {}

    def suite(self, name: str | None = None) -> Suite:
        """Return a suite, the default one for None. Raises WrongUseError for an unknown name."""
        return _look_up("suite", name or self.default_suite, self.suites)

    def protocol(self, name: str) -> Protocol:
        """Return a protocol. Raises WrongUseError for an unknown name."""
        return _look_up("protocol", name, self.protocols)

    def budget(self, name: str) -> Budget:
        """Return a budget. Raises WrongUseError for an unknown name."""
        return _look_up("budget", name, self.budgets)

    def anchor_table(self, name: str) -> AnchorTable:
        """Return a set of anchors. Raises WrongUseError for an unknown name."""
        return _look_up("set of anchors", name, self.anchors)


def shipped_registry() -> Path:
    """Return the path of the shipped registry: inside the wheel, or beside the packages in a checkout."""
    inside = Path(str(resources.files("harness"))) / "registry.toml"
    return inside if inside.is_file() else inside.parents[1] / "registry.toml"


def load_benchmark(path: Path | None = None) -> Benchmark:
    """Read and validate a registry file, the shipped one for None.

    Raises:
        RegistryError: with file, key, found and expected value.
    """
    path = path or shipped_registry()
    file = convert(read_toml(path, "registry file", "Leave --registry out to use the shipped one."), _File, path, "")
    if file.schema != SCHEMA:
        raise RegistryError(
            f"{path}: schema is {file.schema}, expected {SCHEMA}. This file was written for another version of harness."
        )
    protocols = {
        name: msgspec.structs.replace(convert(table, Protocol, path, f'protocols."{name}"'), name=name)
        for name, table in file.protocols.items()
    }
    suites = {
        name: msgspec.structs.replace(convert(table, Suite, path, f"suites.{name}"), name=name)
        for name, table in file.suites.items()
    }
    budgets, counting = _budgets(file, path)
    benchmark = Benchmark(
        path=str(path),
        default_suite=file.default_suite,
        budgets=budgets,
        counting=counting,
        protocols=protocols,
        suites=suites,
        datasets={
            name: convert(table, DatasetFacts, path, f"datasets.{name}") for name, table in file.datasets.items()
        },
        anchors={name: _anchors(name, table, path) for name, table in file.anchors.items()},
        published=None if file.published is None else convert(file.published, Published, path, "published"),
    )
    _check_references(benchmark, path)
    return benchmark


def _budgets(file: _File, path: Path) -> tuple[dict[str, Budget], Counting]:
    """Read ``[budgets]`` and ``[counting]``, or the old form of both: one ``[budget]`` without a name."""
    if file.budget is not None:
        if file.budgets or file.counting is not None:
            raise RegistryError(f"{path}: [budget] is the old form of [budgets] and [counting]. Keep one form.")
        sizes = {key: file.budget[key] for key in Counting.__struct_fields__ if key in file.budget}
        budget = convert({k: v for k, v in file.budget.items() if k not in sizes}, Budget, path, "budget")
        named = {STANDARD_BUDGET: msgspec.structs.replace(budget, name=STANDARD_BUDGET)}
        return named, convert(sizes, Counting, path, "budget")
    if not file.budgets or file.counting is None:
        lacking = "[counting]" if file.budgets else "[budgets]"
        raise RegistryError(f"{path}: it has no {lacking}. Expected both, as in {shipped_registry()}.")
    named = {}
    for name, table in file.budgets.items():
        _check_folder_name("budgets", name, path)
        named[name] = msgspec.structs.replace(convert(table, Budget, path, f'budgets."{name}"'), name=name)
    return named, convert(file.counting, Counting, path, "counting")


def _check_folder_name(table: str, name: str, path: Path) -> None:
    if not _NAME.fullmatch(name):
        raise RegistryError(
            f"{path}: {table}: the name {name!r:.120} would be part of a folder's name. "
            "Expected letters, digits, dots, hyphens and underscores, at most 100."
        )


def _anchors(name: str, table: dict[str, Any], path: Path) -> AnchorTable:
    key = f'anchors."{name}"'
    raw = convert(table, AnchorTable, path, key)
    if set(raw.minimum) != set(raw.maximum):
        odd = ", ".join(sorted(set(raw.minimum) ^ set(raw.maximum)))
        raise RegistryError(f"{path}: {key}: minimum and maximum must name the same data sets, but differ in {odd}.")
    for dataset, low in raw.minimum.items():
        if not low < raw.maximum[dataset]:
            raise RegistryError(
                f"{path}: {key}: for {dataset} the minimum is {low} and the maximum {raw.maximum[dataset]}, "
                "expected the minimum to be smaller."
            )
    return msgspec.structs.replace(raw, name=name)


def _check_references(benchmark: Benchmark, path: Path) -> None:
    """Check that every name in the file is defined in it, and that related numbers fit together."""
    if benchmark.default_suite not in benchmark.suites:
        raise RegistryError(
            f"{path}: default_suite: {unknown_name('suite', benchmark.default_suite, benchmark.suites)}"
        )
    for name, protocol in benchmark.protocols.items():
        check_protocol(protocol, f'{path}: protocols."{name}"')
        if "@" in name:
            raise RegistryError(
                f"{path}: protocols: the name {name!r} holds '@', which joins a protocol and a budget in the name of a "
                "folder. Choose another name."
            )
        _check_folder_name("protocols", name, path)
    for name, suite in benchmark.suites.items():
        if suite.protocol not in benchmark.protocols:
            text = unknown_name("protocol", suite.protocol, benchmark.protocols)
            raise RegistryError(f"{path}: suites.{name}.protocol: {text}")
        if suite.budget not in benchmark.budgets:
            text = unknown_name("budget", suite.budget, benchmark.budgets)
            raise RegistryError(f"{path}: suites.{name}.budget: {text}")
        if len(set(suite.datasets)) != len(suite.datasets):
            named = ", ".join(suite.datasets)
            raise RegistryError(f"{path}: suites.{name}.datasets names a data set twice: {named}.")
        if suite.anchors is not None:
            if suite.anchors not in benchmark.anchors:
                text = unknown_name("set of anchors", suite.anchors, benchmark.anchors)
                raise RegistryError(f"{path}: suites.{name}.anchors: {text}")
            missing = sorted(set(suite.datasets) - set(benchmark.anchors[suite.anchors].minimum))
            if missing:
                raise RegistryError(f"{path}: anchors {suite.anchors!r} of suite {name} lack {', '.join(missing)}.")
    published = benchmark.published
    for model, row in (published.accuracy if published else {}).items():
        if published and len(row) != len(published.datasets):
            raise RegistryError(
                f"{path}: published.accuracy.{model} has {len(row)} values, expected {len(published.datasets)}."
            )


def check_protocol(protocol: Protocol, where: str) -> None:
    """Raise RegistryError if numbers of a protocol do not fit together; ``where`` begins the sentence."""
    if protocol.warmup_epochs >= protocol.epochs:
        raise RegistryError(
            f"{where}.warmup_epochs is {protocol.warmup_epochs}, expected less than epochs = {protocol.epochs}."
        )
    for use in protocol.augmentations:
        for name, strength in use.strengths.items():
            if not math.isfinite(strength):
                raise RegistryError(
                    f"{where}.augmentations: {name} of {use.name} is {strength}, expected a finite number."
                )
    for peak in (protocol.lr_max, *protocol.lr_max_exceptions.values()):
        if peak <= protocol.lr_min:
            raise RegistryError(f"{where}: lr_max {peak} must be greater than lr_min {protocol.lr_min}.")


def _look_up(kind: str, name: str, table: Mapping[str, _T]) -> _T:
    if name not in table:
        raise WrongUseError(unknown_name(kind, name, table))
    return table[name]
