"""Images that are nearly the same: scaled, compressed or brightened copies, and neighbors in a
series of shots. They are found before any network has seen them; `evaluation.copies` compares what
images show."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from breedlab.data.folders import SPLITS, first_few
from breedlab.data.image_set import ImageSet

MOST_BITS = 7
"""Of 128 that may differ. Of 1,495 images of clothes no two differed in fewer than 10; of 100
copies at two thirds of the size, in another quality and brightness, none differed in more than
6."""
_SIDE = 8
_BANDS = 8
"""Of 16 bits: two images with at most 7 bits apart agree in one of them."""
_LEAST_CONTRAST = 6.0
_FEWEST_BITS = 8
"""Set, and not set, in each half: of a plain image or an even gradient a hash says nothing."""
_CROWDED = 2000
"""Images in one band that are alike by the pattern of their hash, not by what they show."""


@dataclass(frozen=True)
class Pair:
    """Two images that are nearly the same, in the order of the splits, and what they share."""

    first: Path
    second: Path
    same_labels: bool
    same_split: bool


def difference_hash(pixels: np.ndarray[Any, Any]) -> str:
    """Return 128 bits, as hexadecimal digits, that copies of an image share; empty if it has too
    little in it.

    Whether each of 8 x 8 parts is brighter than its neighbor to the left, and than the one above it
    (dHash, twice).

    Args:
        pixels: uint8 (height, width, 3).
    """
    small = Image.fromarray(pixels).convert("L")
    grays = np.asarray(
        small.resize((_SIDE + 1, _SIDE + 1), Image.Resampling.LANCZOS, reducing_gap=3.0),
        dtype=np.int16,
    )
    across, down = grays[:_SIDE, 1:] > grays[:_SIDE, :-1], grays[1:, :_SIDE] > grays[:-1, :_SIDE]
    varied = all(_FEWEST_BITS <= half.sum() <= half.size - _FEWEST_BITS for half in (across, down))
    if grays.std() < _LEAST_CONTRAST or not varied:
        return ""
    return np.packbits([across, down]).tobytes().hex()


def near_pairs(hashes: Sequence[str]) -> list[tuple[int, int]]:
    """Return the pairs of images that are nearly the same, by their hashes; images without one are
    in none."""
    numbers = {index: int(text, 16) for index, text in enumerate(hashes) if text}
    bands: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, number in numbers.items():
        for band in range(_BANDS):
            bands[band, number >> 16 * band & 0xFFFF].append(index)
    pairs = set()
    for members in bands.values():
        if len(members) > _CROWDED:
            continue
        for one, other in combinations(members, 2):
            if (numbers[one] ^ numbers[other]).bit_count() <= MOST_BITS:
                pairs.add((one, other))
    return sorted(pairs)


def near_duplicates(
    image_set: ImageSet, digests: Mapping[Path, str], hashes: Mapping[Path, str]
) -> list[Pair]:
    """Return which images are nearly the same: with other labels, in two splits, where they make a
    test easier, or with the same labels in one split, where they count more than others.

    Args:
        image_set: The images.
        digests: Of each file's content; identical files with other labels or in another split are
            reported elsewhere.
        hashes: As of `difference_hash`.
    """
    images = [(split, image) for split in SPLITS for image in image_set.splits[split]]
    pairs = []
    for one, other in near_pairs([hashes[image.path] for _, image in images]):
        (split, first), (other_split, second) = images[one], images[other]
        pair = Pair(first.path, second.path, first.classes == second.classes, split == other_split)
        together = pair.same_labels and pair.same_split
        if together or digests[first.path] != digests[second.path]:
            pairs.append(pair)
    return pairs


def describe(pairs: Iterable[Pair], multi_label: bool) -> Iterator[str]:
    """Yield lines on pairs, those with other labels first."""
    apart: dict[str, list[str]] = {
        ("in two classes" if not multi_label else "with other labels"): [],
        "in two splits": [],
        "in one class and split": [],
    }
    classes, splits, together = apart.values()
    for pair in pairs:
        alike = together if pair.same_split else splits
        lines = alike if pair.same_labels else classes
        lines.append(f"  {pair.first} and {pair.second}")
    for where, lines in apart.items():
        if lines:
            is_one = len(lines) == 1
            several = "1 pair of images is" if is_one else f"{len(lines):,} pairs of images are"
            yield f"{several} nearly the same, {where}:"
            yield from first_few(lines)
