"""Images per second of training: the harness against loops that users write, for every model.

    python benchmarks/training.py [--models NAME...] [--sizes 64 224] [--threads N] [--rounds 5] [--quick]

All loops train the same model on the same invented pictures by the frozen protocol, and take turns. Exits with 1 if an
aim is missed: at least 1.4 times the plain loop on the geometric mean of the models, never below 1.0 for any of them,
at least 0.97 times the expert's on the geometric mean, and a data path of at most 5 % of a step at 224 pixels and 15 %
at 64.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measure
import torch
from apart import Apart
from real_run import SHORTEST_EPOCH, RealRun
from rivals import (
    CLASSES,
    PREFETCH,
    Recipe,
    Stored,
    children_seconds,
    cutmix,
    frozen_protocol,
    invent,
    loaded,
    pil_transform,
    settle,
    wait_for,
)
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, RandomSampler

from harness.api import ModelSpec
from harness.catalog import Catalog, Offer, discover
from harness.data.prepared import PreparedDataset
from harness.machine import resolve_device, usable_cores
from harness.models import build_module
from harness.registry import Protocol
from harness.train.schedule import learning_rate_peak
from harness.train.seeds import Position
from harness.train.setup import build_optimizer, build_pipeline, to_layout

WORKERS = 2
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
NOTES = {
    "harness": "JobInProgress.train of a real job, with its recorder, an observer and frozen numerics",
    "plain": "what a user would write: contiguous, Adam's defaults, PIL images, DataLoader with 2 workers, loss.item()",
    "timm": "timm's training script's loop, from timm's public parts: create_loader with 2 workers, Mixup, meters",
    "expert": "plain PyTorch by an expert: images in memory, the harness's augmentations, declared layout, fused Adam",
    "ceiling": "the expert's step on one batch that is ready: no data path at all",
}
PLAIN_AIM, EXPERT_AIM, SHARES = 1.4, 0.97, {224: 0.05, 64: 0.15}


@dataclass(frozen=True)
class Setting:
    """What all loops of a model share."""

    model: Offer[ModelSpec]
    dataset: PreparedDataset
    protocol: Protocol
    catalog: Catalog
    device: torch.device
    seconds: float

    @property
    def recipe(self) -> Recipe:
        """The augmentations as numbers."""
        return Recipe.of(self.protocol, self.dataset)

    @property
    def lr(self) -> float:
        """The model's peak learning rate; what it is makes no difference to speed."""
        return learning_rate_peak(self.protocol, self.model.spec)[0]

    def build(self) -> nn.Module:
        """The model, with the same weights for every loop."""
        torch.manual_seed(0)
        return build_module(self.model, CLASSES).train()


class Loop:
    """Something that trains, a step at a time, and is read in images per second.

    How many steps a reading has, the first call of ``read`` finds out, which does not count: as many as fit into the
    wanted seconds, but two at least, or one where a step takes more than a second. In every reading, one step goes
    before the clock starts.
    """

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.steps = 0
        self.skip = 1

    def step(self) -> None:
        """Train one step."""
        raise NotImplementedError

    def read(self) -> float:
        """Images per second."""
        if not self.steps:
            self._time(1)
            step = self._time(1)
            self.steps = steps_in(self.setting.seconds, step)
            self.first_step(step)
        else:
            for _ in range(self.skip):
                self.step()
            step = self._time(self.steps)
        return self.setting.protocol.batch_size / step

    def first_step(self, seconds: float) -> None:
        """A step takes about so long."""

    def close(self) -> None:
        """End what must be ended."""

    def _time(self, steps: int) -> float:
        wait_for(self.setting.device)
        began = time.perf_counter()
        for _ in range(steps):
            self.step()
        wait_for(self.setting.device)
        return (time.perf_counter() - began) / steps


def steps_in(seconds: float, step: float) -> int:
    """Steps of a reading."""
    return max(1 if step > 1 else 2, min(100, int(seconds / step)))


class WithLoader(Loop):
    """A loop with a DataLoader of two workers, whose queue must not be free data.

    Two workers keep up to four batches ready. Where they make batches faster than the model takes them, the queue is
    full in the midst of an epoch, each step takes one batch and has the workers make one more, and just so it is when a
    reading begins after the others' turns: as many batches are made as are used while the clock runs. Where workers are
    the slower ones, the queue is empty in the midst of an epoch, but full after the others' turns; twice its length is
    then taken from it before the clock starts. After a reading the workers are left to fill the queue, and have nothing
    to do until the next one: ``main`` looks at their processor time.
    """

    def __init__(self, setting: Setting, data: Stored) -> None:
        super().__init__(setting)
        began = time.perf_counter()
        for index in range(setting.protocol.batch_size):
            data[index]
        self._making = (time.perf_counter() - began) / WORKERS

    def read(self) -> float:
        """Images per second, with a queue as in the midst of an epoch."""
        speed = super().read()
        settle()
        return speed

    def first_step(self, seconds: float) -> None:
        """Choose how many batches are taken before the clock starts."""
        # The workers share the cores with the model, so they are called faster only if they are by a factor of two.
        self.skip = 1 if 2 * self._making < seconds else 2 * PREFETCH * WORKERS


class Plain(WithLoader):
    """What a user would write."""

    def __init__(self, setting: Setting) -> None:
        recipe = setting.recipe
        data = Stored(setting.dataset, pil_transform(recipe, recipe.size))
        super().__init__(setting, data)
        self._batches = loaded(data, recipe.batch, workers=WORKERS)
        self._module = setting.build().to(setting.device)
        self._optimizer = torch.optim.Adam(self._module.parameters(), lr=setting.lr)
        self._criterion = nn.CrossEntropyLoss(label_smoothing=recipe.smoothing)
        self._alpha = recipe.alpha
        self._total = 0.0

    def step(self) -> None:
        """Train one step."""
        images, labels = next(self._batches)
        images, labels = images.to(self.setting.device), labels.to(self.setting.device)
        images, partner, kept = cutmix(images, self._alpha)
        logits = self._module(images)
        loss = kept * self._criterion(logits, labels) + (1 - kept) * self._criterion(logits, labels[partner])
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self._total += loss.item()


class Timm(WithLoader):
    """timm's training script as far as it concerns a step: its loader, mixing, loss, optimiser and meters."""

    def __init__(self, setting: Setting) -> None:
        from timm.data import Mixup, create_loader
        from timm.loss import SoftTargetCrossEntropy
        from timm.optim import create_optimizer_v2
        from timm.utils import AverageMeter

        recipe = setting.recipe
        data = Stored(setting.dataset)
        loader: DataLoader[Any] = create_loader(
            data, (3, recipe.size, recipe.size), recipe.batch, is_training=True, use_prefetcher=False,
            # A crop of the whole image: as near to no crop as its options come.
            scale=(1.0, 1.0), ratio=(1.0, 1.0), hflip=recipe.flip, interpolation="bilinear",
            color_jitter=tuple(recipe.jitter[name] for name in ("brightness", "contrast", "saturation", "hue")),
            mean=tuple(recipe.mean), std=tuple(recipe.std), num_workers=WORKERS, device=setting.device,
        )  # fmt: skip
        super().__init__(setting, data)
        # The same loader over an epoch without end; the script's would start anew after some forty steps.
        endless = RandomSampler(data, replacement=True, num_samples=1 << 40)
        self._batches = iter(
            DataLoader(
                data, recipe.batch, sampler=endless, num_workers=WORKERS, drop_last=True,
                collate_fn=loader.collate_fn, worker_init_fn=loader.worker_init_fn, pin_memory=loader.pin_memory,
            )
        )  # fmt: skip
        self._mixup = Mixup(
            mixup_alpha=0.0, cutmix_alpha=recipe.alpha, label_smoothing=recipe.smoothing, num_classes=CLASSES
        )
        self._criterion = SoftTargetCrossEntropy()
        self._module = setting.build().to(setting.device)
        self._optimizer = create_optimizer_v2(self._module, opt="adam", lr=setting.lr, weight_decay=0.0)
        self._losses, self._times, self._waits = AverageMeter(), AverageMeter(), AverageMeter()

    def step(self) -> None:
        """Train one step."""
        began = time.time()
        images, labels = next(self._batches)
        images, labels = images.to(self.setting.device), labels.to(self.setting.device)
        images, targets = self._mixup(images, labels)
        self._waits.update(time.time() - began)
        loss = self._criterion(self._module(images), targets)
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._losses.update(loss.item(), images.size(0))
        self._times.update(time.time() - began)


class Expert(Loop):
    """What an expert of torch would write, with the best data path known: the harness's own, called directly."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        manifest, train = setting.dataset.manifest, setting.dataset.open_train()
        self._images = torch.from_numpy(train.images.copy()).to(setting.device)
        self._labels = torch.from_numpy(train.labels.copy()).to(setting.device)
        self._pipeline = build_pipeline(
            setting.protocol, setting.catalog, num_classes=CLASSES, moments=(manifest.mean, manifest.std),
            device=setting.device,
        )  # fmt: skip
        layout = setting.model.spec.memory_format
        self._layout = LAYOUTS[layout]
        self._module = to_layout(setting.build(), setting.device, layout)
        self._optimizer = build_optimizer(self._module, setting.protocol)
        self._losses: list[torch.Tensor] = []
        self._number = 0

    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The next batch, ready for the model."""
        size = self.setting.protocol.batch_size
        chosen = torch.randint(len(self._labels), (size,)).to(self.setting.device)
        self._number += 1
        inputs, targets = self._pipeline.train_batch(
            self._images[chosen], self._labels[chosen], Position(seed=0, epoch=1, step=self._number)
        )
        return inputs.contiguous(memory_format=self._layout), targets

    def step(self) -> None:
        """Train one step."""
        self._train(*self.batch())

    def _train(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        loss = F.cross_entropy(self._module(inputs), targets, label_smoothing=self.setting.protocol.label_smoothing)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        self._losses.append(loss.detach())


class Ceiling(Expert):
    """The expert's step without a data path: one batch that is ready, again and again."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._ready = self.batch()

    def step(self) -> None:
        """Train one step."""
        self._train(*self._ready)


class Harness(Loop):
    """The real loop, in a process of its own. A reading also tells the data path's share of an ordinary step."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._apart = Apart(
            RealLoop, setting.model.spec.name, setting.dataset, setting.protocol, setting.device, setting.seconds
        )
        self.shares: list[float] = []

    def read(self) -> float:
        """Images per second."""
        first = not self.steps
        speed, share, self.steps = self._apart.call("read")
        if not first:
            self.shares.append(share)
        return speed

    def close(self) -> None:
        """End the process."""
        self._apart.close()


class RealLoop:
    """The real loop of a model, for a process of its own."""

    def __init__(
        self, name: str, dataset: PreparedDataset, protocol: Protocol, device: torch.device, seconds: float
    ) -> None:
        catalog = discover()
        setting = Setting(catalog.model(name), dataset, protocol, catalog, device, seconds)
        self._setting = setting
        self._run = RealRun(setting.build(), setting.model, dataset, protocol, catalog, device)
        self._steps = 0

    def read(self) -> tuple[float, float, int]:
        """Images per second over an epoch, whose first and last step the recorder probes, and the data path's share.

        The third value is the number of ordinary steps that were timed.
        """
        if not self._steps:
            ends = self._run.train(3).ends
            self._steps = min(steps_in(self._setting.seconds, ends[2] - ends[1]), self._run.steps - 3)
        clock = self._run.train(2 + self._steps)  # the last step of an epoch is the one that does not count
        whole = clock.ends[-1] - clock.ends[1]
        ordinary, probed = whole / self._steps, clock.ends[1] - clock.ends[0]
        speed = self._setting.protocol.batch_size / (ordinary + 2 * (probed - ordinary) / SHORTEST_EPOCH)
        return speed, sum(clock.data[2:]) / whole, self._steps


LOOPS: Mapping[str, type[Loop]] = {
    "harness": Harness, "plain": Plain, "timm": Timm, "expert": Expert, "ceiling": Ceiling,
}  # fmt: skip


def compare(setting: Setting, rounds: int, names: Sequence[str]) -> dict[str, Any]:
    """All readings of a model at a size."""
    loops = {name: LOOPS[name](setting) for name in names}
    settle()  # of the workers that have just been started
    beside = 0.0

    def watched(name: str) -> float:
        nonlocal beside
        before = children_seconds()
        speed = loops[name].read()
        if not isinstance(loops[name], WithLoader) and before is not None:
            beside += (children_seconds() or 0.0) - before
        return speed

    speeds = measure.take_turns({name: lambda name=name: watched(name) for name in names}, rounds=rounds)
    found: dict[str, Any] = {
        "images_per_second": speeds,
        "steps_of_a_reading": {name: loop.steps for name, loop in loops.items()},
        "seconds_of_workers_beside_others": beside,
    }
    for loop in loops.values():
        loop.close()
    own = loops.get("harness")
    if isinstance(own, Harness) and setting.device.type == "cpu":  # elsewhere data and model overlap
        found["data_share"] = own.shares
    return found


def geometric_mean(values: Sequence[float]) -> float:
    """The n-th root of the product."""
    return math.exp(statistics.fmean(math.log(value) for value in values))


def page(readings: Mapping[str, Mapping[str, Any]]) -> tuple[str, list[str]]:
    """The tables of all sizes, and the aims that are missed."""
    texts, missed = ["\n".join(f"- `{name}`: {note}" for name, note in NOTES.items())], []
    for key, models in readings.items():
        names = list(next(iter(models.values()))["images_per_second"])
        rivals = [name for name in names if name != "harness"]
        rows = []
        ratios: dict[str, list[float]] = {name: [] for name in rivals}
        shares = {}
        for model, found in models.items():
            speeds = found["images_per_second"]
            for name in rivals:
                ratios[name].append(measure.ratio(speeds["harness"], speeds[name]))
            if "data_share" in found:
                shares[model] = measure.median(found["data_share"])
            rows.append(
                [model, *(f"{measure.median(speeds[name]):.1f}" for name in names)]
                + [f"{ratios[name][-1]:.2f}" for name in rivals if name != "ceiling"]
                + [f"{100 * shares[model]:.1f} %" if model in shares else "-"]
            )
        titles = ["model", *(f"{name}, images/s" for name in names)]
        titles += [f"harness / {name}" for name in rivals if name != "ceiling"] + ["data path, share of a step"]
        texts += [f"## {key} pixels", measure.table(titles, rows)]
        lines = [
            f"- harness / {name}: geometric mean {geometric_mean(values):.3f}, least {min(values):.3f}"
            for name, values in ratios.items()
        ]
        beside = sum(found["seconds_of_workers_beside_others"] for found in models.values())
        lines.append(f"- processor seconds that loaders' workers used while other loops were timed: {beside:.2f}")
        texts.append("\n".join(lines))
        missed += [f"{key} pixels: {text}" for text in missed_aims(ratios, shares, list(models), SHARES.get(int(key)))]
    verdict = "Aims missed:\n\n" + "\n".join(f"- {text}" for text in missed) if missed else "All aims reached."
    texts.append(verdict)
    return "\n\n".join(texts), missed


def missed_aims(
    ratios: Mapping[str, Sequence[float]], shares: Mapping[str, float], models: Sequence[str], most: float | None
) -> list[str]:
    """Say which aims are missed at a size. ``ratios``: of the harness to each loop, by model in their order."""
    missed = []
    plain, expert = ratios.get("plain", ()), ratios.get("expert", ())
    if plain and geometric_mean(plain) < PLAIN_AIM:
        missed.append(f"{geometric_mean(plain):.3f} times the plain loop, expected at least {PLAIN_AIM}")
    missed += [
        f"{model} at {value:.3f} times the plain loop, expected 1.0 or more"
        for model, value in zip(models, plain, strict=bool(plain))
        if value < 1
    ]
    if expert and geometric_mean(expert) < EXPERT_AIM:
        missed.append(f"{geometric_mean(expert):.3f} times the expert's loop, expected at least {EXPERT_AIM}")
    missed += [
        f"{model}: the data path takes {100 * share:.1f} % of a step, expected at most {100 * most:.0f} %"
        for model, share in shares.items()
        if most is not None and share > most
    ]
    return missed


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=re.split(r"\n\n", __doc__ or "")[0])
    parser.add_argument("--models", nargs="+", help="all that are installed, if left out")
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 224])
    parser.add_argument("--loops", nargs="+", choices=LOOPS, default=list(LOOPS))
    parser.add_argument("--threads", type=int, default=usable_cores(), help="of torch (default: all cores)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of a reading, about")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="one round of short readings: proves that it works")
    parser.add_argument(
        "--keep", action="store_true",
        help="keep what results/training.json holds of other models, if it is of this machine and these options",
    )  # fmt: skip
    given = parser.parse_args(arguments)
    rounds, seconds = (1, 0.0) if given.quick else (given.rounds, given.seconds)
    catalog, device = discover(), resolve_device(given.device)
    names = given.models or sorted(catalog.models)
    loops = ["harness", *(name for name in given.loops if name != "harness")]
    command = " ".join(["python benchmarks/training.py", *(sys.argv[1:] if arguments is None else arguments)])
    before = torch.get_num_threads()
    torch.set_num_threads(given.threads)
    options = {"rounds": rounds, "threads": given.threads, "device": given.device}
    readings = earlier(options) if given.keep else {}
    commit = measure.machine()["commit"]
    missed: list[str] = []
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="harness training ") as folder:
            for size in given.sizes:
                dataset = invent(Path(folder) / str(size), side=size, images=1280)
                for name in names:
                    setting = Setting(
                        catalog.model(name), dataset, frozen_protocol(size), catalog, device, seconds
                    )  # fmt: skip
                    readings.setdefault(str(size), {})[name] = compare(setting, rounds, loops) | {"commit": commit}
                    readings[str(size)] = dict(sorted(readings[str(size)].items()))
                    text, missed = page(readings)
                    how = HOW.format(rounds=rounds, seconds=seconds, threads=given.threads) + commits(readings)
                    with contextlib.redirect_stdout(
                        io.StringIO()
                    ) as written:  # rewritten, so that a stop loses nothing
                        measure.write(
                            "training-quick" if given.quick else "training",
                            title="Training",
                            command=command,
                            text=f"{how}\n\n{text}",
                            readings=options | readings,
                        )
                    print(f"{size} pixels, {name}: {time.monotonic() - began:.0f} s so far", file=sys.stderr)
    finally:
        torch.set_num_threads(before)
    print(written.getvalue())
    return 1 if missed else 0


def earlier(options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The readings that are there, by size and model. Exits where new ones can't stand beside them."""
    path = measure.RESULTS / "training.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    then, now = found["machine"], measure.machine()
    differ = [name for name in ("processor", "cores", "python", "libraries") if then[name] != now[name]]
    differ += [name for name, value in options.items() if found["readings"][name] != value]
    if differ:
        sys.exit(f"{path} was measured with another {', '.join(differ)}; leave out --keep to measure everything anew.")
    return {size: rows for size, rows in found["readings"].items() if size not in options}


def commits(readings: Mapping[str, Mapping[str, Any]]) -> str:
    """Say of which commits the readings are, if not all of one."""
    by_commit: dict[str, list[str]] = {}
    for size, rows in readings.items():
        for name, found in rows.items():
            by_commit.setdefault(found["commit"], []).append(f"{name} at {size}")
    if len(by_commit) == 1:
        return ""
    return "".join(f"\n\nOf commit {commit}: {', '.join(names)}." for commit, names in by_commit.items())


HOW = (
    "Images per second of training in batches of 32, ten classes, {threads} threads; medians of {rounds} readings of "
    "about {seconds:g} s, taken in turns. A ratio is the median of the rounds' ratios."
)


if __name__ == "__main__":
    sys.exit(main())
