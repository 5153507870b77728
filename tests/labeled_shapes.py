"""Images of several classes, or none, for the tests of `data.multi_label`: colored shapes in places
of their own."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("blue", "green", "red")
_COLORS = {"red": (230, 30, 30), "green": (20, 200, 40), "blue": (40, 60, 240)}
_PLACES = {"red": (2, 2), "green": (26, 2), "blue": (14, 26)}
SIDE = 48


def drawn(labels: tuple[str, ...], seed: int) -> Image.Image:
    """Return an image with a square for each of its classes, on a gray of its own."""
    random = np.random.default_rng(seed)
    pixels = random.integers(90, 150, (SIDE, SIDE, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    for name in labels:
        left, top = np.array(_PLACES[name]) + random.integers(0, 3, 2)
        draw.rectangle((left, top, left + 18, top + 18), fill=_COLORS[name])
    return image


def labels_of(index: int) -> tuple[str, ...]:
    """Return the classes of the image of a number: each combination as often, none included."""
    return tuple(name for place, name in enumerate(CLASSES) if index >> place & 1)


def write_csv(root: Path, images: int) -> Path:
    """Write images and `labels.csv`, several classes a cell; return it."""
    root.mkdir(parents=True, exist_ok=True)
    for index in range(images):
        drawn(labels_of(index), index).save(root / f"{index:03}.png")
    file = root / "labels.csv"
    with file.open("w", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(["filename", "labels"])
        rows.writerows([f"{index:03}.png", "|".join(labels_of(index))] for index in range(images))
    return file
