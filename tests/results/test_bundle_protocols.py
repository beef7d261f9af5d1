"""harness bundle and merge: a user's own protocol travels with its runs, and never takes another's place."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.cli import run_command
from tests.results.test_bundle import content, outcomes, rewritten
from tests.support import TINY_PLUGIN, TINY_REGISTRY, Command

SHORT = 'name = "short"\nbased_on = "tiny-1.0"\nepochs = 2\n'


@pytest.fixture(scope="module")
def ablation_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder with tiny and gentle under a protocol of two epochs, and tiny on dots under the frozen one."""
    place = tmp_path_factory.mktemp("ablation")
    (place / "short.toml").write_text(SHORT)
    where = ("--registry", str(TINY_REGISTRY), "--runs", str(place / "runs"), "--in-process")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TINY_PLUGIN))
        patch.setenv("HARNESS_DATA", str(place / "data"))
        assert run_command(["run", "tiny", "gentle", "--protocol", str(place / "short.toml"), *where]) == 0
        assert run_command(["run", "tiny", "--dataset", "dots", *where]) == 0
    return place / "runs"


@pytest.fixture
def command(tiny_harness: Command, ablation_runs: Path) -> Command:
    shutil.copytree(ablation_runs, "runs")
    return tiny_harness


@pytest.fixture
def name(command: Command) -> str:
    (found,) = Path("runs").glob("short-*")
    return found.name


@pytest.fixture
def bundle(command: Command, harness: Command) -> Path:
    assert harness("bundle", "--all", "-o", "all.zip").code == 0
    return Path("all.zip")


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_results_can_be_looked_at_where_they_were_merged(command: Command, harness: Command, name: str) -> None:
    assert harness("bundle", "tiny", "gentle", "-o", "all.zip").code == 0
    assert harness("merge", "all.zip", "--runs", "other machine").code == 0
    assert content(Path("other machine")) == content(Path("runs"))
    shutil.rmtree("runs")
    under = ("--protocol", name, "--runs", "other machine")
    status = command("status", "tiny", "gentle", *under, "--format", "json")
    assert status.code == 0
    assert {row["state"] for row in status.rows} == {"done"}
    assert "It departs in epochs: 3 to 2." in status.err
    board = command("leaderboard", *under, "--format", "json")
    assert board.code == 0
    assert {(row["model"], row["ablation"]) for row in board.rows} >= {("tiny", name), ("gentle", name)}
    verified = command("verify", f"other machine/{name}/tiny/dots/seed-0", "--format", "json")
    assert verified.code == 0
    assert {row["verdict"] for row in verified.rows} == {"ok"}


def test_a_bundle_of_an_ablation_verifies_by_itself(command: Command, harness: Command, name: str) -> None:
    assert harness("bundle", f"runs/{name}/tiny/dots/seed-0", "-o", "one.zip").code == 0
    shutil.rmtree("runs")
    ran = command("verify", "one.zip", "--format", "json")
    assert ran.code == 0
    assert {row["verdict"] for row in ran.rows} == {"ok"}


def test_a_runs_folder_brings_its_protocols_too(harness: Command, name: str) -> None:
    assert harness("merge", "runs", "--runs", "there").code == 0
    assert content(Path("there")) == content(Path("runs"))
    assert harness("merge", "runs", "--runs", "there").code == 0
    (Path("there") / name / "protocol.json").unlink()  # as after a merge that was killed between the two
    assert harness("merge", "runs", "--runs", "there").code == 0
    assert content(Path("there")) == content(Path("runs"))


def test_same_protocol_from_another_folder_stays_as_it_is(harness: Command, bundle: Path, name: str) -> None:
    record = Path("there") / name / "protocol.json"
    shutil.copytree(Path("runs") / name, record.parent, ignore=shutil.ignore_patterns("gentle"))
    content_here = json.loads(record.read_text())
    content_here["ablation"]["file"] = "somewhere/else.toml"
    record.write_text(json.dumps(content_here))
    before = record.read_bytes()
    ran = harness("merge", str(bundle), "--runs", "there", "--format", "json")
    assert ran.code == 0
    assert outcomes(ran)["gentle/dots"] == "merged"
    assert record.read_bytes() == before


def _another_file(folder: Path) -> None:
    change(folder / "protocol.toml", "epochs = 2", "epochs = 2 # a remark")


def _another_record(folder: Path) -> None:
    _another_file(folder)
    change(folder / "protocol.json", r"epochs = 2\n", r"epochs = 2 # a remark\n")


def _no_record(folder: Path) -> None:
    _another_file(folder)
    (folder / "protocol.json").unlink()


def _damaged_record(folder: Path) -> None:
    (folder / "protocol.json").write_text("{")


CONFLICTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "file alone": (_another_file, "protocol.toml was changed"),
    "file and record": (_another_record, "has another protocol.toml or protocol.json than the incoming runs"),
    "file without record": (_no_record, "has another protocol.toml or protocol.json than the incoming runs"),
    "damaged": (_damaged_record, "protocol.json is damaged"),
}


@pytest.mark.parametrize("case", CONFLICTS)
def test_protocol_name_with_other_content_is_not_merged(case: str, harness: Command, bundle: Path, name: str) -> None:
    alter, sentence = CONFLICTS[case]
    there = Path("there") / name
    there.mkdir(parents=True)
    for file in ("protocol.toml", "protocol.json"):
        shutil.copy(Path("runs") / name / file, there / file)
    alter(there)
    before = {path.relative_to(there): path.read_bytes() for path in there.rglob("*")}
    for source in (str(bundle), "runs"):
        ran = harness("merge", source, "--runs", "there", "--format", "json")
        assert ran.code == 1
        mine = [row for row in ran.rows if row["protocol"] == name]
        assert {(row["outcome"], row["place"]) for row in mine} == {("left out", None)}
        assert all(sentence in row["detail"] and "was merged" in row["detail"] for row in mine)
        assert {path.relative_to(there): path.read_bytes() for path in there.rglob("*")} == before
    assert Path("there/tiny-1.0/tiny/dots/seed-0/result.json").is_file()  # of the frozen protocol


@pytest.mark.parametrize("case", ["file alone", "damaged"])
def test_runs_beside_a_damaged_protocol_are_left_out_and_named(case: str, harness: Command, name: str) -> None:
    alter, sentence = CONFLICTS[case]
    alter(Path("runs") / name)
    packed = harness("bundle", "--all", "-o", "some.zip", "--format", "json")
    assert packed.code == 0
    assert {row["state"] for row in packed.rows if row["protocol"] == name} == {"left out"}
    assert all(sentence in row["detail"] for row in packed.rows if row["protocol"] == name)
    merged = harness("merge", "runs", "--runs", "there", "--format", "json")
    assert merged.code == 0
    assert sentence in merged.err
    assert not (Path("there") / name).exists()


def test_two_files_of_one_protocol_are_not_packed_together(harness: Command, name: str) -> None:
    shutil.copytree("runs", "second")
    _another_record(Path("second") / name)
    both = (f"runs/{name}/tiny", f"second/{name}/gentle")
    ran = harness("bundle", *both, "-o", "no.zip")
    assert ran.code == 3
    assert "different files of this protocol" in ran.err
    assert not Path("no.zip").exists()


# --------------------------------------------------------------------------------------- damaged and hostile bundles

Files = dict[str, bytes]


def _alter(name: str, files: Files, manifest: dict[str, Any]) -> None:
    path = f"runs/{name}/protocol.json"
    files[path] = files[path].replace(b'"epochs": 2', b'"epochs": 4')


def _elsewhere(name: str, files: Files, manifest: dict[str, Any]) -> None:
    manifest["protocols"]["../up"] = manifest["protocols"].pop(name)
    for file in ("protocol.toml", "protocol.json"):
        files[f"runs/../up/{file}"] = files.pop(f"runs/{name}/{file}")


def _of_another(name: str, files: Files, manifest: dict[str, Any]) -> None:
    manifest["protocols"]["tiny-1.0"] = manifest["protocols"].pop(name)
    for file in ("protocol.toml", "protocol.json"):
        files[f"runs/tiny-1.0/{file}"] = files.pop(f"runs/{name}/{file}")


def _half(name: str, files: Files, manifest: dict[str, Any]) -> None:
    del files[f"runs/{name}/protocol.toml"], manifest["protocols"][name]["protocol.toml"]


HOSTILE = {
    "altered": (_alter, "says digest"),
    "upwards": (_elsewhere, "'../up' is of none of its runs"),
    "of another": (_of_another, "it is not in its own folder"),
    "half": (_half, "has not exactly protocol.toml and protocol.json"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_protocol_is_refused_with_its_bundle(case: str, harness: Command, bundle: Path, name: str) -> None:
    alter, sentence = HOSTILE[case]
    altered = rewritten(bundle, lambda files, manifest: alter(name, files, manifest))
    for command in (("merge", str(altered), "--runs", "there"), ("verify", str(altered))):
        ran = harness(*command)
        assert ran.code == 3
        assert sentence in ran.err
    assert not Path("there").exists()


@pytest.mark.parametrize("file", ["protocol.toml", "protocol.json"])
def test_an_altered_byte_of_a_protocol_is_found(file: str, harness: Command, bundle: Path, name: str) -> None:
    path = f"runs/{name}/{file}"
    altered = rewritten(bundle, lambda files, _: files.update({path: files[path][:-1] + b" "}), seal=False)
    ran = harness("merge", str(altered), "--runs", "there")
    assert ran.code == 3
    assert f"{path} is not what was packed" in ran.err
    assert not Path("there").exists()


def test_a_bundle_from_before_protocols_travelled_is_taken_in(command: Command, harness: Command) -> None:
    assert command("bundle", "--all", "--suite", "tiny", "-o", "frozen.zip").code == 0
    older = rewritten(Path("frozen.zip"), lambda _, manifest: manifest.pop("protocols"))
    assert harness("merge", str(older), "--runs", "there").code == 0
    assert content(Path("there/tiny-1.0")) == content(Path("runs/tiny-1.0"))
