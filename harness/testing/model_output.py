"""Rules about what a model computes: its logits, at every size that the benchmark uses, and their gradients."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

from harness.errors import one_line
from harness.testing.model_case import CLASSES, ModelCase, same, steady
from harness.testing.rules import RAISED, Broken, Untold, rule, shorten

BATCHES = (1, 2, 32)


@rule("model-builds")
def builds(case: ModelCase) -> str:
    """Every data set has its own number of classes, and the harness builds the network for each."""
    from torch import nn

    for classes in case.class_counts:
        try:
            module = case.spec.build(classes)
        except RAISED as error:
            raise Broken(f"build({classes}) raised {one_line(error)}. Expected a torch.nn.Module.") from error
        if not isinstance(module, nn.Module):
            raise Broken(f"build({classes}) returned a {type(module).__name__}, expected a torch.nn.Module.")
        if not any(parameter.requires_grad for parameter in module.parameters()):
            raise Broken(f"build({classes}) has no trainable parameter: there is nothing to train.")
    return f"at {', '.join(str(classes) for classes in case.class_counts)} classes"


@rule("model-logits")
def gives_logits(case: ModelCase) -> None:
    """The loss is computed from one float32 number for each image and class."""
    import torch

    for classes in case.class_counts:
        module = case.build(classes=classes)
        for training in (False, True):
            module.train(training)
            mode = "training" if training else "evaluation"
            try:
                with torch.no_grad():
                    logits = module(case.images(2))
            except RAISED as error:
                raise Broken(f"at {classes} classes in {mode} mode it raised {one_line(error)}.") from error
            found = (
                f"{str(logits.dtype).removeprefix('torch.')} {tuple(logits.shape)}"
                if isinstance(logits, torch.Tensor)
                else f"a {type(logits).__name__}"
            )
            if found != f"float32 (2, {classes})":
                raise Broken(f"two images in {mode} mode give {found}, expected float32 (2, {classes}).")


@rule("model-batches")
def any_batch(case: ModelCase) -> str:
    """The last batch of a test split may hold a single image."""
    import torch

    module = case.build().eval()
    case.logits(module, case.images(4))
    for count in BATCHES:
        try:
            with torch.no_grad():
                shape = tuple(module(case.images(count)).shape)
        except RAISED as error:
            raise Broken(f"a batch of {count} in evaluation mode raised {one_line(error)}.") from error
        if shape != (count, CLASSES):
            raise Broken(f"a batch of {count} gives {shape}, expected {(count, CLASSES)}.")
    return "batches of 1, 2 and 32 in evaluation mode; training drops the last partial batch"


@rule("model-resolutions")
def any_resolution(case: ModelCase) -> str:
    """The suites train at different resolutions."""
    import torch

    for side in case.resolutions:
        module = case.build()
        for training in (False, True):
            module.train(training)
            try:
                with torch.no_grad():
                    module(case.images(2, side))
            except RAISED as error:
                raise Broken(f"images of {side} x {side} pixels raised {one_line(error)}.") from error
    return f"at {', '.join(str(side) for side in case.resolutions)} pixels"


@rule("model-finite")
def is_finite(case: ModelCase) -> None:
    """A network that is not finite before its first step never becomes so."""
    import torch

    module = case.build()
    bad = [name for name, value in module.state_dict().items() if not bool(torch.isfinite(value).all())]
    if bad:
        raise Broken(f"{shorten(bad)} is not finite after build.")
    for images, what in ((case.images(2), "noise"), (torch.zeros_like(case.images(2)), "black images")):
        for training in (False, True):
            with torch.no_grad(), _telling():
                logits = module.train(training)(images)
            if isinstance(logits, torch.Tensor) and not bool(torch.isfinite(logits).all()):
                raise Broken(f"{what} give logits that are not finite.")


@rule("model-gradients")
def has_gradients(case: ModelCase) -> None:
    """A parameter without a gradient counts in the budget and never learns."""
    import torch

    module = case.build().train()
    case.logits(copy.deepcopy(module), case.images(2))
    torch.manual_seed(0)
    try:
        loss = torch.nn.functional.cross_entropy(module(case.images(2)), torch.tensor([1, 2]))
        loss.backward()
    except RAISED as error:
        raise Broken(f"the backward pass raised {one_line(error)}.") from error
    trainable = {name: value for name, value in module.named_parameters() if value.requires_grad}
    without = [name for name, value in trainable.items() if value.grad is None]
    if without:
        raise Broken(
            f"{len(without)} trainable parameters get no gradient: {shorten(without)}. Use them or set requires_grad."
        )
    bad = [name for name, v in trainable.items() if v.grad is not None and not bool(torch.isfinite(v.grad).all())]
    if bad:
        raise Broken(f"{shorten(bad)} get gradients that are not finite.")


@rule("model-eval-repeats")
def eval_repeats(case: ModelCase) -> None:
    """Evaluation must not depend on chance: dropout and the like belong to training mode."""
    import torch

    module = case.build().eval()
    first = case.logits(module, case.images(4), seed=1)
    if not torch.equal(first, case.logits(module, case.images(4), seed=2)):
        raise Broken("the same images give other logits the second time in evaluation mode.")


@rule("model-eval-independent")
def eval_independent(case: ModelCase) -> None:
    """An image's answer must not depend on which images are in its batch."""
    import torch

    module = steady(case)
    images = case.images(4)
    together = case.logits(module, images)
    apart = torch.cat([case.logits(module, images[:2]), case.logits(module, images[2:])])
    if not same(apart, together):
        raise Broken("four images together give other logits than two and two, in evaluation mode.")


@contextmanager
def _telling() -> Iterator[None]:
    """Whether a network computes at all is another rule's concern."""
    try:
        yield
    except RAISED as error:
        raise Untold(f"it does not compute: {one_line(error)}.") from error
