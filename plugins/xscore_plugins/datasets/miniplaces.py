"""MiniPlaces (Zhou et al., 2017): 100 scene categories at 128 pixels.

Its ``val`` is the test split, since the labels of its own test images were never released.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from harness.api import DatasetSpec, ReadError, Source, Split, hookimpl

# The full paths of categories.txt in its alphabetical order, without their leading letter. The last folder alone would
# name six categories "outdoor". This list reproduces the SHA-256 of categories.txt.
CLASSES = tuple(
    """
    abbey airport_terminal amphitheater amusement_park aquarium aqueduct art_gallery assembly_line auditorium badlands
    bakery/shop ballroom bamboo_forest banquet_hall bar baseball_field bathroom beauty_salon bedroom boat_deck bookstore
    botanical_garden bowling_alley boxing_ring bridge bus_interior butchers_shop campsite candy_store canyon cemetery
    chalet church/outdoor classroom clothing_store coast cockpit coffee_shop conference_room construction_site
    corn_field corridor courtyard dam desert/sand dining_room driveway fire_station food_court fountain gas_station
    golf_course harbor highway hospital_room hot_spring ice_skating_rink/outdoor iceberg kindergarden_classroom kitchen
    laundromat lighthouse living_room lobby locker_room market/outdoor martial_arts_gym monastery/outdoor mountain
    museum/indoor office palace parking_lot phone_booth playground racecourse railroad_track rainforest restaurant river
    rock_arch runway shed shower ski_slope skyscraper slum stadium/football stage/indoor staircase
    subway_station/platform supermarket swamp swimming_pool/outdoor temple/east_asia track/outdoor trench valley volcano
    yard
    """.split()  # noqa: SIM905 - a hundred quoted names would be harder to read
)
LISTS: dict[Split, str] = {"train": "train.txt", "test": "val.txt"}
_LINE = {
    "train": re.compile(r"train/[a-z]/(?P<category>[a-z_]+(?:/[a-z_]+)?)/\d{8}\.jpg (?P<label>\d{1,3})"),
    "test": re.compile(r"val/\d{8}\.jpg (?P<label>\d{1,3})"),
}
_RAW = "https://raw.githubusercontent.com/CSAILVision/miniplaces/master/data"
_CDN = "https://cdn.jsdelivr.net/gh/CSAILVision/miniplaces@master/data"


def read(folder: Path, split: Split) -> Iterator[tuple[Path, int]]:
    """Yield images and labels in the list's order. The list gives the labels, since the folders are nested unevenly."""
    file = folder / LISTS[split]
    try:
        lines = file.read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        raise ReadError(f"the list {file} is missing.") from None
    except UnicodeDecodeError as error:
        raise ReadError(f"{file} is no ASCII text (byte {error.start}).") from None
    seen: set[str] = set()
    for number, line in enumerate(lines, start=1):
        match = _LINE[split].fullmatch(line)
        if match is None:
            example = "train/a/abbey/00000001.jpg 0" if split == "train" else "val/00000001.jpg 71"
            raise ReadError(f"{file}, line {number}: found '{line:.80}', expected a line such as '{example}'.")
        name, label = line.split(" ")[0], int(match["label"])
        if split == "train" and (label >= len(CLASSES) or match["category"] != CLASSES[label]):
            named = CLASSES[label] if label < len(CLASSES) else "no category"
            raise ReadError(f"{file}, line {number}: {name} has the label {label}, which is {named}.")
        if name in seen:
            raise ReadError(f"{file}, line {number}: {name} is listed twice.")
        seen.add(name)
        yield folder / "images" / name, label


@hookimpl
def harness_datasets() -> list[DatasetSpec]:
    """Register MiniPlaces."""
    return [
        DatasetSpec(
            name="miniplaces",
            title="MiniPlaces",
            classes=CLASSES,
            splits={"train": 100_000, "test": 10_000},
            read=read,
            licence="for academic research and education (the Places database)",
            accept_licence=True,
            citation="B. Zhou, A. Lapedriza, A. Khosla, A. Oliva, A. Torralba, Places: A 10 million Image Database for "
            "Scene Recognition, IEEE TPAMI 40(6), 2017",
            domain="scenes",
            homepage="https://github.com/CSAILVision/miniplaces",
            native_side=128,
            sources=(
                Source(
                    filename="data.tar.gz",
                    urls=(
                        "https://places.csail.mit.edu/miniplaces/data/data.tar.gz",
                        "http://miniplaces.csail.mit.edu/data/data.tar.gz",
                        "http://6.869.csail.mit.edu/fa17/miniplaces/data.tar.gz",
                    ),
                    checksums={"md5": "265825ec94f79390e4f1e38045a69059"},
                    sole_origin="public code that used an earlier address of this file; nobody states its size",
                    gives=("images",),
                ),
                Source(
                    filename="train.txt",
                    urls=(f"{_RAW}/train.txt", f"{_CDN}/train.txt"),
                    bytes=3_516_000,
                    checksums={
                        "md5": "9ef0d988e43f4a3734f7735a6d99d430",
                        "sha256": "bb701b8ed9129fa8d3b783803aa83abff5e48fd57c249efb0e9f088fbb57f7a7",
                    },
                ),
                Source(
                    filename="val.txt",
                    urls=(f"{_RAW}/val.txt", f"{_CDN}/val.txt"),
                    bytes=199_000,
                    checksums={
                        "md5": "eaee4c0605235fb0042368aa6d921db2",
                        "sha256": "0b554c7bc4fe97393a42484c36a28ea69efa1a27aadf5220db78823fa7913737",
                    },
                ),
            ),
        )
    ]
