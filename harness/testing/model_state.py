"""Rules about a model's state, seed and size, and about its copies: pickled, deployed or exported."""

from __future__ import annotations

import io
import pickle
import warnings
from typing import TYPE_CHECKING

from harness.errors import BudgetError, PluginError, one_line
from harness.models import deploy
from harness.testing.models import CLASSES, TOLERANCE, ModelCase, same, steady
from harness.testing.rules import (
    RAISED,
    Failed,
    Rule,
    Skipped,
    Warned,
    description_rule,
    pickling_rule,
    rule,
    shorten,
    side_effect_rules,
)
from harness.testing.sandbox import run_python

if TYPE_CHECKING:
    from torch import nn


@rule("model-eval-keeps-state")
def eval_keeps_state(case: ModelCase) -> None:
    """Evaluation must leave the weights and statistics as training left them."""
    module = case.build(training=False)
    if found := moved(case, module):
        raise Failed(f"evaluation changes {shorten(found)}, expected the state dict to stay as it was.")


@rule("model-train-keeps-weights")
def train_keeps_weights(case: ModelCase) -> None:
    """Only the optimiser changes weights; a forward pass may update statistics alone."""
    module = case.build()
    weights = {name for name, _ in module.named_parameters()}
    if found := [name for name in moved(case, module) if name in weights]:
        raise Failed(f"a forward pass in training mode changes {shorten(found)}.")


@rule("model-seeded")
def is_seeded(case: ModelCase) -> None:
    """A result belongs to a seed: initial weights come from torch's global generator and nowhere else."""
    import torch

    first, again, other = (case.build(seed).state_dict() for seed in (1, 1, 2))
    differing = [name for name, value in first.items() if not torch.equal(value, again[name])]
    if differing:
        raise Failed(f"two builds from one seed differ in {shorten(differing)}.")
    if all(torch.equal(value, other[name]) for name, value in first.items()):
        raise Failed("two builds from different seeds are equal: build must not set a seed itself.")


@rule("model-state-dict")
def state_dict_is_all(case: ModelCase) -> None:
    """A stopped run resumes from a state dict, and results are verified from one."""
    import torch

    module = steady(case)
    module.train()
    case.logits(module, case.images(4))  # so that the statistics are not the trivial initial ones
    module.eval()
    expected = case.logits(module, case.images(4))
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    try:
        other = case.build(seed=1)
        other.load_state_dict(torch.load(file, weights_only=True))
    except RAISED as error:
        raise Failed(f"its state dict can't be saved and loaded: {one_line(error)}.") from error
    other.eval()
    if not torch.equal(case.logits(other, case.images(4)), expected):
        raise Failed("another build with the same state dict computes different logits: some state is outside of it.")


@rule("model-pickles")
def pickles(case: ModelCase) -> None:
    """Worker processes may be spawned, and a spawned process gets its data pickled."""
    import torch

    module = steady(case)
    expected = case.logits(module, case.images(2))
    try:
        content = pickle.dumps((module, case.images(2), expected))
    except RAISED as error:
        raise Failed(f"a built module can't be pickled: {one_line(error)}.") from error
    code = (
        "import pickle, sys, torch\n"
        "module, images, expected = pickle.load(sys.stdin.buffer)\n"
        "torch.manual_seed(0)\n"
        "with torch.no_grad(): found = module(images)\n"
        "print(float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-6)))\n"
    )
    done = run_python(code, stdin=content, threads=torch.get_num_threads())
    if done.code:
        raise Failed(f"a fresh process can't use a pickled module: {done.last_error}")
    if float(done.out.split()[-1]) > TOLERANCE:
        raise Failed("a pickled module computes different logits in a fresh process.")


@rule("model-budget")
def in_budget(case: ModelCase) -> str:
    """Architectures are compared at one budget of trainable parameters."""
    import msgspec

    from harness.budget import check_budget

    budget = case.benchmark.budget(case.benchmark.suite().budget)
    counting = msgspec.structs.replace(case.benchmark.counting, macs_resolution=case.resolutions[0])
    case.build()
    try:
        report = check_budget(case.spec, budget, counting, macs=False)
    except BudgetError as error:
        raise Skipped(str(error)) from error
    counts = ", ".join(f"{count:,} at {classes}" for classes, count in report.parameters.items())
    if report.verdict == "over":
        raise Failed(f"{counts} classes, expected at most {report.limit:,} at each.")
    if report.verdict == "under":
        raise Warned(f"{counts} classes, expected about {budget.parameters:,}: it competes with larger networks.")
    return f"{counts} classes"


@rule("model-float32")
def is_float32(case: ModelCase) -> None:
    """The protocol trains in float32, and the harness itself moves a network to its device."""
    import torch

    module = case.build()
    values = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    odd = [f"{n} ({v.dtype})" for n, v in values.items() if v.is_floating_point() and v.dtype != torch.float32]
    odd += [f"{name} (on {value.device})" for name, value in values.items() if value.device.type != "cpu"]
    if odd:
        raise Failed(f"{shorten(odd)}: expected float32 on the CPU.")
    if inside := _other_types(case, module):
        raise Failed(f"it computes in {shorten(inside)}, expected float32 throughout.")


@rule("model-memory-format")
def any_layout(case: ModelCase) -> None:
    """Training uses the layout that the spec names, which must not change the logits."""
    import torch

    module = steady(case)
    images = case.images(2)
    expected = case.logits(module, images)
    try:
        with torch.no_grad():
            torch.manual_seed(0)
            found = module.to(memory_format=torch.channels_last)(images.contiguous(memory_format=torch.channels_last))
    except RAISED as error:
        raise Failed(
            f"images in channels_last layout raised {one_line(error)}. Use reshape or flatten in place of view."
        ) from error
    if not same(found, expected):
        raise Failed("images in channels_last layout give different logits.")


@rule("model-deploys")
def deploys(case: ModelCase) -> None:
    """A merged network replaces the trained one, so it has to compute the same logits."""
    if case.spec.deploy is None:
        raise Skipped("it has no deploy.")
    module = steady(case)
    module.train()
    case.logits(module, case.images(4))  # moves the statistics away from their initial values
    try:
        merged = deploy(case.spec, module, case.images(4))
    except PluginError as error:
        raise Failed(str(error)) from error
    if merged is module:
        raise Failed("deploy returns its argument, expected a copy.")


@rule("model-exports")
def exports(case: ModelCase) -> None:
    """Mobile networks are deployed through torch.export; the benchmark itself does not need it."""
    import torch

    module = steady(case)
    case.logits(module, case.images(2))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.export.export(module, (case.images(2),))
    except RAISED as error:
        raise Warned(f"torch.export fails: {one_line(error)[:160]}") from error


def _other_types(case: ModelCase, module: nn.Module) -> list[str]:
    """Return the types other than float32 in which a module computes float32 logits and their gradients."""
    import torch

    from harness.train.precision import PrecisionWatch

    watch = PrecisionWatch("cpu")
    for training in (False, True):
        module.train(training)
        if case.logits(module, case.images(2)).dtype != torch.float32:
            raise Skipped("its logits are not float32.")
        try:
            with watch:
                module(case.images(2)).sum().backward()
        except RAISED as error:
            raise Skipped(f"it does not compute: {one_line(error)}.") from error
    return [f"{kind} ({operator})" for kind, operator in watch.found.items()]


def moved(case: ModelCase, module: nn.Module) -> list[str]:
    """Return the names in the state dict that a forward pass changes."""
    import torch

    before = {name: value.clone() for name, value in module.state_dict().items()}
    case.logits(module, case.images(4))
    return [name for name, value in module.state_dict().items() if not torch.equal(value, before[name])]


def _build(case: object) -> object:
    assert isinstance(case, ModelCase)
    return case.spec.build(CLASSES)


RULES: tuple[Rule, ...] = (
    eval_keeps_state,
    train_keeps_weights,
    is_seeded,
    state_dict_is_all,
    pickles,
    pickling_rule("model"),
    in_budget,
    is_float32,
    any_layout,
    deploys,
    exports,
    *side_effect_rules("model", "building the model", _build),
    description_rule("model", "A result without its source can't be cited or checked.", ("paper",)),
)
