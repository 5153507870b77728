"""Which folder of a data set is which split, by the names that authors use."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from breedlab.data.listing import Leftovers, find_images, loose_images, subfolders
from breedlab.errors import DataError, LayoutError
from breedlab.names import composed, printable

SPLITS = ("train", "valid", "test")
_EXACT = {"train": ("train",), "valid": ("valid", "validation", "val"), "test": ("test",)}
_WORDS = {
    "train": ("train", "training", "trn"),
    "valid": ("valid", "validation", "validate", "val", "dev", "development"),
    "test": ("test", "testing", "tst"),
}
_EITHER = ("eval", "evaluation")
"""Validation for most; the test where there is another folder for validation."""
_SAY_NOTHING = {
    "set",
    "sets",
    "split",
    "data",
    "dataset",
    "folder",
    "dir",
    "seg",
    "image",
    "images",
    "img",
    "imgs",
    "photo",
    *("photos", "picture", "pictures", "pics", "final", "full", "cropped", "resized", "raw"),
}
"""Words that may be next to a split's word in a folder's name, as in `train_images`, without making
it a class, such as `train_station`."""
_GLUED = re.compile(
    r"(train|training|valid|validation|val|test|testing|dev|eval)(set|data|images|imgs|\d+)"
)
_IMAGES = re.compile(r"(jpeg)?(image|img|photo|picture)s?")
_BOXES_OR_MASKS = re.compile(
    r"(label|mask|annotation|anno|b?box(?:e(?=s))?|segmentation|imageset|segmentation(class|object)"
    r"|groundtruth|gt)s?"
)
"""Names of folders that say what kind of file is in them, not what it shows."""
_MOST_NESTED = 3


def split_of(name: str) -> str | None:
    """Return the split that a folder's name means by itself: `train` for `Training_set`; None for a
    class."""
    word, rest = _word_of(name)
    if word is None or any(part not in _SAY_NOTHING and not part.isdecimal() for part in rest):
        return None
    return "valid" if word in _EITHER else next(split for split in SPLITS if word in _WORDS[split])


def split_folders(root: Path, ignore: Sequence[str], leftovers: Leftovers) -> dict[str, Path]:
    """Return the folder of each split that has one, down to where the class folders are; `root` if
    none has.

    `train`, `valid` and `test` count by name; names such as `Training`, `test_set` or `seg_train`
    where they hold folders and not images, as splits do.

    Args:
        root: The data set.
        ignore: Names of folders of `root` to leave out.
        leftovers: Collects folders that are no split and images outside class folders.

    Raises:
        DataError: If two folders are for one split, or there are splits without one to train on.
    """
    ignored = {composed(name) for name in ignore}
    missing = sorted(ignored - {composed(entry.name) for entry in root.iterdir()})
    if missing:
        raise DataError(
            f"data.ignore: {root} has no {listed(missing)}; expected names of folders in it"
        )
    folders = [folder for folder in subfolders(root) if composed(folder.name) not in ignored]
    roles = _roles(folders)
    folder_of: dict[str, Path] = {}
    for split in SPLITS:
        several = [folder for folder in folders if roles.get(folder) == split]
        if len(several) > 1:
            names = " and ".join(printable(folder.name) for folder in several)
            raise LayoutError(
                f"{root}: {names} both exist and both look like the {split} split; expected one of"
                " them: rename the other, or leave it out:"
                f" data.ignore=[{printable(several[-1].name)}]"
            )
        if several:
            folder_of[split] = _innermost(several[0])
    _refuse_boxes_and_masks(folder_of.get("train", root), ignored)
    if not folder_of:
        _refuse_unnamed_splits(root, folders)
        return {"train": root}
    if "train" not in folder_of:
        names = listed([p.relative_to(root).parts[0] for p in folder_of.values()])
        raise LayoutError(
            f"{root}: has {names} but no train folder; expected one next to it. If these are"
            f" classes, move all class folders into {root / 'train'}"
        )
    subfolders(
        root, leftovers
    )  # for its litter; where the classes are in here, their listing counts it
    for folder in folders:
        if folder not in roles and (count := len(find_images(folder))):
            leftovers.loose[folder.name] += count
    return folder_of


def describe_splits(root: Path, folder_of: Mapping[str, Path]) -> str:
    """Return which folder was taken for which split, in words; empty where their names say it
    plainly."""
    plain = [
        folder.parent == root and folder.name.lower() in _EXACT[split]
        for split, folder in folder_of.items()
    ]
    if all(plain) or root in folder_of.values():
        return ""
    parts = (f"{folder.relative_to(root)} for {split}" for split, folder in folder_of.items())
    return f"taken as splits by their names: {printable(', '.join(parts))}"


def listed(names: Sequence[str], most: int = 8) -> str:
    """Return the first of some names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return printable(", ".join(names[:most])) + more


def _roles(folders: Sequence[Path]) -> dict[Path, str]:
    exact = {
        folder: split
        for folder in folders
        for split in SPLITS
        if folder.name.lower() in _EXACT[split]
    }
    if set(exact.values()) == {"train"} and _is_class(next(iter(exact)), folders):
        return {}  # bus, car and train
    words = {folder: _word_of(folder.name) for folder in folders}
    rests = Counter(tuple(rest) for word, rest in words.values() if word is not None)
    roles = dict(exact)
    either = []
    for folder, (word, rest) in words.items():
        if word is None or folder in exact or not _holds_folders_alone(folder):
            continue
        # What several of them have in common says no more of one than of the other:
        # `asl_alphabet_train`.
        if split_of(folder.name) is None and rests[tuple(rest)] < 2:
            continue
        if word in _EITHER:
            either.append(folder)
        else:
            roles[folder] = next(split for split in SPLITS if word in _WORDS[split])
    if "train" not in roles.values() and not exact:
        return {}
    for folder in either:
        splits = set(roles.values())
        roles[folder] = "test" if "valid" in splits and "test" not in splits else "valid"
    return roles


def _word_of(name: str) -> tuple[str | None, list[str]]:
    """Return the word of a name that means a split, and its other words."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", composed(name)).lower()
    parts: list[str] = []
    for part in filter(None, re.split(r"[^\w]|_", spaced)):
        glued = _GLUED.fullmatch(part)  # train2017, testset
        parts += glued.groups() if glued else [part]
    words_of_splits = {*_EITHER, *(word for words in _WORDS.values() for word in words)}
    matches = [part for part in parts if part in words_of_splits]
    if len(set(matches)) != 1:
        return None, parts
    parts.remove(matches[0])
    return matches[0], parts


def _is_class(folder: Path, folders: Iterable[Path]) -> bool:
    """Return whether a folder called as a split, such as `train`, is a class: it holds images and
    no folders, and another folder that is called as no split holds images, too."""
    others = [other for other in folders if other != folder and split_of(other.name) is None]
    return (
        not subfolders(folder)
        and loose_images(folder) > 0
        and any(loose_images(other) for other in others)
    )


def _holds_folders_alone(folder: Path) -> bool:
    return bool(subfolders(folder)) and not loose_images(folder)


def _innermost(folder: Path) -> Path:
    """Follow folders that hold nothing but another of the same kind:
    `seg_train/seg_train/<class>`."""
    for _ in range(_MOST_NESTED):
        inner = subfolders(folder)
        if len(inner) != 1 or loose_images(folder):
            break
        name = inner[0].name
        if (
            name.lower() != folder.name.lower()
            and split_of(name) is None
            and name.lower() not in _SAY_NOTHING
        ):
            break
        if not subfolders(inner[0]):
            break
        folder = inner[0]
    return folder


def _refuse_unnamed_splits(root: Path, folders: Sequence[Path]) -> None:
    """Refuse folders that would be read as classes but are not: a folder around the data set,
    splits under names of their own, splits without class folders."""
    if len(folders) == 1 and (inner := _wrapped(folders[0])) is not None:
        inside = subfolders(inner)
        kind = "splits" if "train" in _roles(inside).values() else "folders"
        raise LayoutError(
            f"{root}: holds the one folder {printable(str(inner.relative_to(root)))}, which has"
            f" the {kind} {listed([folder.name for folder in inside])}; did you mean"
            f" data.root={printable(str(inner))}?"
        )
    loose = {folder: split for folder in folders if (split := split_of(folder.name)) is not None}
    loose = {folder: split for folder, split in loose.items() if loose_images(folder)}
    if len(set(loose.values())) > 1 and "train" in loose.values():
        raise LayoutError(
            f"{root}: {listed([folder.name for folder in loose])} look like splits and hold images"
            f" but no class folders; expected {root / 'train' / '<class>' / 'photo.jpg'}, or a file"
            " such as labels.csv (filename,label) beside them. Boxes and masks are not read"
        )
    common = [_common_inner(folder) for folder in folders]
    if len(folders) < 2 or not (shared := set.intersection(*common)):
        return
    mostly = len(shared) > 1 and 2 * len(shared) > max(map(len, common))
    if not mostly and all(split_of(name) is None for name in shared):
        return
    largest = max(folders, key=lambda folder: len(find_images(folder)))
    raise LayoutError(
        f"{root}: {listed([folder.name for folder in folders])} hold no images but the same folders"
        f" ({listed(sorted(shared))}), so they look like splits, not classes. Rename them to"
        " train, valid and test, or name the one to train on, such as"
        f" data.root={printable(str(largest))}; if they are classes after all, move them into"
        f" {root / 'train'}"
    )


def _refuse_boxes_and_masks(folder: Path, ignored: Collection[str]) -> None:
    """Refuse a data set of boxes or masks, whose folders `images` and `labels` are no classes."""
    names = [entry.name for entry in subfolders(folder) if composed(entry.name) not in ignored]
    letters = [re.sub(r"[\W_\d]+", "", composed(name).lower()) for name in names]
    images = [name for name in letters if _IMAGES.fullmatch(name)]
    marks = [name for name in letters if _BOXES_OR_MASKS.fullmatch(name)]
    if images and marks and len(images) + len(marks) == len(names):
        raise LayoutError(
            f"{folder}: {listed(names)} look like images and their boxes or masks, which are not"
            f" read, and not like classes; expected {folder / '<class>' / 'photo.jpg'}, or a file"
            " such as labels.csv (filename,label) beside the images"
        )


def _wrapped(folder: Path) -> Path | None:
    """Return the folder that a lone one is only a wrapper of, such as `archive/dataset`; None if
    it holds images itself."""
    for _ in range(_MOST_NESTED):
        inner = subfolders(folder)
        if loose_images(folder) or not inner:
            return None
        if len(inner) > 1:
            return folder
        folder = inner[0]
    return None


def _common_inner(folder: Path) -> set[str]:
    """Return the names of the folders in a folder that holds nothing else."""
    while len(inner := subfolders(folder)) == 1 and inner[0].name == folder.name:
        folder = inner[0]
    return set() if loose_images(folder) else {composed(one.name) for one in inner}
