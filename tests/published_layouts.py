"""Small archives in the published layouts of the seven data sets, with the documented oddities planted in them.

``build(name)`` gives the unpacked files of a set, archive by archive; ``Miniature.pack`` makes archives of them, and
``Miniature.spec`` is the plugin's own spec with the sizes, checksums and addresses of these files.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from PIL import Image
from scipy.io import savemat

from harness.api import DatasetSpec, Source, Split
from harness.catalog import Offer, Plugin
from xscore_plugins.datasets import cifar10, cifar100, ham10000, imagenette, indoor67, miniplaces, stanford_dogs

Files = dict[str, bytes]
SPECS: dict[str, DatasetSpec] = {
    spec.name: spec
    for module in (cifar10, cifar100, imagenette, ham10000, stanford_dogs, indoor67, miniplaces)
    for spec in module.harness_datasets()
}


def picture(seed: object, size: tuple[int, int], kind: str = "JPEG", mode: str = "RGB") -> bytes:
    """A picture of its own for every seed: a gradient with a few blocks."""
    rng = random.Random(str(seed))
    image = Image.new("RGB", size, tuple(rng.randrange(256) for _ in range(3)))
    for _ in range(4):
        left, top = rng.randrange(size[0]), rng.randrange(size[1])
        box = (left, top, min(size[0], left + size[0] // 3 + 1), min(size[1], top + size[1] // 3 + 1))
        image.paste(tuple(rng.randrange(256) for _ in range(3)), box)
    buffer = io.BytesIO()
    image.convert(mode).save(buffer, kind)
    return buffer.getvalue()


@dataclass
class Miniature:
    """A set's files by archive (a plain file under the empty inner name), and its numbers of images."""

    name: str
    sources: dict[str, Files]
    splits: dict[Split, int]
    members: bool = False
    changes: dict[str, object] = field(default_factory=dict)

    def pack(self) -> Files:
        """Return every source as it would be downloaded."""
        return {name: files[""] if "" in files else archive(name, files) for name, files in self.sources.items()}

    def spec(self, base: str, packed: Files | None = None) -> DatasetSpec:
        """Return the plugin's spec, made to fit these files served under ``base``."""
        packed = packed or self.pack()
        spec = SPECS[self.name]
        sources = tuple(self._source(source, packed[source.filename], base) for source in spec.sources)
        return replace(spec, splits=self.splits, sources=sources, **self.changes)  # type: ignore[arg-type]

    def offer(self, base: str = "http://127.0.0.1:9", packed: Files | None = None) -> Offer[DatasetSpec]:
        return Offer(self.spec(base, packed), Plugin(self.name, "tests", "tests", "1"))

    def _source(self, source: Source, content: bytes, base: str) -> Source:
        known = {name: hashlib.new(name, content).hexdigest() for name in source.checksums}
        members = {
            name: f"md5:{hashlib.md5(self.sources[source.filename][name]).hexdigest()}" for name in source.members
        }
        return replace(
            source, urls=(f"{base}/{source.filename}",), bytes=len(content) if source.bytes else None,
            checksums=known, members=members,
        )  # fmt: skip


def archive(name: str, files: Files) -> bytes:
    """Make an archive: the same bytes whenever it is made, since checksums are taken of it."""
    buffer = io.BytesIO()
    if name.endswith(".zip"):
        with zipfile.ZipFile(buffer, "w") as opened:
            for path, content in files.items():
                opened.writestr(zipfile.ZipInfo(path), content)
        return buffer.getvalue()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        folders: set[str] = set()
        for path, content in files.items():
            parts = path.split("/")[:-1]
            for depth in range(1, len(parts) + 1):
                folder = "/".join(parts[:depth])
                if folder not in folders:
                    folders.add(folder)
                    info = tarfile.TarInfo(folder)
                    info.type, info.mode = tarfile.DIRTYPE, 0o755
                    tar.addfile(info)
            info = tarfile.TarInfo(path)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue() if name.endswith(".tar") else gzip.compress(buffer.getvalue(), mtime=0)


def records(seed: str, labels: list[tuple[int, ...]]) -> bytes:
    rng = random.Random(seed)
    return b"".join(bytes(label) + rng.randbytes(3072) for label in labels)


def build_cifar10() -> Miniature:
    base = "cifar-10-batches-bin"
    files = {
        f"{base}/data_batch_{i}.bin": records(f"10-{i}", [((4 * i + j) % 10,) for j in range(4)]) for i in range(1, 6)
    }
    files[f"{base}/test_batch.bin"] = records("10-test", [(j,) for j in range(10)])
    files[f"{base}/batches.meta.txt"] = ("\n".join(cifar10.CLASSES) + "\n\n").encode()
    files[f"{base}/readme.html"] = b"<meta HTTP-EQUIV='REFRESH' content='0'>"
    return Miniature("cifar10", {"cifar-10-binary.tar.gz": files}, {"train": 20, "test": 10})


def build_cifar100() -> Miniature:
    base = "cifar-100-binary"
    files = {
        f"{base}/train.bin": records("100", [(j % 20, 99 - j) for j in range(30)]),
        f"{base}/test.bin": records("100-test", [(j % 20, j) for j in range(12)]),
        f"{base}/fine_label_names.txt": ("\n".join(cifar100.CLASSES) + "\n").encode(),
        f"{base}/coarse_label_names.txt": b"aquatic_mammals\n",
    }
    return Miniature("cifar100", {"cifar-100-binary.tar.gz": files}, {"train": 30, "test": 12})


def build_imagenette() -> Miniature:
    base, files = "imagenette2-160", {}
    for number, synset in enumerate(imagenette.SYNSETS):
        for part, count in (("train", 2), ("val", 1)):
            for index in range(count):
                # Validation images of ImageNet are in both parts; a few files are grey.
                stem = f"ILSVRC2012_val_{number:05}{part == 'val'}{index}" if number < 3 else f"{synset}_{index}{part}"
                mode = "L" if (number, part, index) == (4, "train", 1) else "RGB"
                size = (213, 160) if number % 2 else (160, 240)
                files[f"{base}/{part}/{synset}/{stem}.JPEG"] = picture(stem, size, mode=mode)
    files[f"{base}/noisy_imagenette.csv"] = b"path,noisy_labels_0\n"
    files[f"{base}/train/.DS_Store"] = b"mac"
    return Miniature("imagenette", {"imagenette2-160.tgz": files}, {"train": 20, "test": 10})


DOGS = ("n02085620-Chihuahua", "n02105855-Shetland_sheepdog", "n02116738-African_hunting_dog")


def dog_list(pairs: list[tuple[str, int]]) -> bytes:
    """A .mat file as published: object arrays of names, and labels that count from 1."""
    names = np.empty((len(pairs), 1), dtype=object)
    notes = np.empty((len(pairs), 1), dtype=object)
    for row, (name, _) in enumerate(pairs):
        names[row, 0], notes[row, 0] = name, name.removesuffix(".jpg")
    labels = np.array([[label] for _, label in pairs], dtype=np.uint8)
    buffer = io.BytesIO()
    savemat(buffer, {"file_list": names, "annotation_list": notes, "labels": labels}, do_compression=True)
    return b"MATLAB 5.0 MAT-file".ljust(116) + buffer.getvalue()[116:]  # scipy writes the time into the heading


def dog_pairs(split: Split) -> list[tuple[str, int]]:
    numbers = {"train": (2933, 11, 12), "test": (21, 22)}[split]
    return [
        (f"{breed}/{breed.split('-')[0]}_{number}.jpg", stanford_dogs.CLASSES.index(breed) + 1)
        for breed in DOGS
        for number in numbers
    ]


def build_stanford_dogs() -> Miniature:
    images = {}
    for index, (name, _) in enumerate(dog_pairs("train") + dog_pairs("test")):
        odd = name.endswith("n02105855_2933.jpg")  # the PNG with an alpha channel among the JPEGs
        size = (213, 189) if odd else (97 + 40 * index, 100 + 20 * index)
        images[f"Images/{name}"] = picture(name, size, "PNG" if odd else "JPEG", "RGBA" if odd else "RGB")
    lists = {
        "file_list.mat": dog_list(dog_pairs("train") + dog_pairs("test")),
        "train_list.mat": dog_list(dog_pairs("train")),
        "test_list.mat": dog_list(dog_pairs("test")),
    }
    return Miniature("stanford_dogs", {"images.tar": images, "lists.tar": lists}, {"train": 9, "test": 6})


INDOOR: dict[Split, tuple[str, ...]] = {
    "train": ("mall/shopping mall.jpg", "buffet/Buffet_Set_Up_gif.jpg", "airport_inside/a_png.jpg", "winecellar/w.jpg"),
    "test": ("mall/m 2.jpg", "bar/b.jpg", "buffet/cmyk.jpg"),
}


def build_indoor67() -> Miniature:
    kinds = {"buffet/Buffet_Set_Up_gif.jpg": ("GIF", "P"), "airport_inside/a_png.jpg": ("PNG", "RGBA")}
    kinds |= {"buffet/cmyk.jpg": ("JPEG", "CMYK"), "bar/b.jpg": ("JPEG", "L")}
    images = {
        f"Images/{name}": picture(name, (256 + len(name), 240), *kinds.get(name, ("JPEG", "RGB")))
        for names in INDOOR.values()
        for name in names
    }
    images["Images/mall/not listed.jpg"] = b"not an image, but nobody reads it"
    lists = {name: {"": "\n".join(INDOOR[split]).encode()} for split, name in indoor67.LISTS.items()}
    return Miniature("indoor67", {"indoorCVPR_09.tar": images, **lists}, {"train": 4, "test": 3})


def build_miniplaces() -> Miniature:
    train = [
        (f"train/{name[0]}/{name}/{number:08}.jpg", miniplaces.CLASSES.index(name))
        for name in ("abbey", "bakery/shop", "yard")
        for number in (1, 2)
    ]
    val = [(f"val/{number:08}.jpg", label) for number, label in ((1, 99), (2, 10), (3, 0))]
    images = {f"images/{name}": picture(name, (128, 128)) for name, _ in train + val}
    images["images/test/00000001.jpg"] = picture("secret", (128, 128))
    images["objects/train/a/abbey/00000001.xml"] = b"<annotation/>"
    lists = {
        name: {"": "".join(f"{path} {label}\n" for path, label in rows).encode()}
        for name, rows in (("train.txt", train), ("val.txt", val))
    }
    return Miniature("miniplaces", {"data.tar.gz": images, **lists}, {"train": 6, "test": 3})


def ham_rows(counts: tuple[int, ...] = (12, 14, 20, 10, 22, 60, 12), seed: int = 8) -> list[ham10000.MetadataRow]:
    """Metadata in mixed order, with lesions of one to three images."""
    rng, rows, lesion = random.Random(seed), [], 0
    for dx, count in zip(ham10000.CLASSES, counts, strict=True):
        left = count
        while left:
            lesion += 1
            images = min(left, rng.choice((1, 1, 1, 1, 2, 3)))
            left -= images
            rows += [("", f"HAM_{lesion:07}", dx)] * images
    rng.shuffle(rows)
    return [ham10000.MetadataRow(f"ISIC_{24306 + i:07}", lesion, dx) for i, (_, lesion, dx) in enumerate(rows)]


def ham_csv(rows: list[ham10000.MetadataRow]) -> bytes:
    lines = [f"{row.lesion},{row.image},{row.dx},histo,80.0,male,scalp,vidir_modern" for row in rows]
    return "\n".join(["lesion_id,image_id,dx,dx_type,age,sex,localization,dataset", *lines, ""]).encode()


def ham_published(rows: list[ham10000.MetadataRow]) -> ham10000.KnownMetadata:
    """What the checks would know of these metadata."""
    parts = ham10000.split_by_image(rows)
    counts = Counter(row.dx for row in rows)
    test = Counter(row.dx for row, part in zip(rows, parts, strict=True) if part == "test")
    trained = {row.lesion for row, part in zip(rows, parts, strict=True) if part == "train"}
    return ham10000.KnownMetadata(
        images=tuple(counts[dx] for dx in ham10000.CLASSES),
        lesions=len({row.lesion for row in rows}),
        test=tuple(test[dx] for dx in ham10000.CLASSES),
        shared=sum(row.lesion in trained for row, part in zip(rows, parts, strict=True) if part == "test"),
        digest=ham10000.split_digest(rows, parts),
    )


def build_ham10000(name: str = "ham10000") -> Miniature:
    rows = ham_rows()
    known = ham_published(rows)
    images = [{f"{row.image}.jpg": picture(row.image, (60, 45)) for row in part} for part in (rows[:70], rows[70:])]
    test = sum(known.test)
    return Miniature(
        name,
        {
            "HAM10000_images_part_1.zip": images[0],
            "HAM10000_images_part_2.zip": images[1],
            "HAM10000_metadata.csv": {"": ham_csv(rows)},
        },
        {"train": len(rows) - 2 * test, "test": test},
        changes={"read": partial(ham10000.read, grouped=name == "ham10000_lesion", known=known)},
    )


BUILDERS: dict[str, Callable[[], Miniature]] = {
    "cifar10": build_cifar10,
    "cifar100": build_cifar100,
    "imagenette": build_imagenette,
    "ham10000": build_ham10000,
    "ham10000_lesion": partial(build_ham10000, "ham10000_lesion"),
    "stanford_dogs": build_stanford_dogs,
    "indoor67": build_indoor67,
    "miniplaces": build_miniplaces,
}


def build(name: str) -> Miniature:
    return BUILDERS[name]()
