"""Images of several classes, or none: which are the same image, and which split each is in."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from breedlab.data.cuts import spread
from breedlab.data.layout import SPLITS

Labeled = dict[Path, tuple[str, ...]]
"""The classes of each image."""


def merged_copies(files: Mapping[str, Sequence[Path]]) -> Labeled:
    """Return the classes of each image of some class folders: of one that is in several, all of
    theirs, under its first path.

    Args:
        files: The images in each class's folder.
    """
    same_size: dict[int, list[Path]] = {}
    for paths in files.values():
        for path in paths:
            same_size.setdefault(_size(path), []).append(path)
    first: dict[tuple[int, str], Path] = {}
    merged: Labeled = {}
    for name, paths in files.items():
        for path in paths:
            size = _size(path)
            digest = _digest(path) if size >= 0 and len(same_size[size]) > 1 else str(path)
            image = first.setdefault((size, digest), path)
            merged[image] = tuple(dict.fromkeys((*merged.get(image, ()), name)))
    return merged


def _size(path: Path) -> int:
    """Return a file's size; -1 if it cannot be read, which the check reports."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").hexdigest()
    except OSError:
        return str(path)


def cut_missing(
    by_split: dict[str, Labeled],
    classes: Sequence[str],
    fractions: Mapping[str, float],
    seed: int,
    group_of: Mapping[Path, str],
) -> tuple[tuple[str, ...], list[str]]:
    """Cut the splits that are missing from train, in place, each class as even as whole images, or
    whole groups, allow.

    Args:
        by_split: The images of each split.
        classes: The names of all.
        fractions: How much of train each split gets.
        seed: Decides between images alike.
        group_of: Each image's group, where no group may be in two splits.

    Returns:
        The splits that were cut, and what is too little to be cut so.
    """
    cut = tuple(split for split in SPLITS[1:] if split not in by_split)
    if not cut:
        return cut, []
    index_of = {name: index for index, name in enumerate(classes)}
    whole = by_split["train"]
    names = {path: group_of.get(path) or str(path) for path in whole}
    counts: dict[str, Counter[int]] = {}
    for path, labels in whole.items():
        # Images of none of the classes are spread as a class of their own.
        numbers = [index_of[name] for name in labels] or [len(classes)]
        counts.setdefault(names[path], Counter()).update(numbers)
    if len(counts) <= len(cut):
        for split in cut:
            by_split[split] = {}
        what = "groups" if any(group_of.values()) else "images"
        return cut, [
            f"{len(counts)} {what} are too few to cut {' and '.join(cut)} from; expected at least"
            f" {len(cut) + 1}"
        ]
    split_of = spread(counts, {split: fractions[split] for split in cut}, seed)
    for split in ("train", *cut):
        by_split[split] = {
            path: labels for path, labels in whole.items() if split_of[names[path]] == split
        }
    return cut, []
