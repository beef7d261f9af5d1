"""Stanford Dogs (Khosla et al., 2011): 120 breeds, by the official lists of 12,000 train and 8,580 test images."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.api import DatasetSpec, ReadError, Source, Split, hookimpl

# Sorted folder names. The lists' labels, which count from 1, must agree.
CLASSES = tuple(
    """
    n02085620-Chihuahua n02085782-Japanese_spaniel n02085936-Maltese_dog n02086079-Pekinese n02086240-Shih-Tzu
    n02086646-Blenheim_spaniel n02086910-papillon n02087046-toy_terrier n02087394-Rhodesian_ridgeback
    n02088094-Afghan_hound n02088238-basset n02088364-beagle n02088466-bloodhound n02088632-bluetick
    n02089078-black-and-tan_coonhound n02089867-Walker_hound n02089973-English_foxhound n02090379-redbone
    n02090622-borzoi n02090721-Irish_wolfhound n02091032-Italian_greyhound n02091134-whippet n02091244-Ibizan_hound
    n02091467-Norwegian_elkhound n02091635-otterhound n02091831-Saluki n02092002-Scottish_deerhound n02092339-Weimaraner
    n02093256-Staffordshire_bullterrier n02093428-American_Staffordshire_terrier n02093647-Bedlington_terrier
    n02093754-Border_terrier n02093859-Kerry_blue_terrier n02093991-Irish_terrier n02094114-Norfolk_terrier
    n02094258-Norwich_terrier n02094433-Yorkshire_terrier n02095314-wire-haired_fox_terrier n02095570-Lakeland_terrier
    n02095889-Sealyham_terrier n02096051-Airedale n02096177-cairn n02096294-Australian_terrier n02096437-Dandie_Dinmont
    n02096585-Boston_bull n02097047-miniature_schnauzer n02097130-giant_schnauzer n02097209-standard_schnauzer
    n02097298-Scotch_terrier n02097474-Tibetan_terrier n02097658-silky_terrier n02098105-soft-coated_wheaten_terrier
    n02098286-West_Highland_white_terrier n02098413-Lhasa n02099267-flat-coated_retriever
    n02099429-curly-coated_retriever n02099601-golden_retriever n02099712-Labrador_retriever
    n02099849-Chesapeake_Bay_retriever n02100236-German_short-haired_pointer n02100583-vizsla n02100735-English_setter
    n02100877-Irish_setter n02101006-Gordon_setter n02101388-Brittany_spaniel n02101556-clumber
    n02102040-English_springer n02102177-Welsh_springer_spaniel n02102318-cocker_spaniel n02102480-Sussex_spaniel
    n02102973-Irish_water_spaniel n02104029-kuvasz n02104365-schipperke n02105056-groenendael n02105162-malinois
    n02105251-briard n02105412-kelpie n02105505-komondor n02105641-Old_English_sheepdog n02105855-Shetland_sheepdog
    n02106030-collie n02106166-Border_collie n02106382-Bouvier_des_Flandres n02106550-Rottweiler
    n02106662-German_shepherd n02107142-Doberman n02107312-miniature_pinscher n02107574-Greater_Swiss_Mountain_dog
    n02107683-Bernese_mountain_dog n02107908-Appenzeller n02108000-EntleBucher n02108089-boxer n02108422-bull_mastiff
    n02108551-Tibetan_mastiff n02108915-French_bulldog n02109047-Great_Dane n02109525-Saint_Bernard n02109961-Eskimo_dog
    n02110063-malamute n02110185-Siberian_husky n02110627-affenpinscher n02110806-basenji n02110958-pug
    n02111129-Leonberg n02111277-Newfoundland n02111500-Great_Pyrenees n02111889-Samoyed n02112018-Pomeranian
    n02112137-chow n02112350-keeshond n02112706-Brabancon_griffon n02113023-Pembroke n02113186-Cardigan
    n02113624-toy_poodle n02113712-miniature_poodle n02113799-standard_poodle n02113978-Mexican_hairless n02115641-dingo
    n02115913-dhole n02116738-African_hunting_dog
    """.split()  # noqa: SIM905 - a hundred and twenty quoted names would be harder to read
)
LISTS: dict[Split, str] = {"train": "train_list.mat", "test": "test_list.mat"}
_NAME = re.compile(r"(?P<breed>n\d{8}-[A-Za-z_-]+)/n\d{8}_\d+\.jpg")


def read(folder: Path, split: Split) -> Iterator[tuple[Path, int]]:
    """Yield the listed images in the list's order. The lists are MATLAB files, which run no code when read."""
    lists = {one: read_list(folder / file) for one, file in LISTS.items()}
    if both := {name for name, _ in lists["train"]} & {name for name, _ in lists["test"]}:
        raise ReadError(f"{len(both)} images are in both lists, such as '{min(both)}'; expected none.")
    for name, label in lists[split]:
        yield folder / "Images" / name, label


def read_list(file: Path) -> list[tuple[str, int]]:
    """Return the names and labels of a list; labels count from 0. Raises ReadError if they do not fit the breeds."""
    table = _load(file)
    try:
        names = [str(cell[0]) for cell in table["file_list"][:, 0]]
        labels = [int(cell) - 1 for cell in table["labels"][:, 0]]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ReadError(f"{file} has no usable 'file_list' and 'labels' ({error!r}).") from None
    if len(names) != len(labels):
        raise ReadError(f"{file} has {len(names)} names and {len(labels)} labels, expected equal numbers.")
    if len(set(names)) != len(names):
        raise ReadError(f"{file} lists {len(names) - len(set(names))} images twice.")
    for name, label in zip(names, labels, strict=True):
        match = _NAME.fullmatch(name)
        if match is None or match["breed"] not in CLASSES:
            raise ReadError(f"{file}: found '{name:.80}', expected 'breed/image.jpg' with one of the 120 breeds.")
        if CLASSES.index(match["breed"]) != label:
            number = CLASSES.index(match["breed"]) + 1
            raise ReadError(f"{file}: {name} has the label {label + 1}, but its breed is number {number}.")
    return list(zip(names, labels, strict=True))


def _load(file: Path) -> dict[str, Any]:
    from scipy.io import loadmat

    if not file.is_file():
        raise ReadError(f"the list {file} is missing.")
    try:
        return dict(loadmat(str(file)))
    except Exception as error:  # on damaged files, scipy raises errors without a common base
        raise ReadError(f"{file} is no readable MATLAB file: {type(error).__name__}: {error}.") from None


@hookimpl
def harness_datasets() -> list[DatasetSpec]:
    """Register Stanford Dogs."""
    base = "http://vision.stanford.edu/aditya86/ImageNetDogs"
    return [
        DatasetSpec(
            name="stanford_dogs",
            title="Stanford Dogs",
            classes=CLASSES,
            splits={"train": 12_000, "test": 8_580},
            read=read,
            licence="none stated; the photographs are ImageNet's: non-commercial research only",
            accept_licence=True,
            citation="A. Khosla, N. Jayadevaprakash, B. Yao, L. Fei-Fei, Novel Dataset for Fine-Grained Image "
            "Categorization, FGVC workshop, CVPR 2011",
            domain="dog breeds",
            homepage=f"{base}/main.html",
            sources=(
                Source(
                    filename="images.tar",
                    urls=(f"{base}/images.tar",),
                    bytes=793_579_520,
                    checksums={
                        "md5": "1bb1f2a596ae7057f99d7d75860002ef",
                        "sha256": "a443fc2f9a851aa1a7b8e4fa4af94b8459fce2c9f5a2f4dd4669cf9673a4ec58",
                    },
                    gives=("Images",),
                ),
                Source(
                    filename="lists.tar",
                    urls=(f"{base}/lists.tar",),
                    bytes=481_280,
                    checksums={
                        "md5": "edbb9f16854ec66506b5f09b583e0656",
                        "sha256": "34b47cacd9a98b5d150e084f24d29391c084c55272295ec65c85651bc35f4d6c",
                    },
                    gives=("train_list.mat", "test_list.mat"),
                    # Known from one place. The archive's own checksums cover these files, too.
                    members={
                        "train_list.mat": "md5:d37f459eacccfa4d299373dffba9648d",
                        "test_list.mat": "md5:66f60c285efbc3ce2fb7893bd26c6b80",
                    },
                ),
            ),
        )
    ]
