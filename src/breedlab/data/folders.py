"""Folders of class folders: which images there are, in which split, of which class."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict, Unpack

from breedlab.data import formats, multi_label
from breedlab.data.class_folders import (
    bad_names,
    disagreements,
    folders_in_classes,
    read_class_folders,
    refuse_unlabeled,
)
from breedlab.data.cuts import cut_missing
from breedlab.data.groups import groups_of
from breedlab.data.image_set import ImageSet, LabeledImage
from breedlab.data.layout import SPLITS, describe_splits, listed, split_folders
from breedlab.data.listing import Leftovers, find_images
from breedlab.data.tables import AUTO, Table, find_table, unused_table
from breedlab.errors import DataError, LabelFileError, LayoutError
from breedlab.files import why_no_folder
from breedlab.names import printable, unprintable

if TYPE_CHECKING:
    from breedlab.config import Config

__all__ = [
    "FEW",
    "SPLITS",
    "display_names",
    "first_few",
    "is_absent",
    "listed",
    "scan",
    "survey",
]

_ANNOTATIONS = (".txt", ".xml", ".json", ".mat")
FEW = 8
"""How many of many things a message names."""
_NUMBERED = re.compile(r"^\d+\.\s*(?=[^\d\s])")


def splitting(config: Config) -> Splitting:
    """Return what a config says of how a folder becomes splits, as `scan` and `survey` take it."""
    data = config.data
    return {
        "valid_fraction": data.valid_fraction,
        "test_fraction": data.test_fraction,
        "seed": config.seed,
        "ignore": data.ignore,
        "labels": data.labels,
        "group": data.group,
        "multi": data.multi_label,
    }


class Splitting(TypedDict):
    """How a folder becomes splits; see `survey`."""

    valid_fraction: float
    test_fraction: float
    seed: int
    ignore: NotRequired[Sequence[str]]
    labels: NotRequired[str]
    group: NotRequired[str | None]
    multi: NotRequired[bool]


def scan(root: Path, **how: Unpack[Splitting]) -> ImageSet:
    """Read `root/{train,valid,test}/<class>/`, also under other names of splits, or `root/<class>/`
    without splits.

    Where there are no class folders, a file such as `labels.csv` labels the images: see `tables`.

    A missing validation or test split is cut from train: stratified by class, the same for the same
    seed.

    Raises:
        DataError: If the folder is missing or empty, or its images have flaws.
    """
    images = survey(root, **how)
    if images.flaws:
        raise DataError("\n".join(images.flaws))
    return images


def survey(
    root: Path,
    *,
    valid_fraction: float,
    test_fraction: float,
    seed: int,
    ignore: Sequence[str] = (),
    labels: str = AUTO,
    group: str | None = None,
    multi: bool = False,
) -> ImageSet:
    """Return the result of `scan` with its flaws listed instead of raised, for the check, which
    reports them with other problems.

    Args:
        root: The data set.
        valid_fraction: Of train, where there is no folder of validation images.
        test_fraction: Of train, where there is no folder of test images.
        seed: Decides the cut.
        ignore: Names of folders in `root` that are left out.
        labels: The file of `root` that labels the images; `auto` looks for one where there are no
            class folders.
        group: A column of a label file, or a regular expression on file names: what belongs
            together.
        multi: Whether an image may have several classes, or none (`data.multi_label`).

    Raises:
        DataError: If the folder is missing or empty, or its layout is not understood.
    """
    if not root.is_dir():
        raise DataError(
            f"data.root: {root} {why_no_folder(root)}; expected a folder such as"
            " ROOT/train/<class>/photo.jpg"
        )
    fractions = {"valid": valid_fraction, "test": test_fraction}
    if (table := find_table(root, labels, ignore, multi_label=multi)) is not None:
        return _labeled_by(table, root, fractions, seed, group, ignore, multi)
    leftovers = Leftovers()
    folders = split_folders(root, ignore, leftovers)
    refuse_unlabeled(root, folders)
    classes_by_split = {
        split: read_class_folders(folder, leftovers, ignore if folder == root else ())
        for split, folder in folders.items()
    }
    by_split = {}
    for split, classes in classes_by_split.items():
        by_split[split] = {name: images for name, (_, images, _) in classes.items()}
    names = sorted(by_split["train"])
    if len(names) < 2:
        raise LayoutError(
            f"{folders['train']}: found {_counted(names)} with images; expected at least"
            f" 2, as in {folders['train'] / '<class>' / 'photo.jpg'}, or a file such as labels.csv"
            " (filename,label) beside the images"
        )
    flaws = [*bad_names(classes_by_split, folders), *disagreements(by_split, folders, root)]
    files = {}
    for split, images in by_split.items():
        files[split] = [images.get(name, []) for name in names]
    empty = [name for name, paths in zip(names, files["train"], strict=True) if not paths]
    if empty:
        unread = {name: classes_by_split["train"][name][2] for name in empty}
        rest = "".join(
            f"; {printable(name)} holds {text}, which are not read"
            for name, text in unread.items()
            if text
        )
        convert = "; convert them to JPEG, or" if rest else "; add some or"
        if any(ending in rest for ending in _ANNOTATIONS):
            convert = ", nor are boxes and masks;"
        flaws.append(
            f"{folders['train']}: no images of {listed(empty)}{rest}{convert} remove the class"
            " folders"
        )
    group_of, grouped = groups_of(root, group, _all_of(files), ignore)
    several = ""
    if multi:
        merged = {s: multi_label.merged_copies(images) for s, images in by_split.items()}
        several = _told_copies(merged)
        cut, few = multi_label.cut_missing(merged, names, fractions, seed, group_of)
        splits = _multi_labeled(merged, names, group_of)
    else:
        # By the folder's own name, composed or not: it is what earlier versions cut by.
        name_paths = [classes_by_split["train"][name][0] for name in names]
        places = [
            (folders["train"] / name, own) for name, own in zip(names, name_paths, strict=True)
        ]
        cut, few = cut_missing(files, fractions, places, seed, group_of)
        splits = _labeled(files, group_of)
    return ImageSet(
        root=root,
        classes=display_names(names),
        splits=splits,
        cut=cut,
        flaws=(*flaws, *first_few(few)),
        notes=tuple(
            filter(
                None,
                (
                    describe_splits(root, folders),
                    unused_table(root),
                    *folders_in_classes(folders["train"], classes_by_split["train"]),
                    several,
                    grouped,
                    leftovers.passed_over(),
                ),
            )
        ),
        left_out=tuple(_left_out(leftovers, names)),
        multi_label=multi,
    )


def _counted(names: Sequence[str]) -> str:
    return f"1 class folder ({printable(names[0])})" if len(names) == 1 else "0 class folders"


def _told_copies(merged: dict[str, multi_label.Labeled]) -> str:
    """Say how many images are in several class folders."""
    count = sum(len(labels) > 1 for images in merged.values() for labels in images.values())
    if not count:
        return "no image is in several class folders: each has the class of its folder alone"
    several = "1 image is" if count == 1 else f"{count:,} images are"
    return f"{several} in several class folders, and of all those classes"


def _multi_labeled(
    by_split: dict[str, multi_label.Labeled], names: Sequence[str], group_of: dict[Path, str]
) -> dict[str, tuple[LabeledImage, ...]]:
    """Return each split's images as `LabeledImage`s, from its paths and their classes."""
    index_of = {name: index for index, name in enumerate(names)}

    def labeled(path: Path, labels: Sequence[str]) -> LabeledImage:
        indices = sorted(index_of[name] for name in labels if name in index_of)
        return LabeledImage(path, -1, group_of.get(path, ""), tuple(indices))

    images = {}
    for split in SPLITS:
        rows = sorted(by_split[split].items())
        images[split] = tuple(labeled(path, labels) for path, labels in rows)
    return images


def _labeled(
    files: dict[str, list[list[Path]]], group_of: dict[Path, str]
) -> dict[str, tuple[LabeledImage, ...]]:
    """Return each split's images as `LabeledImage`s, from its paths by class."""
    images = {}
    for split in SPLITS:
        labeled = [(label, path) for label, paths in enumerate(files[split]) for path in paths]
        images[split] = tuple(
            LabeledImage(path, label, group_of.get(path, "")) for label, path in labeled
        )
    return images


def _all_of(files: dict[str, list[list[Path]]]) -> list[Path]:
    every: list[Path] = []
    for by_class in files.values():
        for paths in by_class:
            every += paths
    return every


def _labeled_by(
    table: Table,
    root: Path,
    fractions: dict[str, float],
    seed: int,
    group: str | None,
    ignore: Sequence[str],
    multi: bool,
) -> ImageSet:
    """Return the images that label files name, cutting the splits that they do not name."""
    label_file = table.files[0]
    by_split: dict[str, dict[str, list[Path]]] = {}
    images: dict[str, multi_label.Labeled] = {}
    for row in table.rows:
        images.setdefault(row.split or "train", {})[row.path] = row.labels
        of_class = by_split.setdefault(row.split or "train", {})
        for name in row.labels:
            of_class.setdefault(name, []).append(row.path)
    if "train" not in by_split:
        raise LabelFileError(
            f"{label_file}: labels images of {listed(list(by_split))} and none to train on"
        )
    names = sorted(
        by_split["train"], key=lambda name: (int(name), "") if name.isdecimal() else (-1, name)
    )
    if len(names) < 2:
        raise LabelFileError(
            f"{label_file}: all images have the label {', '.join(map(repr, names)) or 'none'};"
            " expected at least 2 classes"
        )
    flaws = [
        f"{label_file}: the class '{printable(name)}' {wrong}; rename it"
        for name in names
        if (wrong := unprintable(name))
    ]
    for split in ("valid", "test"):
        if extra := sorted(by_split.get(split, {}).keys() - set(names)):
            flaws.append(
                f"{label_file}: the {split} split has {listed(extra)}, of which train has no image"
            )
    files = {}
    for split in SPLITS:
        if split in by_split:
            files[split] = [by_split[split].get(name, []) for name in names]
    group_of, grouped = groups_of(root, group, [row.path for row in table.rows], ignore)
    if multi:
        cut, few = multi_label.cut_missing(images, names, fractions, seed, group_of)
        splits = _multi_labeled(images, names, group_of)
    else:
        places: list[tuple[Path | str, str]] = [(f"{label_file}: {name}", name) for name in names]
        cut, few = cut_missing(files, fractions, places, seed, group_of)
        splits = _labeled(files, group_of)
    leftovers = Leftovers()
    find_images(root, leftovers)
    for ending in (".csv", ".tsv", ".jsonl"):
        leftovers.endings.pop(ending, None)
    return ImageSet(
        root=root,
        classes=tuple(names),
        splits=splits,
        cut=cut,
        flaws=(*flaws, *first_few(few)),
        notes=tuple(filter(None, (*table.notes, grouped, leftovers.passed_over()))),
        left_out=(*table.left_out, *_left_out(leftovers, names)),
        label_files=table.files,
        multi_label=multi,
    )


def is_absent(root: Path) -> bool:
    """Return whether there is nothing at `root` yet."""
    return not root.exists() or (root.is_dir() and not any(root.iterdir()))


def display_names(folder_names: list[str]) -> tuple[str, ...]:
    """Return names for display: `001.Afghan_hound` and `1. Afghan hound` become `Afghan hound`,
    others stay as they are, and so do all where two would become the same."""
    display = tuple(
        name[match.end() :].replace("_", " ") if (match := _NUMBERED.match(name)) else name
        for name in folder_names
    )
    return display if len(set(display)) == len(display) else tuple(folder_names)


def _left_out(leftovers: Leftovers, names: Sequence[str]) -> Iterator[str]:
    """Say what was not read that may have been meant to be."""
    if leftovers.endings:
        yield (
            f"left out by file type: {leftovers.unread()}; {formats.in_words()} are"
            f" read{formats.hint(leftovers.endings)}"
        )
    if leftovers.loose:
        loose = ", ".join(
            f"{count:,} in {printable(folder)}"
            for folder, count in sorted(leftovers.loose.items())[:FEW]
        )
        yield f"left out, in no class folder: {loose}"
    spelling_of: dict[str, str] = {}
    for name in names:
        other = spelling_of.setdefault(name.strip().casefold(), name)
        if other != name:
            yield f"{other!r} and {name!r} differ in capitals or spaces alone; they are two classes"


def first_few(lines: list[str], most: int = FEW) -> list[str]:
    """Return as many lines as a user reads, and how many more there are."""
    return [*lines[:most], f"and {len(lines) - most:,} more"] if len(lines) > most else lines
