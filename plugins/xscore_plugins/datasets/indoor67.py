"""MIT Indoor-67 (Quattoni & Torralba, CVPR 2009): 67 kinds of rooms, by the official lists (5,360 and 1,340)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from harness.api import DatasetSpec, ReadError, Source, Split, hookimpl

# Sorted folder names, spelled as on disk.
CLASSES = tuple(
    """
    airport_inside artstudio auditorium bakery bar bathroom bedroom bookstore bowling buffet casino children_room
    church_inside classroom cloister closet clothingstore computerroom concert_hall corridor deli dentaloffice
    dining_room elevator fastfood_restaurant florist gameroom garage greenhouse grocerystore gym hairsalon hospitalroom
    inside_bus inside_subway jewelleryshop kindergarden kitchen laboratorywet laundromat library livingroom lobby
    locker_room mall meeting_room movietheater museum nursery office operating_room pantry poolinside prisoncell
    restaurant restaurant_kitchen shoeshop stairscase studiomusic subway toystore trainstation tv_studio videostore
    waitingroom warehouse winecellar
    """.split()  # noqa: SIM905 - sixty-seven quoted names would be harder to read
)
LISTS: dict[Split, str] = {"train": "TrainImages.txt", "test": "TestImages.txt"}


def read(folder: Path, split: Split) -> Iterator[tuple[Path, int]]:
    """Yield the listed images in the list's order. The other 8,920 images of the archive are not used."""
    names = {one: read_list(folder / file) for one, file in LISTS.items()}
    if both := set(names["train"]) & set(names["test"]):
        raise ReadError(f"{len(both)} images are in both lists, such as '{min(both)}'; expected none.")
    for name in names[split]:
        yield folder / "Images" / name, CLASSES.index(PurePosixPath(name).parts[0])


def read_list(file: Path) -> list[str]:
    """Return the names in a list, one per line; some have spaces, and the last line has no end. Raises ReadError."""
    try:
        lines = file.read_text(encoding="ascii").split("\n")
    except FileNotFoundError:
        raise ReadError(f"the list {file} is missing.") from None
    except UnicodeDecodeError as error:
        raise ReadError(f"{file} is no ASCII text (byte {error.start}), expected one image name per line.") from None
    names = [line.rstrip("\r") for line in lines if line.strip()]
    for number, name in enumerate(names, start=1):
        parts = name.split("/")
        if len(parts) != 2 or parts[0] not in CLASSES or parts[1] in ("", ".", ".."):
            raise ReadError(f"{file}, line {number}: found '{name:.80}', expected 'class/file.jpg' with a known class.")
    if not names:
        raise ReadError(f"{file} is empty, expected one image name per line.")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ReadError(f"{file} lists '{twice}' twice.")
    return names


@hookimpl
def harness_datasets() -> list[DatasetSpec]:
    """Register MIT Indoor-67."""
    return [
        DatasetSpec(
            name="indoor67",
            title="MIT Indoor-67",
            classes=CLASSES,
            splits={"train": 5_360, "test": 1_340},
            read=read,
            licence="for research purposes only (the authors' page)",
            accept_licence=True,
            citation="A. Quattoni, A. Torralba, Recognizing Indoor Scenes, CVPR 2009, pp. 413-420",
            domain="rooms",
            homepage="http://web.mit.edu/torralba/www/indoor.html",
            sources=(
                Source(
                    filename="indoorCVPR_09.tar",
                    urls=("http://groups.csail.mit.edu/vision/LabelMe/NewImages/indoorCVPR_09.tar",),
                    bytes=2_592_010_240,
                    checksums={
                        "md5": "5d176e5f0e56624a453f2fe0d8b19ff7",
                        "sha1": "0b252516e746ba428b96af408d2e8162d9b08ac5",
                    },
                    sole_origin="MD5 and SHA-1 in the code of visym/vipy, the size in a download log",
                    gives=("Images",),
                ),
                Source(
                    filename="TrainImages.txt",
                    urls=("http://web.mit.edu/torralba/www/TrainImages.txt",),
                    bytes=172_080,
                    checksums={
                        "md5": "fd987513d0f623c424252770fac3f354",
                        "sha256": "7ec85f88735739d8159061e4bcf6a9765aab8606ab444605b3f8e0641be0260e",
                    },
                ),
                Source(
                    filename="TestImages.txt",
                    urls=("http://web.mit.edu/torralba/www/TestImages.txt",),
                    bytes=43_475,
                    checksums={
                        "md5": "f00bef137f39d51e4894303a7bf4c2d4",
                        "sha256": "906c529a5a0918feec371de5b07a465ddb1f15ebaebc90a33cc321c371133bf1",
                    },
                ),
            ),
        )
    ]
