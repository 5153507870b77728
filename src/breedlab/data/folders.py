"""Folders of class folders: which photos there are, in which split, of which class."""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from breedlab.errors import DataError

SPLITS = ("train", "valid", "test")
SPLIT_FOLDERS = {"train": ("train",), "valid": ("valid", "validation", "val"), "test": ("test",)}
"""What the folder of a split may be called, in small letters."""
_ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jfif"}
FEW = 8
"""How many of many things a message names."""
_NUMBERED = re.compile(r"^\d+\.(?=\D)")


@dataclass(frozen=True)
class Photo:
    """A file and the index of its class."""

    path: Path
    label: int


@dataclass(frozen=True)
class PhotoSet:
    """All photos of a data set.

    Attributes:
        root: The folder that was read.
        classes: Names as people see them, in label order.
        splits: Photos by split, sorted by path.
        cut: Which splits had no folder and were cut from train.
        flaws: What has to be mended before the photos can be used, though those that are there can be read.
    """

    root: Path
    classes: tuple[str, ...]
    splits: dict[str, tuple[Photo, ...]]
    cut: tuple[str, ...] = field(default=())
    flaws: tuple[str, ...] = field(default=())

    def counts(self, split: str) -> list[int]:
        """Number of photos of each class in a split."""
        found = Counter(photo.label for photo in self.splits[split])
        return [found[label] for label in range(len(self.classes))]


def scan(root: Path, *, valid_fraction: float, test_fraction: float, seed: int) -> PhotoSet:
    """Reads `root/{train,valid|validation|val,test}/<class>/`, or `root/<class>/` where no split has a folder.

    A missing validation or test split is cut from train: stratified by class, the same for the same seed.

    Raises:
        DataError: If the folder is missing or empty, or its photos have flaws.
    """
    photos = survey(root, valid_fraction=valid_fraction, test_fraction=test_fraction, seed=seed)
    if photos.flaws:
        raise DataError("\n".join(photos.flaws))
    return photos


def survey(root: Path, *, valid_fraction: float, test_fraction: float, seed: int) -> PhotoSet:
    """What `scan` reads, its flaws told instead of raised: for the check, which has more to tell beside them.

    Raises:
        DataError: If the folder is missing or empty.
    """
    folders = _split_folders(root)
    by_split = {split: _class_folders(folder) for split, folder in folders.items()}
    names = sorted(by_split["train"])
    if len(names) < 2:
        raise DataError(
            f"{folders['train']}: found {len(names)} class folders with photos; expected at least 2,"
            f" as in {folders['train'] / '<class>' / 'photo.jpg'}"
        )
    flaws = list(_disagreements(by_split, folders))
    files = {split: [by_split[split].get(name, []) for name in names] for split in by_split}
    empty = [name for name, photos in zip(names, files["train"], strict=True) if not photos]
    if empty:
        flaws.append(f"{folders['train']}: no photos of {listed(empty)}; add some or remove the class folders")
    cut = tuple(split for split in ("valid", "test") if split not in files)
    fractions = {"valid": valid_fraction, "test": test_fraction}
    for split in cut:
        files[split] = []
    few: list[str] = []
    if cut:
        for index, name in enumerate(names):
            parts = _cut(files["train"][index], {split: fractions[split] for split in cut}, f"{seed}/{name}")
            if name not in empty and not all(parts.values()):
                few.append(
                    f"{folders['train'] / name}: {len(files['train'][index])} photos are too few to cut"
                    f" {' and '.join(cut)} from; expected at least {len(cut) + 1}, or a folder for each split"
                )
            files["train"][index] = parts["train"]
            for split in cut:
                files[split].append(parts[split])
    return PhotoSet(
        root=root,
        classes=display_names(names),
        splits={
            split: tuple(Photo(path, label) for label, paths in enumerate(files[split]) for path in paths)
            for split in SPLITS
        },
        cut=cut,
        flaws=(*flaws, *first_few(few)),
    )


def is_absent(root: Path) -> bool:
    """Whether there is nothing at `root` yet."""
    return not root.exists() or (root.is_dir() and not any(root.iterdir()))


def find_photos(folder: Path) -> list[Path]:
    """All image files under a folder, by their endings, sorted; hidden files and folders left out."""
    found = []
    seen = {os.path.realpath(folder)}  # a link back into its own folder would go round for ever
    for parent, folders, files in os.walk(folder, followlinks=True):
        places = {name: os.path.realpath(os.path.join(parent, name)) for name in folders if not name.startswith(".")}
        folders[:] = sorted(name for name, place in places.items() if place not in seen)
        seen.update(places[name] for name in folders)
        found += [
            Path(parent, name)
            for name in files
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in _ENDINGS
        ]
    return sorted(found)


def display_names(folder_names: list[str]) -> tuple[str, ...]:
    """Names as people see them: `001.Afghan_hound` is shown as `Afghan hound`, others as they are."""
    shown = tuple(
        name[match.end() :].replace("_", " ") if (match := _NUMBERED.match(name)) else name for name in folder_names
    )
    return shown if len(set(shown)) == len(shown) else tuple(folder_names)


def _split_folders(root: Path) -> dict[str, Path]:
    if not root.is_dir():
        raise DataError(
            f"data.root: {root} is {'a file' if root.exists() else 'not there'};"
            " expected a folder such as ROOT/train/<class>/photo.jpg"
        )
    found: dict[str, Path] = {}
    for split, names in SPLIT_FOLDERS.items():
        entries = (entry for entry in root.iterdir() if entry.name.lower() in names and entry.is_dir())
        present = sorted(entries, key=lambda entry: names.index(entry.name.lower()))
        if len(present) > 1:
            raise DataError(f"{root}: {' and '.join(p.name for p in present)} both exist; expected one of them")
        if present:
            found[split] = present[0]
    if not found:
        return {"train": root}
    if "train" not in found:
        raise DataError(f"{root}: has {listed([p.name for p in found.values()])} but no train folder")
    return found


def _class_folders(folder: Path) -> dict[str, list[Path]]:
    return {
        entry.name: find_photos(entry)
        for entry in sorted(folder.iterdir())
        if entry.is_dir() and not entry.name.startswith(".")
    }


def _disagreements(by_split: dict[str, dict[str, list[Path]]], folders: dict[str, Path]) -> Iterator[str]:
    train = set(by_split["train"])
    wrong = []
    for split in by_split:
        if extra := sorted(set(by_split[split]) - train):
            wrong.append(f"{folders[split]} has {listed(extra)}, which {folders['train']} has not")
        if missing := sorted(train - set(by_split[split])):
            wrong.append(f"{folders[split]} lacks {listed(missing)}")
    if wrong:
        yield "the splits hold different classes; expected the same class folders in each:\n  " + "\n  ".join(wrong)


def _cut(paths: list[Path], fractions: dict[str, float], seed: str) -> dict[str, list[Path]]:
    shuffled = list(paths)
    random.Random(seed).shuffle(shuffled)
    parts = {}
    for cut, (split, fraction) in enumerate(fractions.items(), 1):
        spare = len(shuffled) - 1 - (len(fractions) - cut)  # one stays for train, and one for each cut to come
        count = min(max(1, round(len(paths) * fraction)), max(0, spare))
        parts[split], shuffled = sorted(shuffled[:count]), shuffled[count:]
    return {**parts, "train": sorted(shuffled)}


def first_few(lines: list[str], most: int = FEW) -> list[str]:
    """So many lines as a person reads, and how many more there are."""
    return [*lines[:most], f"and {len(lines) - most:,} more"] if len(lines) > most else lines


def listed(names: Sequence[str], most: int = FEW) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
