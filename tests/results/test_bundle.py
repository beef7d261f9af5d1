"""harness bundle and merge: what goes in comes out, bit by bit; nothing is overwritten, nothing altered is let in."""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from tests.support import FILES, Command, Ran, read_result

DOTS = Path("tiny-1.0/tiny/dots/seed-0")
OLD = FILES / "schema-1"


@pytest.fixture
def finished(tiny_harness: Command, finished_runs: Path) -> Command:
    """Three finished runs in ``runs``, and the command line."""
    shutil.copytree(finished_runs, "runs")
    return tiny_harness


@pytest.fixture
def bundle(finished: Command, harness: Command) -> Path:
    assert harness("bundle", "--all", "-o", "all.zip").code == 0
    return Path("all.zip")


def content(folder: Path) -> dict[str, str]:
    """Hash of every file by its path, locks left out."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(".lock")
    }


def outcomes(ran: Ran) -> dict[str, str]:
    return {f"{row['model']}/{row['dataset']}": row["outcome"] for row in ran.rows}


def rewritten(bundle: Path, change: Callable[[dict[str, bytes], dict[str, Any]], None], *, seal: bool = True) -> Path:
    """A bundle with other content; ``seal`` corrects the manifest's sizes and hashes, as a forger would."""
    with zipfile.ZipFile(bundle) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(files.pop("bundle.json"))
    change(files, manifest)
    if seal:
        for place, entries in [*manifest["runs"].items(), *manifest.get("protocols", {}).items()]:
            for name in entries:
                data = files.get(f"runs/{place}/{name}", b"")
                entries[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    target = bundle.with_name("changed.zip")
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        archive.writestr("bundle.json", json.dumps(manifest))
    return target


# ------------------------------------------------------------------------------------------------- there and back


def test_bundle_and_merge_carry_every_bit(finished: Command, harness: Command, bundle: Path) -> None:
    ran = harness("merge", str(bundle), "--runs", "other machine", "--format", "json")
    assert ran.code == 0
    assert outcomes(ran) == {"tiny/bars": "merged", "tiny/dots": "merged", "tiny2/dots": "merged"}
    assert content(Path("other machine")) == content(Path("runs"))
    status = finished("status", "tiny", "--runs", "other machine", "--format", "json")
    assert [row["state"] for row in status.rows] == ["done", "done"]
    again = finished("run", "tiny", "--runs", "other machine", "--format", "json")
    assert "0 carried out by this command" in again.err


def test_same_runs_give_the_same_bytes(bundle: Path, harness: Command) -> None:
    shutil.copytree("runs", "copy", copy_function=shutil.copy)
    assert harness("bundle", "--all", "--runs", "copy", "-o", "second.zip").code == 0
    assert Path("second.zip").read_bytes() == bundle.read_bytes()


def test_bundle_is_an_ordinary_archive_with_a_manifest(bundle: Path) -> None:
    with zipfile.ZipFile(bundle) as archive:
        manifest = json.loads(archive.read("bundle.json"))
        assert manifest["schema"] == 1
        assert set(manifest["runs"]) == {str(DOTS), "tiny-1.0/tiny/bars/seed-0", "tiny-1.0/tiny2/dots/seed-0"}
        for name, entry in manifest["runs"][str(DOTS)].items():
            data = archive.read(f"runs/{DOTS}/{name}")
            assert entry == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_bundle_verifies_as_the_runs_do(finished: Command, bundle: Path) -> None:
    ran = finished("verify", str(bundle), "--replay", "--format", "json")
    assert ran.code == 0
    assert {row["run"] for row in ran.rows} == {
        f"all.zip:tiny-1.0/{name}/seed-0" for name in ("tiny/bars", "tiny/dots", "tiny2/dots")
    }
    assert {row["verdict"] for row in ran.rows} == {"ok"}


def test_merge_twice_changes_nothing(harness: Command, bundle: Path) -> None:
    harness("merge", str(bundle), "--runs", "there")
    before = content(Path("there"))
    ran = harness("merge", str(bundle), "--runs", "there", "--format", "json")
    assert ran.code == 0
    assert set(outcomes(ran).values()) == {"identical"}
    assert content(Path("there")) == before


def test_merge_takes_a_runs_folder_too(finished: Command, harness: Command) -> None:
    shutil.copytree(Path("runs") / DOTS, "runs/tiny-1.0/tiny/dots/seed-7")
    (Path("runs") / "tiny-1.0/tiny/dots/seed-7/result.json").unlink()
    ran = harness("merge", "runs", "--runs", "there", "--format", "json")
    assert ran.code == 0
    assert set(outcomes(ran).values()) == {"merged"}
    assert "tiny on dots, seed 7 was left out: it is not finished." in ran.err
    assert not Path("there/tiny-1.0/tiny/dots/seed-7").exists()


def test_result_of_an_older_schema_travels_as_it_is(harness: Command) -> None:
    shutil.copytree(OLD, "runs", ignore=shutil.ignore_patterns("seed-1"))
    assert harness("bundle", "--all", "-o", "old.zip").code == 0
    assert harness("merge", "old.zip", "--runs", "there").code == 0
    assert content(Path("there")) == content(Path("runs"))
    assert read_result(Path("there") / DOTS)["schema"] == 1


# ------------------------------------------------------------------------------------------------------- selection


def test_selection(finished: Command, harness: Command, tmp_path: Path) -> None:
    def packed(*arguments: str) -> set[str]:
        name = f"{len(list(Path().glob('*.zip')))}.zip"
        ran = finished("bundle", *arguments, "-o", name, "--format", "json")
        assert ran.code == 0, ran.err
        return {f"{row['model']}/{row['dataset']}" for row in ran.rows if row["state"] == "bundled"}

    assert packed("tiny2") == {"tiny2/dots"}
    assert packed("tiny", "tiny2", "--dataset", "dots") == {"tiny/dots", "tiny2/dots"}
    assert packed("--all", "--suite", "tiny") == {"tiny/dots", "tiny/bars", "tiny2/dots"}
    assert packed(str(Path("runs") / DOTS)) == {"tiny/dots"}
    assert packed("runs/tiny-1.0/tiny2", str(Path("runs") / DOTS)) == {"tiny2/dots", "tiny/dots"}
    assert finished("bundle", "--all", "--suite", "bad", "-o", "no.zip").code == 3
    assert finished("bundle", "-o", "no.zip").code == 2
    assert finished("bundle", "tiny", "--all", "-o", "no.zip").code == 2
    unknown = finished("bundle", "tinny", "-o", "no.zip")
    assert unknown.code == 3
    assert "Models there: tiny, tiny2." in unknown.err
    assert not Path("no.zip").exists()


def test_unfinished_and_broken_runs_are_left_out_and_named(finished: Command) -> None:
    (Path("runs") / DOTS / "result.json").unlink()
    (Path("runs") / "tiny-1.0/tiny2/dots/seed-0/predictions.npz").unlink()
    ran = finished("bundle", "--all", "-o", "some.zip", "--format", "json")
    assert ran.code == 0
    details = {f"{row['model']}/{row['dataset']}": (row["state"], row["detail"]) for row in ran.rows}
    assert details == {
        "tiny/bars": ("bundled", ""),
        "tiny/dots": ("left out", "it is not finished."),
        "tiny2/dots": ("left out", "predictions.npz missing."),
    }
    assert "1 runs" in ran.err
    assert "2 left out" in ran.err


def test_existing_file_is_not_overwritten(harness: Command, bundle: Path) -> None:
    before = bundle.read_bytes()
    ran = harness("bundle", "--all", "-o", str(bundle))
    assert ran.code == 3
    assert "is there already" in ran.err
    assert bundle.read_bytes() == before


# -------------------------------------------------------------------------------------------- what is there already


def test_different_results_are_both_kept(finished: Command, harness: Command, bundle: Path) -> None:
    finished("run", "tiny", "--dataset", "dots", "--runs", "there")
    cell = Path("there") / DOTS
    result = read_result(cell)
    (cell / "result.json").write_text(json.dumps(result | {"weights_sha256": "0" * 64}))
    before = content(Path("there"))
    ran = harness("merge", str(bundle), "--runs", "there", "--format", "json")
    assert ran.code == 1
    assert outcomes(ran) == {"tiny/bars": "merged", "tiny/dots": "set aside", "tiny2/dots": "merged"}
    (row,) = [row for row in ran.rows if row["outcome"] == "set aside"]
    assert "of the same job with other weights. Both are kept" in row["detail"]
    assert content(Path(row["place"])) == content(Path("runs") / DOTS)
    assert before.items() <= content(Path("there")).items()
    after = content(Path("there"))
    assert harness("merge", str(bundle), "--runs", "there").code == 1
    assert content(Path("there")) == after  # not set aside a second time


def test_run_trained_twice_to_the_same_numbers_is_not_a_conflict(
    finished: Command, harness: Command, bundle: Path
) -> None:
    finished("run", "tiny", "tiny2", "--runs", "there")
    before = content(Path("there"))
    ran = harness("merge", str(bundle), "--runs", "there", "--format", "json")
    assert ran.code == 0
    assert {row["detail"] for row in ran.rows} == {
        "It was trained twice and ended in the same weights and predictions; the one here stays."
    }
    assert content(Path("there")) == before


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def add_one(path: Path) -> None:
    """Change the weights of a checkpoint that stays readable."""
    stored = torch.load(path, weights_only=True)
    stored["weights"] = {name: value + 1 for name, value in stored["weights"].items()}
    torch.save(stored, path)


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("checkpoint.pt", cut),
        ("predictions.npz", cut),
        ("history.jsonl", lambda path: path.write_text("{}\n")),
        ("result.json", cut),
        ("checkpoint.pt", add_one),
    ],
)
def test_an_intact_run_takes_the_place_of_a_damaged_one(
    name: str, harm: Callable[[Path], object], finished: Command, harness: Command, bundle: Path
) -> None:
    finished("run", "tiny", "--dataset", "dots", "--runs", "there")
    cell = Path("there") / DOTS
    harm(cell / name)
    damaged = content(cell)
    ran = harness("merge", str(bundle), "--runs", "there", "--format", "json")
    assert ran.code == 0
    (row,) = [row for row in ran.rows if row["dataset"] == "dots" and row["model"] == "tiny"]
    assert row["outcome"] == "merged"
    assert "there/tiny-1.0/tiny/dots/set-aside/seed-0-" in row["detail"]
    assert content(cell) == content(Path("runs") / DOTS)
    (aside,) = (cell.parent / "set-aside").iterdir()
    assert content(aside) == damaged


@pytest.mark.parametrize(("name", "harm"), [("checkpoint.pt", cut), ("predictions.npz", cut)])
def test_a_damaged_run_is_neither_packed_nor_merged(
    name: str, harm: Callable[[Path], object], finished: Command, harness: Command
) -> None:
    harm(Path("runs") / DOTS / name)
    packed = harness("bundle", "--all", "-o", "all.zip", "--format", "json")
    assert [row["state"] for row in packed.rows if name in row["detail"]] == ["left out"]
    assert [row["state"] for row in packed.rows].count("bundled") == 2
    merged = harness("merge", "runs", "--runs", "there")
    assert not (Path("there") / DOTS).exists()
    assert name in merged.err


def test_a_run_in_folders_of_odd_names_is_not_packed(finished: Command, harness: Command) -> None:
    odd = Path("runs/tiny-1.0/My Net/dots/seed-0")
    shutil.copytree(Path("runs") / DOTS, odd)
    result = read_result(odd)
    (odd / "result.json").write_text(json.dumps(result | {"job": result["job"] | {"model": "My Net"}}))
    packed = harness("bundle", "--all", "-o", "all.zip", "--format", "json")
    assert [row["model"] for row in packed.rows if row["state"] == "left out"] == ["My Net"]
    assert harness("merge", "all.zip", "--runs", "there").code == 0


def test_a_manifest_that_would_fill_the_memory_is_refused(harness: Command, bundle: Path) -> None:
    with zipfile.ZipFile(bundle) as archive, zipfile.ZipFile("bomb.zip", "w", zipfile.ZIP_DEFLATED) as bomb:
        for name in archive.namelist():
            bomb.writestr(name, archive.read(name))
    ran = harness("merge", "bomb.zip", "--runs", "there")
    assert ran.code == 3
    assert "its bundle.json is compressed, or longer than that of any bundle" in ran.err


def test_half_way_run_makes_room_and_is_kept(harness: Command, bundle: Path) -> None:
    shutil.copytree(Path("runs") / DOTS, Path("there") / DOTS)
    (Path("there") / DOTS / "result.json").unlink()
    half_way = content(Path("there") / DOTS)
    ran = harness("merge", str(bundle), "--runs", "there", "--format", "json")
    assert ran.code == 0
    (detail,) = {row["detail"] for row in ran.rows} - {""}
    aside = Path(detail.removeprefix("The unfinished run that was here is in ").removesuffix("."))
    assert content(aside) == half_way
    assert content(Path("there") / DOTS) == content(Path("runs") / DOTS)


def test_job_that_is_being_trained_is_left_alone(harness: Command, bundle: Path) -> None:
    place = Path("there") / DOTS
    place.mkdir(parents=True)
    with FileLock(place.parent / ".seed-0.lock"):
        ran = harness("merge", str(bundle), "--runs", "there", "--format", "json")
    assert ran.code == 1
    assert outcomes(ran)["tiny/dots"] == "left out"
    assert list(place.iterdir()) == []


def test_leftovers_of_a_killed_merge_do_no_harm(harness: Command, bundle: Path) -> None:
    staging = Path("there") / DOTS.parent / ".seed-0.merging"
    staging.mkdir(parents=True)
    (staging / "checkpoint.pt").write_bytes(b"half")
    assert harness("merge", str(bundle), "--runs", "there").code == 0
    assert not staging.exists()
    assert content(Path("there")) == content(Path("runs"))


# --------------------------------------------------------------------------------------- damaged and hostile bundles


def _rename(old: str, new: str) -> Callable[[dict[str, bytes], dict[str, Any]], None]:
    def change(files: dict[str, bytes], manifest: dict[str, Any]) -> None:
        manifest["runs"][new] = manifest["runs"].pop(old)
        for name in [name for name in files if name.startswith(f"runs/{old}/")]:
            files[name.replace(f"runs/{old}/", f"runs/{new}/")] = files.pop(name)

    return change


def _file(name: str, files: dict[str, bytes], manifest: dict[str, Any]) -> None:
    files[f"runs/{DOTS}/{name}"] = b"x"
    manifest["runs"][str(DOTS)][name] = {}


HOSTILE: dict[str, Callable[[dict[str, bytes], dict[str, Any]], Any]] = {
    "upwards": _rename(str(DOTS), "../tiny/dots/seed-0"),
    "upwards in the middle": _rename(str(DOTS), "tiny-1.0/../dots/seed-0"),
    "absolute": _rename(str(DOTS), "/tmp/dots/seed-0"),
    "drive": _rename(str(DOTS), "C:/tiny/dots/seed-0"),
    "backslash": _rename(str(DOTS), "tiny-1.0/..\\tiny/dots/seed-0"),
    "hidden": _rename(str(DOTS), "tiny-1.0/.tiny/dots/seed-0"),
    "no seed": _rename(str(DOTS), "tiny-1.0/tiny/dots/set-aside"),
    "deeper": _rename(str(DOTS), "a/tiny-1.0/tiny/dots/seed-0"),
    "other job": _rename(str(DOTS), "tiny-1.0/tiny/dots/seed-5"),
    "foreign file": lambda files, manifest: _file("evil.py", files, manifest),
    "file upwards": lambda files, manifest: _file("../../evil", files, manifest),
    "unlisted": lambda files, manifest: files.update({f"runs/{DOTS}/more": b"x"}),
    "missing": lambda files, manifest: files.pop(f"runs/{DOTS}/checkpoint.pt"),
    "result missing": lambda files, manifest: (
        files.pop(f"runs/{DOTS}/result.json"),
        manifest["runs"][str(DOTS)].pop("result.json"),
    ),
    "no result": lambda files, manifest: files.update({f"runs/{DOTS}/result.json": b"{}"}),
    "newer": lambda files, manifest: manifest.update(schema=9),
    "newer result": lambda files, manifest: files.update(
        {f"runs/{DOTS}/result.json": files[f"runs/{DOTS}/result.json"].replace(b'"schema": 2', b'"schema": 9')}
    ),
    "other kind": lambda files, manifest: manifest.update(kind="something"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bundle_is_refused_whole(name: str, harness: Command, bundle: Path) -> None:
    altered = rewritten(bundle, HOSTILE[name])
    everything = content(Path())
    for command in (("merge", str(altered), "--runs", "there"), ("verify", str(altered))):
        ran = harness(*command)
        assert ran.code == 3
        assert "changed.zip" in ran.err
        assert "Traceback" not in ran.err
    assert not Path("there").exists()
    assert content(Path()) == everything


def test_altered_byte_is_found_before_anything_is_written(harness: Command, bundle: Path) -> None:
    name = f"runs/{DOTS}/predictions.npz"
    altered = rewritten(bundle, lambda files, _: files.update({name: files[name][:-1] + b"!"}), seal=False)
    ran = harness("merge", str(altered), "--runs", "there")
    assert ran.code == 3
    assert f"{name} is not what was packed" in ran.err
    assert not Path("there").exists()


def test_links_and_doubled_names_are_refused(harness: Command, bundle: Path) -> None:
    linked = Path("linked.zip")
    with zipfile.ZipFile(bundle) as source, zipfile.ZipFile(linked, "w") as target:
        for info in source.infolist():
            if info.filename.endswith("dots/seed-0/history.jsonl"):
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
            target.writestr(info, source.read(info.filename))
    ran = harness("merge", str(linked), "--runs", "there")
    assert ran.code == 3
    assert "is not a plain file" in ran.err
    doubled = Path("doubled.zip")
    shutil.copy(bundle, doubled)
    with zipfile.ZipFile(doubled, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(f"runs/{DOTS}/result.json", b"{}")
    assert harness("merge", str(doubled), "--runs", "there").code == 3
    assert not Path("there").exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_truncated_bundle_changes_nothing(share: float, harness: Command, bundle: Path) -> None:
    harness("merge", str(bundle), "--runs", "there")
    before = content(Path("there"))
    data = bundle.read_bytes()
    bundle.write_bytes(data[: int(len(data) * share)])
    ran = harness("merge", str(bundle), "--runs", "there")
    assert ran.code == 3
    assert "all.zip" in ran.err
    assert content(Path("there")) == before


def test_damaged_bundle_beside_a_good_one_stops_both(harness: Command, bundle: Path) -> None:
    Path("bad.zip").write_bytes(bundle.read_bytes()[:-100])
    assert harness("merge", str(bundle), "bad.zip", "--runs", "there").code == 3
    assert not Path("there").exists()


def test_what_is_no_bundle(harness: Command) -> None:
    Path("text.zip").write_text("hello")
    Path("empty").mkdir()
    with zipfile.ZipFile("plain.zip", "w") as archive:
        archive.writestr("a.txt", "hello")
    for name in ("text.zip", "plain.zip", "empty", "nowhere.zip"):
        ran = harness("merge", name)
        assert ran.code == 3
        assert name in ran.err
