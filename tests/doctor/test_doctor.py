"""harness doctor: every check says what is well, and is seen to say what is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import torchvision

from harness.api import ExecutorSpec
from harness.catalog import Catalog, Offer, discover
from harness.data.ingest import require_prepared
from harness.doctor import Examination, Finding, examine, hardware, software, storage
from harness.doctor.resume import differences, prove_resume
from harness.errors import CannotContinueError
from harness.registry import Benchmark, load_benchmark
from harness.results.store import RunsFolder
from harness.workspace import Workspace
from tests.support import TINY_REGISTRY, Command


def place_of(benchmark: Benchmark, catalog: Catalog, tmp_path: Path, suite: str | None = None) -> Examination:
    chosen = benchmark.suite(suite)
    workspace = Workspace(benchmark, catalog, RunsFolder(tmp_path / "runs"), tmp_path / "data")
    return Examination(workspace, chosen, benchmark.protocol(chosen.protocol), "cpu")


@pytest.fixture
def tiny_place(tiny_benchmark: Benchmark, tiny_catalog: Catalog, tmp_path: Path) -> Examination:
    return place_of(tiny_benchmark, tiny_catalog, tmp_path)


def verdicts(findings: Iterable[Finding]) -> dict[str, str]:
    return {finding.name: finding.verdict for finding in findings}


def one(findings: Iterable[Finding]) -> Finding:
    (finding,) = findings
    return finding


# ------------------------------------------------------------------------------------------------------ command line


def test_healthy_machine(tiny_harness: Command, tmp_path: Path) -> None:
    tiny_harness("run", "tiny")
    before = sorted(path for path in Path.cwd().rglob("*"))
    ran = tiny_harness("doctor", "--device", "cpu", "--format", "json")
    problems = [row for row in ran.rows if row["verdict"] == "problem"]
    assert problems == []
    assert ran.code == 0
    assert list(ran.rows[0]) == ["name", "verdict", "found", "advice"]
    found = {row["name"]: row for row in ran.rows}
    assert {"versions", "torch", "cpu", "device", "threads", "determinism", "disk of runs", "runs folder"} <= set(found)
    assert {"data set dots", "data set bars", "plugins", "executor local", "extra report"} <= set(found)
    assert "as their manifest says byte for byte" in found["data set dots"]["found"]
    assert "0 problems" in ran.err
    assert sorted(path for path in Path.cwd().rglob("*")) == before
    table = tiny_harness("doctor", "--device", "cpu")
    assert table.out.startswith("ok         versions: python")


def test_problems_end_with_1_and_say_what_to_do(harness: Command, install: Callable[..., Path]) -> None:
    install("broken_plugin", "import nothing_of_the_kind")
    ran = harness("doctor", "--suite", "xscore4", "--device", "cuda:99", "--runs", "/proc/nowhere", "--format", "json")
    assert ran.code == 1
    found = {row["name"]: row for row in ran.rows}
    assert found["plugin broken_plugin"]["verdict"] == "problem"
    assert "nothing_of_the_kind" in found["plugin broken_plugin"]["found"]
    assert found["plugin broken_plugin"]["advice"].endswith("pip uninstall broken-plugin")
    assert found["data set cifar10"]["advice"] == "Run: harness prepare cifar10"
    assert found["data set ham10000"]["advice"] == "Run: harness prepare ham10000 --accept-licence"
    assert found["runs folder"]["verdict"] == "problem"
    assert "cuda:99" in found["device"]["found"]
    assert "Traceback" not in ran.err
    table = harness("doctor", "--suite", "xscore4", "--device", "cpu")
    assert "-> Run: harness prepare cifar10" in table.out


def test_a_check_that_crashes_is_a_finding_and_stops_no_other(tiny_place: Examination) -> None:
    def bad(_: Examination) -> list[Finding]:
        raise ZeroDivisionError("a driver\nsays no")

    def refused(_: Examination) -> list[Finding]:
        raise CannotContinueError("There is no such thing.")

    def good(_: Examination) -> list[Finding]:
        return [Finding("good", "ok", "well")]

    crashed, refusal, fine = examine(tiny_place, [("bad", bad), ("refused", refused), ("good", good)])
    assert (crashed.name, crashed.verdict) == ("bad", "problem")
    assert crashed.found == "the check ended with ZeroDivisionError: a driver says no"
    assert refusal == Finding("refused", "problem", "There is no such thing.")
    assert fine.verdict == "ok"


# ---------------------------------------------------------------------------------------------------------- software


def test_missing_and_unfit_libraries(tiny_place: Examination, monkeypatch: pytest.MonkeyPatch) -> None:
    assert one(software.check_versions(tiny_place)).verdict == "ok"
    monkeypatch.setattr(software, "LIBRARIES", ("torch", "no-such-library"))
    finding = one(software.check_versions(tiny_place))
    assert (finding.verdict, finding.found) == ("problem", "no-such-library is not installed")
    monkeypatch.setattr(software, "LIBRARIES", ("timm",))
    monkeypatch.setattr(software, "_requirements", lambda **_: {"timm": ">=99"})
    assert ", expected >=99" in one(software.check_versions(tiny_place)).found


def test_torchvision_that_does_not_fit(tiny_place: Examination, monkeypatch: pytest.MonkeyPatch) -> None:
    assert one(software.check_torch(tiny_place)).verdict == "ok"

    def missing(*_: object) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(torchvision.ops, "nms", missing)
    finding = one(software.check_torch(tiny_place))
    assert finding.verdict == "problem"
    assert "torchvision::nms does not exist" in finding.found
    assert "Install torch and torchvision together" in finding.advice


def test_torchvision_built_for_another_torch(tiny_place: Examination, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "_requirements", lambda **_: {"torch": "==1.13.0"})
    finding = one(software.check_torch(tiny_place))
    assert finding.verdict == "problem"
    assert "which was built for torch ==1.13.0" in finding.found


def test_plugin_partly_out_of_use_is_a_warning(
    install: Callable[..., Path], tiny_benchmark: Benchmark, tmp_path: Path
) -> None:
    install(
        "second_starnet",
        """
        from harness.api import ModelSpec, hookimpl

        @hookimpl
        def harness_models():
            return [ModelSpec(name=name, build=len, paper="none") for name in ("starnet", "unique")]
        """,
    )
    found = verdicts(software.check_plugins(place_of(tiny_benchmark, discover(), tmp_path)))
    assert found == {"plugins": "ok", "plugin second_starnet": "warning"}


def test_extras_that_are_not_installed_are_skipped(tiny_place: Examination, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "installed_version", lambda name: None if name == "altair" else "1.0")
    found = {finding.name: finding for finding in software.check_extras(tiny_place)}
    assert found["extra report"].verdict == "skipped"
    assert found["extra report"].found == "not installed: altair"
    assert found["extra report"].advice.endswith("pip install 'xscore-harness[report]'")
    assert "extra dev" not in found


def with_(examination: Examination, **changes: Any) -> Examination:
    """Return the examination of another workspace."""
    return replace(examination, workspace=replace(examination.workspace, **changes))


def with_executor(place: Examination, name: str) -> Examination:
    owner = place.workspace.catalog.executors["local"].owner
    offer = Offer(ExecutorSpec(name=name, title=f"the {name} engine", execute=lambda *_: []), owner)
    return with_(place, catalog=replace(place.workspace.catalog, executors={name: offer}))


def test_executor_without_its_library_is_skipped(tiny_place: Examination, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    finding = one(software.check_executors(with_executor(tiny_place, "slurm")))
    assert (finding.verdict, finding.found) == ("skipped", "submitit is not installed")
    assert "xscore-harness[slurm]" in finding.advice


def test_executor_of_anybody_is_listed_and_none_is_a_problem(tiny_place: Examination) -> None:
    finding = one(software.check_executors(with_executor(tiny_place, "pigeons")))
    assert finding == Finding("executor pigeons", "ok", "the pigeons engine")
    nobody = with_(tiny_place, catalog=replace(tiny_place.workspace.catalog, executors={}))
    assert one(software.check_executors(nobody)).verdict == "problem"


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for sinfo is a shell script")
def test_slurm_is_asked_and_quoted(tiny_place: Examination, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    place = with_executor(tiny_place, "slurm")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    if subprocess.run(["which", "sinfo"], capture_output=True).returncode:
        assert one(software.check_executors(place)).verdict == "skipped"
    script = tmp_path / "bin" / "sinfo"
    script.parent.mkdir()
    monkeypatch.setenv("PATH", f"{script.parent}:/usr/bin:/bin")
    script.write_text("#!/bin/sh\necho 'gpu*   up 2 nodes idle'\n")
    script.chmod(0o755)
    finding = one(software.check_executors(place))
    assert finding.verdict == "ok"
    assert finding.found.endswith("; sinfo says: gpu* up 2 nodes idle")
    script.write_text("#!/bin/sh\necho 'slurm_load_partitions: Unable to contact slurm controller' >&2; exit 1\n")
    finding = one(software.check_executors(place))
    assert finding.verdict == "problem"
    assert "Unable to contact slurm controller" in finding.found


# ---------------------------------------------------------------------------------------------------------- hardware


def test_device_that_cannot_train(tiny_place: Examination, monkeypatch: pytest.MonkeyPatch) -> None:
    assert verdicts(hardware.check_devices(tiny_place))["cpu"] == "ok"

    def broken(_: str) -> str:
        raise RuntimeError("no kernel image is available for execution on the device")

    monkeypatch.setattr(hardware, "train_probe", broken)
    finding = next(iter(hardware.check_devices(tiny_place)))
    assert finding.verdict == "problem"
    assert "training on it fails: RuntimeError: no kernel image" in finding.found


def test_suite_for_an_accelerator_on_a_machine_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    place = place_of(load_benchmark(), discover(), tmp_path, "xscore4")
    assert verdicts(hardware.check_devices(place)) == {"cpu": "ok", "cuda": "warning"}


def test_too_many_threads_and_busy_cores(tiny_place: Examination, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "usable_cores", lambda: 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    if hasattr(os, "getloadavg"):
        monkeypatch.setattr(os, "getloadavg", lambda: (0.1, 0.1, 0.1))
    assert set(verdicts(hardware.check_threads(tiny_place)).values()) == {"ok"}
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    finding = next(iter(hardware.check_threads(tiny_place)))
    assert finding.verdict == "warning"
    assert "--threads 4" in finding.advice
    if hasattr(os, "getloadavg"):
        monkeypatch.setattr(os, "getloadavg", lambda: (9.0, 0.1, 0.1))
        assert verdicts(hardware.check_threads(tiny_place))["load"] == "warning"


def test_device_whose_bits_differ(tiny_place: Examination, monkeypatch: pytest.MonkeyPatch) -> None:
    assert one(hardware.check_determinism(tiny_place)).verdict == "ok"
    answers = iter(["a" * 64, "b" * 64])
    monkeypatch.setattr(hardware, "train_probe", lambda _: next(answers))
    finding = one(hardware.check_determinism(tiny_place))
    assert finding.verdict == "problem"
    assert "aaaaaaaaaaaa and bbbbbbbbbbbb" in finding.found


# ----------------------------------------------------------------------------------------------------------- storage


def test_disk_without_room(tiny_place: Examination) -> None:
    assert set(verdicts(storage.check_disk(tiny_place)).values()) == {"ok"}
    benchmark = tiny_place.workspace.benchmark
    budget = msgspec.structs.replace(benchmark.budget(tiny_place.suite.budget), parameters=10**15)
    place = with_(tiny_place, benchmark=msgspec.structs.replace(benchmark, budgets={budget.name: budget}))
    found = {finding.name: finding for finding in storage.check_disk(place)}
    assert found["disk of runs"].verdict == "problem"
    assert "--runs" in found["disk of runs"].advice
    assert found["disk of data"].verdict == "ok"


def test_disk_that_would_be_nearly_full_is_a_warning(tiny_place: Examination, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    needed = shutil.disk_usage(tiny_place.workspace.runs.root.parent).free * 2 // 3
    monkeypatch.setattr(storage, "CACHE_BYTES", needed)
    assert verdicts(storage.check_disk(tiny_place))["disk of cache"] == "warning"


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert storage.behaviour("runs folder", tmp_path / "runs", "--runs").verdict == "ok"
    in_file = storage.behaviour("runs folder", tmp_path / "file" / "runs", "--runs")
    assert (in_file.verdict, "is a file, expected a folder" in in_file.found) == ("problem", True)
    if sys.platform == "linux":
        finding = storage.behaviour("runs folder", Path("/proc/nowhere"), "--runs")
        assert finding.verdict == "problem"
        assert "/proc can't be written" in finding.found


def test_disk_without_locks_or_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoLock:
        def release(self) -> None: ...

    with monkeypatch.context() as patch:
        patch.setattr(storage, "take_lock", lambda *_: NoLock())
        finding = storage.behaviour("runs folder", tmp_path, "--runs")
        assert finding.verdict == "problem"
        assert "two commands could train the same job" in finding.found
        patch.setattr(storage, "take_lock", lambda *_: None)
        assert "files can't be locked" in storage.behaviour("runs folder", tmp_path, "--runs").found
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda self, target: target)
        finding = storage.behaviour("runs folder", tmp_path, "--runs")
        assert "a rename does not replace the target" in finding.found
    with monkeypatch.context() as patch:
        patch.setattr(storage, "_clock_skew", lambda _: -3600.0)
        finding = storage.behaviour("runs folder", tmp_path, "--runs")
        assert (finding.verdict, "-3600 s off" in finding.found) == ("warning", True)


def test_damaged_and_missing_data_sets(tiny_place: Examination) -> None:
    found = {finding.name: finding for finding in storage.check_datasets(tiny_place)}
    assert found["data set dots"].found == "comes with its plugin; prepared when it is first used"
    prepared = require_prepared(tiny_place.workspace.catalog.dataset("dots"), tiny_place.workspace.data, 12)
    pixels = prepared.folder / "train.images.npy"
    content = bytearray(pixels.read_bytes())
    content[-1] ^= 1
    pixels.write_bytes(content)
    finding = next(iter(storage.check_datasets(tiny_place)))
    assert finding.verdict == "problem"
    assert "damaged: " in finding.found
    assert "pixels, labels or class names have changed" in finding.found
    assert finding.advice.startswith("Run: harness prepare dots --remove")
    inputs = prepared.folder / "inputs.json"
    inputs.write_text(json.dumps(json.loads(inputs.read_bytes()) | {"reader": "of another time"}))
    assert "outdated: the code of its reader has changed" in next(iter(storage.check_datasets(tiny_place))).found
    (prepared.folder / "manifest.json").write_text("{")
    assert next(iter(storage.check_datasets(tiny_place))).verdict == "problem"
    nobody = with_(tiny_place, catalog=replace(tiny_place.workspace.catalog, datasets={}))
    assert set(verdicts(storage.check_datasets(nobody)).values()) == {"problem"}


def test_large_data_set_is_compared_by_size(tiny_place: Examination, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    monkeypatch.setattr(storage, "_VERIFY_BYTES", 0)
    prepared = require_prepared(tiny_place.workspace.catalog.dataset("dots"), tiny_place.workspace.data, 12)
    assert next(iter(storage.check_datasets(tiny_place))).found.endswith("harness prepare dots --verify")
    for kind in ("images", "labels"):
        path = prepared.folder / f"test.{kind}.npy"
        np.save(path, np.load(path)[:-1])
    finding = next(iter(storage.check_datasets(tiny_place)))
    assert "is damaged: 39 images, the manifest says 40" in finding.found


def test_data_set_of_another_size_than_the_benchmark_expects(tiny_place: Examination) -> None:
    expected = msgspec.structs.replace(tiny_place.workspace.benchmark.datasets["dots"], train=65)
    benchmark = msgspec.structs.replace(tiny_place.workspace.benchmark, datasets={"dots": expected})
    finding = next(iter(storage.check_datasets(with_(tiny_place, benchmark=benchmark))))
    assert finding.verdict == "problem"
    assert "the benchmark expects 4, 65 and 40" in finding.found


# ------------------------------------------------------------------------------------------------------------ resume


def test_killed_run_ends_in_the_same_bits(tiny_place: Examination) -> None:
    said: list[str] = []
    # Only the tiny model, so that the choice of the quickest does not build the eleven others.
    catalog = replace(tiny_place.workspace.catalog, models={"tiny": tiny_place.workspace.catalog.model("tiny")})
    proof = prove_resume(with_(tiny_place, catalog=catalog), TINY_REGISTRY, kills=1, seed=5, say=said.append)
    assert proof.kills == 1, said
    assert proof.differences == ()
    finding = proof.as_finding(5)
    assert finding.verdict == "ok"
    assert "tiny on dots, seed 0 was killed 1 time at random times (seed 5)" in finding.found
    assert replace(proof, kills=0).as_finding(5).verdict == "warning"
    assert replace(proof, differences=("A loss differs.",)).as_finding(5).verdict == "problem"
    assert list(tiny_place.workspace.runs.root.parent.glob(".harness-doctor-*")) == []


def test_runs_that_differ_are_told_apart(tiny_harness: Command) -> None:
    from harness.api import Job

    tiny_harness("run", "tiny", "--dataset", "dots", "--seeds", "2")
    runs = RunsFolder(Path("runs"))
    first, second = (runs.of(Job("tiny-1.0", "tiny", "dots", seed)) for seed in (0, 1))
    assert differences(first, first) == []
    text = " ".join(differences(first, second))
    assert all(word in text for word in ("fingerprint", "weights_sha256", "histories", "logits"))
    second.result.unlink()
    assert differences(first, second) == ["One of the two has no result."]


def test_job_that_fails_undisturbed_is_a_sentence(tiny_place: Examination) -> None:
    catalog = replace(
        tiny_place.workspace.catalog, models={"diverging": tiny_place.workspace.catalog.model("diverging")}
    )
    with pytest.raises(CannotContinueError, match=r"diverging on dots, seed 0 ended with 1: The loss became nan"):
        prove_resume(with_(tiny_place, catalog=catalog), TINY_REGISTRY, kills=1, seed=0, say=lambda _: None)


def test_nothing_small_to_train_is_a_sentence(tiny_place: Examination) -> None:
    nothing = with_(tiny_place, catalog=replace(tiny_place.workspace.catalog, datasets={}))
    with pytest.raises(CannotContinueError, match="nothing small to train"):
        prove_resume(nothing, None, kills=1, seed=0, say=lambda _: None)


@pytest.mark.slow
def test_doctor_resume_on_a_shipped_data_set(harness: Command) -> None:
    ran = harness("doctor", "--suite", "pocket", "--resume", "--kills", "2", "--seed", "1", "--device", "cpu",
                  "--format", "json")  # fmt: skip
    row = ran.rows[-1]
    assert (row["name"], row["verdict"]) == ("resume", "ok"), row
    assert "pocket_digits, seed 0 was killed 2 times at random times (seed 1)" in row["found"]
    assert "it ended in the same bits as the undisturbed run" in row["found"]
    assert ran.err.count("Killed it") == 2
