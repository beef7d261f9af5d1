"""The seven data sets in miniature, from a loopback server, from archives and from folders; and 40 ways to be wrong."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.api import DatasetSpec
from harness.catalog import Offer
from harness.data.fetch import FetchPolicy
from harness.data.prepare import PrepareRequest, prepare_dataset, verify_prepared
from harness.data.prepared import PreparedDataset, open_split, read_groups
from harness.errors import DatasetError, HarnessError, LicenceError, SourceError
from harness.plan import dataset_facts
from harness.registry import load_benchmark
from tests.loopback import serving
from tests.published_layouts import (
    DOGS,
    SPECS,
    Files,
    Miniature,
    build,
    ham_rows,
)
from tests.xscore_plugins.wrong_content import B10, C10, WRONG, change
from xscore_plugins.datasets import ham10000, stanford_dogs

POLICY = FetchPolicy(mirror="", attempts=1, pause_seconds=0.01)
SIZE = 224
every_set = pytest.mark.parametrize("name", SPECS)


def get(
    offer: Offer[DatasetSpec], root: Path, given: Path | None = None, policy: FetchPolicy = POLICY
) -> tuple[PreparedDataset, list[str]]:
    said: list[str] = []
    [prepared] = prepare_dataset(
        PrepareRequest(offer, root, (SIZE,), given, policy, accept_licence=True), say=said.append
    )
    return prepared, said


def write(folder: Path, files: Files) -> Path:
    for name, content in files.items():
        assert not name.startswith("/")
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def unpacked(miniature: Miniature, folder: Path, places: dict[str, str] | None = None) -> Path:
    """Lay a set's files out as if a user had unpacked them, under other folders where ``places`` says so."""
    for source in SPECS[miniature.name].sources:
        files = miniature.sources[source.filename]
        place = folder / (places or {}).get(source.filename, "")
        named = {(f"{source.into}/" if source.into else "") + name: content for name, content in files.items()}
        write(place, {source.filename: files[""]} if "" in files else named)
    return folder


def left_in(root: Path) -> list[str]:
    return sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.name != ".lock" and "downloads" not in path.parts and path.name != "licences.json" and path.is_file()
    )


@every_set
def test_a_spec_has_the_values_that_the_benchmark_expects(name: str) -> None:
    spec, expected = SPECS[name], load_benchmark().datasets[name]
    assert (len(spec.classes), spec.splits["train"], spec.splits["test"]) == (
        expected.classes,
        expected.train,
        expected.test,
    )
    assert all((spec.licence, spec.citation, spec.domain, spec.homepage))
    for source in spec.sources:
        assert source.urls
        assert source.checksums
        lengths = {"md5": 32, "sha1": 40, "sha256": 64}
        assert all(len(digest) == lengths[kind] for kind, digest in source.checksums.items())


def test_the_registry_and_the_installed_plugins_agree() -> None:
    from harness.catalog import discover

    catalog = discover()
    for name in SPECS:
        dataset_facts(load_benchmark(), catalog, name)


@every_set
def test_a_set_is_downloaded_verified_and_stored(name: str, tmp_path: Path) -> None:
    miniature = build(name)
    packed = miniature.pack()
    with serving(packed) as server:
        prepared, said = get(miniature.offer(server.base, packed), tmp_path)
    assert prepared.manifest.counts == miniature.splits
    assert verify_prepared(prepared) == []
    assert {record.filename for record in prepared.manifest.sources} == set(packed)
    for record in prepared.manifest.sources:
        assert record.sha256 == hashlib.sha256(packed[record.filename]).hexdigest()
        assert record.origin == "downloaded"
    assert any(SPECS[name].licence in sentence for sentence in said)
    native = name in ("cifar10", "cifar100", "miniplaces")
    small = {"ham10000": (45, 60), "ham10000_lesion": (45, 60)}  # the miniature is smaller than the input
    sides = {"cifar10": 32, "cifar100": 32, "miniplaces": 128}
    expected = small.get(name, (sides.get(name, SIZE),) * 2)
    assert open_split(prepared, "train").images.shape[1:3] == expected
    assert prepared.folder.name == ("native" if native or name in small else "224")
    assert not (tmp_path / name / ".sources").exists()
    again, said = get(miniature.offer(server.base, packed), tmp_path, policy=FetchPolicy(offline=True))
    assert (again.manifest, said) == (prepared.manifest, [])


@every_set
def test_the_users_own_archives_give_the_same_arrays(name: str, tmp_path: Path) -> None:
    miniature = build(name)
    packed = miniature.pack()
    given = write(tmp_path / "given" / "deep", packed).parent
    before = sorted(given.rglob("*"))
    prepared, _ = get(miniature.offer(packed=packed), tmp_path / "data", given)
    folder, _ = get(miniature.offer(packed=packed), tmp_path / "other", unpacked(miniature, tmp_path / "unpacked"))
    assert folder.manifest.fingerprint == prepared.manifest.fingerprint
    assert sorted(given.rglob("*")) == before
    assert not (tmp_path / "data" / "downloads").exists()


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("stanford_dogs", {"images.tar": "images", "lists.tar": "lists"}),
        ("indoor67", {"indoorCVPR_09.tar": "indoorCVPR_09"}),
        ("ham10000", {}),
    ],
)
def test_kaggles_layouts_are_found(name: str, places: dict[str, str], tmp_path: Path) -> None:
    miniature = build(name)
    prepared, said = get(miniature.offer(), tmp_path / "data", unpacked(miniature, tmp_path / "archive", places))
    assert prepared.manifest.counts == miniature.splits
    assert any("verified by its names and counts" in sentence for sentence in said)
    assert {record.verified for record in prepared.manifest.sources if not record.sha256} >= {"names and counts"}


def test_a_folder_of_cifar_is_verified_file_by_file(tmp_path: Path) -> None:
    miniature = build("cifar10")
    given = unpacked(miniature, tmp_path / "given") / "cifar-10-batches-bin"
    offer = miniature.offer()
    prepared, _ = get(offer, tmp_path / "data", given)
    assert prepared.manifest.sources[0].verified == "6 files by checksum"
    content = bytearray((given / "test_batch.bin").read_bytes())
    content[100] ^= 1
    (given / "test_batch.bin").write_bytes(content)
    with pytest.raises(SourceError, match=r"test_batch.bin is not the expected file: its md5 is"):
        get(offer, tmp_path / "other", given)
    assert left_in(tmp_path / "other") == []


def test_an_archive_packed_anew_is_verified_file_by_file(tmp_path: Path) -> None:
    miniature = build("cifar10")
    offer = miniature.offer()
    miniature.sources[C10][f"{B10}/notes.txt"] = b"packed by somebody else"
    given = write(tmp_path / "given", miniature.pack()) / C10
    prepared, _ = get(offer, tmp_path / "data", given)
    assert prepared.manifest.sources[0].verified == "6 files by checksum"
    assert prepared.manifest.sources[0].sha256 == hashlib.sha256(given.read_bytes()).hexdigest()
    change(C10, f"{B10}/data_batch_1.bin", lambda content: content[:-1] + b"?")(miniature)
    given = write(tmp_path / "changed", miniature.pack()) / C10
    with pytest.raises(SourceError, match=r"data_batch_1.bin is not the expected file"):
        get(offer, tmp_path / "other", given)
    assert left_in(tmp_path / "other") == []


def test_odd_files_are_decoded_by_content(tmp_path: Path) -> None:
    miniature = build("indoor67")
    prepared, _ = get(miniature.offer(), tmp_path / "data", unpacked(miniature, tmp_path / "given"))
    train = open_split(prepared, "train")
    gif = Image.open(io.BytesIO(miniature.sources["indoorCVPR_09.tar"]["Images/buffet/Buffet_Set_Up_gif.jpg"]))
    expected = gif.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    assert np.array_equal(train.images[1], np.asarray(expected))
    assert train.labels.tolist() == [44, 9, 0, 66]


def test_labels_of_dogs_places_and_imagenette(tmp_path: Path) -> None:
    expected = {
        "stanford_dogs": [stanford_dogs.CLASSES.index(breed) for breed in DOGS for _ in range(2)],
        "miniplaces": [99, 10, 0],
        "imagenette": list(range(10)),
        "cifar100": list(range(12)),
    }
    for name, labels in expected.items():
        miniature = build(name)
        prepared, _ = get(miniature.offer(), tmp_path / name, unpacked(miniature, tmp_path / f"{name}-given"))
        assert open_split(prepared, "test").labels.tolist() == labels, name


def test_terms_must_be_accepted_once(tmp_path: Path) -> None:
    miniature = build("ham10000")
    given = unpacked(miniature, tmp_path / "given")
    offer = miniature.offer()
    with pytest.raises(LicenceError, match=r"CC BY-NC 4.0.*--accept-licence"):
        prepare_dataset(PrepareRequest(offer, tmp_path / "data", (SIZE,), given, POLICY), say=lambda _: None)
    assert not (tmp_path / "data").exists()
    get(offer, tmp_path / "data", given)
    prepare_dataset(PrepareRequest(offer, tmp_path / "data", (64,), given, POLICY), say=lambda _: None)


# ------------------------------------------------------------------------------------------------------- HAM10000


def real_labels() -> list[int]:
    labels = [label for label, count in enumerate(ham10000.PUBLISHED.images) for _ in range(count)]
    return np.random.RandomState(7).permutation(labels).tolist()


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_the_split_is_scikit_learns(seed: int | None) -> None:
    selection = pytest.importorskip("sklearn.model_selection")
    labels = real_labels()
    if seed is not None:
        labels = np.random.RandomState(seed).randint(0, 7, 500 + seed).tolist()
    positions = list(range(len(labels)))
    rest, test = selection.train_test_split(positions, test_size=0.15, stratify=labels, random_state=42)
    kept = [labels[index] for index in rest]
    train, val = selection.train_test_split(rest, test_size=0.15 / 0.85, stratify=kept, random_state=42)
    rows = [ham10000.MetadataRow(f"I{i}", f"L{i}", ham10000.CLASSES[label]) for i, label in enumerate(labels)]
    parts = ham10000.split_by_image(rows)
    for name, expected in (("train", train), ("val", val), ("test", test)):
        assert [i for i, part in enumerate(parts) if part == name] == sorted(expected)
    assert ham10000.stratified_split(labels, 0.15) == (rest, test)


def test_the_split_has_the_published_sizes() -> None:
    labels = real_labels()
    rows = [ham10000.MetadataRow(f"I{i}", f"L{i}", ham10000.CLASSES[label]) for i, label in enumerate(labels)]
    parts = ham10000.split_by_image(rows)
    assert Counter(parts) == {"train": 7009, "val": 1503, "test": 1503}
    test = Counter(label for label, part in zip(labels, parts, strict=True) if part == "test")
    assert tuple(test[label] for label in range(7)) == ham10000.PUBLISHED.test
    assert test[5] / 1503 == pytest.approx(0.6693, abs=1e-4)


def test_both_splits_are_frozen() -> None:
    rows = ham_rows()
    by_image = ham10000.split_by_image(rows)
    by_lesion = ham10000.split_by_lesion(rows, dict(zip(ham10000.CLASSES, (2, 2, 3, 2, 3, 9, 2), strict=True)))
    found = [ham10000.split_digest(rows, parts)[:16] for parts in (by_image, by_lesion)]
    assert found == ["6878ce8757dc9e2d", "c3c77acf3538fd9a"]


def test_the_split_by_lesion_leaks_nothing_and_has_the_same_sizes() -> None:
    counts = ham10000.PUBLISHED.images
    rows = ham_rows(counts)
    known = dict(zip(ham10000.CLASSES, ham10000.PUBLISHED.test, strict=True))
    parts = ham10000.split_by_lesion(rows, known)
    lesions = {
        part: {row.lesion for row, mine in zip(rows, parts, strict=True) if mine == part}
        for part in ("train", "val", "test")
    }
    assert not lesions["train"] & lesions["test"]
    assert not lesions["train"] & lesions["val"]
    assert not lesions["val"] & lesions["test"]
    assert Counter(parts) == {"train": 7009, "val": 1503, "test": 1503}
    assert Counter(row.dx for row, part in zip(rows, parts, strict=True) if part == "test") == known
    shuffled = rows[::-1]
    assert ham10000.split_by_lesion(shuffled, known) == parts[::-1]


def test_lesions_are_the_groups(tmp_path: Path) -> None:
    for name, leaks in (("ham10000", True), ("ham10000_lesion", False)):
        miniature = build(name)
        prepared, _ = get(miniature.offer(), tmp_path / name, unpacked(miniature, tmp_path / f"{name}-given"))
        train, test = read_groups(prepared.folder, "train"), read_groups(prepared.folder, "test")
        assert len(train) == miniature.splits["train"]
        assert bool(set(train) & set(test)) is leaks


# ---------------------------------------------------------------------------------------------------- what is wrong


def test_there_are_forty_kinds_of_wrong_content() -> None:
    assert len(WRONG) >= 40


@pytest.mark.parametrize("case", WRONG)
def test_wrong_content_is_refused_and_leaves_nothing(case: str, tmp_path: Path) -> None:
    name, spoil, reason = WRONG[case]
    miniature = build(name)
    spoil(miniature)
    packed = miniature.pack()
    given = write(tmp_path / "given", packed)
    offer = miniature.offer(packed=packed)  # the checksums fit: only the content is wrong
    with pytest.raises(HarnessError) as caught:
        get(offer, tmp_path / "data", given)
    text = str(caught.value)
    assert isinstance(caught.value, DatasetError | SourceError)
    assert reason in text
    assert "Traceback" not in text
    assert left_in(tmp_path / "data") == []
    assert {path.name: path.read_bytes() for path in given.iterdir()} == packed


def test_missing_sources_are_named(tmp_path: Path) -> None:
    miniature = build("indoor67")
    given = unpacked(miniature, tmp_path / "given")
    (given / "TestImages.txt").unlink()
    with pytest.raises(SourceError, match=r"Missing: TestImages.txt"):
        get(miniature.offer(), tmp_path / "data", given, replace(POLICY, offline=True))
    with pytest.raises(SourceError, match=r"indoorCVPR_09.tar or, unpacked, Images; TrainImages.txt; TestImages.txt"):
        get(miniature.offer(), tmp_path / "data", write(tmp_path / "empty", {"readme": b""}))


def test_files_missing_in_kaggles_archive_are_downloaded(tmp_path: Path) -> None:
    miniature = build("stanford_dogs")
    packed = miniature.pack()
    given = write(tmp_path / "given" / "images", miniature.sources["images.tar"]).parent
    with serving(packed) as server:
        prepared, said = get(miniature.offer(server.base, packed), tmp_path / "data", given)
        assert [path for path, _ in server.requests] == ["/lists.tar"]
    assert any("lists.tar is not in" in sentence for sentence in said)
    assert [record.origin == "downloaded" for record in prepared.manifest.sources] == [False, True]


def test_another_preparation_is_not_disturbed(tmp_path: Path) -> None:
    """What is prepared stays as it is while a new attempt with other content fails."""
    miniature = build("cifar10")
    good, _ = get(miniature.offer(), tmp_path / "data", unpacked(miniature, tmp_path / "given"))
    before = {path: path.read_bytes() for path in good.folder.iterdir()}
    spoilt = build("cifar10")
    change(C10, f"{B10}/test_batch.bin", lambda content: content[:-1])(spoilt)
    with pytest.raises(DatasetError):
        get(spoilt.offer(), tmp_path / "data", unpacked(spoilt, tmp_path / "spoilt"))
    assert {path: path.read_bytes() for path in good.folder.iterdir()} == before


def test_two_sets_share_a_download(tmp_path: Path) -> None:
    one, other = build("ham10000"), build("ham10000_lesion")
    packed = one.pack()
    with serving(packed) as server:
        get(one.offer(server.base, packed), tmp_path)
        get(other.offer(server.base, packed), tmp_path)
        assert len(server.requests) == 3
