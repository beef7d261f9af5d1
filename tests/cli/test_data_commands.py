"""harness prepare, audit and list datasets, from the command line to exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from harness.catalog import Catalog, Offer, discover
from harness.cli import common_options
from harness.cli.prepare import input_sizes
from harness.data.prepare import known_leaks
from harness.registry import load_benchmark
from tests.loopback import serving
from tests.published_layouts import Miniature, build
from tests.support import Command


def install(monkeypatch: pytest.MonkeyPatch, *miniatures: Miniature, base: str = "http://127.0.0.1:9") -> None:
    """Let the catalog offer the miniatures in place of the real sets, and the registry expect their sizes."""
    offers = {one.name: one.offer(base) for one in miniatures}
    real = discover()

    def found() -> Catalog:
        datasets = {
            name: Offer(offers[name].spec, offer.owner) if name in offers else offer
            for name, offer in real.datasets.items()
        }
        return replace(real, datasets=datasets)

    monkeypatch.setattr(common_options, "discover", found)


def packed(miniature: Miniature, folder: Path) -> Path:
    folder.mkdir()
    for name, content in miniature.pack().items():
        (folder / name).write_bytes(content)
    return folder


def test_from_nothing_to_prepared_verified_and_removed(
    harness: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    miniature = build("cifar10")
    with serving(miniature.pack()) as server:
        install(monkeypatch, miniature, base=server.base)
        ran = harness("prepare", "cifar10", "--format", "json")
    assert ran.code == 0
    [row] = ran.rows
    assert (row["dataset"], row["state"], row["form"], row["train"], row["test"]) == (
        "cifar10",
        "ready",
        "native",
        20,
        10,
    )
    assert "cifar10 needs up to 0 MB" in ran.err
    assert "none stated by the authors" in ran.err
    ran = harness("prepare", "cifar10", "--offline", "--format", "json")
    assert (ran.code, ran.err, ran.rows[0]["fingerprint"]) == (0, "", row["fingerprint"])

    ran = harness("list", "datasets", "--format", "json")
    listed = next(one for one in ran.rows if one["name"] == "cifar10")
    assert listed["prepared"] == "native"
    assert listed["fingerprint"] == row["fingerprint"]
    assert listed["megabytes"] > 0.09
    assert listed["licence"]

    assert harness("prepare", "cifar10", "--verify").code == 0
    array = Path(row["folder"]) / "test.images.npy"
    content = bytearray(array.read_bytes())
    content[-1] ^= 1
    array.write_bytes(content)
    ran = harness("prepare", "cifar10", "--verify", "--format", "json")
    assert (ran.code, ran.rows[0]["state"]) == (1, "damaged")
    assert "pixels, labels or class names have changed" in ran.err

    ran = harness("prepare", "cifar10", "--remove")
    assert (ran.code, ran.out) == (0, "")
    assert "MB freed" in ran.err
    assert not [path for path in (tmp_path / "data").rglob("*") if path.is_file()]


def test_terms_are_asked_for_before_any_work(harness: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cifar, ham = build("cifar10"), build("ham10000")
    install(monkeypatch, cifar, ham)
    given = packed(ham, tmp_path / "given")
    ran = harness("prepare", "cifar10", "ham10000", "--from", given)
    assert ran.code == 2
    assert "CC BY-NC 4.0" in ran.err
    assert "--accept-licence" in ran.err
    assert not (tmp_path / "data").exists()
    assert harness("prepare", "ham10000", "--from", given, "--accept-licence").code == 0
    record = json.loads((tmp_path / "data" / "licences.json").read_text())
    assert record["ham10000"]["licence"] == "CC BY-NC 4.0"


def test_a_file_can_be_accepted_where_its_checksum_is_known_once(
    harness: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    miniature = build("miniplaces")
    install(monkeypatch, miniature)
    miniature.sources["data.tar.gz"]["objects/new.xml"] = b"<annotation/>"  # the host packed it again
    given = packed(miniature, tmp_path / "given")
    ran = harness("prepare", "miniplaces", "--from", given, "--accept-licence")
    assert ran.code == 3
    assert "known from one place only" in ran.err
    digest = ran.err.partition("--accept-file ")[2][:64]
    ran = harness("prepare", "miniplaces", "--from", given, "--accept-file", digest, "--format", "json")
    assert ran.code == 0
    manifest = json.loads((Path(ran.rows[0]["folder"]) / "manifest.json").read_text())
    assert manifest["sources"][0]["verified"] == "accepted by the user"


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("prepare",), 2, "Missing argument"),
        (("prepare", "cifra10"), 2, "Did you mean 'cifar10'?"),
        (("prepare", "cifar10", "--from", "/nowhere/at/all"), 2, "does not exist"),
        (("prepare", "cifar10", "--verify", "--remove"), 2, "not both"),
        (("prepare", "cifar10", "--verify"), 3, "is not prepared"),
        (("prepare", "cifar10", "--offline"), 3, "--offline forbids downloads"),
        (("audit", "cifar10"), 3, "Run: harness prepare cifar10"),
        (("audit", "nothing"), 2, "no data set named 'nothing'"),
    ],
)
def test_what_cannot_be_done_is_said(harness: Command, arguments: tuple[str, ...], code: int, reason: str) -> None:
    ran = harness(*arguments)
    assert (ran.code, ran.out) == (code, "")
    assert reason in " ".join(ran.err.split())


def test_an_audit_draws_what_leaks(harness: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ham = build("ham10000")
    install(monkeypatch, ham)
    ran = harness("prepare", "ham10000", "--from", packed(ham, tmp_path / "given"), "--accept-licence")
    assert ran.code == 0, ran.err
    ran = harness("audit", "ham10000", "--sheet", tmp_path / "sheets", "--format", "json")
    assert ran.code == 0, ran.err
    [row] = ran.rows
    assert row["group_leaks"] > 0
    assert "belong to a group that is also in train" in ran.err
    if row["pairs"]:
        with Image.open(row["sheet"]) as sheet:
            assert sheet.format == "PNG"


def test_an_embedded_set_can_be_audited(harness: Command) -> None:
    ran = harness("audit", "pocket_digits", "pocket_earth", "--format", "csv")
    assert ran.code == 0
    assert len(ran.out.splitlines()) == 3


def test_sizes_to_prepare_for_come_from_the_suites() -> None:
    benchmark = load_benchmark()
    assert input_sizes(benchmark, "cifar10") == (224,)
    assert input_sizes(benchmark, "pocket_digits") == (40,)
    assert input_sizes(benchmark, "ham10000_lesion") == (224,)


def test_known_leakage_is_told_by_name(tmp_path: Path) -> None:
    leaks = known_leaks(discover(), ["ham10000", "ham10000_lesion", "pocket_digits", "unknown"], tmp_path, 224)
    assert leaks == {"ham10000": "523 of 1,503 test images show a lesion that is also in train"}


def test_help_and_lists_import_nothing_heavy() -> None:
    code = (
        "import sys; from harness.cli import run_command\n"
        "for arguments in (['prepare', '--help'], ['audit', '--help'], ['list', 'datasets']): run_command(arguments)\n"
        "heavy = [m for m in ('torch', 'numpy', 'PIL', 'requests', 'scipy', 'pandas') if m in sys.modules]\n"
        "print(heavy, file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stderr.strip().splitlines()[-1] == "[]"
