"""Draw the images of this example: python make_images.py"""

import csv
import random
from pathlib import Path

from PIL import Image, ImageDraw

HERE = Path(__file__).parent / "xscore_plugin_shapes"
CLASSES = ("circle", "square", "triangle")


def draw(name: str, rng: random.Random) -> Image.Image:
    image = Image.new("RGB", (24, 24), tuple(rng.randrange(256) for _ in range(3)))
    pen = ImageDraw.Draw(image)
    left, top, size = rng.randrange(1, 9), rng.randrange(1, 9), rng.randrange(10, 15)
    colour = tuple(rng.randrange(256) for _ in range(3))
    if name == "circle":
        pen.ellipse((left, top, left + size, top + size), fill=colour)
    elif name == "square":
        pen.rectangle((left, top, left + size, top + size), fill=colour)
    else:
        pen.polygon([(left, top + size), (left + size, top + size), (left + size // 2, top)], fill=colour)
    return image


def main() -> None:
    rng = random.Random(0)
    (HERE / "images").mkdir(exist_ok=True)
    rows = []
    for index in range(96):
        name = CLASSES[index % 3]
        rows.append({"file": f"{index:03}.png", "class": name, "split": "train" if index < 72 else "test"})
        draw(name, rng).save(HERE / "images" / f"{index:03}.png")
    with (HERE / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["file", "class", "split"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
