"""The registry file is validated with errors that name file, key, found and expected, and the shipped one is right."""

from __future__ import annotations

import csv
from pathlib import Path

import msgspec
import pytest

from harness.errors import RegistryError, WrongUseError
from harness.registry import Benchmark, load_benchmark, shipped_registry
from tests.support import FILES

pytestmark = pytest.mark.portable

SHIPPED = shipped_registry().read_text(encoding="utf-8")
OLD_REGISTRY = Path(__file__).parent / "files" / "f6f7df7" / "registry.toml"
OLD = OLD_REGISTRY.read_text(encoding="utf-8")

BAD = [
    ("epochs = 100", "epochs = -1", r'protocols\."xscore-1\.0"\.epochs: expected `int` >= 1, found -1'),
    ("epochs = 100", 'epochs = "many"', r"expected `int`, got `str`, found 'many'"),
    ("epochs = 100", "epoch = 100", r"unknown field `epoch` \(known: .*epochs"),
    ("epochs = 100", "", r"missing required field `epochs`"),
    ("betas = [0.9, 0.999]", "betas = [0.9, 2.0]", r"betas\[1\]: expected `float` < 1\.0, found 2\.0"),
    ("betas = [0.9, 0.999]", "betas = [0.9]", r"betas: expected `array` of length 2"),
    ("label_smoothing = 0.05", "label_smoothing = nan", r"label_smoothing"),
    ('optimizer = "adam"', 'optimizer = "sgd"', r"optimizer: expected one of 'adam', found 'sgd'"),
    ('at = "stored"', 'at = "raw"', r"augmentations\[0\]\.at: expected one of 'stored', 'input', found 'raw'"),
    ("mobilevit = 1e-4", 'mobilevit = "slow"', r"lr_max_exceptions.*found \{'mobilevit': 'slow'\}"),
    ("warmup_epochs = 5", "warmup_epochs = 100", r"warmup_epochs is 100, expected less than epochs = 100"),
    ("lr_min = 1e-5", "lr_min = 0.5", r"lr_max 0\.001 must be greater than lr_min 0\.5"),
    ('default_suite = "xscore4"', 'default_suite = "xscore5"', r"no suite named 'xscore5'\. Did you mean 'xscore"),
    ('protocol = "pocket-1.0"', 'protocol = "pocket"', r"suites\.pocket\.protocol: .*Did you mean 'pocket-1\.0'"),
    ('anchors = "published-2025"', 'anchors = "mine"', r"no set of anchors named 'mine'"),
    ("cifar10 = 91.97\n", "", r"minimum and maximum must name the same data sets, but differ in cifar10"),
    ("cifar10 = 91.97", "cifar10 = 99.9", r"for cifar10 the minimum is 99\.9 and the maximum 95\.19"),
    ("cifar10 = 91.97", "cifar10 = 191.97", r"<= 100"),
    ("cifar10 = { classes = 10,", "cifar10 = { classes = 1,", r"datasets\.cifar10\.classes: .* >= 2, found 1"),
    ("convmixer = [94.52, ", "convmixer = [", r"published\.accuracy\.convmixer has 6 values, expected 7"),
    ('["cifar10", "ham10000",', '["cifar10", "cifar10",', r"suites\.xscore4\.datasets names a data set twice"),
    ("schema = 1", "schema = 2", r"schema is 2, expected 1"),
    ("schema = 1", "schema = ", r"not valid TOML: .*line 5"),
    ("[budgets]", "[badgets]", r"unknown field `badgets`"),
    ("[budgets]", "[budget]", r"\[budget\] is the old form of \[budgets\] and \[counting\]"),
    ("tolerance = 0.10", "tolerance = 10", r'budgets\."1M"\.tolerance: expected `float` < 1\.0, found 10'),
    ("parameters = 5_000_000", "parameters = 0", r'budgets\."5M"\.parameters: expected `int` >= 1, found 0'),
    ('"1M" = {', '"1@M" = {', r"budgets: the name '1@M' .*Expected letters, digits"),
    ('"2.5M" = {', '"2M" = {', r"suites\.xscore7\.budget: There is no budget named '2\.5M'\..* Known: 1M, 2M, 5M"),
    ('budget = "2.5M"', 'budget = "2.5"', r"suites\.xscore7\.budget: There is no budget named '2\.5'"),
    ("macs_classes = 100", "", r"counting: .*missing required field `macs_classes`"),
]  # fmt: skip
OLD_BAD = [
    ("[budget]", "[badget]", r"unknown field `badget`"),
    ("tolerance = 0.10", "tolerance = 10", r"budget\.tolerance: expected `float` < 1\.0, found 10"),
    ("macs_classes = 100", "", r"budget: .*missing required field `macs_classes`"),
    ("macs_classes", "mac_classes", r"budget: .*unknown field `mac_classes`"),
]


@pytest.mark.parametrize(("found", "replacement", "message"), BAD)
def test_bad_registry_is_refused(found: str, replacement: str, message: str, tmp_path: Path) -> None:
    refuse(SHIPPED, found, replacement, message, tmp_path)


@pytest.mark.parametrize(("found", "replacement", "message"), OLD_BAD)
def test_bad_registry_of_the_old_form_is_refused(found: str, replacement: str, message: str, tmp_path: Path) -> None:
    refuse(OLD, found, replacement, message, tmp_path)


def refuse(text: str, found: str, replacement: str, message: str, folder: Path) -> None:
    assert found in text
    path = folder / "my registry.toml"
    path.write_text(text.replace(found, replacement, 1), encoding="utf-8")
    with pytest.raises(RegistryError, match=message) as caught:
        load_benchmark(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("lacking", ["budgets", "counting"])
def test_registry_without_budgets_or_counting_is_refused(lacking: str, tmp_path: Path) -> None:
    before, _, rest = SHIPPED.partition(f"[{lacking}]\n")
    path = tmp_path / "registry.toml"
    path.write_text(before + rest.partition("\n\n")[2], encoding="utf-8")
    with pytest.raises(RegistryError, match=rf"it has no \[{lacking}\]"):
        load_benchmark(path)


def test_protocol_whose_name_holds_an_at_sign_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "registry.toml"
    path.write_text(SHIPPED.replace("pocket-1.0", "pocket@1"), encoding="utf-8")
    with pytest.raises(RegistryError, match="'pocket@1' holds '@'"):
        load_benchmark(path)


def test_a_budget_is_one_line_of_the_registry(tmp_path: Path) -> None:
    path = tmp_path / "registry.toml"
    line = '"10M" = { parameters = 10_000_000, tolerance = 0.05 }'
    path.write_text(SHIPPED.replace("[budgets]", f"[budgets]\n{line}"), encoding="utf-8")
    budget = load_benchmark(path).budget("10M")
    assert (budget.name, budget.parameters, budget.bounds) == ("10M", 10_000_000, (9_500_000, 10_500_000))


@pytest.mark.parametrize(
    ("counts", "verdict"),
    [
        ((2_250_000, 2_750_000), "within"),
        ((2_249_999, 2_750_000), "under"),
        ((2_250_000, 2_750_001), "over"),
        ((1, 2_750_001), "over"),
    ],
)
def test_verdict_of_a_budget(counts: tuple[int, ...], verdict: str) -> None:
    budget = load_benchmark().budget("2.5M")
    assert budget.bounds == (2_250_000, 2_750_000)
    assert budget.verdict(counts) == verdict
    excess = budget.excess("mynet", dict(zip((10, 100), counts, strict=True)))
    assert bool(excess) == (verdict == "over")


def test_excess_names_the_first_class_count_over_the_limit() -> None:
    excess = load_benchmark().budget("1M").excess("mynet", {7: 1_000_000, 10: 1_100_001, 100: 1_200_000})
    assert excess == (
        "mynet has 1,100,001 trainable parameters at 10 classes; the limit is 1,100,000 (budget 1M: 1,000,000 + 10%)."
    )


def test_a_registry_of_the_old_form_has_one_budget(shipped: Benchmark) -> None:
    old = load_benchmark(OLD_REGISTRY)
    assert old.budgets == {"2.5M": shipped.budget("2.5M")}
    assert old.counting == shipped.counting
    assert {suite.budget for suite in old.suites.values()} == {"2.5M"}


def test_unreadable_registry_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"no registry file .*gone\.toml"):
        load_benchmark(tmp_path / "gone.toml")
    with pytest.raises(RegistryError, match=r"can't be read|cannot be read"):
        load_benchmark(tmp_path)
    latin = tmp_path / "latin.toml"
    latin.write_bytes("# Größe".encode("latin-1"))
    with pytest.raises(RegistryError, match=r"not UTF-8"):
        load_benchmark(latin)


@pytest.fixture(scope="module")
def shipped() -> Benchmark:
    return load_benchmark()


def test_frozen_protocol(shipped: Benchmark) -> None:
    """Every number of xscore-1.0, against the paper and the decisions; the digest is what results are filed under."""
    protocol = shipped.protocol("xscore-1.0")
    fields = msgspec.to_builtins(protocol)
    augmentations = [(a["name"], a["at"], a["strengths"]) for a in fields.pop("augmentations")]
    assert augmentations == [
        ("horizontal_flip", "stored", {"p": 0.5}),
        ("color_jitter", "stored", {"brightness": 0.2, "contrast": 0.3, "saturation": 0.3, "hue": 0.2}),
        ("cutmix", "input", {"alpha": 1.0}),
    ]
    del fields["title"]
    assert fields == {
        "name": "xscore-1.0",
        "accelerator": True,
        "input_size": 224,
        "batch_size": 32,
        "epochs": 100,
        "warmup_epochs": 5,
        "lr_max": 1e-3,
        "lr_min": 1e-5,
        "lr_max_exceptions": {"mobilevit": 1e-4},
        "optimizer": "adam",
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "label_smoothing": 0.05,
        "precision": "fp32",
        "metric": "top1",
    }
    assert protocol.digest == "02d57e35ca599798"


KNOBS = {
    "input_size": 192, "batch_size": 64, "epochs": 99, "warmup_epochs": 4, "lr_max": 2e-3, "lr_min": 2e-5,
    "betas": (0.9, 0.99), "eps": 1e-7, "weight_decay": 1e-4, "label_smoothing": 0.1, "metric": "top5",
    "lr_max_exceptions": {}, "augmentations": (),
}  # fmt: skip


@pytest.mark.parametrize("knob", KNOBS)
def test_every_number_changes_the_digest(knob: str, shipped: Benchmark) -> None:
    protocol = shipped.protocol("xscore-1.0")
    changed = msgspec.structs.replace(protocol, **{knob: KNOBS[knob]})
    assert changed.digest != protocol.digest


def test_digest_does_not_depend_on_words(shipped: Benchmark) -> None:
    protocol = shipped.protocol("xscore-1.0")
    renamed = msgspec.structs.replace(protocol, name="other", title="Other", accelerator=False)
    assert renamed.digest == protocol.digest


def test_anchors_are_the_extrema_of_the_published_table(shipped: Benchmark) -> None:
    published, anchors = shipped.published, shipped.anchor_table("published-2025")
    assert published is not None
    assert len(published.accuracy) == 11
    for column, dataset in enumerate(published.datasets):
        values = [row[column] for row in published.accuracy.values()]
        assert (anchors.minimum[dataset], anchors.maximum[dataset]) == (min(values), max(values))


def test_published_table_is_the_papers(shipped: Benchmark) -> None:
    published = shipped.published
    assert published is not None
    with (FILES / "published_accuracy.csv").open(encoding="utf-8") as file:
        table = {row.pop("model"): tuple(float(value) for value in row.values()) for row in csv.DictReader(file)}
    assert published.accuracy == table


def test_unknown_names_get_a_suggestion(shipped: Benchmark) -> None:
    with pytest.raises(WrongUseError, match=r"no suite named 'pockett'. Did you mean 'pocket'"):
        shipped.suite("pockett")
    with pytest.raises(WrongUseError, match=r"no protocol named 'xscore'"):
        shipped.protocol("xscore")
    with pytest.raises(WrongUseError, match=r"no budget named '2M'. Did you mean '2.5M'|Did you mean '1M'"):
        shipped.budget("2M")
    assert shipped.suite().name == "xscore4"
