"""Rules about what a model is: its state, its seed, its size, and what becomes of it elsewhere."""

from __future__ import annotations

import copy
import io
import pickle
import warnings

from harness.errors import BudgetError, one_line
from harness.testing.model_case import TOLERANCE, ModelCase, moved, same, steady
from harness.testing.rules import RAISED, Broken, Doubtful, Untold, rule, shorten
from harness.testing.sandbox import run_python


@rule("model-eval-keeps-state")
def eval_keeps_state(case: ModelCase) -> None:
    """Looking at the test split must leave the weights and statistics as training left them."""
    module = case.build().eval()
    if found := moved(case, module):
        raise Broken(f"evaluation changes {shorten(found)}, expected the state dict to stay as it was.")


@rule("model-train-keeps-weights")
def train_keeps_weights(case: ModelCase) -> None:
    """Weights are the optimiser's to change; a forward pass may move statistics alone."""
    module = case.build().train()
    weights = {name for name, _ in module.named_parameters()}
    if found := [name for name in moved(case, module) if name in weights]:
        raise Broken(f"a forward pass in training mode changes {shorten(found)}.")


@rule("model-seeded")
def is_seeded(case: ModelCase) -> None:
    """A result belongs to a seed: initial weights come from torch's global generator and nowhere else."""
    import torch

    first, again, other = (case.build(seed).state_dict() for seed in (1, 1, 2))
    differing = [name for name, value in first.items() if not torch.equal(value, again[name])]
    if differing:
        raise Broken(f"two builds from one seed differ in {shorten(differing)}.")
    if all(torch.equal(value, other[name]) for name, value in first.items()):
        raise Broken("two builds from different seeds are equal: build must not set a seed of its own.")


@rule("model-state-dict")
def state_dict_is_all(case: ModelCase) -> None:
    """A stopped run goes on from a state dict, and results are verified from one."""
    import torch

    module = steady(case)
    case.logits(module.train(), case.images(4))  # moves the statistics away from their trivial start
    expected = case.logits(module.eval(), case.images(4))
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    try:
        other = case.build(seed=1)
        other.load_state_dict(torch.load(file, weights_only=True))
    except RAISED as error:
        raise Broken(f"its state dict can't be saved and loaded: {one_line(error)}.") from error
    if not torch.equal(case.logits(other.eval(), case.images(4)), expected):
        raise Broken("with the same state dict another build computes something else: some state is outside of it.")


@rule("model-pickles")
def pickles(case: ModelCase) -> None:
    """Worker processes are spawned, and what they are given is pickled."""
    import torch

    module = steady(case)
    expected = case.logits(module, case.images(2))
    try:
        content = pickle.dumps((module, case.images(2), expected))
    except RAISED as error:
        raise Broken(f"a built module can't be pickled: {one_line(error)}.") from error
    code = (
        "import pickle, sys, torch\n"
        "module, images, expected = pickle.load(sys.stdin.buffer)\n"
        "torch.manual_seed(0)\n"
        "with torch.no_grad(): found = module(images)\n"
        "print(float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-6)))\n"
    )
    done = run_python(code, stdin=content, threads=torch.get_num_threads())
    if done.code:
        raise Broken(f"a fresh process can't use a pickled module: {done.last_error}")
    if float(done.out.split()[-1]) > TOLERANCE:
        raise Broken("a pickled module computes something else in a fresh process.")


@rule("model-budget")
def in_budget(case: ModelCase) -> str:
    """Architectures are compared at one budget of trainable parameters."""
    import msgspec

    from harness.budget import check_budget

    budget = msgspec.structs.replace(case.benchmark.budget, macs_resolution=case.resolutions[0])
    case.build()
    try:
        report = check_budget(case.spec, budget, budget.classes, macs=False)
    except BudgetError as error:
        raise Untold(str(error)) from error
    counts = ", ".join(f"{count:,} at {classes}" for classes, count in report.parameters.items())
    if report.verdict == "over":
        raise Broken(f"{counts} classes, expected at most {report.limit:,} at each.")
    if report.verdict == "under":
        raise Doubtful(f"{counts} classes, expected about {budget.parameters:,}: it is compared with larger networks.")
    return f"{counts} classes"


@rule("model-float32")
def is_float32(case: ModelCase) -> None:
    """The protocol trains in float32, and the harness moves a network to its device itself."""
    import torch

    module = case.build()
    values = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    odd = [f"{n} ({v.dtype})" for n, v in values.items() if v.is_floating_point() and v.dtype != torch.float32]
    odd += [f"{name} (on {value.device})" for name, value in values.items() if value.device.type != "cpu"]
    if odd:
        raise Broken(f"{shorten(odd)}: expected float32 on the CPU.")


@rule("model-memory-format")
def any_layout(case: ModelCase) -> None:
    """Training uses the layout that the spec names, which must not change the mathematics."""
    import torch

    module = steady(case)
    images = case.images(2)
    expected = case.logits(module, images)
    try:
        with torch.no_grad():
            torch.manual_seed(0)
            found = module.to(memory_format=torch.channels_last)(images.contiguous(memory_format=torch.channels_last))
    except RAISED as error:
        raise Broken(
            f"images in channels_last layout raised {one_line(error)}. Use reshape or flatten in place of view."
        ) from error
    if not same(found, expected):
        raise Broken("images in channels_last layout give other logits.")


@rule("model-deploys")
def deploys(case: ModelCase) -> None:
    """A merged network stands for the trained one, so it has to compute the same."""
    from torch import nn

    if case.spec.deploy is None:
        raise Untold("it has no deploy.")
    module = steady(case)
    case.logits(module.train(), case.images(4))
    before = copy.deepcopy(module.eval().state_dict())
    expected = case.logits(module, case.images(4))
    merged = case.spec.deploy(module)
    if not isinstance(merged, nn.Module):
        raise Broken(f"deploy returned a {type(merged).__name__}, expected a torch.nn.Module.")
    if list(before) != list(module.state_dict()) or merged is module:
        raise Broken("deploy changes the module that it is given, expected a copy.")
    found = case.logits(merged.eval(), case.images(4))
    scale = float(expected.abs().max())
    if found.shape != expected.shape or float((found - expected).abs().max()) > 1e-3 * scale:
        raise Broken("the merged network computes something else than the trained one.")


@rule("model-exports")
def exports(case: ModelCase) -> None:
    """Mobile networks are deployed through torch.export; the benchmark itself does without."""
    import torch

    module = steady(case)
    case.logits(module, case.images(2))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.export.export(module, (case.images(2),))
    except RAISED as error:
        raise Doubtful(f"torch.export fails: {one_line(error)[:160]}") from error
