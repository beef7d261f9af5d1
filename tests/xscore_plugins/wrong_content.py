"""Some fifty ways in which the content of a data set can be wrong although every checksum fits."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from scipy.io import savemat

from tests.published_layouts import INDOOR, Miniature, dog_list, dog_pairs, ham_csv, ham_rows
from xscore_plugins.datasets import ham10000


def change(source: str, name: str, content: bytes | Callable[[bytes], bytes] | None) -> Callable[[Miniature], None]:
    """Replace, transform or remove one file of a set."""

    def apply(miniature: Miniature) -> None:
        files = miniature.sources[source]
        if content is None:
            del files[name]
        else:
            files[name] = content(files[name]) if callable(content) else content

    return apply


def ham(rows: Callable[[list[ham10000.MetadataRow]], list[ham10000.MetadataRow]]) -> Callable[[Miniature], None]:
    return change("HAM10000_metadata.csv", "", ham_csv(rows(ham_rows())))


def rename(row: ham10000.MetadataRow, **changes: str) -> ham10000.MetadataRow:
    return ham10000.MetadataRow(**{"image": row.image, "lesion": row.lesion, "dx": row.dx, **changes})


def no_labels() -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, {"file_list": np.array([["a"]], dtype=object)})
    return buffer.getvalue()


C10, C100 = "cifar-10-binary.tar.gz", "cifar-100-binary.tar.gz"
B10, B100 = "cifar-10-batches-bin", "cifar-100-binary"
NETTE, VAL = "imagenette2-160.tgz", "imagenette2-160/val/n01440764/ILSVRC2012_val_00000True0.JPEG"
DOG = dog_pairs("train")
LISTED, PLACES = "TrainImages.txt", "train.txt"


def empty_class(miniature: Miniature) -> None:
    change(NETTE, VAL, None)(miniature)
    change(NETTE, f"{VAL}.txt", b"")(miniature)


WRONG: dict[str, tuple[str, Callable[[Miniature], None], str]] = {
    "cifar10: cut record": ("cifar10", change(C10, f"{B10}/test_batch.bin", lambda c: c[:-1]), "multiple of 3,073"),
    "cifar10: empty batch": ("cifar10", change(C10, f"{B10}/test_batch.bin", b""), "has 0 bytes"),
    "cifar10: too few": (
        "cifar10",
        change(C10, f"{B10}/data_batch_5.bin", lambda c: c[:3073]),
        "17 train images, expected 20",
    ),
    "cifar10: too many": (
        "cifar10",
        change(C10, f"{B10}/data_batch_5.bin", lambda c: c * 2),
        "expected 20 images and no more",
    ),
    "cifar10: label 10": (
        "cifar10",
        change(C10, f"{B10}/data_batch_2.bin", lambda c: b"\x0a" + c[1:]),
        "label 10, expected 0 to 9",
    ),
    "cifar10: other order": (
        "cifar10",
        change(C10, f"{B10}/batches.meta.txt", b"cat\ndog\n"),
        "'cat' where 'airplane'",
    ),
    "cifar100: coarse label 20": (
        "cifar100",
        change(C100, f"{B100}/train.bin", lambda c: b"\x14" + c[1:]),
        "coarse label 20",
    ),
    "cifar100: records of CIFAR-10": ("cifar100", change(C100, f"{B100}/test.bin", bytes(3073)), "multiple of 3,074"),
    "cifar100: names missing": (
        "cifar100",
        change(C100, f"{B100}/fine_label_names.txt", b"apple\n"),
        "1 names, expected 100",
    ),
    "imagenette: no class": ("imagenette", change(NETTE, VAL, None), "other class folders"),
    "imagenette: another class": (
        "imagenette",
        change(NETTE, "imagenette2-160/val/n99/x.JPEG", b""),
        "difference is n99",
    ),
    "imagenette: cut image": ("imagenette", change(NETTE, VAL, lambda c: c[:400]), "is damaged"),
    "imagenette: empty image": ("imagenette", change(NETTE, VAL, b""), "is empty (0 bytes)"),
    "imagenette: text for an image": ("imagenette", change(NETTE, VAL, b"404"), "is no image that can be read"),
    "imagenette: no images": (
        "imagenette",
        empty_class,
        "no .JPEG file",
    ),
    "imagenette: version 1": (
        "imagenette",
        lambda miniature: miniature.sources.update({NETTE: {"imagenette-160/train/x.JPEG": b""}}),
        "does not hold 'imagenette2-160'",
    ),
    "dogs: list is no MATLAB file": (
        "stanford_dogs",
        change("lists.tar", "train_list.mat", b"x" * 200),
        "no readable MATLAB",
    ),
    "dogs: list is empty": ("stanford_dogs", change("lists.tar", "test_list.mat", b""), "no readable MATLAB"),
    "dogs: no labels": ("stanford_dogs", change("lists.tar", "train_list.mat", no_labels()), "no usable 'file_list'"),
    "dogs: wrong label": (
        "stanford_dogs",
        change("lists.tar", "train_list.mat", dog_list([(DOG[0][0], 7)])),
        "breed is number 1",
    ),
    "dogs: in both lists": ("stanford_dogs", change("lists.tar", "test_list.mat", dog_list(DOG[:6])), "in both lists"),
    "dogs: twice": (
        "stanford_dogs",
        change("lists.tar", "train_list.mat", dog_list([*DOG[:8], DOG[0]])),
        "images twice",
    ),
    "dogs: path climbs": (
        "stanford_dogs",
        change("lists.tar", "train_list.mat", dog_list([("../../etc/passwd", 1)])),
        "expected 'breed/image",
    ),
    "dogs: unknown breed": (
        "stanford_dogs",
        change("lists.tar", "train_list.mat", dog_list([("n00000001-Cat/n00000001_1.jpg", 1)])),
        "120 breeds",
    ),
    "dogs: image missing": ("stanford_dogs", change("images.tar", f"Images/{DOG[1][0]}", None), "can't be read"),
    "indoor: not ASCII": ("indoor67", change(LISTED, "", "bar/caf\u00e9.jpg".encode()), "no ASCII text (byte 7)"),
    "indoor: no folder": ("indoor67", change(LISTED, "", b"bar.jpg"), "line 1: found 'bar.jpg'"),
    "indoor: unknown class": ("indoor67", change(LISTED, "", b"spaceship/a.jpg"), "with a known class"),
    "indoor: path climbs": ("indoor67", change(LISTED, "", b"bar/../../x.jpg"), "line 1: found"),
    "indoor: twice": ("indoor67", change(LISTED, "", b"bar/x.jpg\nbar/x.jpg"), "lists 'bar/x.jpg' twice"),
    "indoor: empty list": ("indoor67", change(LISTED, "", b"\n"), "is empty"),
    "indoor: in both": ("indoor67", change(LISTED, "", INDOOR["test"][0].encode()), "in both lists"),
    "indoor: a listed text": (
        "indoor67",
        change("indoorCVPR_09.tar", f"Images/{INDOOR['train'][0]}", b"no"),
        "train image 0 (Images/mall/shopping mall",
    ),
    "places: label of another": (
        "miniplaces",
        change(PLACES, "", b"train/a/abbey/00000001.jpg 10\n"),
        "which is bakery/shop",
    ),
    "places: label 100": (
        "miniplaces",
        change(PLACES, "", b"train/a/abbey/00000001.jpg 100\n"),
        "which is no category",
    ),
    "places: no label": ("miniplaces", change(PLACES, "", b"train/a/abbey/00000001.jpg\n"), "line 1: found"),
    "places: absolute path": ("miniplaces", change(PLACES, "", b"/etc/passwd 1\n"), "line 1: found"),
    "places: twice": ("miniplaces", change(PLACES, "", b"train/a/abbey/00000001.jpg 0\n" * 2), "is listed twice"),
    "places: val label 100": (
        "miniplaces",
        change("val.txt", "", b"val/00000001.jpg 100\n"),
        "label 100, expected 0 to 99",
    ),
    "places: list too short": (
        "miniplaces",
        change("val.txt", "", b"val/00000001.jpg 1\n"),
        "yields 1 test images, expected 3",
    ),
    "ham: tab file": (
        "ham10000",
        change("HAM10000_metadata.csv", "", ham_csv(ham_rows()).replace(b",", b"\t")),
        "no column dx, image_id, lesion_id",
    ),
    "ham: not UTF-8": ("ham10000", change("HAM10000_metadata.csv", "", b"\xff\xfe"), "no UTF-8 text"),
    "ham: unknown diagnosis": ("ham10000", ham(lambda r: [rename(r[0], dx="flu"), *r[1:]]), "diagnosis 'flu'"),
    "ham: image twice": ("ham10000", ham(lambda r: [*r, r[0]]), "names 1 images twice"),
    "ham: path for an image": (
        "ham10000",
        ham(lambda r: [rename(r[0], image="../../x"), *r[1:]]),
        "found the image '../../x'",
    ),
    "ham: lesion with two diagnoses": (
        "ham10000",
        ham(lambda r: [*r, ham10000.MetadataRow("ISIC_1", r[0].lesion, "nv" if r[0].dx != "nv" else "df")]),
        "two diagnoses",
    ),
    "ham: a line missing": ("ham10000", ham(lambda r: r[:-1]), "images by diagnosis"),
    "ham: other lesions": (
        "ham10000",
        ham(lambda r: [rename(row, lesion=f"L{i}") for i, row in enumerate(r)]),
        "lesions: found",
    ),
    "ham: other order": ("ham10000", ham(lambda r: r[::-1]), "its lines are in another order"),
    "ham: image in no archive": (
        "ham10000",
        change("HAM10000_images_part_1.zip", f"{ham_rows()[0].image}.jpg", None),
        "ISIC_0024306.jpg is in neither",
    ),
}
