"""Rules for data sets. A set with downloads is examined in its prepared form, an embedded set by its reader."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from harness.api import DatasetSpec, Split, open_image
from harness.catalog import Offer
from harness.errors import HarnessError, legible, one_line
from harness.images import load_image
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
from harness.testing.sandbox import watching

if TYPE_CHECKING:
    from PIL.Image import Image

SPLITS: tuple[Split, ...] = ("train", "test")
_MODES = ("RGB", "L")


@dataclass(frozen=True)
class SampleFacts:
    """One sample.

    Attributes:
        label: The label, as the reader gave it.
        group: Its group, or None.
        digest: Hash of its pixels.
        problem: The reason why it is not usable; empty if it is usable.
        path: The image file, if the reader gave one.
    """

    label: object
    group: object
    digest: str
    problem: str = ""
    path: str = ""


@dataclass(frozen=True)
class DatasetCase:
    """A data set under examination.

    Attributes:
        offer: The data set and its owner.
        data_root: The data folder.
        input_sizes: The protocols' input sizes, the smallest first.
    """

    offer: Offer[DatasetSpec]
    data_root: Path
    input_sizes: tuple[int, ...]

    @property
    def spec(self) -> DatasetSpec:
        """Return the data set."""
        return self.offer.spec

    @cached_property
    def samples(self) -> dict[Split, list[SampleFacts]]:
        """Return both splits. Raises Skipped if they can't be read, which ``dataset-reads`` reports."""
        if self.spec.sources:
            return self._prepared()
        try:
            return {split: list(self.read(split)) for split in SPLITS}
        except RAISED as error:
            raise Skipped(f"its reader fails: {one_line(error)}.") from error

    @cached_property
    def folder(self) -> Path:
        """The folder that ``prepare --from`` has named for an embedded set, if it has."""
        from harness.data.inputs import given_before

        return given_before(self.data_root, self.spec.name) or Path()

    def read(self, split: Split) -> Iterator[SampleFacts]:
        """Run the reader of an embedded set, but not without end: a little over twice the declared samples."""
        if self.spec.sources:
            raise Skipped("it has downloads, so its prepared form is examined and not its reader.")
        for item in islice(self.spec.read(self.folder, split), 2 * self.spec.splits[split] + 10):
            yield _facts(item)

    def require_sound(self) -> None:
        """Raise Skipped unless the samples are as the spec declares, which other rules examine."""
        for split, found in self.samples.items():
            wrong = [one for one in found if one.problem or not _is_label(one.label, self.spec)]
            if wrong or len(found) != self.spec.splits[split]:
                raise Skipped(f"the {split} split is not as it declares.")

    def _prepared(self) -> dict[Split, list[SampleFacts]]:
        from harness.data.ingest import definition
        from harness.data.inputs import outdated
        from harness.data.prepared import find_prepared, open_split, read_groups

        for size in self.input_sizes:
            prepared = find_prepared(self.data_root, self.spec.name, definition(self.offer), size)
            if prepared is not None:
                break
        else:
            raise Skipped(f"it is not prepared in {self.data_root}; run: harness prepare {self.spec.name}")
        if reason := outdated(prepared, self.spec):
            raise Skipped(f"its arrays are outdated: {reason}; run: harness prepare {self.spec.name}")
        found: dict[Split, list[SampleFacts]] = {}
        for split in SPLITS:
            arrays, groups = open_split(prepared, split), read_groups(prepared.folder, split)
            if len(groups) != len(arrays):  # none, or those of an older version, which can't be matched to images
                groups = ("",) * len(arrays)
            found[split] = [
                SampleFacts(
                    int(arrays.labels[index]),
                    groups[index] or None,
                    hashlib.sha256(arrays.images[index].tobytes()).hexdigest(),
                )
                for index in range(len(arrays))
            ]
        return found


def _facts(item: object) -> SampleFacts:
    from PIL.Image import Image

    if not isinstance(item, tuple) or len(item) not in (2, 3):
        return SampleFacts(
            None, None, "", f"a {type(item).__name__} instead of (image, label) or (image, label, group)"
        )
    image, label, group = (*item, None)[:3]
    if isinstance(image, Image):
        problem = "" if image.mode in _MODES else f"an image of mode {image.mode}, expected RGB or L"
        return SampleFacts(label, group, _digest(load_image(image, "the image")), problem)
    if not isinstance(image, Path | bytes):
        return SampleFacts(label, group, "", f"a {type(image).__name__} for an image")
    path = str(image.absolute()) if isinstance(image, Path) else ""
    try:
        return SampleFacts(label, group, _digest(open_image(image)), path=path)
    except RAISED as error:
        return SampleFacts(label, group, "", f"unreadable: {legible(error).rstrip('.')}", path)


def _digest(image: Image) -> str:
    """Return a hash of the size and the pixels of an RGB image."""
    return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()


def _is_label(label: object, spec: DatasetSpec) -> bool:
    return isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(spec.classes)


@rule("dataset-reads")
def reads(case: DatasetCase) -> None:
    """Training needs an image and a label per sample, and the harness decodes all images alike."""
    if case.spec.sources:
        raise Skipped("preparing it reads every image.")
    for split in SPLITS:
        try:
            for index, one in enumerate(case.read(split)):
                if one.problem:
                    raise Failed(f"{split} sample {index} is {one.problem}.")
        except Failed:
            raise
        except RAISED as error:
            raise Failed(f"reading the {split} split raised {one_line(error)}.") from error


@rule("dataset-sizes")
def has_sizes(case: DatasetCase) -> str:
    """Accuracies are comparable only on the same images, so their number is the first thing to compare."""
    for split, found in case.samples.items():
        if len(found) != case.spec.splits[split]:
            more = "or more " if len(found) > 2 * case.spec.splits[split] else ""
            raise Failed(f"the {split} split has {len(found)} {more}samples, it declares {case.spec.splits[split]}.")
    return ", ".join(f"{len(found):,} {split}" for split, found in case.samples.items())


@rule("dataset-labels")
def has_labels(case: DatasetCase) -> None:
    """Label i means the i-th of the declared class names."""
    for split, found in case.samples.items():
        for index, one in enumerate(found):
            if not one.problem and not _is_label(one.label, case.spec):
                raise Failed(
                    f"{split} sample {index} has the label {one.label!r}, expected an int from 0 to "
                    f"{len(case.spec.classes) - 1}."
                )


@rule("dataset-classes")
def has_every_class(case: DatasetCase) -> None:
    """A class that is never trained or never tested changes the meaning of an accuracy."""
    for split, found in case.samples.items():
        if not all(_is_label(one.label, case.spec) for one in found):
            raise Skipped(f"the {split} split has invalid labels.")
        there = {one.label for one in found}
        missing = [name for label, name in enumerate(case.spec.classes) if label not in there]
        if missing:
            raise Failed(f"the {split} split has no image of {shorten(missing)}.")


@rule("dataset-rereads")
def rereads(case: DatasetCase) -> None:
    """Preparation resumes after a stop, which requires the same samples in the same order."""
    first = case.samples
    for split in reversed(SPLITS):
        try:
            again = list(case.read(split))
        except Skipped:
            raise
        except RAISED as error:
            raise Failed(f"reading the {split} split a second time raised {one_line(error)}.") from error
        if again != first[split]:
            where = next((i for i, (a, b) in enumerate(zip(again, first[split], strict=False)) if a != b), len(again))
            raise Failed(f"the second reading of the {split} split differs from sample {where} onwards.")


@rule("dataset-leakage")
def has_no_twins(case: DatasetCase) -> None:
    """A model may remember an image that is in both splits instead of recognising it."""
    train = {one.digest for one in case.samples["train"] if one.digest}
    twins = sum(one.digest in train for one in case.samples["test"])
    if twins:
        _report_leak(case.spec, f"{twins} of {len(case.samples['test'])} test images are also in train")


@rule("dataset-groups")
def shares_no_group(case: DatasetCase) -> None:
    """Images of one patient or one photograph in both splits leak from train into test."""
    groups = {one.group for one in case.samples["train"] if one.group is not None}
    if not groups:
        raise Skipped("its reader names no groups.")
    shared = sum(one.group in groups for one in case.samples["test"])
    if shared:
        _report_leak(case.spec, f"{shared} of {len(case.samples['test'])} test images belong to a group in train")


def _report_leak(spec: DatasetSpec, found: str) -> None:
    if spec.leakage:
        raise Warned(f"{found}; declared: {spec.leakage}.")
    raise Failed(f"{found}. Correct the split, or declare the leakage, so that rankings show it.")


@rule("dataset-train-blind")
def train_is_blind(case: DatasetCase) -> str:
    """Training must not see the test images, so reading train must leave them closed."""
    test = {one.path for one in case.samples["test"]} - {""}
    with watching() as seen:
        try:
            train = {one.path for one in case.read("train")}
        except Skipped:
            raise
        except RAISED as error:
            raise Skipped(f"its reader fails: {one_line(error)}.") from error
    touched = sorted((seen.opened | train) & test)
    if touched:
        raise Failed(f"reading train opens {shorten([Path(path).name for path in touched])}, which belong to test.")
    return "" if test else "its reader gives no paths, so its images can't be followed"


@rule("dataset-sources")
def has_sources(case: DatasetCase) -> str:
    """A checksum and a size show whether a download is the published file."""
    for source in case.spec.sources:
        if not source.checksums and not source.members:
            raise Failed(f"the source {source.filename} has no checksum.")
        if not source.urls:
            raise Failed(f"the source {source.filename} has no address.")
    unsized = [source.filename for source in case.spec.sources if source.bytes is None]
    if unsized:
        raise Warned(f"the size of {shorten(unsized)} is not stated, so a download can't estimate its time.")
    return f"{len(case.spec.sources)} files" if case.spec.sources else "it is embedded"


@rule("dataset-prepares")
def prepares(case: DatasetCase) -> str:
    """Training reads the prepared form, and preparation makes further checks."""
    from harness.data.ingest import Ingestion, ingest

    if case.spec.sources:
        return f"{sum(len(found) for found in case.samples.values()):,} prepared images were examined"
    case.require_sound()
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = ingest(Ingestion(case.offer, Path(folder), case.input_sizes[0], case.folder))
        except HarnessError as error:
            raise Failed(str(error)) from error
        return f"fingerprint {done.manifest.fingerprint}"


def _read_train(case: object) -> None:
    assert isinstance(case, DatasetCase)
    for _ in case.read("train"):
        pass


RULES: tuple[Rule, ...] = (
    reads,
    has_sizes,
    has_labels,
    has_every_class,
    rereads,
    has_no_twins,
    shares_no_group,
    train_is_blind,
    has_sources,
    prepares,
    *side_effect_rules("dataset", "reading the train split", _read_train),
    pickling_rule("dataset"),
    description_rule(
        "dataset",
        "Images have terms and authors, which users have to respect.",
        ("title", "licence", "citation"),
        ("domain",),
    ),
)
