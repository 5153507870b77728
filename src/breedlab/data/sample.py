"""A made-up image set: drawn images of dog breeds that do not exist.

It lets anyone try the whole way from a folder of images to a served model without a download.
Breeds differ in coat, ears, build, muzzle and tail; place, light, pose, size and the camera's
weaknesses are drawn from the same chances for every breed, so that they say nothing about it.
"""

from __future__ import annotations

import functools
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from breedlab.data.drawing.coats import Coat
from breedlab.data.drawing.dog import Build
from breedlab.data.drawing.image import draw_image
from breedlab.data.drawing.shapes import Color, mix
from breedlab.errors import DataError

MIN_SIZE = 32
_SPLITS = ("train", "valid", "test")

# Base, accent (always in contrast to the base, so that every pattern shows on every color) and
# white.
_COLORS: dict[str, tuple[Color, Color, Color]] = {
    "Amber": ((212, 146, 66), (72, 44, 30), (246, 236, 214)),
    "Ivory": ((234, 220, 190), (112, 74, 46), (250, 246, 236)),
    "Slate": ((112, 124, 140), (42, 44, 54), (232, 236, 240)),
    "Rust": ((168, 80, 42), (58, 32, 26), (246, 232, 214)),
    "Ebony": ((62, 58, 63), (190, 134, 78), (240, 236, 230)),
    "Silver": ((188, 190, 194), (70, 72, 82), (250, 250, 250)),
    "Cocoa": ((110, 78, 60), (222, 190, 148), (242, 232, 218)),
    "Lilac": ((172, 150, 158), (88, 66, 78), (246, 238, 240)),
}

# What the name says of a pattern; a plain coat goes unmentioned, as with real breeds.
_PATTERNS: dict[str, str] = {
    "solid": "",
    "brindle": "Brindle",
    "spotted": "Spotted",
    "freckled": "Freckled",
    "merle": "Merle",
    "pied": "Pied",
    "saddled": "Saddled",
    "masked": "Masked",
    "belted": "Belted",
    "socked": "Socked",
}

_BUILDS: dict[str, Build] = {
    "Pointer": Build(0.62, 1.0, 0.43, 0.1, 0.3, 0.2, 1.0, 0.06, "drop", "straight"),
    "Spitz": Build(0.46, 0.82, 0.5, 0.0, 0.2, 0.235, 0.55, 0.06, "prick", "curl", 0.9, 0.035),
    "Hound": Build(0.4, 1.02, 0.46, 0.04, 0.24, 0.22, 0.9, 0.075, "long", "sabre"),
    "Terrier": Build(0.5, 0.74, 0.42, 0.03, 0.26, 0.22, 0.75, 0.06, "button", "stub", 1.0, 0.018),
    "Shepherd": Build(
        0.58, 1.05, 0.46, 0.05, 0.28, 0.21, 0.95, 0.065, "prick", "brush", 1.1, 0.014
    ),
    "Retriever": Build(
        0.55, 1.0, 0.48, 0.04, 0.26, 0.225, 0.8, 0.07, "drop", "feather", 1.0, 0.022
    ),
    "Bulldog": Build(0.36, 0.84, 0.52, 0.02, 0.12, 0.28, 0.3, 0.1, "bat", "stub", 0.9),
    "Courser": Build(0.8, 0.98, 0.42, 0.22, 0.4, 0.165, 1.25, 0.045, "rose", "whip"),
    "Waterdog": Build(
        0.52, 0.86, 0.46, 0.03, 0.26, 0.22, 0.7, 0.08, "puff", "pom", 1.0, 0.035, True
    ),
    "Badgerdog": Build(0.24, 1.28, 0.4, 0.03, 0.22, 0.2, 1.05, 0.07, "drop", "whip", 1.05),
}

# The breeds of a small set come in pairs of one coat on two kinds of dog, so that color alone
# cannot tell them apart; those after them show the other patterns.
_FIRST: list[tuple[str, str, str]] = [
    ("Amber", "brindle", "Pointer"),
    ("Amber", "brindle", "Terrier"),
    ("Amber", "saddled", "Hound"),
    ("Amber", "saddled", "Retriever"),
    ("Ivory", "masked", "Bulldog"),
    ("Ivory", "masked", "Shepherd"),
    ("Slate", "socked", "Courser"),
    ("Slate", "socked", "Spitz"),
    ("Ivory", "spotted", "Pointer"),
    ("Slate", "merle", "Shepherd"),
    ("Ivory", "pied", "Retriever"),
    ("Amber", "freckled", "Waterdog"),
    ("Ebony", "belted", "Badgerdog"),
    ("Rust", "solid", "Spitz"),
    ("Cocoa", "solid", "Waterdog"),
    ("Ebony", "masked", "Hound"),
]


@functools.lru_cache(maxsize=1)
def _catalogue() -> list[tuple[str, str, str]]:
    """Return every color, pattern and build, each combination once, neighbors unlike each other."""
    every = list(itertools.product(_COLORS, _PATTERNS, _BUILDS))
    # 331 shares no factor with the count, so the walk meets every combination.
    walk = (every[i * 331 % len(every)] for i in range(len(every)))
    first = set(_FIRST)
    return [*_FIRST, *(breed for breed in walk if breed not in first)]


def _breed(index: int) -> tuple[str, Build, Coat]:
    """Name, build and coat of a breed; past the catalogue the coats come again in other shades."""
    catalogue = _catalogue()
    shade, place = divmod(index, len(catalogue))
    color, pattern, kind = catalogue[place]
    words = [color, _PATTERNS[pattern], kind]
    base, accent, light = _COLORS[color]
    if shade:
        # Steps of irrational ratios (the golden one's siblings in the plane) never come back to an
        # old shade.
        depth, warmth = shade * 0.754878 % 1.0 - 0.5, shade * 0.569840 % 1.0 - 0.5
        words = ["Pale" if depth > 0 else "Deep", *words, str(shade + 1)]
        base = mix(base, (255, 255, 255) if depth > 0 else (0, 0, 0), 0.15 + 0.5 * abs(depth))
        base = mix(base, (230, 130, 40) if warmth > 0 else (70, 100, 160), 0.4 * abs(warmth))
    return (
        " ".join(word for word in words if word),
        _BUILDS[kind],
        Coat(base, accent, light, pattern),
    )


def breed_names(count: int) -> list[str]:
    """Return the names of the first breeds of an endless, fixed list.

    Args:
        count: How many; at least 1.

    Returns:
        ``count`` different names that say what is seen, such as ``"Amber Brindle Pointer"``.

    Raises:
        ValueError: If ``count`` is below 1.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    return [_breed(index)[0] for index in range(count)]


def draw_dog(breed: int, image_seed: int, size: int) -> Image.Image:
    """Draw one image of a breed.

    Breeds drawn with the same ``image_seed`` stand in the same place, light and pose.

    Args:
        breed: Index into the endless list of breeds, from 0.
        image_seed: Chooses everything that is not the breed's own: pose, framing, place, light,
            grain and the individual's markings; at least 0.
        size: Side of the image in pixels, at least ``MIN_SIZE``.

    Returns:
        An RGB image of ``size`` x ``size`` pixels, the same one for the same three arguments.

    Raises:
        ValueError: If an argument is below its least value.
    """
    for name, value, least in (
        ("breed", breed, 0),
        ("image_seed", image_seed, 0),
        ("size", size, MIN_SIZE),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, not {value}")
    _, build, coat = _breed(breed)
    return draw_image(build, coat, image_seed, size)


def write_sample(
    root: Path,
    *,
    classes: int,
    train: int,
    valid: int,
    test: int,
    size: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a whole image set, or nothing at all.

    The images are JPEG files named like ``root/train/001.Amber_Brindle_Pointer/0001.jpg``. Each has
    a seed of its own, so the splits share no image, and a larger set begins with the images of a
    smaller one.

    Args:
        root: Folder to create; it may exist only if it is empty.
        classes: Number of breeds, at least 2.
        train: Images of each breed for training, at least 1.
        valid: Images of each breed for validation, at least 1.
        test: Images of each breed for testing, at least 1.
        size: Side of the images in pixels, at least ``MIN_SIZE``.
        seed: At least 0; the same arguments give the same bytes.
        progress: Called after each image with the number written so far and the number there will
            be.

    Raises:
        DataError: If an argument is below its least value, the folder is in use, or it cannot be
            written.
    """
    counts = dict(zip(_SPLITS, (train, valid, test), strict=True))
    minima = {"classes": (classes, 2), "size": (size, MIN_SIZE), "seed": (seed, 0)}
    minima |= {split: (count, 1) for split, count in counts.items()}
    for name, (value, least) in minima.items():
        if value < least:
            raise DataError(f"The sample set needs {name} to be at least {least}, not {value}.")
    root = root.absolute()
    try:
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise DataError(f"{root} exists and is not an empty folder; remove it or name another.")
        root.parent.mkdir(parents=True, exist_ok=True)
        # Next to the target, so that the last step is one rename within a file system: anyone who
        # looks at root sees no set or all of it, whenever this is stopped.
        with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as scratch:
            # One level down, because a temporary folder itself may be entered by its owner only.
            draft = Path(scratch, "sample")
            _write_images(draft, classes, counts, size, seed, progress)
            if root.exists():
                root.rmdir()
            draft.rename(root)
    except OSError as error:
        raise DataError(f"The sample set could not be written to {root}: {error}") from error


def _write_images(
    folder: Path,
    classes: int,
    counts: dict[str, int],
    size: int,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    names = breed_names(classes)
    total, number = classes * sum(counts.values()), 0
    for s, split in enumerate(_SPLITS):
        for breed, name in enumerate(names):
            home = folder / split / f"{breed + 1:03d}.{name.replace(' ', '_')}"
            home.mkdir(parents=True)
            for i in range(counts[split]):
                image_seed = int(np.random.default_rng([seed, s, breed, i]).integers(2**63))
                draw_dog(breed, image_seed, size).save(
                    home / f"{i + 1:04d}.jpg", "JPEG", quality=90
                )
                number += 1
                if progress is not None:
                    progress(number, total)
