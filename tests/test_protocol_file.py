"""A user's own protocol: validated like the registry, run beside the frozen ones, and never taken for one of them."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import pytest

from harness.catalog import Catalog
from harness.errors import RegistryError, WrongUseError
from harness.protocol_file import departures, read_protocol_file
from harness.registry import Benchmark, load_benchmark
from harness.results.protocols import find_protocol
from harness.results.store import RunsFolder
from tests.support import ROOT, TINY_REGISTRY, Command

EXAMPLES = ROOT / "examples" / "protocols"
SHORT = 'name = "short"\nbased_on = "tiny-1.0"\nepochs = 2\n'
COMPLETE = TINY_REGISTRY.read_text().partition('[protocols."tiny-1.0"]')[2].partition("[suites.tiny]")[0]
COMPLETE = 'name = "mine"\n' + COMPLETE.replace('[[protocols."tiny-1.0".augmentations]]', "[[augmentations]]")


def write(text: str, name: str = "my protocol.toml") -> str:
    Path(name).write_text(text)
    return name


def read(benchmark: Benchmark, text: str) -> Benchmark:
    return read_protocol_file(benchmark, write(text))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# ---------------------------------------------------------------------------------------------------------- reading


def test_derived_protocol_changes_only_what_it_names(tiny_benchmark: Benchmark) -> None:
    found = read(tiny_benchmark, SHORT)
    protocol, base = found.protocol("my protocol.toml"), tiny_benchmark.protocol("tiny-1.0")
    assert protocol.epochs == 2
    assert departures(base, protocol) == ["epochs: 3 to 2"]
    assert protocol.augmentations == base.augmentations
    assert protocol.name == f"short-{protocol.digest[:8]}"
    ablation = found.ablations[protocol.name]
    assert (ablation.based_on, ablation.base_digest) == ("tiny-1.0", base.digest)
    assert ablation.text == SHORT


def test_a_complete_protocol_needs_no_base(tiny_benchmark: Benchmark) -> None:
    found = read(tiny_benchmark, COMPLETE)
    protocol = found.protocol("my protocol.toml")
    assert protocol.digest == tiny_benchmark.protocol("tiny-1.0").digest
    assert protocol.name == f"mine-{protocol.digest[:8]}"
    assert found.ablations[protocol.name].based_on == ""


def test_every_change_is_named(tiny_benchmark: Benchmark) -> None:
    text = """
    name = "much"
    based_on = "tiny-1.0"
    lr_max = 2e-2
    betas = [0.8, 0.999]
    lr_max_exceptions = { tiny = 1e-3 }
    [[augmentations]]
    name = "cutmix"
    at = "stored"
    strengths = { alpha = 0.5 }
    [[augmentations]]
    name = "horizontal_flip"
    at = "stored"
    strengths = { p = 0.5 }
    [[augmentations]]
    name = "random_erasing"
    at = "input"
    """
    found = read(tiny_benchmark, text)
    (ablation,) = found.ablations.values()
    assert ablation.departures == (
        "lr_max: 0.01 to 0.02",
        "betas: 0.9, 0.999 to 0.8, 0.999",
        "lr_max_exceptions: none to tiny 0.001",
        "color_jitter: left out",
        "cutmix: alpha 1 to alpha 0.5",
        "cutmix: at the input size to at the stored size",
        "random_erasing: added (no strengths, at the input size)",
        "order of augmentations: cutmix, horizontal_flip, random_erasing",
    )


BAD = [
    (SHORT.replace("epochs = 2", "epoch = 2"), r"unknown field `epoch` \(known: .*epochs"),
    (SHORT.replace("epochs = 2", "epochs = 0"), r"epochs: expected `int` >= 1, found 0"),
    (SHORT.replace("epochs = 2", 'epochs = "2"'), r"epochs: expected `int`, got `str`, found '2'"),
    (SHORT.replace("epochs = 2", "warmup_epochs = 3"), r"warmup_epochs is 3, expected less than epochs = 3"),
    (SHORT.replace("epochs = 2", "lr_max = 1e-6"), r"lr_max 1e-06 must be greater than lr_min 1e-05"),
    (SHORT.replace("tiny-1.0", "tiny"), r"based_on: There is no protocol named 'tiny'\. Did you mean 'tiny-1\.0'"),
    (SHORT.replace('"tiny-1.0"', "1"), r"based_on is 1, expected text"),
    (SHORT.replace('name = "short"', ""), r"name is None, expected lower-case letters"),
    (SHORT.replace("short", "../short"), r"name is '\.\./short', expected lower-case letters"),
    (SHORT.replace("short", "Short"), r"name is 'Short', expected"),
    (SHORT.replace('based_on = "tiny-1.0"', ""), r"missing required field `title`"),
    (SHORT + "epochs = 3", r"not valid TOML"),
    (
        SHORT + '[[augmentations]]\nname = "cutmix"\nat = "end"',
        r"augmentations\[0\]\.at: expected one of 'stored', 'in",
    ),
    (SHORT + '[[augmentations]]\nname = "cutmix"\nat = "input"\n' * 2, r"augmentations: 'cutmix' is there 2 times"),
    (SHORT + '[[augmentations]]\nname = "cutmix"\nat = "input"\nstrengths = { alpha = "big" }', r"strengths"),
    (
        SHORT + '[[augmentations]]\nname = "cutmix"\nat = "input"\nstrengths = { alpha = nan }',
        r"alpha of cutmix is nan",
    ),
    (SHORT.replace("epochs = 2", "weight_decay = inf"), r"weight_decay: expected `float` < .*, found inf"),
    (SHORT.replace("epochs = 2", "epochs = 1000000000000"), r"epochs: expected `int` <= 1000000"),
    (SHORT.replace("short", "s" * 101), r"expected lower-case letters .* at most 100"),
    ("x = " + "[" * 5000, r"not valid TOML"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_a_bad_file_is_refused_with_its_name_and_the_reason(text: str, message: str, tiny_benchmark: Benchmark) -> None:
    with pytest.raises(RegistryError, match=message) as caught:
        read(tiny_benchmark, text)
    assert "my protocol.toml" in str(caught.value)


def test_a_frozen_name_is_refused_to_anything_else(tiny_benchmark: Benchmark) -> None:
    with pytest.raises(WrongUseError, match=r"the name 'tiny-1\.0' belongs to a frozen protocol .* Give it a name"):
        read(tiny_benchmark, SHORT.replace('"short"', '"tiny-1.0"'))
    same = read(tiny_benchmark, 'name = "tiny-1.0"\nbased_on = "tiny-1.0"\n')
    assert same.protocol("my protocol.toml") == tiny_benchmark.protocol("tiny-1.0")
    assert same.ablations == {}


@pytest.mark.parametrize(
    ("augmentation", "message"),
    [
        ('name = "cut_mix"', "no augmentation named 'cut_mix'. Did you mean 'cutmix'"),
        ('name = "cutmix"\nstrengths = { beta = 1.0 }', "the augmentation 'cutmix' refuses {'beta': 1.0}"),
        ('name = "cutmix"\nstrengths = { alpha = 0 }', "the augmentation 'cutmix' refuses {'alpha': 0.0}"),
    ],
)
def test_augmentations_are_looked_up_and_built_before_any_work(
    augmentation: str, message: str, tiny_benchmark: Benchmark, tiny_catalog: Catalog
) -> None:
    path = write(SHORT + f'[[augmentations]]\nat = "input"\n{augmentation}\n')
    with pytest.raises(WrongUseError) as caught:
        find_protocol(tiny_benchmark, tiny_catalog, RunsFolder(Path("runs")), path)
    assert message in str(caught.value)


def test_an_unknown_metric_is_refused(tiny_benchmark: Benchmark, tiny_catalog: Catalog) -> None:
    path = write(SHORT + 'metric = "top2"\n')
    with pytest.raises(WrongUseError, match=r"no metric named 'top2'. Did you mean 'top"):
        find_protocol(tiny_benchmark, tiny_catalog, RunsFolder(Path("runs")), path)


def test_benchmark_with_a_user_protocol_can_be_pickled(tiny_benchmark: Benchmark) -> None:
    found = read(tiny_benchmark, SHORT)
    copy = pickle.loads(pickle.dumps(found))
    assert copy == found
    assert copy.protocol("my protocol.toml").digest == found.protocol("my protocol.toml").digest


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_examples_are_valid(path: Path, tiny_catalog: Catalog) -> None:
    found = find_protocol(load_benchmark(), tiny_catalog, RunsFolder(Path("runs")), str(path))
    (ablation,) = found.ablations.values()
    assert ablation.name == path.stem
    assert ablation.departures


# ---------------------------------------------------------------------------------------------------------- running


def folder_of(name: str) -> Path:
    (found,) = Path("runs").glob(f"{name}-*")
    return found


def test_results_lie_under_their_own_name_and_digest(tiny_harness: Command) -> None:
    tiny_harness("run", "tiny", "gentle")
    path = write(SHORT)
    ran = tiny_harness("run", "tiny", "gentle", "--protocol", path, "--format", "json")
    assert ran.code == 0
    assert {row["state"] for row in ran.rows} == {"done"}
    assert "This is an ablation, not the frozen benchmark: protocol short-" in ran.err
    assert "It departs in epochs: 3 to 2." in ran.err
    folder = folder_of("short")
    assert len(list(folder.rglob("result.json"))) == 4
    assert (folder / "protocol.toml").read_text() == SHORT
    record = json.loads((folder / "protocol.json").read_text())
    assert record["protocol"]["epochs"] == 2
    assert folder.name == f"short-{record['digest'][:8]}"
    result = json.loads((folder / "tiny/dots/seed-0/result.json").read_text())
    assert result["protocol_digest"] == record["digest"]
    assert len((folder / "tiny/dots/seed-0/history.jsonl").read_text().splitlines()) == 2
    again = tiny_harness("run", "tiny", "gentle", "--protocol", path, "--format", "json")
    assert "0 carried out by this command" in again.err
    assert again.rows == ran.rows


def test_an_ablation_can_be_verified_when_its_file_is_gone(tiny_harness: Command) -> None:
    path = write(SHORT)
    tiny_harness("run", "tiny", "--dataset", "dots", "--protocol", path)
    Path(path).unlink()
    ran = tiny_harness("verify", str(folder_of("short") / "tiny/dots/seed-0"))
    assert ran.code == 0, ran.err
    assert re.search(r"1 run: \d+ ok\.", ran.err)


def test_two_contents_of_one_name_never_meet(tiny_harness: Command) -> None:
    path = write(SHORT)
    tiny_harness("run", "tiny", "--dataset", "dots", "--protocol", path)
    first = folder_of("short").name
    write(SHORT.replace("epochs = 2", "epochs = 1\nwarmup_epochs = 0"))
    status = tiny_harness("status", "tiny", "--dataset", "dots", "--protocol", path, "--format", "json")
    assert [row["state"] for row in status.rows] == ["missing"]
    assert f"Results of other protocols of this name are ignored: {first}." in status.err
    assert tiny_harness("run", "tiny", "--dataset", "dots", "--protocol", path).code == 0
    assert len(list(Path("runs").glob("short-*/tiny/dots/seed-0/result.json"))) == 2


def test_results_can_be_looked_at_when_the_file_is_gone(tiny_harness: Command) -> None:
    path = write(SHORT)
    tiny_harness("run", "tiny", "gentle", "--protocol", path)
    Path(path).unlink()
    name = folder_of("short").name
    gone = tiny_harness("status", "tiny", "--protocol", path)
    assert gone.code == 3
    assert f"no protocol file {path}. For results whose file is gone, give --protocol the name" in gone.err
    assert name in gone.err
    status = tiny_harness("status", "tiny", "--protocol", name, "--format", "json")
    assert {row["state"] for row in status.rows} == {"done"}
    assert "It departs in epochs: 3 to 2." in status.err
    assert tiny_harness("leaderboard", "--protocol", name).code == 0
    slip = tiny_harness("status", "tiny", "--protocol", name[:-1])
    assert slip.code == 2
    assert f"Did you mean '{name}'?" in slip.err


def test_a_kept_protocol_that_was_changed_is_noticed(tiny_harness: Command) -> None:
    tiny_harness("run", "tiny", "--dataset", "dots", "--protocol", write(SHORT))
    record = folder_of("short") / "protocol.json"
    record.write_text(record.read_text().replace('"epochs": 2', '"epochs": 4'))
    status = tiny_harness("status", "tiny", "--protocol", folder_of("short").name)
    assert status.code == 3
    assert "the file was changed, or written by a version of harness that executes" in status.err
    record.write_text("{")
    assert "is damaged" in tiny_harness("status", "tiny", "--protocol", folder_of("short").name).err


def test_the_frozen_leaderboard_never_sees_an_ablation(tiny_harness: Command) -> None:
    path = write(SHORT)
    tiny_harness("run", "tiny", "gentle", "--protocol", path)
    frozen = tiny_harness("leaderboard")
    assert frozen.code == 3
    assert "no finished, current results" in frozen.err
    tiny_harness("run", "tiny", "gentle")
    before = tiny_harness("leaderboard", "--format", "json")
    tiny_harness("run", "tiny2", "--protocol", path)
    assert tiny_harness("leaderboard", "--format", "json").out == before.out


def test_an_ablations_leaderboard_says_so_wherever_it_goes(tiny_harness: Command) -> None:
    path = write(SHORT)
    tiny_harness("run", "tiny", "gentle", "--protocol", path)
    for command in ("leaderboard", "score"):
        for format_ in ("table", "markdown", "latex"):
            ran = tiny_harness(command, "--protocol", path, "--format", format_)
            assert "xScore (ablation)" in ran.out
            assert "not the frozen benchmark" in ran.err
            assert "It departs in epochs: 3 to 2." in ran.err
        rows = tiny_harness(command, "--protocol", path, "--format", "json").rows
        assert {row["ablation"] for row in rows} == {folder_of("short").name}
    tiny_harness("run", "tiny", "gentle")
    frozen = tiny_harness("leaderboard")
    assert "ablation" not in frozen.out + frozen.err
    assert "ablation" not in tiny_harness("leaderboard", "--format", "json").rows[0]


def test_an_ablation_without_results_says_what_to_run(tiny_harness: Command) -> None:
    ran = tiny_harness("leaderboard", "--protocol", write(SHORT, "short.toml"))
    assert ran.code == 3
    assert "Run: harness run --all --suite tiny --protocol short.toml" in ran.err


def test_anchors_of_one_protocol_are_refused_to_another(tiny_harness: Command) -> None:
    path = write(SHORT)
    tiny_harness("run", "tiny", "gentle")
    tiny_harness("run", "tiny", "gentle", "--protocol", path)
    assert tiny_harness("score", "--make-anchors", "frozen-scale").code == 0
    ran = tiny_harness("leaderboard", "--protocol", path, "--anchors", "frozen-scale")
    assert ran.code == 2
    assert "Scores across protocols would not be comparable" in ran.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("leaderboard", "--published"), "--published uses the frozen protocol"),
        (("report", "page.html", "--published"), "--published uses the frozen protocol"),
        (("score", "--accuracies", "mine.csv"), "The protocol of a file given with --accuracies is unknown"),
    ],
)
def test_what_has_no_protocol_of_its_own_refuses_one(
    arguments: tuple[str, ...], message: str, tiny_harness: Command
) -> None:
    ran = tiny_harness(*arguments, "--protocol", write(SHORT))
    assert ran.code == 2
    assert message in ran.err


def test_an_ablations_report_says_so_in_title_and_methods(tiny_harness: Command) -> None:
    pytest.importorskip("altair")
    path = write(SHORT)
    tiny_harness("run", "tiny", "gentle", "--protocol", path)
    ran = tiny_harness("report", "page.html", "--suite", "tiny", "--protocol", path, "--no-patterns")
    assert ran.code == 0
    page = Path("page.html").read_text()
    assert "Ablation, not the frozen benchmark: Two tiny sets, under short-" in page
    assert "under a protocol of the user&#39;s own on 2 data sets" in page
    assert page.count("It departs in epochs: 3 to 2.") >= 2


def test_the_plan_of_an_ablation_counts_its_own_work(tiny_harness: Command) -> None:
    ran = tiny_harness("plan", "tiny", "--protocol", write(SHORT))
    assert ran.code == 0
    # 2 data sets of 64 images for 2 epochs.
    assert "256 training images" in ran.err
    assert not Path("runs").exists()


def test_another_input_size_asks_for_data_of_that_size(
    harness: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write('name = "wide"\nbased_on = "xscore-1.0"\ninput_size = 96\n', "wide.toml")
    ran = harness("run", "starnet", "--dataset", "stanford_dogs", "--protocol", path, "--device", "cpu")
    assert ran.code == 3
    assert "Run: harness prepare stanford_dogs --protocol wide.toml" in ran.err
